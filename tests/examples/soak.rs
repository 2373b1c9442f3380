//! A long run of one engine over a file, with sessions that come, are used, expire, are evicted and are destroyed: prints
//! the memory of the process as it goes, and its slope after the warm-up. A leak is a slope that does not end.
//!
//! ```text
//! cargo run --release -p sessile-tests --example soak
//! SESSILE_SOAK_OPS=100000000    operations (100 million)
//! SESSILE_SOAK_SECONDS=3600     ends earlier, after this time (none)
//! SESSILE_SOAK_DIR=/tmp         where the file is
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool that fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the process is measured from outside, by the real clock")]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use pollster::block_on;
use sessile::engine::{Delivery, Engine, Session};
use sessile::{SessionId, Token};
use sessile_tests::{Rng, env_number};

const THREADS: u64 = 2;
/// Sessions that each thread knows of. More than fit into memory.
const KNOWN: usize = 150_000;
const MEMORY: usize = 48 << 20;
/// Short, so that everything expires many times over.
const LIFETIME: Duration = Duration::from_secs(90);
const IDLE: Duration = Duration::from_secs(45);
const SAMPLE: Duration = Duration::from_secs(5);
/// The part of the run that does not count for the slope.
const WARM_UP: f64 = 0.3;

/// Polls `future` once: what it does at once is done, and nobody waits for the rest.
fn nudge<F: Future>(future: F) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

fn create(engine: &Engine, rng: &mut Rng) -> Token {
    let session = block_on(engine.session(None)).unwrap();
    session.put("user", &rng.next_u64()).unwrap();
    session.put("cart", &"x".repeat(rng.index(300))).unwrap();
    if rng.between(0, 3) > 0 {
        session.set_owner(Some(&format!("user:{}", rng.between(0, 100_000)))).unwrap();
    }
    issued(&session)
}

fn issued(session: &Session) -> Token {
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn step(engine: &Engine, rng: &mut Rng, known: &mut [Token]) {
    // Some are used far more often than others.
    let at = if rng.between(0, 1) == 0 { rng.index(known.len()) } else { rng.index(known.len() / 50) };
    let token = &known[at];
    match rng.between(0, 9_999) {
        0..600 => known[at] = create(engine, rng),
        600..700 => {
            let id: SessionId = token.id();
            nudge(engine.destroy_session(&id));
            known[at] = create(engine, rng);
        }
        700..702 => {
            let session = block_on(engine.session(Some(token))).unwrap();
            // It may expire at any moment.
            if session.renew().is_ok()
                && let Delivery::Issue(issue) = block_on(session.commit()).unwrap()
            {
                known[at] = issue.token;
            }
        }
        702..2000 => {
            let session = block_on(engine.session(Some(token))).unwrap();
            if session.id().is_some() {
                // It may have expired since.
                let _ = session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1);
                block_on(session.commit()).unwrap();
            } else {
                known[at] = create(engine, rng);
            }
        }
        _ => {
            let session = block_on(engine.session(Some(token))).unwrap();
            let _ = session.get::<u64>("user").unwrap();
            block_on(session.commit()).unwrap();
        }
    }
}

/// Bytes of the process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn bytes_in(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.filter_map(Result::ok).filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

/// The slope of the line through these points that has the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (up, down) = points
        .iter()
        .fold((0.0, 0.0), |(up, down), p| (up + (p.0 - x) * (p.1 - y), down + (p.0 - x) * (p.0 - x)));
    up / down
}

fn main() {
    let wanted = env_number("SESSILE_SOAK_OPS", 100_000_000);
    let seconds = env_number("SESSILE_SOAK_SECONDS", u64::MAX / 2);
    let place = std::env::var_os("SESSILE_SOAK_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let dir = tempfile::tempdir_in(place).unwrap();
    let file = dir.path().join("s.redb");
    let engine = Engine::builder()
        .memory_limit(MEMORY)
        .max_record_bytes(4096)
        .lifetime(LIFETIME)
        .idle_timeout(IDLE)
        .open_redb(&file)
        .unwrap();
    let rng = Rng::announced("soak");
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let mut samples = Vec::new();
    println!(
        "seconds operations rss_mib cached stored evicted expired destroyed memory_mib file_mib journal_mib"
    );
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (engine, done, over, mut rng) = (&engine, &done, &over, rng.fork(n));
            scope.spawn(move || {
                let mut known: Vec<Token> = (0..KNOWN).map(|_| create(engine, &mut rng)).collect();
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        step(engine, &mut rng, &mut known);
                    }
                    if done.fetch_add(1000, Ordering::Relaxed) >= wanted {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        while !over.load(Ordering::Relaxed) {
            thread::sleep(SAMPLE);
            if started.elapsed() >= Duration::from_secs(seconds) {
                over.store(true, Ordering::Relaxed);
            }
            let stats = block_on(engine.stats());
            let (operations, rss) = (done.load(Ordering::Relaxed), resident());
            samples.push((operations as f64 / 1e6, rss as f64));
            let mib = |bytes: u64| bytes >> 20;
            println!(
                "{} {operations} {} {} {} {} {} {} {} {} {}",
                started.elapsed().as_secs(),
                mib(rss),
                stats.cached,
                stats.stored.unwrap_or(0),
                stats.evicted,
                stats.expired + stats.expired_rows,
                stats.destroyed + stats.revoked,
                mib(stats.memory_bytes),
                mib(std::fs::metadata(&file).map_or(0, |m| m.len())),
                mib(bytes_in(&dir.path().join("s.redb.journal"))),
            );
        }
    });
    let all = samples.last().map_or(0.0, |s| s.0);
    samples.retain(|s| s.0 > all * WARM_UP);
    let most = samples.iter().map(|s| s.1).fold(0.0, f64::max);
    println!(
        "soak: {all:.0} million operations in {} s; after the warm-up at most {:.0} MiB, slope {:.1} KiB per million operations",
        started.elapsed().as_secs(),
        most / f64::from(1 << 20),
        slope(&samples) / 1024.0,
    );
    block_on(engine.close()).unwrap();
}
