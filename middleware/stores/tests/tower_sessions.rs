//! Stores of tower-sessions under sessile: published ones, and one that fails and is as narrow as the trait allows.

#![cfg(all(feature = "tower-sessions-store-0_14", feature = "tower-sessions-store-0_15"))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Outcome, Store, StoreErrorKind};
use sessile_engine::{Delivery, Durability, Engine, Health, Token};
use sessile_stores::tower_sessions::{Builder, TowerStore};
use tower_sessions_core_0_14::session::{Id, Record};
use tower_sessions_core_0_14::session_store::{Error, Result, SessionStore};
use tower_sessions_moka_store::MokaStore;

use support::{conforms, id, insert, row, update};

const NOW: u64 = 3_000_000_000_000;

/// It creates only what is not there, and saves only what is, as the published store in Redis. It can fail.
#[derive(Debug, Clone, Default)]
struct Narrow(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: Mutex<HashMap<Id, Record>>,
    /// Writes that are done before one fails; 0 is for never.
    fails_after: AtomicU32,
    /// Whether the failing one is done all the same.
    does_it: Mutex<bool>,
    /// Whether it can read nothing.
    is_blind: Mutex<bool>,
}

impl Narrow {
    fn fail_after(&self, writes: u32, does_it: bool) {
        *self.0.does_it.lock().unwrap() = does_it;
        self.0.fails_after.store(writes + 1, Ordering::Relaxed);
    }

    fn write(&self, write: impl FnOnce(&mut HashMap<Id, Record>)) -> Result<()> {
        let left = self.0.fails_after.load(Ordering::Relaxed);
        if left == 1 {
            if *self.0.does_it.lock().unwrap() {
                write(&mut self.0.records.lock().unwrap());
            }
            return Err(Error::Backend("it is away".into()));
        }
        self.0.fails_after.store(left.saturating_sub(1), Ordering::Relaxed);
        write(&mut self.0.records.lock().unwrap());
        Ok(())
    }

    fn recover(&self) {
        self.0.fails_after.store(0, Ordering::Relaxed);
    }

    /// The records of sessions.
    fn sessions(&self) -> Vec<Record> {
        let records = self.0.records.lock().unwrap();
        records.values().filter(|record| record.data.contains_key("sessile.row")).cloned().collect()
    }
}

#[async_trait::async_trait]
impl SessionStore for Narrow {
    async fn create(&self, record: &mut Record) -> Result<()> {
        self.write(|records| {
            while records.contains_key(&record.id) {
                record.id = Id::default();
            }
            records.insert(record.id, record.clone());
        })
    }

    async fn save(&self, record: &Record) -> Result<()> {
        self.write(|records| {
            if let Some(there) = records.get_mut(&record.id) {
                *there = record.clone();
            }
        })
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        if *self.0.is_blind.lock().unwrap() {
            return Err(Error::Backend("it is away".into()));
        }
        Ok(self.0.records.lock().unwrap().get(id).cloned())
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        self.write(|records| drop(records.remove(id)))
    }
}

/// Each case on records of its own; clones of a store have the same.
fn suite<S: Clone + Send + Sync + 'static>(
    store: &str,
    server: &str,
    new: impl Fn() -> S,
    over: fn(S) -> Builder,
) {
    conforms(store, server, async |_| {
        let records = new();
        let open = move || Subject::new(over(records.clone()).open().unwrap());
        open.clone()().reopened_by(move || Box::pin(std::future::ready(open())))
    });
}

#[test]
fn the_memory_store_of_0_14_conforms() {
    let new = tower_sessions_memory_store_0_14::MemoryStore::default;
    suite("tower-sessions 0.14, its memory store", "itself", new, TowerStore::v0_14);
}

#[test]
fn the_memory_store_of_0_15_conforms() {
    let new = tower_sessions_memory_store_0_15::MemoryStore::default;
    suite("tower-sessions 0.15, its memory store", "itself", new, TowerStore::v0_15);
}

#[test]
fn the_moka_store_conforms() {
    suite("tower-sessions 0.14, moka", "itself", || MokaStore::new(None), TowerStore::v0_14);
}

/// No row of the table: it is not a published one.
#[test]
fn a_store_that_saves_only_what_is_there_passes_too() {
    block_on(sessile_engine::store::conformance::run(async || {
        let records = Narrow::default();
        let open = move || Subject::new(TowerStore::v0_14(records.clone()).open().unwrap());
        open.clone()().reopened_by(move || Box::pin(std::future::ready(open())))
    }));
}

#[test]
fn a_record_is_due_five_minutes_after_its_row_and_has_no_more_than_it_needs() {
    let records = Narrow::default();
    let store = TowerStore::v0_14(records.clone()).open().unwrap();
    assert_eq!(block_on(store.commit(NOW, &[insert(1, row(1))])).unwrap(), [Outcome::Done]);
    let [record] = &records.sessions()[..] else { panic!("one record") };
    assert_eq!(record.expiry_date.unix_timestamp(), i64::try_from(row(1).expires_at / 1000).unwrap() + 300);
    let mut names: Vec<_> = record.data.keys().collect();
    names.sort_unstable();
    assert_eq!(names, ["sessile.id", "sessile.row"]);
}

#[test]
fn a_damaged_record_is_put_aside() {
    let records = Narrow::default();
    let store = TowerStore::v0_14(records.clone()).open().unwrap();
    assert_eq!(block_on(store.commit(NOW, &[insert(1, row(1))])).unwrap(), [Outcome::Done]);
    for record in records.0.records.lock().unwrap().values_mut() {
        record.data.entry("sessile.row".into()).and_modify(|row| *row = "no row".into());
    }
    assert_eq!(block_on(store.load(&id(1))).unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(block_on(store.commit(NOW, &[update(1, 1, row(2))])).unwrap(), [Outcome::Missing]);
    let aside = [sessile_engine::store::Change::Quarantine { id: id(1) }];
    assert_eq!(block_on(store.commit(NOW, &aside)).unwrap(), [Outcome::Done]);
    assert_eq!(block_on(store.load(&id(1))).unwrap(), None);
    assert_eq!(records.sessions().len(), 1, "its data are kept");
}

#[test]
fn the_latest_time_is_stored_once_a_second_and_when_the_store_is_closed() {
    let records = Narrow::default();
    let open = || TowerStore::v0_14(records.clone()).open().unwrap();
    let store = open();
    for now in [NOW, NOW + 999] {
        let _ = block_on(store.commit(now, &[])).unwrap();
        assert_eq!(block_on(store.high_water()).unwrap(), now);
        assert_eq!(block_on(open().high_water()).unwrap(), NOW, "after a crash");
    }
    block_on(store.close()).unwrap();
    assert_eq!(block_on(open().high_water()).unwrap(), NOW + 999);
}

#[test]
fn a_runtime_with_one_thread_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let opened = runtime.block_on(async { TowerStore::v0_14(Narrow::default()).open() });
    assert_eq!(opened.unwrap_err().kind(), StoreErrorKind::Config);
}

#[test]
fn on_a_runtime_its_calls_run_there() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = runtime.block_on(async { TowerStore::v0_14(Narrow::default()).open().unwrap() });
    assert_eq!(block_on(store.commit(NOW, &[insert(1, row(1))])).unwrap(), [Outcome::Done]);
    drop(runtime);
    assert_eq!(block_on(store.load(&id(1))).unwrap_err().kind(), StoreErrorKind::Unavailable);
}

/// A renewal that breaks off in the middle costs nobody a session.
#[test]
fn a_renewal_that_breaks_off_leaves_the_old_id() {
    for (writes, does_it, both) in [(0, false, false), (0, true, true), (1, false, true)] {
        let records = Narrow::default();
        let store = TowerStore::v0_14(records.clone()).open().unwrap();
        assert_eq!(block_on(store.commit(NOW, &[insert(1, row(1))])).unwrap(), [Outcome::Done]);
        let rekey =
            sessile_engine::store::Change::Rekey { from: id(1), expected: Some(1), to: id(2), row: row(2) };
        records.fail_after(writes, does_it);
        // The first write is the new record, the second one takes the old one away.
        let broken = block_on(store.commit(NOW, &[rekey]));
        records.recover();
        assert_eq!(broken.unwrap_err().kind(), StoreErrorKind::Unavailable);
        assert_eq!(block_on(store.load(&id(1))).unwrap(), Some(row(1)), "the old id works");
        assert_eq!(block_on(store.load(&id(2))).unwrap().is_some(), both);
    }
}

fn engine(records: &Narrow) -> Engine {
    let store = TowerStore::v0_14(records.clone()).open().unwrap();
    let window = Duration::from_millis(5);
    Engine::builder().durability(Durability::Eventual { window }).open(store).unwrap()
}

fn issued(engine: &Engine, value: u64) -> Token {
    let session = block_on(engine.session(None)).unwrap();
    session.put("n", &value).unwrap();
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue.token,
        _ => panic!("a new session has a token"),
    }
}

fn read(engine: &Engine, token: &Token) -> Option<u64> {
    block_on(engine.session(Some(token))).unwrap().get("n").unwrap()
}

#[test]
fn an_engine_keeps_its_sessions_there_from_one_process_to_the_next() {
    let records = Narrow::default();
    let first = engine(&records);
    let [kept, ended, renewed] = [1, 2, 3].map(|n| issued(&first, n));
    block_on(first.flush()).unwrap();
    let session = block_on(first.session(Some(&ended))).unwrap();
    session.destroy().unwrap();
    let _ = block_on(session.commit()).unwrap();
    let session = block_on(first.session(Some(&renewed))).unwrap();
    session.renew().unwrap();
    let Delivery::Issue(issue) = block_on(session.commit()).unwrap() else { panic!("a renewal has a token") };
    block_on(first.close()).unwrap();
    assert_eq!(records.sessions().len(), 2);
    let second = engine(&records);
    assert_eq!(
        [&kept, &ended, &renewed, &issue.token].map(|token| read(&second, token)),
        [Some(1), None, None, Some(3)]
    );
    block_on(second.close()).unwrap();
}

/// Of a commit that failed, some changes were made: memory decides, and everything reaches the store in the end.
#[test]
fn what_a_failing_store_did_not_take_is_written_again() {
    let records = Narrow::default();
    let first = engine(&records);
    let early = issued(&first, 1);
    block_on(first.flush()).unwrap();
    records.fail_after(2, true);
    let late: Vec<_> = (10..20).map(|n| issued(&first, n)).collect();
    let session = block_on(first.session(Some(&early))).unwrap();
    session.put("n", &2).unwrap();
    let _ = block_on(session.commit()).unwrap();
    let ok = |wanted: bool| {
        let start = std::time::Instant::now();
        while (first.health() == Health::Ok) != wanted {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", first.health());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    ok(false);
    records.recover();
    block_on(first.flush()).unwrap();
    ok(true);
    block_on(first.close()).unwrap();
    let second = engine(&records);
    assert_eq!(read(&second, &early), Some(2));
    for (n, token) in (10..).zip(&late) {
        assert_eq!(read(&second, token), Some(n));
    }
    assert_eq!(records.sessions().len(), 11);
    block_on(second.close()).unwrap();
}

#[test]
fn a_store_that_cannot_be_read_is_no_empty_session() {
    let records = Narrow::default();
    let engine = engine(&records);
    let elsewhere = issued(&Engine::builder().in_memory().unwrap(), 1);
    *records.0.is_blind.lock().unwrap() = true;
    let unread = block_on(engine.session(Some(&elsewhere))).unwrap_err();
    assert_eq!(unread.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    *records.0.is_blind.lock().unwrap() = false;
    block_on(engine.close()).unwrap();
}

/// moka with a capacity evicts: what is in the engine's memory is written again.
#[test]
fn a_session_in_memory_outlives_its_record() {
    let records = Narrow::default();
    let engine = engine(&records);
    let token = issued(&engine, 1);
    block_on(engine.flush()).unwrap();
    records.0.records.lock().unwrap().clear();
    let session = block_on(engine.session(Some(&token))).unwrap();
    session.put("n", &2).unwrap();
    let _ = block_on(session.commit()).unwrap();
    block_on(engine.flush()).unwrap();
    assert_eq!(records.sessions().len(), 1);
    block_on(engine.close()).unwrap();
}

#[test]
fn with_a_journal_writes_go_on_without_the_store_and_reach_it_later() {
    let (records, dir) = (Narrow::default(), tempfile::tempdir().unwrap());
    let store = TowerStore::v0_14(records.clone()).open().unwrap();
    let builder = Engine::builder().journal(dir.path().join("journal"));
    let first = builder.durability(Durability::process_crash()).open(store).unwrap();
    records.fail_after(0, false);
    let token = issued(&first, 7);
    assert_eq!(read(&first, &token), Some(7));
    assert!(records.sessions().is_empty(), "the store is away");
    records.recover();
    block_on(first.checkpoint()).unwrap();
    assert_eq!(records.sessions().len(), 1);
    block_on(first.close()).unwrap();
    let second = engine(&records);
    assert_eq!(read(&second, &token), Some(7), "without the journal");
    block_on(second.close()).unwrap();
}
