//! One request after the other through each library, in this process: nanoseconds, allocations, bytes. Subjects take
//! turns within a round, so that a slow spell of the machine falls on all.

use std::collections::BTreeMap;

use http::HeaderValue;
use sessile_bench::alloc::counting;
use sessile_bench::data::Stream;

use crate::Outcome;
use crate::args::Args;
use crate::out::{About, figure};
use crate::subject::{Cost, Subject};
use crate::work::Work;

const RANDOM: [Work; 5] = [Work::Untouched, Work::Read, Work::ReadInPlace, Work::Write, Work::Touch];
/// The life of a session, a step at a time for a batch of them.
const LIFE: [fn(usize) -> Work; 5] =
    [Work::New, |_| Work::PutFlash, |_| Work::Pop, |_| Work::Renew, |_| Work::Destroy];

/// Sessions with an idle timeout: as many again would only take memory.
const TOUCHED: usize = 20_000;
/// Cookies that hold a session are large.
const CLIENT_SIDE: usize = 10_000;

/// `subjects` makes them anew for each size: what an earlier one left would be in the way, and to end its sessions one
/// by one would take longer than the measuring.
pub fn measure(args: &Args, subjects: impl Fn() -> Outcome<Vec<Box<dyn Subject>>>) -> Outcome {
    for &keys in &args.keys {
        for &sessions in &args.sessions {
            let mut subjects = subjects()?;
            subjects.retain_mut(|subject| match works(&mut **subject, keys) {
                Ok(()) => true,
                Err(why) => {
                    eprintln!("left out with {keys} keys: {}: {why}", subject.name());
                    false
                }
            });
            with(args, &mut subjects, keys, sessions);
        }
    }
    Ok(())
}

/// Checks that a new session keeps a value, gives it once, and not again. What does not work is not measured.
fn works(subject: &mut dyn Subject, keys: usize) -> Result<(), String> {
    if subject.name().starts_with("bare") {
        return Ok(());
    }
    let mut cookie = subject.once(Work::New(keys), None).1.ok_or("no cookie for a new session")?;
    for (work, wanted) in [(Work::Read, 200), (Work::PutFlash, 200), (Work::Pop, 200), (Work::Pop, 204)] {
        let (status, changed, _) = subject.once(work, Some(cookie.clone()));
        if status != wanted {
            return Err(format!("{}: {status} instead of {wanted}", work.name()));
        }
        cookie = changed.unwrap_or(cookie);
    }
    Ok(())
}

struct Cookies {
    plain: Vec<HeaderValue>,
    idle: Vec<HeaderValue>,
}

fn with(args: &Args, subjects: &mut [Box<dyn Subject>], keys: usize, sessions: usize) {
    let cookies: Vec<Cookies> = subjects
        .iter_mut()
        .map(|subject| {
            let n = if subject.client_side() { sessions.min(CLIENT_SIDE) } else { sessions };
            if subject.name().starts_with("bare") {
                return Cookies { plain: foreign(n), idle: foreign(n.min(TOUCHED)) };
            }
            let plain = subject.populate(n, Work::New(keys));
            let idle = subject.populate(if args.life { n.min(TOUCHED) } else { 1 }, Work::NewIdle(keys));
            subject.settle();
            Cookies { plain, idle }
        })
        .collect();
    // The first of each is from the round that warms up and counts allocations.
    let mut costs: BTreeMap<(usize, usize), Vec<Cost>> = BTreeMap::new();
    let mut stream = Stream::new(11);
    for round in 0..=args.rounds {
        counting(round == 0);
        for (w, &work) in RANDOM.iter().enumerate() {
            if work == Work::Touch && !args.life {
                continue;
            }
            for (s, subject) in subjects.iter_mut().enumerate().filter(|(_, s)| s.can(work)) {
                let from = if work == Work::Touch { &cookies[s].idle } else { &cookies[s].plain };
                subject.random(work, from, &mut stream, args.batch / 8);
                let cost = subject.random(work, from, &mut stream, args.batch);
                costs.entry((w, s)).or_default().push(cost);
            }
            if work == Work::Write {
                subjects.iter_mut().for_each(|subject| subject.settle());
            }
        }
        if !args.life {
            continue;
        }
        let mut born: Vec<Vec<HeaderValue>> = subjects
            .iter()
            .map(|_| vec![HeaderValue::from_static("session=none"); args.batch / 10])
            .collect();
        for (w, work) in LIFE.iter().enumerate() {
            let work = work(keys);
            for (s, subject) in subjects.iter_mut().enumerate() {
                let cost = subject.each(work, &mut born[s]);
                if work != Work::PutFlash {
                    costs.entry((RANDOM.len() + w, s)).or_default().push(cost);
                }
            }
        }
    }
    for ((w, s), costs) in costs {
        let work = RANDOM.get(w).copied().unwrap_or_else(|| LIFE[w - RANDOM.len()](keys));
        let about = About {
            suite: "cycle",
            workload: work.name().to_owned(),
            subject: subjects[s].name().to_owned(),
            keys,
            sessions,
            threads: 1,
        };
        let Some((counted, timed)) = costs.split_first() else { continue };
        figure(&about, "time", "ns", &timed.iter().map(|c| c.ns).collect::<Vec<_>>());
        figure(&about, "allocations", "1", &[counted.allocations]);
        figure(&about, "allocated", "B", &[counted.bytes]);
    }
}

/// Cookies that nobody issued, as long as ours.
fn foreign(n: usize) -> Vec<HeaderValue> {
    (0..n)
        .map(|i| {
            let text = format!("session={i:043}");
            let cookie = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("session="));
            drop(cookie.clone());
            cookie
        })
        .collect()
}
