//! Many requests at once: what a second thread adds, what a race for one session costs, and what it loses.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderValue;

use crate::args::Args;
use crate::out::{About, figure, quantile};
use crate::subject::{Aim, Subject, Until};
use crate::work::{COUNT_HEADER, Work};

pub const TASKS: usize = 64;

/// 64 tasks over many sessions, on one thread and on two.
pub fn threads(args: &Args, mut subjects: Vec<Box<dyn Subject>>) {
    let (keys, sessions) = (args.keys[0], args.sessions[0]);
    let cookies: Vec<Vec<HeaderValue>> = subjects
        .iter_mut()
        .map(|subject| {
            let n = if subject.client_side() { sessions.min(10_000) } else { sessions };
            let cookies = subject.populate(n, Work::New(keys));
            subject.settle();
            cookies
        })
        .collect();
    let until = Until::After(Duration::from_secs_f64(args.seconds));
    let mut rates: BTreeMap<(&str, usize, usize), [Vec<f64>; 2]> = BTreeMap::new();
    for _ in 0..args.rounds {
        for work in [Work::Read, Work::Write] {
            for workers in [1, 2] {
                for (s, subject) in subjects.iter_mut().enumerate() {
                    if let Some(crowd) = subject.crowd(work, &cookies[s], Aim::Spread, workers, TASKS, until)
                    {
                        let [rate, busy] = rates.entry((work.name(), workers, s)).or_default();
                        rate.push(crowd.requests as f64 / crowd.seconds);
                        busy.push(crowd.processor_seconds / crowd.seconds);
                    }
                    subject.settle();
                }
            }
        }
    }
    for ((work, threads, s), [rates, busy]) in rates {
        let subject = subjects[s].name().to_owned();
        let about = About { suite: "crowd", workload: work.to_owned(), subject, keys, sessions, threads };
        figure(&about, "rate", "1/s", &rates);
        figure(&about, "processors busy", "1", &busy);
    }
}

/// 64 requests on one session: what they lose, and how fast they are beside 64 on many.
pub fn race(args: &Args, mut subjects: Vec<Box<dyn Subject>>) {
    let keys = args.keys[0];
    let until = Until::After(Duration::from_secs_f64(args.seconds));
    for subject in subjects.iter_mut().filter(|s| !s.name().starts_with("bare") && !s.client_side()) {
        let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        let cookies = subject.populate(args.sessions[0].min(10_000), Work::New(keys));
        for _ in 0..args.rounds {
            let cookie = subject.populate(1, Work::New(keys));
            let crowd = |subject: &dyn Subject, work, cookies: &[HeaderValue], aim, until| {
                subject.crowd(work, cookies, aim, 2, TASKS, until)
            };
            if crowd(&**subject, Work::SlowCount, &cookie, Aim::One, Until::Once).is_none() {
                break;
            }
            let (_, _, head) = subject.once(Work::ReadCount, Some(cookie[0].clone()));
            let kept = head.get(COUNT_HEADER).and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or(0.0);
            figures.entry(("updates kept of 64", "1")).or_default().push(kept);
            subject.once(Work::PutFlash, Some(cookie[0].clone()));
            if let Some(pops) = crowd(&**subject, Work::SlowPop, &cookie, Aim::One, Until::Once) {
                figures.entry(("pops delivered of 1", "1")).or_default().push(pops.ok as f64);
            }
            for (name, aim) in [("rate on one session", Aim::One), ("rate on many sessions", Aim::Spread)] {
                if let Some(crowd) = crowd(&**subject, Work::Count, &cookies, aim, until) {
                    figures.entry((name, "1/s")).or_default().push(crowd.requests as f64 / crowd.seconds);
                    if aim == Aim::One {
                        let p99 = quantile(&crowd.latencies_us, 0.99);
                        figures.entry(("p99 on one session", "us")).or_default().push(p99);
                    }
                }
            }
            subject.settle();
        }
        for ((metric, unit), values) in figures {
            let about = About {
                suite: "race",
                workload: "one-session".to_owned(),
                subject: subject.name().to_owned(),
                keys,
                sessions: 1,
                threads: 2,
            };
            figure(&about, metric, unit, &values);
        }
    }
}
