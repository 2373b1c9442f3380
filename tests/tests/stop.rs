//! SIGTERM under load: requests in flight are answered, everything that was answered is in the store, whatever the level
//! of durability, and the process ends well, however often it is told.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

#[path = "preload/oracle.rs"]
mod oracle;

use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sessile_tests::{Rng, Server, Store};
use tempfile::TempDir;

use self::oracle::Worker;

const THREADS: u64 = 4;

#[test]
fn sigterm_under_load_loses_nothing_on_redb() {
    stops(|dir| Store::Redb(dir.join("s.redb")), "s.redb.journal");
}

#[test]
fn sigterm_under_load_loses_nothing_on_sled() {
    stops(|dir| Store::Sled(dir.join("s.sled")), "s.sled.journal");
}

fn stops(store: fn(&Path) -> Store, journal: &str) {
    let mut rng = Rng::announced("stop");
    let dir = TempDir::new().unwrap();
    let mut workers: Vec<Worker> = (0..THREADS).map(|n| Worker::new(rng.fork(n), n)).collect();
    let mut server = Server::start(store(dir.path()), &["--log", "error"]);
    for level in ["eventual", "process", "power"] {
        server.terminate();
        server.restart_with(&["--log", "error", "--durability", level]);
        let address = server.address();
        thread::scope(|scope| {
            for worker in &mut workers {
                worker.must_work = true;
                scope.spawn(move || worker.work(address, usize::MAX));
            }
            thread::sleep(Duration::from_millis(rng.between(50, 400)));
            for signal in [Signal::TERM, Signal::TERM, Signal::INT] {
                server.signal(signal);
            }
            let (status, stderr) = server.wait_and_listen();
            assert_eq!(status.code(), Some(0), "{level}: {stderr}");
            assert_eq!(stderr, "", "{level}");
        });
        let left = std::fs::read_dir(dir.path().join(journal)).unwrap();
        let left: Vec<_> =
            left.map(|entry| entry.unwrap().file_name()).filter(|name| name != "lock").collect();
        assert!(left.is_empty(), "all of the journal has been handed on: {left:?}");
        server.restart();
        let address = server.address();
        workers.iter_mut().for_each(|worker| worker.verify(address));
    }
    let sum = |of: fn(&Worker) -> u64| workers.iter().map(of).sum::<u64>();
    println!(
        "SIGTERM under load: {} answered, {} sessions verified",
        sum(|w| w.answered),
        sum(|w| w.verified)
    );
    assert!(sum(|w| w.answered) > 0);
}
