//! A flood of sessions without owner against a small memory limit, beside sessions with owners that must not notice.
//! Prints one JSON object per line, and fails if a session with an owner is lost.
//!
//! `SESSILE_FLOOD` is the number of creations (default 1,000,000), `SESSILE_FLOOD_BUDGET` the limit in MiB (64).
//! Arguments: `redb`, `memory`; none runs both, each in a process of its own.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sessile::{Delivery, Engine, ErrorKind, Token};
use sessile_bench::cycle::run;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const OWNED: usize = 10_000;
const THREADS: u64 = 2;

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => {
            for store in ["redb", "memory"] {
                if !Command::new(std::env::current_exe()?).arg(store).status()?.success() {
                    return Err(format!("{store} failed").into());
                }
            }
            Ok(())
        }
        Some("redb") => {
            let dir = tempfile::tempdir()?;
            let engine = settings().open_redb(dir.path().join("flood.redb"))?;
            flood("redb", &engine)
        }
        Some("memory") => flood("memory", &settings().in_memory()?),
        Some(other) => Err(format!("unknown store {other}").into()),
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn budget() -> usize {
    usize::try_from(setting("SESSILE_FLOOD_BUDGET", 64)).unwrap_or(64) << 20
}

fn settings() -> sessile::Builder {
    Engine::builder().memory_limit(budget()).anonymous_idle_timeout(Duration::from_secs(900))
}

fn create(engine: &Engine, owner: Option<&str>) -> Outcome<Token> {
    let session = run(engine.session(None))?;
    session.put("csrf", "0123456789abcdef0123456789abcdef")?;
    session.put("last_page", "/products/garden/tools?page=3")?;
    if owner.is_some() {
        session.set_owner(owner)?;
    }
    match run(session.commit())? {
        Delivery::Issue(issue) => Ok(issue.token),
        _ => Err("no token was issued".into()),
    }
}

/// Resident bytes now, and at their most.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Reads random sessions with owners until told to stop. Returns the sorted times of the reads in µs.
fn visit(engine: &Engine, tokens: &[Token], stop: &AtomicBool) -> Outcome<Vec<u64>> {
    let mut times = Vec::new();
    let mut at = 1_usize;
    while !stop.load(Ordering::Relaxed) {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let token = &tokens[(at >> 33) % tokens.len()];
        let start = Instant::now();
        let session = run(engine.session(Some(token)))?;
        if session.owner().is_none() {
            return Err("a session with an owner was lost".into());
        }
        times.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        std::thread::sleep(Duration::from_millis(1));
    }
    times.sort_unstable();
    Ok(times)
}

fn quantile(sorted: &[u64], per_mille: usize) -> u64 {
    sorted.get(sorted.len() * per_mille / 1000).copied().unwrap_or(0)
}

fn flood(store: &str, engine: &Engine) -> Outcome<()> {
    let total = setting("SESSILE_FLOOD", 1_000_000);
    let before = resident().0;
    let owned: Vec<Token> =
        (0..OWNED).map(|i| create(engine, Some(&format!("user:{i}")))).collect::<Outcome<_>>()?;
    pollster::block_on(engine.flush())?;

    // What a visitor waits when nothing else happens.
    let calm = AtomicBool::new(false);
    let idle = std::thread::scope(|scope| {
        let visitor = scope.spawn(|| visit(engine, &owned, &calm));
        std::thread::sleep(Duration::from_secs(3));
        calm.store(true, Ordering::Relaxed);
        visitor.join().unwrap_or_else(|_| Err("the visitor panicked".into()))
    })?;

    let (made, refused, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let times = std::thread::scope(|scope| -> Outcome<Vec<u64>> {
        let visitor = scope.spawn(|| visit(engine, &owned, &stop));
        let makers: Vec<_> = (0..THREADS)
            .map(|i| {
                let (made, refused) = (&made, &refused);
                scope.spawn(move || -> Outcome<()> {
                    for _ in (i..total).step_by(THREADS as usize) {
                        match create(engine, None) {
                            Ok(_) => made.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                let kind = error.downcast_ref::<sessile::Error>().map(sessile::Error::kind);
                                if kind != Some(ErrorKind::OutOfMemoryBudget) {
                                    return Err(error);
                                }
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                    Ok(())
                })
            })
            .collect();
        let made: Outcome<()> = makers
            .into_iter()
            .try_for_each(|maker| maker.join().unwrap_or_else(|_| Err("a maker panicked".into())));
        stop.store(true, Ordering::Relaxed);
        let times = visitor.join().unwrap_or_else(|_| Err("the visitor panicked".into()));
        made.and(times)
    })?;
    let seconds = start.elapsed().as_secs_f64();

    let stats = pollster::block_on(engine.stats());
    let mut usable = 0;
    for token in &owned {
        let session = run(engine.session(Some(token)))?;
        session.put("seen", &true)?;
        usable += usize::from(session.owner().is_some());
    }
    // A newcomer with an owner gets in.
    create(engine, Some("late"))?;
    let (now, most) = resident();
    let grown = (most - before) as f64 / budget() as f64;
    println!(
        r#"{{"what":"flood","store":"{store}","budget_bytes":{},"created":{},"refused":{},"seconds":{seconds:.1},"per_second":{:.0},"owned_usable":{usable},"owned_of":{OWNED},"rss_before":{before},"rss_now":{now},"rss_most":{most},"rss_grown_by_budget":{grown:.3},"counted_bytes":{},"cached":{},"evicted":{},"idle_read_p50_us":{},"idle_read_p99_us":{},"owned_read_p50_us":{},"owned_read_p99_us":{},"owned_read_max_us":{}}}"#,
        budget(),
        made.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
        total as f64 / seconds,
        stats.memory_bytes,
        stats.cached,
        stats.evicted,
        quantile(&idle, 500),
        quantile(&idle, 990),
        quantile(&times, 500),
        quantile(&times, 990),
        times.last().copied().unwrap_or(0),
    );
    if usable < OWNED {
        return Err(format!("{usable} of {OWNED} sessions with owners are left").into());
    }
    Ok(())
}
