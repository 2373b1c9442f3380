//! The integrity scan: damage is found before anybody asks for the session, told, and mended where memory has what was
//! lost.

use std::path::Path;
use std::time::Duration;

use pollster::block_on;
use redb::{Database, ReadableDatabase, TableDefinition};
use sessile_engine::clock::ManualClock;
use sessile_engine::store::fault::FaultOp;
use sessile_engine::store::{Change, MemoryStore, RedbStore, Row, Store};
use sessile_engine::{Engine, Event, Health, StoreErrorKind, Token};

use super::support::*;

const SESSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("sessile.sessions");

/// Changes a bit of the stored row of `token`, behind the store's back.
fn damage(path: &Path, token: &Token) {
    let db = Database::open(path).unwrap();
    let mut raw = db
        .begin_read()
        .unwrap()
        .open_table(SESSIONS)
        .unwrap()
        .get(token.id().as_bytes())
        .unwrap()
        .unwrap()
        .value()
        .to_vec();
    let last = raw.len() - 1;
    raw[last] ^= 1;
    let mut tx = db.begin_write().unwrap();
    tx.set_quick_repair(true);
    {
        let mut table = tx.open_table(SESSIONS).unwrap();
        table.insert(token.id().as_bytes(), &*raw).unwrap();
    }
    tx.commit().unwrap();
}

fn garbage() -> (Token, Change) {
    let token = Token::generate().unwrap();
    let row = Row { version: 1, expires_at: START_MS * 2, owner: None, bytes: vec![7; 300] };
    let change = Change::Insert { id: token.id(), row };
    (token, change)
}

fn told(events: &Events, token: &Token) -> (usize, usize) {
    let id = token.id();
    let quarantined = events.of(|e| matches!(e, Event::Quarantined { id: of, .. } if *of == id)).len();
    (quarantined, events.of(|e| matches!(e, Event::Mended { id: of, .. } if *of == id)).len())
}

#[test]
fn a_scan_finds_damaged_rows_and_damaged_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let engine = Engine::builder().open_redb(&path).unwrap();
    let tokens: Vec<Token> = (0..300).map(|n| fresh(&engine, n)).collect();
    close(&engine).unwrap();
    drop(engine);
    damage(&path, &tokens[3]);
    damage(&path, &tokens[200]);
    let (unsealed, insert) = garbage();
    drop(block_on(RedbStore::open(&path).unwrap().commit(1, &[insert])).unwrap());

    let events = Events::default();
    let seen = events.clone();
    let observer = move |e: &Event| seen.0.lock().unwrap().push(e.clone());
    let engine = Engine::builder().observer(observer).open_redb(&path).unwrap();
    let found = block_on(engine.scan()).unwrap();
    assert_eq!((found.checked, found.quarantined, found.mended, found.unopened), (301, 3, 0, 0));
    assert!(found.bytes > 299 * 50);
    for token in [&tokens[3], &tokens[200], &unsealed] {
        assert_eq!(told(&events, token), (1, 0));
    }
    block_on(engine.checkpoint()).unwrap();
    let stats = block_on(engine.stats());
    assert_eq!((stats.scans, stats.scanned, stats.quarantined, stats.stored), (1, 301, 3, Some(298)));
    let again = block_on(engine.scan()).unwrap();
    assert_eq!((again.checked, again.quarantined), (298, 0));
    for (at, token) in (0..).zip(&tokens) {
        let wanted = (at != 3 && at != 200).then_some(at);
        assert_eq!(n(&engine, token), wanted);
    }
    assert_eq!(engine.health(), Health::Ok);
}

#[test]
fn a_damaged_row_of_a_session_in_memory_is_written_anew() {
    let (engine, _, events, rows) = open(Engine::builder());
    let token = fresh(&engine, 1);
    flush(&engine).unwrap();
    let sound = block_on(rows.load(&token.id())).unwrap().unwrap();
    let broken = Row { bytes: vec![1; sound.bytes.len()], ..sound.clone() };
    let put = Change::Put { id: token.id(), row: broken };
    drop(block_on(rows.commit(1, &[put])).unwrap());
    let found = block_on(engine.scan()).unwrap();
    assert_eq!((found.checked, found.quarantined, found.mended), (1, 0, 1));
    assert_eq!(told(&events, &token), (0, 1));
    flush(&engine).unwrap();
    assert_eq!(block_on(rows.load(&token.id())).unwrap().unwrap(), sound);
    assert_eq!(block_on(engine.scan()).unwrap().mended, 0);
    let stats = block_on(engine.stats());
    assert_eq!((stats.mended, stats.quarantined), (1, 0));
    begin(&engine, Some(&token)).put("n", &2).unwrap();
    flush(&engine).unwrap();
    assert_eq!(n(&reopen(&rows), &token), Some(2));
}

/// In the background, at its time, and again after a failure.
#[test]
fn the_background_scan_comes_when_it_is_due_and_repeats_what_failed() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(START_MS);
    let hour = Duration::from_secs(3600);
    let (engine, handle, events) =
        open_over(Engine::builder().clock(clock.clone()).integrity_scan(hour), &rows);
    let tokens: Vec<Token> = (0..300).map(|n| fresh(&engine, n)).collect();
    flush(&engine).unwrap();
    // The hour begins when the writer first looks, which it does after its first commit and before its second.
    begin(&engine, Some(&tokens[0])).put("n", &0).unwrap();
    flush(&engine).unwrap();
    let (unsealed, insert) = garbage();
    drop(block_on(rows.commit(1, &[insert])).unwrap());
    assert_eq!(block_on(engine.stats()).scanned, 0, "not at the start");
    handle.fail_next(FaultOp::List, 1, StoreErrorKind::Unavailable);
    clock.advance(hour);
    soon("it fails and says so", || block_on(engine.stats()).scan_failures == 1);
    soon("it goes over all rows, however little time passes at once", || {
        clock.advance(Duration::from_secs(1));
        block_on(engine.stats()).scans == 1
    });
    assert_eq!(told(&events, &unsealed), (1, 0));
    assert_eq!(block_on(engine.stats()).scanned, 301);
    assert_eq!(engine.health(), Health::Ok);
    assert_eq!(n(&engine, &tokens[0]), Some(0));
    flush(&engine).unwrap();
    assert_eq!(rows.len(), 300);
}

#[test]
fn without_being_asked_for_there_is_no_scan() {
    let clock = ManualClock::new(START_MS);
    let (engine, handle, _, _) = open(Engine::builder().clock(clock.clone()));
    fresh(&engine, 1);
    flush(&engine).unwrap();
    clock.advance(Duration::from_secs(40 * 60));
    fresh(&engine, 2);
    flush(&engine).unwrap();
    assert_eq!(block_on(engine.stats()).scanned, 0);
    assert_eq!(handle.calls(FaultOp::List), 1, "that of the start");
}
