//! The journal as an application meets it: what is on the disk when a response leaves, what a start after a crash
//! finds, and what is refused. A crash of the process is a copy of the files as they are at that moment: that is
//! what the next process would find.

#![cfg(feature = "redb")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::{MemoryStore, RedbStore};
use sessile_engine::{
    Builder, Delivery, Durability, Engine, ErrorKind, Event, Session, StoreErrorKind, Token,
};
use tempfile::TempDir;

/// Nothing but what a response waits for happens within it.
const LONG: Duration = Duration::from_secs(60);

fn process_crash() -> Builder {
    Engine::builder().durability(Durability::ProcessCrash { window: LONG })
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn deliver(session: &Session) -> Delivery {
    block_on(session.commit()).unwrap()
}

fn issued(session: &Session) -> Token {
    match deliver(session) {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn fresh(engine: &Engine) -> Token {
    let session = begin(engine, None);
    session.put("k", "v").unwrap();
    issued(&session)
}

fn value(engine: &Engine, token: &Token) -> Option<String> {
    begin(engine, Some(token)).get("k").unwrap()
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("s.redb")
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(dir.join("s.redb.journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "log"));
    all.sort();
    all
}

/// What a process that starts now would find, had this one been killed.
fn killed(dir: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("s.redb.journal")).unwrap();
    for path in segments(dir.path()) {
        fs::copy(&path, copy.path().join("s.redb.journal").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(file(dir), file(&copy)).unwrap();
    copy
}

#[test]
fn p7_process_crash_has_every_write_in_the_journal_when_the_response_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let engine = process_crash().open_redb(file(&dir)).unwrap();
    let token = fresh(&engine);
    let after = process_crash().open_redb(file(&killed(&dir))).unwrap();
    assert_eq!(value(&after, &token).as_deref(), Some("v"), "a new session");
    drop(after);

    let session = begin(&engine, Some(&token));
    session.put("k", "changed").unwrap();
    deliver(&session);
    // And once more, of an entry that is still in the writer's queue.
    let session = begin(&engine, Some(&token));
    session.update::<u32>("n", |n| n.unwrap_or(0) + 1).unwrap();
    deliver(&session);
    let image = killed(&dir);
    let after = process_crash().open_redb(file(&image)).unwrap();
    assert_eq!(value(&after, &token).as_deref(), Some("changed"));
    assert_eq!(begin(&after, Some(&token)).get::<u32>("n").unwrap(), Some(1));
    assert!(after.recovery().unwrap().changes >= 3);

    let session = begin(&engine, Some(&token));
    assert_eq!(session.pop::<String>("k").unwrap().as_deref(), Some("changed"));
    deliver(&session);
    let after = process_crash().open_redb(file(&killed(&dir))).unwrap();
    assert_eq!(value(&after, &token), None, "what was taken once is not there again");
}

#[test]
fn p7_what_is_destroyed_or_renewed_is_in_the_journal_at_every_level() {
    for level in [
        Durability::Eventual { window: LONG },
        Durability::ProcessCrash { window: LONG },
        Durability::PowerLoss,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::builder().durability(level).open_redb(file(&dir)).unwrap();
        let (a, b) = (fresh(&engine), fresh(&engine));
        block_on(engine.flush()).unwrap();
        let session = begin(&engine, Some(&a));
        session.destroy().unwrap();
        deliver(&session);
        let session = begin(&engine, Some(&b));
        session.renew().unwrap();
        let renewed = issued(&session);
        let after = Engine::builder().open_redb(file(&killed(&dir))).unwrap();
        assert_eq!([&a, &b].map(|token| value(&after, token)), [None, None], "{level:?}");
        assert_eq!(value(&after, &renewed).as_deref(), Some("v"), "{level:?}");
    }
}

#[test]
fn p7_eventual_leaves_a_write_in_memory_for_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let engine =
        Engine::builder().durability(Durability::Eventual { window: LONG }).open_redb(file(&dir)).unwrap();
    let token = fresh(&engine);
    let after = Engine::builder().open_redb(file(&killed(&dir))).unwrap();
    assert_eq!(value(&after, &token), None, "nothing was promised yet");
    drop(after);
    let session = begin(&engine, Some(&token));
    block_on(session.sync()).unwrap();
    let after = Engine::builder().open_redb(file(&killed(&dir))).unwrap();
    assert_eq!(value(&after, &token).as_deref(), Some("v"));
}

#[test]
fn a_clean_shutdown_leaves_everything_in_the_file_and_nothing_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let engine = process_crash().open_redb(file(&dir)).unwrap();
    let tokens: Vec<_> = (0..200).map(|_| fresh(&engine)).collect();
    assert!(!segments(dir.path()).is_empty());
    block_on(engine.close()).unwrap();
    assert!(segments(dir.path()).is_empty());
    let engine = Engine::builder().open(RedbStore::open(file(&dir)).unwrap()).unwrap();
    assert!(tokens.iter().all(|token| value(&engine, token).is_some()));
}

#[test]
fn a_checkpoint_empties_the_journal_into_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let engine = process_crash().open_redb(file(&dir)).unwrap();
    let token = fresh(&engine);
    block_on(engine.checkpoint()).unwrap();
    assert_eq!(block_on(engine.stats()).stored, Some(1));
    let copy = tempfile::tempdir().unwrap();
    fs::copy(file(&dir), file(&copy)).unwrap();
    let alone = Engine::builder().open_redb(file(&copy)).unwrap();
    assert_eq!(value(&alone, &token).as_deref(), Some("v"));
}

#[test]
fn the_file_alone_is_refused_while_its_journal_knows_more() {
    let dir = tempfile::tempdir().unwrap();
    let engine = process_crash().open_redb(file(&dir)).unwrap();
    fresh(&engine);
    let image = killed(&dir);
    let error = RedbStore::open(file(&image)).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Config);
    assert!(error.to_string().contains("s.redb.journal"), "{error}");
}

#[test]
fn a_second_engine_on_the_same_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let _first = Engine::builder().journal(&path).open(MemoryStore::default()).unwrap();
    let error = Engine::builder().journal(&path).open(MemoryStore::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("in use"), "{error}");
    let error = Engine::builder().journal(&path).in_memory().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn damage_is_told_and_the_rest_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let engine = process_crash().open_redb(file(&dir)).unwrap();
    let tokens: Vec<_> = (0..50)
        .map(|_| {
            let token = fresh(&engine);
            // Durable, and known to be: damage from here on is no torn end.
            block_on(engine.flush()).unwrap();
            token
        })
        .collect();
    let image = killed(&dir);
    let segment = segments(image.path()).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&segment, bytes).unwrap();

    let told = Arc::new(Mutex::new(Vec::new()));
    let events = told.clone();
    let engine = process_crash()
        .observer(move |event: &Event| events.lock().unwrap().push(event.clone()))
        .open_redb(file(&image))
        .unwrap();
    assert_eq!(engine.recovery().unwrap().damaged, 1);
    assert!(told.lock().unwrap().contains(&Event::JournalDamaged { gaps: 1 }));
    let lost = tokens.iter().filter(|token| value(&engine, token).is_none()).count();
    assert!(lost <= 1, "{lost} sessions lost to one flipped bit");
    block_on(engine.checkpoint()).unwrap();
    let kept = fs::read_dir(image.path().join("s.redb.journal"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "damaged"))
        .count();
    assert_eq!(kept, 1, "the damaged bytes are kept for the operator");
}

#[test]
fn sessions_that_are_only_in_the_journal_are_found_by_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let engine =
        process_crash().memory_limit(512 << 10).max_record_bytes(4096).open_redb(file(&dir)).unwrap();
    let tokens: Vec<_> = (0..1000)
        .map(|n| {
            let session = begin(&engine, None);
            session.put("k", "v").unwrap();
            session.put("padding", &"x".repeat(1000)).unwrap();
            session.set_owner(Some(if n % 2 == 0 { "ann" } else { "bob" })).unwrap();
            issued(&session)
        })
        .collect();
    block_on(engine.flush()).unwrap();
    assert!(block_on(engine.stats()).evicted > 0, "the cache does not hold them all");
    assert_eq!(block_on(engine.sessions_of("ann")).unwrap().len(), 500);
    let mut seen = 0;
    block_on(engine.for_each(|_| {
        seen += 1;
        async { Ok(()) }
    }))
    .unwrap();
    assert_eq!(seen, 1000);
    assert!(tokens.iter().all(|token| value(&engine, token).is_some()));
    assert_eq!(block_on(engine.destroy_all("bob", None)).unwrap(), 500);
    let after = process_crash().open_redb(file(&killed(&dir))).unwrap();
    let left = tokens.iter().filter(|token| value(&after, token).is_some()).count();
    assert_eq!(left, 500, "logout everywhere is final");
}

/// An engine whose clock begins at `start`, with sessions of 100 s.
fn timed(dir: &TempDir, clock: &ManualClock) -> Engine {
    process_crash().clock(clock.clone()).lifetime(Duration::from_secs(100)).open_redb(file(dir)).unwrap()
}

/// 2027, in ms.
const START: u64 = 1_800_000_000_000;

/// The store behind it has not been told of anything: the time is the journal's.
#[test]
fn p8_a_kill_and_an_earlier_clock_revive_nothing_that_is_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let engine = timed(&dir, &clock);
    let old = fresh(&engine);
    clock.advance(Duration::from_secs(99));
    let young = fresh(&engine);
    clock.advance(Duration::from_secs(2));
    let newest = fresh(&engine);
    block_on(engine.flush()).unwrap();
    assert_eq!(value(&engine, &old), None, "its time is over");

    for back in [0, 1, 3_600_000, START] {
        let image = killed(&dir);
        let clock = ManualClock::new(START - back);
        let after = timed(&image, &clock);
        let found = [&old, &young, &newest].map(|token| value(&after, token).is_some());
        assert_eq!(found, [false, true, true], "{back} ms back");
        // Its time goes on from where it was.
        clock.advance(Duration::from_secs(98));
        assert_eq!(value(&after, &young), None);
        assert!(value(&after, &newest).is_some());
        // And again, from a clean shutdown.
        block_on(after.close()).unwrap();
        drop(after);
        let again = timed(&image, &ManualClock::new(START - back));
        assert_eq!([&old, &young].map(|token| value(&again, token)), [None, None]);
        assert!(value(&again, &newest).is_some());
    }
}

/// A clock that is set while the engine runs moves no time; what sleeps grows older.
#[test]
fn p8_steps_of_the_clock_and_suspends_are_told_apart_by_an_engine_with_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let engine = timed(&dir, &clock);
    let token = fresh(&engine);
    clock.step_wall_to(START + 10 * 365 * 86_400_000);
    fresh(&engine);
    block_on(engine.checkpoint()).unwrap();
    assert!(value(&engine, &token).is_some(), "a step forward expires nothing early");
    clock.step_wall_to(1);
    fresh(&engine);
    block_on(engine.checkpoint()).unwrap();
    assert!(value(&engine, &token).is_some());
    let image = killed(&dir);
    let after = timed(&image, &ManualClock::new(START + 1_000));
    assert!(value(&after, &token).is_some(), "neither step was written down");
    // Both clocks go on while the machine sleeps.
    clock.advance(Duration::from_secs(100));
    assert_eq!(value(&engine, &token), None);
}
