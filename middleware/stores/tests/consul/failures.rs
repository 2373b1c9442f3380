//! A server that dies, freezes, forgets and refuses; callers that go away.

use std::time::{Duration, Instant};

use super::support::consul::TOKEN;
use super::*;

fn impatient(server: &Server) -> ConsulStore {
    ConsulStore::builder(&server.url()).deadline(Duration::from_millis(400)).connect().unwrap()
}

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(server) = Server::start() else { return };
    let store = ConsulStore::builder(&server.url()).deadline(Duration::from_secs(30)).connect().unwrap();
    super::support::leavers::leave_no_answers(&store, 600);
}

#[test]
fn a_server_that_dies_is_unavailable_until_it_is_back_with_its_rows() {
    let Some(mut server) = Server::start() else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, owned(1, "u"))]).is_ok()));
    server.kill();
    let start = Instant::now();
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list(None, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(kind(ConsulStore::connect(&server.url())), StoreErrorKind::Unavailable);
    server.restart(false);
    recovers(&store, 2);
    assert_eq!(load(&store, 1), Some(owned(1, "u")));
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
    server.restart(true);
    recovers(&store, 2);
    assert_eq!(load(&store, 1), None, "it came back empty");
    assert_eq!(commit(&store, &[update(1, 1, row(2))]).unwrap(), [Outcome::Missing]);
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start() else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, row(1))]).is_ok()));
    server.freeze(true);
    let start = Instant::now();
    for _ in 0..3 {
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    server.freeze(false);
    recovers(&store, 2);
    // Nobody knows what became of it.
    assert!(matches!(load(&store, 1).unwrap().version, 1 | 2));
}

#[test]
fn a_wrong_token_is_a_mistake_of_the_configuration_and_nothing_prints_the_right_one() {
    let Some(mut server) = Server::start_with_token() else { return };
    for url in [format!("{}?token=wr0ng-guess", server.url()), server.url()] {
        let e = ConsulStore::connect(&url).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Config, "{e} {e:?}");
        assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
    }
    let builder = ConsulStore::builder(&server.url()).token(TOKEN);
    assert!(!format!("{builder:?}").contains(TOKEN));
    let store = builder.connect().unwrap();
    assert!(!format!("{store:?}").contains(TOKEN));
    done(&store, &[insert(1, row(1))]);
    // A token that may read and not write.
    let rules = br#"{"Name": "reader", "Rules": "key_prefix \"\" { policy = \"read\" }"}"#;
    assert_eq!(server.ask("PUT", "acl/policy", rules).0, 200);
    let reader = "5ec2e7aa-0000-4000-8000-000000000002";
    let token = format!(r#"{{"SecretID": "{reader}", "Policies": [{{"Name": "reader"}}]}}"#);
    assert_eq!(server.ask("PUT", "acl/token", token.as_bytes()).0, 200);
    let reading = ConsulStore::builder(&server.url()).token(reader).connect().unwrap();
    assert_eq!(load(&reading, 1), Some(row(1)));
    assert_eq!(kind(commit(&reading, &[update(1, 1, row(2))])), StoreErrorKind::Config);
    assert_eq!(load(&store, 1), Some(row(1)));
    server.kill();
    let e = block_on(store.load(&id(1))).unwrap_err();
    assert!(!format!("{e} {e:?}").contains(TOKEN), "{e:?}");
}

#[cfg(feature = "tls-rustls")]
#[test]
fn rows_and_news_travel_over_tls_and_a_stranger_is_not_trusted() {
    let Some(dir) = super::support::tls::certificates() else { return };
    let Some(server) = Server::start_with_tls(dir.path()) else { return };
    let authority = std::fs::read(dir.path().join("ca.pem")).unwrap();
    let store = ConsulStore::builder(&server.tls_url()).authority(authority.clone()).connect().unwrap();
    let mut watch = block_on(store.watch()).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert_eq!(load(&store, 1), Some(row(1)));
    assert!(soon(|| block_on(watch.next()).unwrap() == sessile_engine::store::Notice::Changed(vec![id(1)])));
    // The system's roots do not know the authority of this test.
    assert_eq!(kind(ConsulStore::connect(&server.tls_url())), StoreErrorKind::Unavailable);
    // And no name but the one in the certificate is accepted.
    let elsewhere = server.tls_url().replace("127.0.0.1", "localhost");
    let elsewhere = ConsulStore::builder(&elsewhere).authority(authority).connect();
    assert_eq!(kind(elsewhere), StoreErrorKind::Unavailable);
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let Some(server) = Server::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        let store = ConsulStore::builder(&server.url()).connect_async().await.unwrap();
        let other = ConsulStore::connect(&server.url()).unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        drop(store);
        other.close().await.unwrap();
    });
}
