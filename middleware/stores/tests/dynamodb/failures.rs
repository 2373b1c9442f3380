//! A server that dies, freezes, forgets and loses connections; callers that go away; clients of the app.

use std::time::Instant;

use super::support::dynamodb::client;
use super::*;

fn impatient(server: &Server) -> DynamoStore {
    let _ = open(server, "t");
    block_on(builder(server, "t").deadline(Duration::from_millis(700)).open()).unwrap()
}

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    super::support::leavers::leave_no_answers(&store, 60);
}

fn is_unavailable(store: &DynamoStore) {
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(store, &[rekey(1, 1, 3, row(2))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list(None, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
}

/// moto keeps nothing: what it was told is gone when it is back, and that is said, not taken for an empty table.
#[test]
fn a_server_that_dies_is_unavailable_and_one_without_the_table_is_a_wrong_one() {
    let Some(server) = Server::start() else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, owned(1, "u"))]).is_ok()));
    server.kill();
    is_unavailable(&store);
    let hasty = builder(&server, "t").deadline(Duration::from_millis(300));
    assert_eq!(kind(block_on(hasty.migrate())), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(hasty.open())), StoreErrorKind::Unavailable);
    server.restart();
    assert!(soon(|| kind(block_on(store.load(&id(1)))) == StoreErrorKind::Config));
    let error = commit(&store, &[insert(2, row(1))]).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Config);
    assert!(error.to_string().contains("ResourceNotFoundException"), "{error}");
    block_on(builder(&server, "t").migrate()).unwrap();
    assert!(soon(|| commit(&store, &[put(2, row(1))]).is_ok()), "it never came back");
    assert_eq!((load(&store, 1), load(&store, 2)), (None, Some(row(1))));
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start() else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, row(1)), put(9, row(1))]).is_ok()));
    server.freeze(true);
    let start = Instant::now();
    is_unavailable(&store);
    assert_eq!(kind(commit(&store, &[update(9, 1, row(2))])), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    server.freeze(false);
    assert!(soon(|| commit(&store, &[put(4, row(1))]).is_ok()), "it never came back");
    assert_eq!(load(&store, 4), Some(row(1)));
    // Nobody knows what became of it.
    assert!(matches!(load(&store, 9).unwrap().version, 1 | 2));
    // The renewal was made or not; in neither case are there two.
    assert!(soon(|| load(&store, 1).is_some() != load(&store, 3).is_some()));
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let Some(server) = Server::any() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        builder(&server, "t").migrate().await.unwrap();
        let store = builder(&server, "t").open().await.unwrap();
        let other = builder(&server, "t").open().await.unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        drop(store);
        other.close().await.unwrap();
        other.close().await.unwrap();
        assert_eq!(kind(other.load(&id(1)).await), StoreErrorKind::Closed);
    });
}

#[test]
fn a_client_of_the_app_is_used_and_left_open() {
    let Some(server) = Server::local() else { return };
    let of_app = || DynamoStore::from_client(client(server.port())).table(server.table("t")).deadline(BOUND);
    // Without the runtime that its connections are to live on.
    assert_eq!(kind(block_on(of_app().open())), StoreErrorKind::Config);
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(kind(alone.block_on(of_app().open())), StoreErrorKind::Config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(server.port());
        let builder = DynamoStore::from_client(client.clone()).table(server.table("t")).deadline(BOUND);
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        store.close().await.unwrap();
        assert_eq!(kind(store.load(&id(1)).await), StoreErrorKind::Closed);
        drop(store);
        assert!(client.describe_table().table_name(server.table("t")).send().await.is_ok());
    });
}

#[cfg(feature = "tls-rustls")]
#[test]
fn rows_travel_over_tls_and_a_stranger_is_not_trusted() {
    let Some(dir) = super::support::tls::certificates() else { return };
    let Some(server) = Server::start_with_tls(dir.path()) else { return };
    let authority = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let trusting = || builder(&server, "t").authority(authority.clone());
    block_on(trusting().migrate()).unwrap();
    let store = block_on(trusting().open()).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert_eq!(load(&store, 1), Some(row(1)));
    // The system trusts no authority of ours, and a certificate is for one name only.
    assert_eq!(kind(block_on(builder(&server, "t").open())), StoreErrorKind::Unavailable);
    let elsewhere = server.url().replace("127.0.0.1", "localhost");
    let elsewhere = DynamoStore::builder(&elsewhere).table(server.table("t")).authority(authority);
    assert_eq!(kind(block_on(elsewhere.open())), StoreErrorKind::Unavailable);
    let plain =
        DynamoStore::builder(&server.url().replace("dynamodbs:", "dynamodb:")).table(server.table("t"));
    assert_eq!(kind(block_on(plain.open())), StoreErrorKind::Unavailable);
}
