//! The memcached store against real servers that each test starts for itself.

#![cfg(all(feature = "memcached", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod engines;
mod evictions;
mod failures;
mod items;
mod renewals;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::memcached::{Builder, MemcachedStore};

use support::memcached::Server;
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;
const BOUND: Duration = Duration::from_secs(60);

fn builder(server: &Server) -> Builder {
    MemcachedStore::builder(&server.url()).deadline(BOUND)
}

fn open(server: &Server) -> MemcachedStore {
    builder(server).connect().unwrap()
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn delete(n: u32) -> Change {
    Change::Delete { id: id(n) }
}

fn rekey(from: u32, expected: u64, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: Some(expected), to: id(to), row }
}

fn commit(store: &MemcachedStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &MemcachedStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &MemcachedStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn recovers(store: &MemcachedStore, n: u32) {
    assert!(soon(|| commit(store, &[put(n, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(store, n), Some(row(1)));
}

/// The key of a row.
fn key(n: u32) -> String {
    format!("sessile/1/s/{}", id(n))
}

fn conforms(servers: Option<Vec<Server>>, store: &str) {
    let Some(servers) = servers else { return };
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let url = format!("memcached://{}", hosts.join(","));
    support::conforms(store, &servers[0].version(), async |n| {
        // Each case has keys of its own on the same servers.
        let (url, prefix) = (url.clone(), format!("case{n}"));
        let make = move || MemcachedStore::builder(&url).prefix(&prefix).deadline(BOUND).connect().unwrap();
        let first = make();
        Subject::new(first).reopened_by(move || Box::pin(std::future::ready(Subject::new(make()))))
    });
}

#[test]
fn conformance() {
    conforms(Server::start(&[]).map(|server| vec![server]), "memcached");
}

#[test]
fn conformance_of_three_servers() {
    let servers = (0..3).map(|_| Server::start(&[])).collect();
    conforms(servers, "memcached, three servers");
}
