//! The system calls of a server under load fail: with no space, with I/O errors, interrupted, or done in part. What was
//! answered for survives, nothing else appears, and nothing panics.
//!
//! `SESSILE_FAULT_ROUNDS` sets the rounds per store (12), `SESSILE_SEED` repeats a run.

use std::path::Path;
use std::sync::Barrier;
use std::thread;

use rustix::process::Signal;
use sessile_tests::{Rng, Server, Store, env_number};
use tempfile::TempDir;

use crate::oracle::Worker;
use crate::shim;

const THREADS: u64 = 4;
const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// The shim's word for no error: writes and reads are done in part.
const SHORT: i32 = 0;

/// What one round does to the files.
#[derive(Debug)]
struct Round {
    ops: &'static str,
    error: i32,
    /// The first call that fails, and how many do; or a probability in millionths.
    when: When,
    part: u64,
    /// A part of a path that is spared.
    spared: &'static str,
}

#[derive(Debug)]
enum When {
    Calls(u64, u64),
    Ppm(u64),
}

impl Round {
    fn draw(rng: &mut Rng, n: u64, journal: &'static str, store: &'static str) -> Self {
        let part = [0, 50, 99][rng.index(3)];
        let spared = ["-", journal, store][rng.index(3)];
        let first = rng.between(1, 400);
        let some = [1, 1, 5, 50, 0][rng.index(5)];
        let (ops, error, when) = match n % 6 {
            0 => ("wto", ENOSPC, When::Calls(first, rng.between(1, 300))),
            1 => (["w", "s", "t", "r", "o", "u"][rng.index(6)], EIO, When::Calls(1 + first / 4, some)),
            2 => ("wstrou", EIO, When::Ppm(2_000)),
            3 => ("wr", SHORT, When::Ppm(300_000)),
            4 => ("wrs", EINTR, When::Ppm(200_000)),
            _ => ("wto", ENOSPC, When::Ppm(50_000)),
        };
        // sled has no way back from an I/O error on its own files: it may refuse its directory from then on, or lose rows,
        // which `docs/stores.md` says. What becomes of the journal's promises is asked here.
        let spared = if error == EIO && store.ends_with('/') { store } else { spared };
        Self { ops, error, when, part: if error == EINTR { 0 } else { part }, spared }
    }

    /// Whether the operating system may do so at any time and nobody may notice.
    fn is_ordinary(&self) -> bool {
        matches!(self.error, SHORT | EINTR)
    }

    fn environment(&self, dir: &Path, met: &Path, seed: u64) -> Vec<(&'static str, String)> {
        let mut told = vec![
            ("SHIM_PATH", format!("{}/", dir.display())),
            ("SHIM_NOT", self.spared.to_owned()),
            ("SHIM_OPS", self.ops.to_owned()),
            ("SHIM_ERRNO", self.error.to_string()),
            ("SHIM_PART", self.part.to_string()),
            ("SHIM_SEED", seed.to_string()),
            ("SHIM_MET", met.display().to_string()),
        ];
        match self.when {
            When::Calls(from, count) => {
                told.push(("SHIM_FROM", from.to_string()));
                told.push(("SHIM_COUNT", count.to_string()));
            }
            When::Ppm(ppm) => told.push(("SHIM_PPM", ppm.to_string())),
        }
        shim::environment(told)
    }
}

/// Panics of ours and of redb; those of sled's own code are caught, but printed.
fn assert_no_panic(stderr: &str) {
    let ours = |line: &&str| line.contains("panicked at") && !line.contains("/sled-0.34");
    assert_eq!(stderr.lines().find(ours), None, "{stderr}");
}

#[test]
fn failing_system_calls_under_redb_lose_nothing_that_was_answered() {
    rounds(|dir| Store::Redb(dir.join("s.redb")), "s.redb.journal", "s.redb");
}

#[test]
fn failing_system_calls_under_sled_lose_nothing_that_was_answered() {
    rounds(|dir| Store::Sled(dir.join("s.sled")), "s.sled.journal", "s.sled/");
}

fn rounds(store: impl Fn(&Path) -> Store, journal: &'static str, file: &'static str) {
    let rounds = env_number("SESSILE_FAULT_ROUNDS", 12);
    let mut rng = Rng::announced("failing calls");
    let dir = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let store = store(dir.path());
    let mut workers: Vec<Worker> = (0..THREADS).map(|n| Worker::new(rng.fork(n), n)).collect();
    let (mut met, mut refused_starts) = (0, 0);
    for n in 0..rounds {
        let round = Round::draw(&mut rng, n, journal, file);
        let level = ["process", "power"][rng.index(2)];
        let flags = ["--durability", level, "--log", "error"];
        let met_file = elsewhere.path().join(format!("met{n}"));
        let environment = round.environment(dir.path(), &met_file, rng.next_u64());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            match Server::try_start_in(store.clone(), &flags, &environment) {
                Ok(mut server) => {
                    load(&mut workers, &server, round.is_ordinary(), rng.between(20, 600));
                    let gently = matches!(store, Store::Redb(_)) && n % 2 == 0;
                    assert_no_panic(&end(&mut server, gently));
                }
                Err(failed) => {
                    assert!(!round.is_ordinary(), "{failed:?}");
                    assert_no_panic(&failed.stderr);
                    refused_starts += 1;
                }
            }
            let mut server = Server::start(store.clone(), &flags);
            let address = server.address();
            thread::scope(|scope| {
                for worker in &mut workers {
                    scope.spawn(move || worker.verify(address));
                }
            });
            assert_no_panic(&server.kill());
        }));
        if let Err(panic) = outcome {
            println!("round {n} at level {level}: {round:?}");
            std::panic::resume_unwind(panic);
        }
        met += std::fs::read_to_string(met_file).map_or(0, |lines| lines.lines().count());
    }
    let sum = |of: fn(&Worker) -> u64| workers.iter().map(of).sum::<u64>();
    println!(
        "failing system calls under {}: {rounds} rounds, {met} calls failed or done in part, {refused_starts} starts refused, \
         {} requests answered, {} refused, {} sessions verified, 0 answered writes lost, 0 wrong values, 0 panics",
        store.flag().split(':').next().unwrap_or_default(),
        sum(|w| w.answered),
        sum(|w| w.refused),
        sum(|w| w.verified),
    );
    assert!(met > 0 && sum(|w| w.answered) > 0, "nothing was tried");
}

/// Works on the server for `ms` and leaves it running.
fn load(workers: &mut [Worker], server: &Server, must_work: bool, ms: u64) {
    let address = server.address();
    let barrier = Barrier::new(workers.len());
    thread::scope(|scope| {
        for worker in workers {
            worker.must_work = must_work;
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                worker.work(address, usize::try_from(ms).unwrap());
            });
        }
    });
}

/// Ends the server; what it said.
fn end(server: &mut Server, gently: bool) -> String {
    if !gently {
        return server.kill();
    }
    server.signal(Signal::TERM);
    let (status, stderr) = server.wait_and_listen();
    assert!(status.code().is_some(), "{status}: {stderr}");
    stderr
}
