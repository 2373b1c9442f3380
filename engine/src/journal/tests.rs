//! The journal as a store, on real files: the conformance suite, restarts, and what is handed on when.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::path::PathBuf;

use pollster::block_on;

use super::*;
use crate::store::conformance::{Subject, run};
use crate::store::fault::{FaultOp, FaultStore};
use crate::store::{Capabilities, Expired, Listed, MemoryStore, Outcome, Store};

/// Never by itself.
const LARGE: Sizes =
    Sizes { segment_bytes: SEGMENT_BYTES, bytes: u64::MAX / 4, items: usize::MAX / 4, chunk: 1 << 20 };
/// Many segments, and a generation that is soon full.
const SMALL: Sizes = Sizes { segment_bytes: 600, bytes: 4000, items: 5, chunk: 500 };

fn open(path: &Path, inner: &MemoryStore, sizes: Sizes) -> Journaled {
    let disk = Box::new(Directory::open(path).unwrap());
    Journaled::on_disk(disk, Arc::new(inner.clone()), sizes).unwrap()
}

fn subject(path: PathBuf, inner: MemoryStore, sizes: Sizes) -> Subject {
    let store = open(&path, &inner, sizes);
    Subject::new(store).reopened_by(move || {
        let again = subject(path.clone(), inner.clone(), sizes);
        Box::pin(std::future::ready(again))
    })
}

fn conforms(sizes: Sizes) {
    let dir = tempfile::tempdir().unwrap();
    let n = std::cell::Cell::new(0);
    block_on(run(async || {
        n.set(n.get() + 1);
        subject(dir.path().join(n.get().to_string()), MemoryStore::new(), sizes)
    }));
}

#[test]
fn it_is_a_store_with_everything_in_the_journal() {
    conforms(LARGE);
}

#[test]
fn it_is_a_store_with_many_segments_and_checkpoints() {
    conforms(SMALL);
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 32])
}

fn row(version: u64) -> Row {
    Row { version, expires_at: 5_000_000, owner: Some("ann".into()), bytes: vec![version as u8; 100] }
}

fn put(n: u8, version: u64) -> Change {
    Change::Put { id: id(n), row: row(version) }
}

fn holds(store: &Journaled, n: u8) -> Option<u64> {
    block_on(Store::load(store, &id(n))).unwrap().map(|row| {
        assert_eq!(row, self::row(row.version));
        row.version
    })
}

/// Ends without a checkpoint, as a crash of the process does.
fn crash(store: Journaled) {
    store.log.stop();
    store.closed.store(true, crate::sync::Ordering::Release);
}

#[test]
fn what_was_written_survives_a_crash_and_reaches_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let inner = MemoryStore::new();
    let store = open(&path, &inner, LARGE);
    store.write(1, &[put(1, 1), put(2, 1), put(3, 1)]).unwrap();
    assert!(store.put_row_now(2, &id(1), &row(2)).unwrap());
    store.write(3, &[Change::Delete { id: id(2) }]).unwrap();
    store.write(4, &[Change::Rekey { from: id(3), expected: None, to: id(4), row: row(7) }]).unwrap();
    crash(store);
    assert_eq!(inner.len(), 0, "nothing was handed on");
    for _ in 0..2 {
        let store = open(&path, &inner, LARGE);
        assert_eq!([1, 2, 3, 4].map(|n| holds(&store, n)), [Some(2), None, None, Some(7)]);
        assert_eq!(block_on(Store::list_owner(&store, "ann")).unwrap().len(), 2);
        assert!(block_on(Store::high_water(&store)).unwrap() >= 3);
        crash(store);
    }
    let store = open(&path, &inner, LARGE);
    store.checkpoint().unwrap();
    assert_eq!(inner.len(), 2);
    assert_eq!([1, 2, 3, 4].map(|n| holds(&store, n)), [Some(2), None, None, Some(7)]);
    block_on(Store::close(&store)).unwrap();
    assert!(!Directory::has_segments(&path), "a clean end leaves nothing");
    assert_eq!(inner.len(), 2);
}

#[test]
fn a_delete_outlives_a_checkpoint_that_was_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let inner = MemoryStore::new();
    let store = open(&path, &inner, LARGE);
    store.write(1, &[put(1, 1)]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(inner.len(), 1);
    store.write(2, &[put(1, 2)]).unwrap();
    let frozen = store.log.freeze().unwrap().unwrap();
    store.write(3, &[Change::Delete { id: id(1) }]).unwrap();
    assert_eq!(holds(&store, 1), None, "the current generation hides the frozen one");
    assert_eq!(frozen.len(), 1);
    crash(store);
    let store = open(&path, &inner, LARGE);
    assert_eq!(holds(&store, 1), None);
    store.checkpoint().unwrap();
    assert_eq!(inner.len(), 0);
}

#[test]
fn two_engines_do_not_share_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Directory::open(dir.path()).unwrap();
    let error = Directory::open(dir.path()).err().expect("it is locked");
    assert_eq!(error.kind(), StoreErrorKind::Locked);
}

#[test]
fn a_checked_commit_does_not_overwrite_what_came_after_its_check() {
    let dir = tempfile::tempdir().unwrap();
    for freeze in [false, true] {
        let store = open(&dir.path().join(freeze.to_string()), &MemoryStore::new(), LARGE);
        store.write(1, &[put(1, 1)]).unwrap();
        store.checkpoint().unwrap();
        let again = [Change::Update { id: id(1), expected: 1, row: row(1) }];
        let checked = block_on(store.outcomes(&again)).unwrap();
        assert_eq!(checked.outcomes, [Outcome::Done]);
        assert!(store.put_row_now(2, &id(1), &row(2)).unwrap());
        if freeze {
            store.log.freeze().unwrap();
        }
        assert!(!store.log.append_if(&checked.accepted, Some(&checked.seen)).unwrap());
        assert_eq!(block_on(Store::commit(&store, 3, &again)).unwrap(), [Outcome::Conflict { found: 2 }]);
        assert_eq!(holds(&store, 1), Some(2));
    }
}

#[test]
fn a_full_journal_takes_nothing_more_and_syncs_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let inner = FaultStore::new(MemoryStore::new());
    inner.handle().fail_next(FaultOp::Commit, u64::MAX, StoreErrorKind::Unavailable);
    let disk = Box::new(Directory::open(&dir.path().join("j")).unwrap());
    let store = Journaled::on_disk(disk, Arc::new(inner), SMALL).unwrap();
    let taken = (0..=u8::MAX).take_while(|n| store.put_row_now(1, &id(*n), &row(1)).unwrap()).count();
    assert_eq!(taken, 2 * SMALL.items);
    store.write(2, &[]).expect("what was answered is made durable, whatever the store behind does");
    let error = store.write(3, &[put(99, 1)]).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "as the store fails");
    assert_eq!(holds(&store, 99), None);
    assert_eq!(holds(&store, 0), Some(1));
    crash(store);
}

/// With the thread that makes the checkpoints.
fn with_thread(path: &Path, inner: impl Store) -> Journaled {
    let disk = Box::new(Directory::open(path).unwrap());
    let store = Journaled::on_disk(disk, Arc::new(inner), SMALL).unwrap();
    store.run_in_background().unwrap();
    store
}

/// Notes which threads commit.
struct Committers(MemoryStore, Arc<std::sync::Mutex<Vec<Option<String>>>>);

impl Store for Committers {
    fn name(&self) -> &'static str {
        Store::name(&self.0)
    }
    fn capabilities(&self) -> Capabilities {
        Store::capabilities(&self.0)
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        Store::high_water(&self.0).await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        Store::load(&self.0, id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.1.lock().unwrap().push(std::thread::current().name().map(str::to_owned));
        Store::commit(&self.0, now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        Store::expire(&self.0, now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        Store::list(&self.0, after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        Store::list_owner(&self.0, owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        Store::count(&self.0).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        Store::close(&self.0).await
    }
}

#[test]
fn a_full_journal_is_emptied_by_the_thread_that_does_it_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let committers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let rows = MemoryStore::new();
    let store = with_thread(&dir.path().join("j"), Committers(rows.clone(), Arc::clone(&committers)));
    for n in 0..200 {
        store.write(1000, &[put(n, 1)]).unwrap();
    }
    // Before the last checkpoint, which is the closing thread's.
    let committers = committers.lock().unwrap().clone();
    assert!(!committers.is_empty());
    assert!(committers.iter().all(|name| name.as_deref() == Some("sessile-journal")), "{committers:?}");
    block_on(Store::close(&store)).unwrap();
    assert_eq!(rows.len(), 200);
}

#[test]
fn who_waits_for_room_in_a_full_journal_is_told_that_the_store_fails() {
    let dir = tempfile::tempdir().unwrap();
    let inner = FaultStore::new(MemoryStore::new());
    let faults = inner.handle();
    faults.fail_next(FaultOp::Commit, u64::MAX, StoreErrorKind::Unavailable);
    let store = with_thread(&dir.path().join("j"), inner);
    let (written, error) = (0..)
        .map(|n| (n, store.write(1000, &[put(n, 1)])))
        .find_map(|(n, result)| Some((n, result.err()?)))
        .unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    faults.heal();
    store.write(1000, &[put(written, 1)]).unwrap();
    for n in 0..=written {
        assert_eq!(holds(&store, n), Some(1), "{n}");
    }
}
