//! The Redis store against a real server that each test starts for itself.

#![cfg(all(feature = "redis", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, reason = "what a failover lost is told, not hidden")]

#[cfg(feature = "tls-rustls")]
#[path = "../support/tls.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod certificates;
mod cluster;
#[path = "../support/cluster.rs"]
mod cluster_server;
mod conformance;
mod exclusive;
mod failover;
mod failures;
mod keys;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/relay.rs"]
mod relay;
mod sentinel;
#[path = "../support/sentinel.rs"]
mod sentinel_server;
#[path = "../support/redis.rs"]
mod server;
#[cfg(feature = "tls-rustls")]
mod tls;
mod watch;

use pollster::block_on;
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::redis::RedisStore;

use process::soon;
use relay::Relay;
use server::Server;

const NOW: u64 = 4_000_000_000_000;

fn id(n: u32) -> SessionId {
    let mut bytes = [0x5A; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B1).to_le_bytes());
    bytes[28..].copy_from_slice(&n.to_le_bytes());
    SessionId::from_bytes(bytes)
}

fn hex(id: SessionId) -> String {
    id.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

fn due(version: u64, expires_at: u64) -> Row {
    Row { version, expires_at, owner: None, bytes: version.to_le_bytes().repeat(9) }
}

fn row(version: u64) -> Row {
    due(version, NOW + 1_000_000)
}

fn owned(version: u64, owner: &str) -> Row {
    Row { owner: Some(owner.into()), ..row(version) }
}

fn insert(n: u32, row: Row) -> Change {
    Change::Insert { id: id(n), row }
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn update(n: u32, expected: u64, row: Row) -> Change {
    Change::Update { id: id(n), expected, row }
}

fn commit(store: &RedisStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &RedisStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &RedisStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn open(server: &Server) -> RedisStore {
    RedisStore::connect(&server.url()).unwrap()
}

fn recovers(store: &RedisStore, n: u32) {
    assert!(soon(|| commit(store, &[put(n, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(store, n), Some(row(1)));
}
