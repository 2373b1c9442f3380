//! The DynamoDB store against moto, which the tests start, or the server that `SESSILE_TEST_DYNAMODB` names; and against a
//! stub, for answers that no server gives when it is asked to.

#![cfg(all(feature = "dynamodb", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod answers;
mod engines;
mod failures;
mod races;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::dynamodb::{Builder, DynamoStore};

use support::dynamodb::Server;
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;
const BOUND: Duration = Duration::from_secs(60);

fn builder(server: &Server, name: &str) -> Builder {
    DynamoStore::builder(&server.url()).table(server.table(name)).deadline(BOUND)
}

fn open(server: &Server, name: &str) -> DynamoStore {
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

fn commit(store: &DynamoStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &DynamoStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &DynamoStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

#[test]
fn conformance() {
    let Some(server) = Server::any() else { return };
    support::conforms("DynamoDB", &server.version(), async |n| {
        // Each case has a table of its own.
        let name = format!("case{n}");
        let first = open(&server, &name);
        let again = builder(&server, &name);
        Subject::new(first).reopened_by(move || {
            let again = again.clone();
            Box::pin(async move { Subject::new(again.open().await.unwrap()) })
        })
    });
}
