//! Tests of what only this store has: its file, its lock, its failures.

use pollster::block_on;

use super::*;

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; 32])
}

fn row(version: u64, expires_at: u64) -> Row {
    Row { version, expires_at, owner: Some("user:1".into()), bytes: vec![version as u8; 100] }
}

#[test]
fn rows_survive_closing_and_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = RedbStore::open(&path).unwrap();
    let insert = Change::Insert { id: id(1), row: row(1, 50) };
    assert_eq!(block_on(store.commit(7, &[insert])).unwrap(), [Outcome::Done]);
    block_on(store.close()).unwrap();
    assert_eq!(block_on(store.count()).unwrap_err().kind(), StoreErrorKind::Closed);
    let again = RedbStore::open(&path).unwrap();
    assert_eq!(block_on(again.load(&id(1))).unwrap(), Some(row(1, 50)));
    assert_eq!(block_on(again.high_water()).unwrap(), 7);
    assert_eq!(block_on(again.list_owner("user:1")).unwrap().len(), 1);
    assert_eq!(block_on(again.expire(50, 50, 10)).unwrap(), Expired { removed: 1, more: false });
    assert_eq!(block_on(again.count()).unwrap(), Some(0));
}
