//! A server that dies, freezes, forgets, fills up and refuses; callers that go away.

use std::time::{Duration, Instant};

use super::support::etcd::PASSWORD;
use super::*;

fn impatient(cluster: &Cluster) -> EtcdStore {
    EtcdStore::builder(&cluster.url()).deadline(Duration::from_millis(400)).connect().unwrap()
}

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = EtcdStore::builder(&cluster.url()).deadline(Duration::from_secs(30)).connect().unwrap();
    super::support::leavers::leave_no_answers(&store, 600);
}

#[test]
fn a_server_that_dies_is_unavailable_until_it_is_back_with_its_rows() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = impatient(&cluster);
    assert!(soon(|| commit(&store, &[put(1, owned(1, "u"))]).is_ok()));
    cluster.kill(0);
    let start = Instant::now();
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list(None, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.count())), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(kind(EtcdStore::connect(&cluster.url())), StoreErrorKind::Unavailable);
    cluster.restart(0, false);
    recovers(&store, 2);
    assert_eq!(load(&store, 1), Some(owned(1, "u")));
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
    cluster.restart(0, true);
    recovers(&store, 2);
    assert_eq!(load(&store, 1), None, "it came back empty");
    assert_eq!(commit(&store, &[update(1, 1, row(2))]).unwrap(), [Outcome::Missing]);
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = impatient(&cluster);
    assert!(soon(|| commit(&store, &[put(1, row(1))]).is_ok()));
    cluster.freeze(0, true);
    let start = Instant::now();
    for _ in 0..3 {
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    cluster.freeze(0, false);
    recovers(&store, 2);
    // Nobody knows what became of it.
    assert!(matches!(load(&store, 1).unwrap().version, 1 | 2));
}

#[test]
fn a_wrong_password_is_a_mistake_of_the_configuration_and_nothing_prints_the_right_one() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    cluster.wants_a_password();
    for url in [
        cluster.url().replace(PASSWORD, "wr0ng-guess"),
        cluster.url().replace(&format!("root:{PASSWORD}@"), ""),
    ] {
        let e = EtcdStore::connect(&url).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Config, "{e} {e:?}");
        assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
    }
    let builder = EtcdStore::builder(&cluster.url());
    assert!(!format!("{builder:?}").contains(PASSWORD));
    let store = builder.connect().unwrap();
    assert!(!format!("{store:?}").contains(PASSWORD));
    done(&store, &[insert(1, row(1))]);
    // Its tokens are forgotten with it.
    cluster.restart(0, false);
    recovers(&store, 2);
    cluster.kill(0);
    let e = block_on(store.load(&id(1))).unwrap_err();
    assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e:?}");
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let Some(cluster) = Cluster::start(1) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        let store = EtcdStore::builder(&cluster.url()).connect_async().await.unwrap();
        let other = EtcdStore::connect(&cluster.url()).unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        drop(store);
        other.close().await.unwrap();
    });
}

/// Rows and news over TLS, and only with a server whose authority the system trusts.
#[cfg(feature = "tls-rustls")]
#[test]
fn over_tls_the_system_says_whom_to_trust() {
    use super::support::tls;
    if let Some(url) = tls::url_of_child() {
        let store = EtcdStore::connect(&url).unwrap();
        let mut watch = block_on(store.watch()).unwrap();
        done(&store, &[insert(1, row(1))]);
        assert_eq!(load(&store, 1), Some(row(1)));
        assert!(soon(
            || block_on(watch.next()).unwrap() == sessile_engine::store::Notice::Changed(vec![id(1)])
        ));
        // No name but those in the certificate.
        let elsewhere =
            EtcdStore::builder(&url.replace("127.0.0.1", "localhost")).deadline(Duration::from_millis(500));
        assert_eq!(kind(elsewhere.connect()), StoreErrorKind::Unavailable);
        return;
    }
    let Some(dir) = tls::certificates() else { return };
    let Some(cluster) = Cluster::start_with_tls(dir.path()) else { return };
    let stranger = EtcdStore::builder(&cluster.tls_url()).deadline(Duration::from_millis(500)).connect();
    assert_eq!(kind(stranger), StoreErrorKind::Unavailable, "nobody knows the authority of this test");
    tls::trusts(dir.path(), "failures::over_tls_the_system_says_whom_to_trust", &cluster.tls_url());
}
