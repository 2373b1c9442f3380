//! The Firestore store against a test double of the REST API, and the conformance suite also against Google's emulator where
//! there is one, or against the server that `SESSILE_TEST_FIRESTORE` names.

#![cfg(feature = "firestore")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking")]

mod auth;
mod documents;
mod double;
mod engines;
mod failures;
mod races;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store, StoreError, StoreErrorKind};
use sessile_stores::firestore::{Builder, FirestoreStore};

use support::firestore::emulator::{self, Emulator};
use support::firestore::{Code, Fault, Server};
use support::process::soon;
use support::{id, insert, owned, row, update};

const NOW: u64 = 3_000_000_000_000;
/// Where all is slow, that is no mistake.
const BOUND: Duration = Duration::from_secs(60);

fn builder_at(url: &str) -> Builder {
    FirestoreStore::builder(url).deadline(BOUND)
}

fn opened(builder: Builder) -> FirestoreStore {
    block_on(async {
        builder.migrate().await.unwrap();
        builder.open().await.unwrap()
    })
}

fn open(server: &Server) -> FirestoreStore {
    opened(builder_at(&server.url()))
}

fn put(n: u32, row: Row) -> Change {
    Change::Put { id: id(n), row }
}

fn rekey(from: u32, version: u64, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: Some(version), to: id(to), row }
}

fn commit(store: &FirestoreStore, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    block_on(store.commit(NOW, changes))
}

fn done(store: &FirestoreStore, changes: &[Change]) {
    assert_eq!(commit(store, changes).unwrap(), vec![Outcome::Done; changes.len()]);
}

fn load(store: &FirestoreStore, n: u32) -> Option<Row> {
    block_on(store.load(&id(n))).unwrap()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    match result {
        Err(e) => e.kind(),
        Ok(_) => panic!("no error"),
    }
}

fn conforms_at(url: &str, prefix: &str, server: &str) {
    support::conforms("Firestore", server, async |n| {
        // Each case has a collection of its own on the same server.
        let (url, collection) = (url.to_owned(), format!("{prefix}case_{n}"));
        let make = async move || {
            let builder = builder_at(&url).collection(&collection);
            builder.migrate().await.unwrap();
            Subject::new(builder.open().await.unwrap())
        };
        let make = std::sync::Arc::new(make);
        let first = make().await;
        first.reopened_by(move || {
            let make = std::sync::Arc::clone(&make);
            Box::pin(async move { make().await })
        })
    });
}

#[test]
fn conformance() {
    conforms_at(&Server::start().url(), "", "double (REST v1), in tests/support/firestore");
}

/// On a server that was named, it leaves collections whose names begin with `sessile_test_`.
#[test]
fn conformance_of_the_emulator() {
    let Some(emulator) = Emulator::start() else { return };
    conforms_at(&emulator.url(), &format!("sessile_test_{}_", std::process::id()), emulator::label());
}
