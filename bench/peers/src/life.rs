//! What sessions take while they live and what their end costs the others: memory of a million, expiry of a tenth.

use std::time::{Duration, Instant, SystemTime};

use sessile_bench::data::Stream;

use crate::args::Args;
use crate::out::{About, figure};
use crate::subject::Subject;
use crate::work::{Work, deadline, end_short_sessions_in};

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}

/// Resident bytes a session. One subject a process: a used heap would blur it.
pub fn memory(args: &Args, mut subjects: Vec<Box<dyn Subject>>) {
    let (keys, sessions) = (args.keys[0], args.sessions[0]);
    let Some(subject) = subjects.iter_mut().find(|s| !s.name().starts_with("bare")) else { return };
    // What the first session brings up is not the millionth's.
    subject.once(Work::New(keys), None);
    let before = resident();
    for _ in 0..sessions {
        subject.once(Work::New(keys), None);
    }
    subject.settle();
    let each = (resident() - before) / sessions as f64;
    let about = About {
        suite: "memory",
        workload: "resident".to_owned(),
        subject: subject.name().to_owned(),
        keys,
        sessions,
        threads: 1,
    };
    figure(&about, "memory", "B", &[each]);
}

/// The longest request while a tenth of all sessions ends at one moment. One subject a process.
pub fn expiry(args: &Args, mut subjects: Vec<Box<dyn Subject>>) {
    let (keys, sessions) = (args.keys[0], args.sessions[0]);
    let Some(subject) = subjects.iter_mut().find(|s| !s.name().starts_with("bare")) else { return };
    let cookies = subject.populate(sessions - sessions / 10, Work::New(keys));
    // Long enough to make them.
    end_short_sessions_in(Duration::from_secs(4 + sessions as u64 / 500_000));
    for _ in 0..sessions / 10 {
        subject.once(Work::NewShort(keys), None);
    }
    subject.settle();
    let left = deadline().duration_since(SystemTime::now()).unwrap_or_default();
    let mut stream = Stream::new(3);
    for (phase, length) in [
        ("calm", left.saturating_sub(Duration::from_millis(300)).max(Duration::from_millis(300))),
        ("expiring", Duration::from_secs(4)),
    ] {
        let mut longest = Duration::ZERO;
        let start = Instant::now();
        while start.elapsed() < length {
            let cookie = cookies[stream.below(cookies.len())].clone();
            let begun = Instant::now();
            std::hint::black_box(subject.once(Work::Read, Some(cookie)).0);
            longest = longest.max(begun.elapsed());
        }
        let about = About {
            suite: "expiry",
            workload: phase.to_owned(),
            subject: subject.name().to_owned(),
            keys,
            sessions,
            threads: 1,
        };
        figure(&about, "longest request", "ms", &[longest.as_secs_f64() * 1e3]);
    }
}
