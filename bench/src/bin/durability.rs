//! Measures what each level of durability costs and gives: sustained updates of distinct sessions with the bytes that
//! reach the device, group commit beside a bare log, and what a start after a crash takes. One JSON object per line.
//!
//! `durability [DIR]`; `SESSILE_BENCH_SESSIONS` (1,000,000) and `SESSILE_BENCH_SECONDS` (20) scale it. The directory
//! must be on a disk, and bytes that reach the device are those of everybody on that disk.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sessile::engine::Durability;
use sessile::{Engine, Token};
use sessile_bench::cycle::run;
use sessile_bench::data::{Stream, create};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const WRITERS: u64 = 64;
const PAGE: &str = "/another/page/with/a/path/that/is/quite/long/but/not/absurd";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn sessions() -> u64 {
    number("SESSILE_BENCH_SESSIONS", 1_000_000)
}

fn seconds() -> Duration {
    Duration::from_secs(number("SESSILE_BENCH_SECONDS", 20))
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = PathBuf::from(args.iter().find(|a| !a.starts_with("--")).map_or(".", String::as_str));
    match args.iter().find(|a| a.starts_with("--")).map(String::as_str) {
        None => {
            let dir = tempfile::tempdir_in(&dir)?;
            floor(dir.path(), WRITERS)?;
            let shared = group(dir.path(), "power")?;
            // As many as shared a sync there.
            floor(dir.path(), shared)?;
            for level in ["process", "eventual"] {
                group(dir.path(), level)?;
            }
            for level in ["process", "eventual"] {
                sustained(dir.path(), level)?;
            }
            // The one that fills kills itself, so that the other finds its journal.
            for step in ["--fill", "--recover"] {
                Command::new(std::env::current_exe()?).arg(dir.path()).arg(step).status()?;
            }
            Ok(())
        }
        Some("--floor") => floor(&dir, WRITERS),
        Some("--sustained") => sustained(&dir, "process"),
        Some("--fill") => fill(&dir),
        Some("--recover") => recover(&dir),
        Some(other) => Err(format!("unknown step {other}").into()),
    }
}

fn level(name: &str) -> Durability {
    match name {
        "power" => Durability::PowerLoss,
        "process" => Durability::process_crash(),
        _ => Durability::eventual(),
    }
}

/// What a bare log does: records of the same size, so many at a time, and one fdatasync for each batch.
fn floor(dir: &Path, batch: u64) -> Outcome {
    const RECORD: usize = 400;
    let mut file = File::create(dir.join("floor"))?;
    let bytes = vec![7_u8; RECORD * usize::try_from(batch)?];
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < seconds() / 4 {
        file.write_all(&bytes)?;
        file.sync_data()?;
        records += batch;
    }
    let rate = records as f64 / start.elapsed().as_secs_f64();
    println!(r#"{{"what":"floor","batch":{batch},"records_per_s":{rate:.0}}}"#);
    Ok(())
}

fn engine(path: &Path, name: &str) -> sessile::Result<Engine> {
    Engine::builder().durability(level(name)).memory_limit(2 << 30).open_redb(path)
}

fn fill_engine(engine: &Engine, n: u64) -> Outcome<Vec<Token>> {
    let mut tokens = Vec::new();
    for i in 0..n {
        tokens.extend(run(create(engine, i))?);
    }
    pollster::block_on(engine.checkpoint())?;
    Ok(tokens)
}

async fn update(engine: &Engine, token: &Token, n: u64) -> sessile::Result<()> {
    let session = engine.session(Some(token)).await?;
    session.put("last_page", PAGE)?;
    session.put("user_id", &n)?;
    session.commit().await?;
    Ok(())
}

/// 64 tasks that each write and wait for their response. Returns how many changes a commit held on average.
fn group(dir: &Path, name: &str) -> Outcome<u64> {
    let engine = engine(&dir.join(format!("group-{name}.redb")), name)?;
    let tokens = Arc::new(fill_engine(&engine, 10_000)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let before = pollster::block_on(engine.stats());
    let start = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (engine, tokens, stop) = (engine.clone(), tokens.clone(), stop.clone());
            runtime.spawn(async move {
                let (mut stream, mut latencies) = (Stream::new(w * 2 + 1), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    update(&engine, &tokens[stream.below(tokens.len())], w).await?;
                    latencies.push(begun.elapsed());
                    tokio::task::yield_now().await;
                }
                Ok::<_, sessile::Error>(latencies)
            })
        })
        .collect();
    std::thread::sleep(seconds() / 4);
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(runtime.block_on(task)??);
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    let [p50, p99, max] = percentiles(&mut latencies);
    let after = pollster::block_on(engine.stats());
    let commits = (after.commits - before.commits).max(1);
    let shared = (after.committed_changes - before.committed_changes).div_ceil(commits).max(1);
    println!(
        r#"{{"what":"group","level":"{name}","writers":{WRITERS},"updates_per_s":{rate:.0},"changes_per_commit":{shared},"p50_us":{p50:.1},"p99_us":{p99:.1},"max_us":{max:.1}}}"#
    );
    Ok(shared)
}

/// Half, 99 of 100, all, in µs.
fn percentiles(latencies: &mut [Duration]) -> [f64; 3] {
    latencies.sort_unstable();
    [50, 99, 100].map(|p| {
        let at = (latencies.len() * p / 100).min(latencies.len().saturating_sub(1));
        latencies.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e6)
    })
}

/// Bytes written to the device that holds `dir`, if the system tells.
fn device_bytes() -> Option<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir("/sys/block").ok()? {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        total += stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512;
    }
    Some(total)
}

/// Updates of random sessions among many, as fast as one thread makes them, until checkpoints are part of it.
fn sustained(dir: &Path, name: &str) -> Outcome {
    let path = dir.join(format!("sustained-{name}.redb"));
    let engine = engine(&path, name)?;
    let tokens = fill_engine(&engine, sessions())?;
    let bare = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    // What the machine itself keeps a thread waiting, beside: nobody can promise less.
    let idler = {
        let (bare, stop) = (bare.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(200));
                let late = last.elapsed().saturating_sub(Duration::from_micros(200)).as_nanos();
                bare.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
                last = Instant::now();
            }
        })
    };
    let before = device_bytes();
    let mut stream = Stream::new(11);
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < seconds() {
        let token = &tokens[stream.below(tokens.len())];
        let begun = Instant::now();
        run(update(&engine, token, latencies.len() as u64))?;
        latencies.push(begun.elapsed());
    }
    let offered = start.elapsed();
    pollster::block_on(engine.checkpoint())?;
    let all = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let _ = idler.join();
    let updates = latencies.len() as f64;
    // A key of 32 bytes and the sealed record.
    let logical = updates * 400.0;
    let amplification = before.zip(device_bytes()).map_or(-1.0, |(a, b)| (b - a) as f64 / logical);
    let over = latencies.iter().filter(|l| **l > Duration::from_millis(1)).count();
    let [p50, p99, max] = percentiles(&mut latencies);
    let late = bare.load(Ordering::Relaxed) as f64 / 1e3;
    println!(
        r#"{{"what":"sustained","level":"{name}","sessions":{},"updates_per_s":{:.0},"with_last_checkpoint_per_s":{:.0},"write_amplification":{amplification:.2},"p50_us":{p50:.2},"p99_us":{p99:.2},"max_us":{max:.0},"over_1ms":{over},"machine_max_us":{late:.0}}}"#,
        sessions(),
        updates / offered.as_secs_f64(),
        updates / all.as_secs_f64(),
    );
    drop(engine);
    std::fs::remove_file(path)?;
    Ok(())
}

/// Leaves a journal of about 64 MiB behind, as a crash would.
fn fill(dir: &Path) -> Outcome {
    let path = dir.join("recover.redb");
    let engine = Engine::builder().memory_limit(1 << 30).open_redb(&path)?;
    let mut token = None;
    for i in 0..150_000 {
        token = run(create(&engine, i))?;
    }
    pollster::block_on(engine.flush())?;
    std::fs::write(dir.join("token"), token.ok_or("a token")?.encode().as_str())?;
    std::process::abort();
}

fn recover(dir: &Path) -> Outcome {
    let text = std::fs::read_to_string(dir.join("token"))?;
    let token = Token::parse(text.as_bytes()).ok_or("a token")?;
    let start = Instant::now();
    let engine = Engine::builder().memory_limit(1 << 30).open_redb(dir.join("recover.redb"))?;
    let opened = start.elapsed().as_secs_f64();
    let found = run(engine.session(Some(&token)))?.exists("user_id");
    let served = start.elapsed().as_secs_f64();
    let recovery = engine.recovery().cloned().unwrap_or_default();
    println!(
        r#"{{"what":"recover","journal_bytes":{},"changes":{},"found":{found},"open_ms":{:.1},"first_request_ms":{:.1},"changes_per_s":{:.0}}}"#,
        recovery.bytes,
        recovery.changes,
        opened * 1e3,
        served * 1e3,
        recovery.changes as f64 / opened
    );
    Ok(())
}
