//! A disk that is really full: the engine with its journal over redb and over sled, and redb alone, on a small tmpfs of its
//! own. What was accepted is there when there is space again, without anybody's help. Needs root; without it says so.

#![cfg(all(feature = "redb", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pollster::block_on;
use sessile_engine::store::RedbStore;
use sessile_engine::{
    Builder, Delivery, Durability, Engine, Health, Result, Session, StoreErrorKind, Token, WhenFull,
};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(60);

/// A file system of a few MiB. It goes away with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and a line that says so, where none can be mounted.
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "sessile-test"])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .output();
        let why = match mounted {
            Ok(out) if out.status.success() => return Some(Self(dir)),
            Ok(out) => String::from_utf8_lossy(&out.stderr).trim().replace('\n', " "),
            Err(e) => e.to_string(),
        };
        // Past the capture of tests that pass: the runner counts these lines.
        let _ = writeln!(io::stderr(), "\nSKIPPED: no tmpfs can be mounted for a full disk: {why}");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space there is, but for `left` bytes.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let piece = [0_u8; 4096];
        while file.write_all(&piece).is_ok() {}
        let len = file.metadata().unwrap().len().saturating_sub(left);
        file.set_len(len).unwrap();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

/// What a session numbered `n` holds: more with each thousand.
fn padding(n: u64) -> String {
    let kib = usize::try_from(3 + n / 1000).unwrap();
    format!("{n}:{}", "x".repeat(kib << 10))
}

/// A new session whose response has left.
fn fresh(engine: &Engine, n: u64) -> Result<Token> {
    let session = begin(engine, None);
    session.put("n", &padding(n))?;
    match block_on(session.commit())? {
        Delivery::Issue(issue) => Ok(issue.token),
        other => panic!("expected a token, got {other:?}"),
    }
}

fn change(engine: &Engine, token: &Token, n: u64) -> Result<()> {
    let session = begin(engine, Some(token));
    session.put("n", &padding(n))?;
    block_on(session.commit()).map(drop)
}

fn value(engine: &Engine, token: &Token) -> Option<String> {
    begin(engine, Some(token)).get("n").unwrap()
}

fn is_full(engine: &Engine) -> bool {
    matches!(engine.health(), Health::Full { .. })
}

/// Writes until there is no space, then gives some back. `reopened` opens the same store again.
fn fills_up_and_recovers(disk: &Disk, left: u64, engine: Engine, reopened: impl FnOnce() -> Engine) {
    let mut known: Vec<(Token, u64)> = Vec::new();
    for n in 0..20 {
        known.push((fresh(&engine, n).unwrap(), n));
    }
    block_on(engine.checkpoint()).unwrap();
    let ballast = disk.fill(left);
    let mut n = 100;
    let error = loop {
        n += 1;
        assert!(n < 100_000, "the disk is never full");
        match fresh(&engine, n) {
            Ok(token) => known.push((token, n)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full, "{error}");
    assert!(error.is_temporary());
    // Everything is served; a change stays in memory, and its response fails.
    for (token, n) in &known {
        assert_eq!(value(&engine, token), Some(padding(*n)));
    }
    // The file may have room inside: what took its place before, or was given back. Bigger and bigger values use it up.
    let mut changes = known.len();
    let failed = loop {
        let at = changes % known.len();
        changes += 1;
        assert!(changes < 20 * known.len(), "there is always room");
        let (token, n) = &mut known[at];
        *n += 1000;
        let Err(error) = change(&engine, token, *n) else { continue };
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full, "{error}");
        assert_eq!(value(&engine, token), Some(padding(*n)));
        // A checkpoint cannot help, and breaks nothing.
        if block_on(engine.checkpoint()).is_err() {
            break at;
        }
    };
    soon("its health says that the disk is full", || is_full(&engine));
    assert_eq!(value(&engine, &known[failed].0), Some(padding(known[failed].1)));

    std::fs::remove_file(ballast).unwrap();
    soon("it finds the space by itself", || engine.health() == Health::Ok);
    soon("what was accepted is written", || block_on(engine.stats()).dirty == 0);
    known.push((fresh(&engine, 50).unwrap(), 50));
    block_on(engine.checkpoint()).unwrap();
    assert_eq!(engine.health(), Health::Ok);
    block_on(engine.close()).unwrap();
    drop(engine);
    let engine = reopened();
    for (token, n) in &known {
        assert_eq!(value(&engine, token), Some(padding(*n)));
    }
    assert_eq!(block_on(engine.stats()).stored, Some(known.len() as u64), "and nothing else");
}

fn levels() -> [Durability; 2] {
    [Durability::process_crash(), Durability::PowerLoss]
}

#[test]
fn a_full_disk_under_redb_and_its_journal_loses_nothing() {
    for level in levels() {
        let Some(disk) = Disk::mount(24) else { return };
        let open = || Engine::builder().durability(level).open_redb(disk.path().join("s.redb")).unwrap();
        fills_up_and_recovers(&disk, 100 << 10, open(), open);
    }
}

/// Without a journal every commit is the store's.
#[test]
fn a_full_disk_under_redb_alone_loses_nothing() {
    let Some(disk) = Disk::mount(24) else { return };
    let builder = || Engine::builder().durability(Durability::PowerLoss);
    let open = || builder().open(RedbStore::open(disk.path().join("s.redb")).unwrap()).unwrap();
    fills_up_and_recovers(&disk, 100 << 10, open(), open);
}

#[test]
#[cfg(feature = "sled")]
fn a_full_disk_under_sled_and_its_journal_loses_nothing() {
    for level in levels() {
        let Some(disk) = Disk::mount(48) else { return };
        let open = || Engine::builder().durability(level).open_sled(disk.path().join("s.sled")).unwrap();
        fills_up_and_recovers(&disk, 100 << 10, open(), open);
    }
}

/// The store's disk is full, the journal's is not: nobody notices but the operator.
#[test]
fn a_full_disk_under_the_store_alone_costs_no_write() {
    let Some(disk) = Disk::mount(24) else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let builder = |n: u32| {
        let journal = elsewhere.path().join(format!("j{n}"));
        Engine::builder().when_full(WhenFull::Refuse).journal(journal)
    };
    type Open = Box<dyn Fn(Builder, &Path) -> Engine>;
    let mut stores: Vec<(&str, Open)> = vec![("redb", Box::new(|b, path| b.open_redb(path).unwrap()))];
    #[cfg(feature = "sled")]
    stores.push(("sled", Box::new(|b, path| b.open_sled(path).unwrap())));
    for (n, (name, open)) in (0..).zip(stores) {
        let path = disk.path().join(name);
        let engine = open(builder(n), &path);
        let first = fresh(&engine, 1).unwrap();
        block_on(engine.checkpoint()).unwrap();
        let ballast = disk.fill(0);
        let tokens: Vec<_> = (0..400).map(|n| fresh(&engine, n).unwrap()).collect();
        let error = block_on(engine.checkpoint()).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full, "{name}: {error}");
        soon("its health says that there is no space", || is_full(&engine));
        change(&engine, &first, 2).unwrap();
        std::fs::remove_file(ballast).unwrap();
        soon("it hands on by itself", || engine.health() == Health::Ok);
        block_on(engine.close()).unwrap();
        drop(engine);
        let engine = open(builder(n), &path);
        assert_eq!(value(&engine, &first), Some(padding(2)), "{name}");
        for (n, token) in (0..).zip(&tokens) {
            assert_eq!(value(&engine, token), Some(padding(n)), "{name}");
        }
        block_on(engine.close()).unwrap();
    }
}
