//! Prints what criterion cannot see: allocations per cycle, memory per session, and the time to the first request
//! after opening a file with a million sessions. One JSON object per line.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sessile::{Engine, Token};
use sessile_bench::alloc::{Counting, counted, live_bytes};
use sessile_bench::cycle::{Work, bare, cycle, populate, run, with_sessions};
use sessile_bench::data::create;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        None => {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("report.redb");
            allocations();
            // Memory and opening are measured in processes of their own: a used heap would blur both.
            for step in ["memory", "fill", "open", "open"] {
                let status = Command::new(std::env::current_exe()?).arg(step).arg(&path).status()?;
                // The opener kills itself once it has served its request: see there.
                if !status.success() && step != "open" {
                    return Err(format!("step {step} failed: {status}").into());
                }
            }
            Ok(())
        }
        Some("allocations") => {
            allocations();
            Ok(())
        }
        Some("memory") => memory(),
        Some("fill") => fill(Path::new(&args.next().ok_or("a path")?)),
        Some("open") => open(Path::new(&args.next().ok_or("a path")?)),
        Some(other) => Err(format!("unknown step {other}").into()),
    }
}

fn sessions() -> usize {
    std::env::var("SESSILE_BENCH_SESSIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000_000)
}

/// Allocations per cycle, by the bare service and by each kind of work.
fn allocations() {
    const ROUNDS: u64 = 10_000;
    let Ok(engine) = Engine::builder().in_memory() else { return };
    let cookies = populate(&engine, 100);
    let count = |f: &mut dyn FnMut(usize)| {
        (0..200).for_each(&mut *f);
        let before = counted();
        (0..usize::try_from(ROUNDS).unwrap_or(0)).for_each(&mut *f);
        let after = counted();
        ((after.0 - before.0) as f64 / ROUNDS as f64, (after.1 - before.1) as f64 / ROUNDS as f64)
    };
    let mut service = bare();
    let (n, bytes) = count(&mut |i| {
        cycle(&mut service, cookies[i % cookies.len()].clone());
    });
    println!(r#"{{"what":"allocations","service":"bare","per_cycle":{n},"bytes":{bytes}}}"#);
    for work in [Work::Nothing, Work::Read, Work::ReadSnapshot, Work::Write] {
        let mut service = with_sessions(engine.clone(), work);
        let (n, bytes) = count(&mut |i| {
            cycle(&mut service, cookies[i % cookies.len()].clone());
        });
        println!(r#"{{"what":"allocations","service":"sessile {work:?}","per_cycle":{n},"bytes":{bytes}}}"#);
    }
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn memory() -> Result<(), Box<dyn std::error::Error>> {
    let n = sessions();
    let memory = Engine::builder().memory_limit(8 << 30).in_memory()?;
    let (before, live) = (rss_bytes(), live_bytes());
    for i in 0..n as u64 {
        // Not `pollster::block_on`: its cache-line-aligned allocation per call leaves holes in the heap
        // that would be booked on the sessions.
        run(create(&memory, i))?;
    }
    let per_session = (rss_bytes() - before) as f64 / n as f64;
    let heap = (live_bytes() - live) as f64 / n as f64;
    let counted = pollster::block_on(memory.stats()).memory_bytes as f64 / n as f64;
    println!(
        r#"{{"what":"memory","sessions":{n},"rss_per_session":{per_session:.1},"heap_per_session":{heap:.1},"counted_per_session":{counted:.1}}}"#
    );
    Ok(())
}

fn fill(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let n = sessions();
    let engine = Engine::builder().memory_limit(256 << 20).open_redb(path)?;
    let start = Instant::now();
    let mut last: Option<Token> = None;
    for i in 0..n as u64 {
        last = run(create(&engine, i))?;
    }
    pollster::block_on(engine.close())?;
    let seconds = start.elapsed().as_secs_f64();
    let token = last.ok_or("no session")?;
    std::fs::write(path.with_extension("token"), token.encode().as_str())?;
    println!(
        r#"{{"what":"fill","sessions":{n},"seconds":{seconds:.2},"file_bytes":{}}}"#,
        std::fs::metadata(path)?.len()
    );
    Ok(())
}

fn open(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path.with_extension("token"))?;
    let token = Token::parse(text.as_bytes()).ok_or("a token")?;
    let start = Instant::now();
    let engine = Engine::builder().open_redb(path)?;
    let opened = start.elapsed();
    let session = pollster::block_on(engine.session(Some(&token)))?;
    let user: Option<i64> = session.get("user_id")?;
    let served = start.elapsed();
    println!(
        r#"{{"what":"open","found":{},"open_ms":{:.2},"first_request_ms":{:.2}}}"#,
        user.is_some(),
        opened.as_secs_f64() * 1e3,
        served.as_secs_f64() * 1e3
    );
    // Gone without a shutdown, as a crash would: the next opening is one after a kill.
    std::process::abort();
}
