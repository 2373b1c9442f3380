//! The Consul store against real servers that each test starts for itself.

#![cfg(all(feature = "consul", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod engines;
mod failures;
mod keys;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::consul::ConsulStore;

use support::consul::Server;
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;

fn open(server: &Server) -> ConsulStore {
    // Where all is slow, that is no mistake.
    ConsulStore::builder(&server.url()).deadline(std::time::Duration::from_secs(30)).connect().unwrap()
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn commit(store: &ConsulStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &ConsulStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &ConsulStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn recovers(store: &ConsulStore, n: u32) {
    assert!(soon(|| commit(store, &[put(n, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(store, n), Some(row(1)));
}

#[test]
fn conformance() {
    let Some(server) = Server::start() else { return };
    support::conforms("Consul", &support::consul::version(), async |n| {
        // Each case has a namespace of its own on the same server. Where all is slow, that is no mistake.
        let (url, prefix) = (server.url(), format!("case{n}"));
        let make = move || {
            let builder = ConsulStore::builder(&url).prefix(&prefix);
            builder.deadline(std::time::Duration::from_secs(60)).connect().unwrap()
        };
        let first = make();
        Subject::new(first).reopened_by(move || Box::pin(std::future::ready(Subject::new(make()))))
    });
}
