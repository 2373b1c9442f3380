//! The parts of a request's way through sessile, each on the clock by itself, beside what the machine asks for a look
//! into memory: where a cycle's time goes, and the floor under it.

use std::hint::black_box;
use std::time::Instant;

use sessile::engine::Moment;
use sessile::{Engine, Token};
use sessile_bench::cycle::run;
use sessile_bench::data::{Stream, create};

use crate::Outcome;
use crate::args::Args;
use crate::out::{About, figure, quantile};
use crate::work::page;

/// Steps that are on the clock together.
const SLICE: usize = 250;

/// The median slice's time a step.
fn step_ns(n: usize, mut step: impl FnMut(usize)) -> f64 {
    let mut slices: Vec<f64> = (0..n)
        .step_by(SLICE)
        .map(|from| {
            let start = Instant::now();
            for i in from..from + SLICE {
                // As in one poll of a request: one look at the clock.
                let _moment = Moment::hold();
                step(i);
            }
            start.elapsed().as_secs_f64() * 1e9 / SLICE as f64
        })
        .collect();
    slices.sort_by(f64::total_cmp);
    quantile(&slices, 0.5)
}

/// Each part over `--sessions` sessions; the smaller number is of hot ones.
pub fn measure(args: &Args) -> Outcome {
    for &sessions in &args.sessions {
        let engine = Engine::builder().memory_limit(8 << 30).in_memory()?;
        let tokens = (0..sessions as u64)
            .map(|i| run(create(&engine, i))?.ok_or_else(|| "no session".into()))
            .collect::<Outcome<Vec<Token>>>()?;
        let texts: Vec<_> = tokens.iter().map(|token| token.encode().as_str().to_owned()).collect();
        let mut stream = Stream::new(23);
        let mut times: Vec<(&'static str, Vec<f64>)> = Vec::new();
        for round in 0..=args.rounds {
            // The same sessions for every part of a round, and the token's text in the cache, as after a socket.
            let picked: Vec<usize> = (0..args.batch).map(|_| stream.below(sessions)).collect();
            let near: Vec<String> = picked.iter().map(|&at| texts[at].clone()).collect();
            let parsed: Vec<Token> = picked.iter().map(|&at| tokens[at].clone()).collect();
            let mut note = |part: &'static str, ns: f64| match times.iter_mut().find(|(of, _)| *of == part) {
                _ if round == 0 => {}
                Some((_, all)) => all.push(ns),
                None => times.push((part, vec![ns])),
            };
            note("parse a token", step_ns(args.batch, |i| drop(black_box(Token::parse(near[i].as_bytes())))));
            note(
                "hash it",
                step_ns(args.batch, |i| {
                    let _ = black_box(parsed[i].id());
                }),
            );
            // Each begins a session, so that its memory is as cold as in a request; what came before is taken off.
            let begin = |i: usize| run(engine.session(Some(&parsed[i])));
            note("begin and end", step_ns(args.batch, |i| drop(black_box(begin(i)))));
            note(
                "begin, read an integer, end",
                step_ns(args.batch, |i| {
                    if let Ok(session) = begin(i) {
                        let _ = black_box(session.get::<i64>("user_id"));
                    }
                }),
            );
            note(
                "begin, read both, end",
                step_ns(args.batch, |i| {
                    if let Ok(session) = begin(i) {
                        let _ = black_box(session.get::<i64>("user_id"));
                        let _ = black_box(session.get::<String>("role"));
                    }
                }),
            );
            note(
                "begin, read both, commit, end",
                step_ns(args.batch, |i| {
                    if let Ok(session) = begin(i) {
                        let _ = black_box(session.get::<i64>("user_id"));
                        let _ = black_box(session.get::<String>("role"));
                        let _ = black_box(run(session.commit()));
                    }
                }),
            );
            note(
                "begin, read both, put, commit, end",
                step_ns(args.batch, |i| {
                    if let Ok(session) = begin(i) {
                        let _ = black_box(session.get::<i64>("user_id"));
                        let _ = black_box(session.get::<String>("role"));
                        let _ = black_box(session.put("last_page", page()));
                        let _ = black_box(run(session.commit()));
                    }
                }),
            );
        }
        for (part, all) in times {
            say(part, sessions, &all);
        }
    }
    for mib in [1, 32, 512] {
        say(&format!("a look into {mib} MiB that waits for the one before"), 0, &chase(mib, args.rounds));
    }
    Ok(())
}

fn say(part: &str, sessions: usize, times: &[f64]) {
    let about = About { suite: "parts", workload: part.to_owned(), sessions, threads: 1, ..About::default() };
    figure(&about, "time", "ns", times);
}

/// Follows a random cycle through `mib` MiB, one cache line a step.
fn chase(mib: usize, rounds: usize) -> Vec<f64> {
    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line(u32);
    let n = (mib << 20) / size_of::<Line>();
    let mut order: Vec<u32> = (0..u32::try_from(n).unwrap_or(u32::MAX)).collect();
    let mut stream = Stream::new(29);
    // Sattolo's shuffle: one cycle through all.
    for i in (1..n).rev() {
        order.swap(i, stream.below(i));
    }
    let lines: Vec<Line> = order.into_iter().map(Line).collect();
    let mut at = 0;
    (0..rounds.max(3)).map(|_| step_ns(50_000, |_| at = lines[black_box(at) as usize].0)).collect()
}
