//! Measures how long a request waits at most while checkpoints run: one thread that changes sessions at `ProcessCrash`,
//! without checkpoints and with one after the other, and beside these a bare loop that does the same input and output,
//! and one that does nothing. What the bare loops show is the machine's. Prints the rows of a table.
//!
//! `stalls [DIR]`; the directory must be on a disk. `SESSILE_BENCH_SESSIONS` (200,000), `SESSILE_BENCH_SECONDS` (5, of
//! each phase) and `SESSILE_BENCH_ROUNDS` (3) scale it.

#![expect(clippy::print_stdout, reason = "this program's output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sessile::engine::Durability;
use sessile::{Engine, Token};
use sessile_bench::cycle::run;
use sessile_bench::data::{Stream, create};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const PAGE: &str = "/another/page/with/a/path/that/is/quite/long/but/not/absurd";
const FRAME: usize = 440;
const SEGMENT: u64 = 32 << 20;
const LONG: Duration = Duration::from_millis(1);
/// How often a loop looks at what the scheduler says of its thread.
const LOOK_EVERY: u32 = 2_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// What the kernel's account of this thread says: ns it waited for a processor, and how often it went to sleep.
#[derive(Clone, Copy, Default)]
struct Scheduled {
    waited: u64,
    slept: u64,
}

impl Scheduled {
    fn now() -> Self {
        let text = |file| std::fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap_or_default();
        let waited = text("schedstat").split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let status = text("status");
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        Self { waited, slept: line.and_then(|n| n.trim().parse().ok()).unwrap_or(0) }
    }
}

/// All that one phase took.
#[derive(Default)]
struct Taken {
    all: Vec<u32>,
    /// Of those over [`LONG`]: the thread slept for a lock or a disk, it had no processor, or neither.
    slept: u64,
    preempted: u64,
    neither: u64,
}

impl Taken {
    /// Runs `step` again and again until `until`.
    fn of(until: Instant, mut step: impl FnMut() -> Outcome) -> Outcome<Self> {
        let mut taken = Self::default();
        let (mut before, mut n) = (Scheduled::now(), 0);
        loop {
            let begun = Instant::now();
            step()?;
            let ended = Instant::now();
            let took = ended - begun;
            taken.all.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
            n += 1;
            if took > LONG {
                let after = Scheduled::now();
                let waited = Duration::from_nanos(after.waited - before.waited);
                if waited > took / 2 {
                    taken.preempted += 1;
                } else if after.slept > before.slept {
                    taken.slept += 1;
                } else {
                    taken.neither += 1;
                }
                before = after;
            } else if n % LOOK_EVERY == 0 {
                before = Scheduled::now();
            }
            if ended >= until {
                return Ok(taken);
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.all.extend(other.all);
        self.slept += other.slept;
        self.preempted += other.preempted;
        self.neither += other.neither;
    }

    fn row(&mut self, name: &str, beside: &str) {
        self.all.sort_unstable();
        let last = self.all.len().saturating_sub(1);
        let part = |of: usize| {
            self.all.get((self.all.len() * of / 10_000).min(last)).map_or(0.0, |n| f64::from(*n) / 1e3)
        };
        println!(
            "| {name} | {beside} | {} | {:.1} µs | {:.0} µs | {:.2} ms | {} | {} | {} | {} |",
            self.all.len(),
            part(5_000),
            part(9_999),
            part(10_000) / 1e3,
            self.slept + self.preempted + self.neither,
            self.slept,
            self.preempted,
            self.neither
        );
    }
}

async fn update(engine: &Engine, token: &Token, n: u64) -> sessile::Result<()> {
    let session = engine.session(Some(token)).await?;
    session.put("last_page", PAGE)?;
    session.put("user_id", &n)?;
    session.commit().await.map(drop)
}

/// Requests, with checkpoints one after the other beside them if `checkpoints`. Also how many there were.
fn requests(engine: &Engine, tokens: &[Token], checkpoints: bool, length: Duration) -> Outcome<(Taken, u64)> {
    pollster::block_on(engine.checkpoint())?;
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let carrier = scope.spawn(|| {
            while checkpoints && !stop.load(Ordering::Relaxed) {
                pollster::block_on(engine.checkpoint())?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let (mut stream, mut n) = (Stream::new(11), 0);
        let taken = Taken::of(Instant::now() + length, || {
            n += 1;
            run(update(engine, &tokens[stream.below(tokens.len())], n))?;
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let carried: sessile::Result<()> = carrier.join().unwrap_or(Ok(()));
        carried?;
        Ok((taken?, done.load(Ordering::Relaxed)))
    })
}

fn spin(length: Duration) {
    let until = Instant::now() + length;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// A loop that appends to a file as the journal does, each time after as much work as a request is, with the syncs and
/// the writing of another file beside that the engine's threads do. Without `append` the loop only works.
fn bare(dir: &Path, append: bool, other_file: bool, length: Duration) -> Outcome<Taken> {
    let stop = AtomicBool::new(false);
    let log = File::create(dir.join("log"))?;
    let other = File::create(dir.join("other"))?;
    let taken = std::thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                log.sync_data()?;
            }
            Ok(())
        });
        let writes = scope.spawn(|| {
            let page = vec![7; 64 << 10];
            let mut at = 0;
            while other_file && !stop.load(Ordering::Relaxed) {
                other.write_all_at(&page, at)?;
                at = (at + page.len() as u64) % (4 * SEGMENT);
                if at % SEGMENT == 0 {
                    other.sync_data()?;
                }
            }
            Ok(())
        });
        let (frame, mut at) = (vec![7; FRAME], 0);
        let taken = Taken::of(Instant::now() + length, || {
            spin(Duration::from_micros(2));
            if append {
                log.write_all_at(&frame, at)?;
                at += FRAME as u64;
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        for thread in [syncs, writes] {
            let ended: std::io::Result<()> = thread.join().unwrap_or(Ok(()));
            ended?;
        }
        taken
    })?;
    std::fs::remove_file(dir.join("log"))?;
    std::fs::remove_file(dir.join("other"))?;
    Ok(taken)
}

fn main() -> Outcome {
    let dir = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".into()))?;
    let (dir, sessions) = (dir.path(), number("SESSILE_BENCH_SESSIONS", 200_000));
    let length = Duration::from_secs(number("SESSILE_BENCH_SECONDS", 5));
    let engine = Engine::builder()
        .durability(Durability::process_crash())
        .memory_limit(4 << 30)
        .open_redb(dir.join("sessions.redb"))?;
    let mut tokens = Vec::new();
    for i in 0..sessions {
        tokens.extend(run(create(&engine, i))?);
    }
    let [mut idle, mut io, mut quiet, mut busy, mut heavy] =
        [const { Taken { all: Vec::new(), slept: 0, preempted: 0, neither: 0 } }; 5];
    let mut checkpoints = 0;
    for _ in 0..number("SESSILE_BENCH_ROUNDS", 3) {
        idle.add(bare(dir, false, true, length)?);
        io.add(bare(dir, true, false, length)?);
        heavy.add(bare(dir, true, true, length)?);
        quiet.add(requests(&engine, &tokens, false, length)?.0);
        let (taken, done) = requests(&engine, &tokens, true, length)?;
        busy.add(taken);
        checkpoints += done;
    }
    println!(
        "| {sessions} sessions | beside | n | half | 99.99 % | all | over 1 ms | … slept | … no processor | … neither |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    idle.row("a loop that writes nothing", "a file written and synced");
    io.row("a bare append", "syncs");
    heavy.row("a bare append", "syncs, a file written and synced");
    quiet.row("requests", "syncs");
    busy.row("requests", &format!("syncs, {checkpoints} checkpoints"));
    Ok(())
}
