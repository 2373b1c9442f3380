//! The MongoDB store against a server that each test starts for itself, or the one that `SESSILE_TEST_MONGODB` names.

#![cfg(all(feature = "mongodb", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod documents;
mod engines;
mod failures;
mod renewals;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::mongodb::{Builder, MongoStore};

use support::mongodb::Server;
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;
const BOUND: Duration = Duration::from_secs(60);

fn builder(server: &Server, name: &str) -> Builder {
    MongoStore::builder(server.url()).collection(&server.name(name)).unwrap().deadline(BOUND)
}

fn open(server: &Server, name: &str) -> MongoStore {
    block_on(async {
        builder(server, name).migrate().await.unwrap();
        builder(server, name).open().await.unwrap()
    })
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn rekey(from: u32, expected: u64, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: Some(expected), to: id(to), row }
}

fn commit(store: &MongoStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &MongoStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &MongoStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn recovers(store: &MongoStore, n: u32) {
    assert!(soon(|| commit(store, &[put(n, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(store, n), Some(row(1)));
}

fn conforms(server: Option<Server>, store: &str) {
    let Some(server) = server else { return };
    support::conforms(store, &server.version(), async |n| {
        // Each case has collections of its own.
        let name = format!("case{n}");
        let first = open(&server, &name);
        let again = builder(&server, &name);
        Subject::new(first).reopened_by(move || {
            let again = again.clone();
            Box::pin(async move { Subject::new(again.open().await.unwrap()) })
        })
    });
}

#[test]
fn conformance() {
    conforms(Server::any(), "MongoDB, a replica set");
}

#[test]
fn conformance_of_a_server_without_replicas() {
    conforms(Server::start(&["--standalone"]), "MongoDB, a single server");
}
