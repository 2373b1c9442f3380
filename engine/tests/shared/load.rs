//! Three engines at once, with threads: nothing that was answered is lost, every count is exact, nothing comes back.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use pollster::block_on;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Delivery, Engine, Token};

use crate::support::{begin, commit, fresh, get};

const SESSIONS: usize = 8;
const THREADS: u64 = 6;
const ROUNDS: u64 = 300;

fn engines() -> Vec<Engine> {
    let rows = MemoryStore::shared();
    (0..3).map(|_| Engine::builder().open(rows.clone()).unwrap()).collect()
}

fn at_once(work: impl Fn(u64) + Sync) {
    let barrier = Barrier::new(usize::try_from(THREADS).unwrap());
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (work, barrier) = (&work, &barrier);
            scope.spawn(move || {
                barrier.wait();
                work(n);
            });
        }
    });
}

fn index(n: u64, round: u64, len: usize) -> usize {
    usize::try_from((n * 31 + round * 7) % len as u64).unwrap()
}

#[test]
fn unique_keys_from_three_engines_are_all_there() {
    let engines = engines();
    let tokens: Vec<Token> = (0..SESSIONS).map(|_| fresh(&engines[0])).collect();
    at_once(|n| {
        for round in 0..ROUNDS {
            let engine = &engines[index(n, round * 3 + n, engines.len())];
            let session = begin(engine, &tokens[index(n, round, SESSIONS)]);
            session.put(&format!("{n}-{round}"), &round).unwrap();
            commit(&session);
        }
    });
    for engine in &engines {
        block_on(engine.flush()).unwrap();
    }
    // A store that was just asked.
    let engine = &engines[1];
    for n in 0..THREADS {
        for round in 0..ROUNDS {
            let token = &tokens[index(n, round, SESSIONS)];
            let key = format!("{n}-{round}");
            crate::support::soon(&key, || get(engine, token, &key) == Some(round));
        }
    }
}

#[test]
fn counters_from_three_engines_are_exact() {
    let engines = engines();
    let tokens: Vec<Token> = (0..3).map(|_| fresh(&engines[0])).collect();
    let counted = AtomicU64::new(0);
    at_once(|n| {
        for round in 0..ROUNDS / 3 {
            let session = begin(&engines[index(n, round, 3)], &tokens[index(n, round, 3)]);
            block_on(session.update_stored("n", |n: Option<u64>| n.unwrap_or(0) + 1)).unwrap();
            commit(&session);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let sum = |engine: &Engine| -> u64 { tokens.iter().map(|t| get(engine, t, "n").unwrap_or(0)).sum() };
    for engine in &engines {
        crate::support::soon("the sum", || sum(engine) == counted.load(Ordering::Relaxed));
    }
}

#[test]
fn p3_logouts_among_three_engines_are_final() {
    let engines = engines();
    for round in 0..40 {
        let token = fresh(&engines[0]);
        at_once(|n| {
            let engine = &engines[index(n, round, 3)];
            for i in 0..20 {
                let session = begin(engine, &token);
                if !session.exists("k") {
                    // Whoever finds it gone must not begin another.
                    continue;
                }
                let done = if n == 0 && i == 5 {
                    session.destroy()
                } else if n == 1 && i == 4 {
                    session.renew()
                } else {
                    session.put("k", &i)
                };
                if done.is_ok()
                    && let Delivery::Issue(issue) = commit(&session)
                {
                    // The new token is destroyed too.
                    let session = begin(&engines[2], &issue.token);
                    session.destroy().unwrap();
                    commit(&session);
                }
            }
        });
        for engine in &engines {
            block_on(engine.destroy_session(&token.id())).unwrap();
            assert!(!begin(engine, &token).exists("k"));
        }
        for engine in &engines {
            block_on(engine.flush()).unwrap();
        }
        assert_eq!(block_on(engines[1].stats()).stored, Some(0), "round {round}");
    }
}
