//! The etcd store against real servers that each test starts for itself.

#![cfg(all(feature = "etcd", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod cluster;
mod engines;
mod failures;
mod keys;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::etcd::EtcdStore;

use support::etcd::Cluster;
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;

fn open(cluster: &Cluster) -> EtcdStore {
    EtcdStore::connect(&cluster.url()).unwrap()
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn commit(store: &EtcdStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &EtcdStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &EtcdStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn recovers(store: &EtcdStore, n: u32) {
    assert!(soon(|| commit(store, &[put(n, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(store, n), Some(row(1)));
}

fn conforms(members: usize, store: &str) {
    let Some(cluster) = Cluster::start(members) else { return };
    support::conforms(store, &format!("etcd {}, real", support::version("etcd")), async |n| {
        // Each case has a namespace of its own on the same servers. Where all is slow, that is no mistake.
        let (url, prefix) = (cluster.url(), format!("case{n}"));
        let make = move || {
            let builder = EtcdStore::builder(&url).prefix(&prefix);
            builder.deadline(std::time::Duration::from_secs(30)).connect().unwrap()
        };
        let first = make();
        Subject::new(first).reopened_by(move || Box::pin(std::future::ready(Subject::new(make()))))
    });
}

#[test]
fn conformance() {
    conforms(1, "etcd");
}

#[test]
fn conformance_of_three_members() {
    conforms(3, "etcd, three servers");
}
