//! Sessions in a server of their own: sessile, tower-sessions and nobody over one Redis. What a request waits for is a
//! round trip over loopback, or nothing.

use sessile::Engine;
use sessile_bench::data::Stream;

use crate::args::Args;
use crate::out::{About, figure};
use crate::subject::{Drive, Subject};
use crate::tower_sessions::v0_14;
use crate::work::Work;
use crate::{Outcome, bare, ours};

const OURS: &str = "sessile, Redis";
const TOWER: &str = "tower-sessions 0.14, Redis";

/// An engine of its own over the server that all share.
fn node(url: &str) -> Outcome<Engine> {
    let builder = Engine::builder().memory_limit(1 << 30);
    Ok(pollster::block_on(sessile::stores::open(builder, url))?)
}

fn sessile(url: &str) -> Outcome<Box<dyn Subject>> {
    let engine = node(url)?;
    Ok(ours::driven(OURS, Drive::Block, engine.clone(), engine))
}

/// `read` of a session that this process has used before, `read-miss` of one that it has never seen, and `write`.
pub fn measure(args: &Args) -> Outcome {
    let server = std::env::var("SESSILE_BENCH_REDIS").map_err(|_| "SESSILE_BENCH_REDIS names no server")?;
    let url = format!("redis://{server}");
    let sessions = args.sessions[0];
    let mut subjects: Vec<Box<dyn Subject>> = vec![
        bare::tower(),
        sessile(&url)?,
        v0_14::subject(TOWER, Drive::Block, pollster::block_on(v0_14::redis(&url))?),
    ];
    let cookies: Vec<_> = subjects.iter_mut().map(|s| s.populate(sessions, Work::New(5))).collect();
    let mut stream = Stream::new(17);
    let mut times: Vec<(usize, &str, Vec<f64>)> = Vec::new();
    for round in 0..=args.rounds {
        // A session's own write makes its next read ask the server once: here that has happened.
        subjects[1].each(Work::Read, &mut cookies[1].clone());
        for (s, subject) in subjects.iter_mut().enumerate() {
            for work in [Work::Read, Work::Write] {
                let cost = subject.random(work, &cookies[s], &mut stream, args.batch);
                note(&mut times, round, s, work.name(), cost.ns);
            }
        }
        // Only a new node has never seen them. The others ask the server for every read.
        let mut fresh = sessile(&url)?;
        let from = (round * args.batch) % sessions.saturating_sub(args.batch).max(1);
        let mut some = cookies[1][from..sessions.min(from + args.batch)].to_vec();
        let cost = fresh.each(Work::Read, &mut some);
        note(&mut times, round, 1, "read-miss", cost.ns);
    }
    for (s, workload, times) in times {
        let about = About {
            suite: "remote",
            workload: workload.to_owned(),
            subject: subjects[s].name().to_owned(),
            keys: 5,
            sessions,
            threads: 1,
        };
        figure(&about, "time", "ns", &times);
    }
    Ok(())
}

/// The first round warms up.
fn note<'a>(times: &mut Vec<(usize, &'a str, Vec<f64>)>, round: usize, s: usize, work: &'a str, ns: f64) {
    if round == 0 {
        times.push((s, work, Vec::new()));
    } else if let Some((_, _, all)) = times.iter_mut().find(|(of, what, _)| *of == s && *what == work) {
        all.push(ns);
    }
}
