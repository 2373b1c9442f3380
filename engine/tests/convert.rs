//! Moving rows between stores, and a server from one store to another.
#![cfg(all(feature = "conformance", feature = "redb", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use pollster::block_on;
use sessile_engine::store::convert::{Copied, CopyOptions, copy};
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::store::{
    Change, DynStore, MemoryStore, RedbStore, Row, SledStore, StoreError, StoreErrorKind,
};
use sessile_engine::{Delivery, Engine, SessionId};

fn id(n: u32) -> SessionId {
    let mut bytes = [0x33; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    SessionId::from_bytes(bytes)
}

fn row(n: u32, version: u64) -> Row {
    let owner = [None, Some(""), Some("user:1"), Some("user:2")][n as usize % 4];
    let len = if n.is_multiple_of(50) { 9000 } else { n as usize % 300 };
    Row {
        version,
        expires_at: if n.is_multiple_of(7) { u64::MAX } else { 1000 + u64::from(n) },
        owner: owner.map(Into::into),
        bytes: vec![n as u8; len],
    }
}

fn puts(range: std::ops::Range<u32>, version: u64) -> Vec<Change> {
    range.map(|n| Change::Put { id: id(n), row: row(n, version) }).collect()
}

fn commit(store: &impl DynStore, now: u64, changes: &[Change]) {
    let _outcomes = block_on(store.commit(now, changes)).unwrap();
}

fn rows(store: &impl DynStore) -> BTreeMap<SessionId, Row> {
    block_on(store.list(None, usize::MAX)).unwrap().into_iter().map(|l| (l.id, l.row)).collect()
}

fn same(a: &impl DynStore, b: &impl DynStore) {
    assert!(rows(a) == rows(b), "the rows differ");
    assert_eq!(block_on(a.high_water()).unwrap(), block_on(b.high_water()).unwrap());
    for owner in ["", "user:1", "user:2", "nobody"] {
        let owned = |s: &dyn DynStore| block_on(s.list_owner(owner)).unwrap();
        assert_eq!(owned(a), owned(b), "{owner}");
    }
    assert_eq!(block_on(a.count()).unwrap(), block_on(b.count()).unwrap());
}

fn options() -> CopyOptions {
    CopyOptions::new().batch(64)
}

fn told(done: Result<Copied, StoreError>) -> (u64, u64, u64, u64) {
    let done = done.unwrap();
    (done.rows, done.written, done.deleted, done.damaged)
}

#[test]
fn rows_go_round_all_stores_and_second_passes_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let redb = RedbStore::open(dir.path().join("a.redb")).unwrap();
    let sled = SledStore::open(dir.path().join("b.sled")).unwrap();
    let memory = MemoryStore::new();
    let back = RedbStore::open(dir.path().join("c.redb")).unwrap();
    commit(&redb, 77, &puts(0..1000, 3));
    assert_eq!(told(block_on(copy(&redb, &sled, options()))), (1000, 1000, 0, 0));
    same(&redb, &sled);
    assert_eq!(told(block_on(copy(&sled, &memory, options()))), (1000, 1000, 0, 0));
    assert_eq!(told(block_on(copy(&memory, &back, options()))), (1000, 1000, 0, 0));
    same(&redb, &back);
    // Changes, deletions and new rows behind the first pass; and rows that only a target has.
    let mut changes = puts(100..130, 4);
    changes.extend((200..250).map(|n| Change::Delete { id: id(n) }));
    changes.extend(puts(1000..1010, 1));
    commit(&redb, 99, &changes);
    commit(&sled, 5, &puts(5000..5003, 1));
    assert_eq!(told(block_on(copy(&redb, &sled, options()))), (960, 40, 0, 0));
    assert_eq!(rows(&sled).len(), 1013);
    assert_eq!(told(block_on(copy(&redb, &sled, options().mirror()))), (960, 0, 53, 0));
    same(&redb, &sled);
    assert_eq!(told(block_on(copy(&sled, &memory, options().mirror()))), (960, 40, 50, 0));
    assert_eq!(told(block_on(copy(&memory, &back, options().mirror()))), (960, 40, 50, 0));
    same(&redb, &back);
    assert_eq!(told(block_on(copy(&redb, &back, options().mirror()))), (960, 0, 0, 0));
    // The indexes came along: what is due goes, in every store.
    let due = rows(&redb).values().filter(|row| row.expires_at != u64::MAX).count() as u64;
    for store in [&redb as &dyn DynStore, &sled, &memory, &back] {
        assert_eq!(block_on(store.expire(1 << 40, 0, 5000)).unwrap().removed, due, "{}", store.name());
    }
    same(&redb, &sled);
    // An empty source empties a mirror, whatever the batch, and carries its mark.
    let empty = MemoryStore::new();
    commit(&empty, 1 << 30, &[]);
    for batch in [0, 1, 7, 10_000] {
        commit(&memory, 0, &puts(0..20, 1));
        block_on(copy(&empty, &memory, CopyOptions::new().batch(batch).mirror())).unwrap();
        same(&empty, &memory);
    }
}

/// Rewrites a stored row of a closed redb file so that its checksum fails.
fn damage(path: &Path, wanted: &SessionId) {
    let db = redb::Database::open(path).unwrap();
    let table = redb::TableDefinition::<&[u8; 32], &[u8]>::new("sessile.sessions");
    let tx = db.begin_write().unwrap();
    {
        let mut table = tx.open_table(table).unwrap();
        let mut raw = redb::ReadableTable::get(&table, wanted.as_bytes()).unwrap().unwrap().value().to_vec();
        raw[20] ^= 1;
        table.insert(wanted.as_bytes(), &*raw).unwrap();
    }
    tx.commit().unwrap();
}

#[test]
fn damaged_rows_are_counted_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.redb");
    let redb = RedbStore::open(&path).unwrap();
    commit(&redb, 1, &puts(0..100, 1));
    drop(redb);
    damage(&path, &id(5));
    damage(&path, &id(99));
    let redb = RedbStore::open(&path).unwrap();
    let sled = SledStore::open(dir.path().join("b.sled")).unwrap();
    for written in [98, 0] {
        assert_eq!(told(block_on(copy(&redb, &sled, options().mirror()))), (98, written, 0, 2));
    }
    assert_eq!(block_on(sled.load(&id(5))).unwrap(), None);
    // A damaged row of the target is put over if the source has it, and else makes a mirror fail rather than lie.
    let memory = MemoryStore::new();
    commit(&memory, 1, &puts(0..99, 1));
    assert_eq!(told(block_on(copy(&memory, &redb, options()))).1, 1);
    let error = block_on(copy(&memory, &redb, options().mirror())).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    commit(&redb, 1, &[Change::Quarantine { id: id(99) }]);
    block_on(copy(&memory, &redb, options().mirror())).unwrap();
    same(&memory, &redb);
}

#[test]
fn a_copy_cut_short_goes_on_where_it_was() {
    let source = MemoryStore::new();
    commit(&source, 9, &puts(0..1000, 2));
    let dir = tempfile::tempdir().unwrap();
    let sled = Arc::new(SledStore::open(dir.path().join("s")).unwrap());
    // Dropped while a commit waits.
    let target = FaultStore::new(Arc::clone(&sled));
    let handle = target.handle();
    handle.fail_from(FaultOp::Commit, 5, StoreErrorKind::Unavailable);
    assert_eq!(block_on(copy(&source, &target, options())).unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(rows(&*sled).len(), 4 * 64);
    handle.heal();
    handle.hang(FaultOp::Commit);
    {
        let mut copying = pin!(copy(&source, &target, options()));
        assert!(copying.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    handle.release();
    assert_eq!(told(block_on(copy(&source, &target, options()))), (1000, 1000 - 4 * 64, 0, 0));
    same(&source, &*sled);
    // The source fails half way.
    let failing = FaultStore::new(source.clone());
    let handle = failing.handle();
    commit(&*sled, 9, &puts(0..1000, 7));
    handle.fail_from(FaultOp::List, 3, StoreErrorKind::Unavailable);
    assert!(block_on(copy(&failing, &*sled, options().mirror())).is_err());
    handle.heal();
    assert_eq!(told(block_on(copy(&failing, &*sled, options().mirror()))).1, 1000 - 2 * 64);
    same(&source, &*sled);
}

#[test]
fn a_server_moves_to_another_store_and_keeps_its_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.redb");
    block_on(async {
        let old = Arc::new(RedbStore::open(&path).unwrap());
        let new = SledStore::open(dir.path().join("new.sled")).unwrap();
        let engine = Engine::builder().open(Arc::clone(&old)).unwrap();
        let mut tokens = Vec::new();
        for n in 0..20_u32 {
            let session = engine.session(None).await.unwrap();
            session.put("n", &n).unwrap();
            let Delivery::Issue(issue) = session.commit().await.unwrap() else { panic!("no token") };
            tokens.push(issue.token);
        }
        engine.flush().await.unwrap();
        // The engine goes on serving during and after the first pass.
        assert_eq!(told(copy(&*old, &new, options()).await), (20, 20, 0, 0));
        let session = engine.session(Some(&tokens[3])).await.unwrap();
        session.put("n", &333_u32).unwrap();
        session.commit().await.unwrap();
        let gone = engine.session(Some(&tokens[4])).await.unwrap();
        gone.destroy().unwrap();
        gone.commit().await.unwrap();
        engine.close().await.unwrap();
        assert_eq!(copy(&*old, &new, options()).await.unwrap_err().kind(), StoreErrorKind::Closed);
        drop((engine, session, gone, old));
        let old = RedbStore::open(&path).unwrap();
        assert_eq!(told(copy(&old, &new, options().mirror()).await), (19, 1, 1, 0));
        let engine = Engine::builder().open(new).unwrap();
        for (n, token) in (0..).zip(&tokens) {
            let wanted = match n {
                3 => Some(333),
                4 => None,
                n => Some(n),
            };
            let session = engine.session(Some(token)).await.unwrap();
            assert_eq!(session.get::<u32>("n").unwrap(), wanted, "session {n}");
        }
        engine.close().await.unwrap();
    });
}
