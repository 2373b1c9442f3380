//! A server that dies, freezes and loses connections; callers that go away.

use std::time::Instant;

use super::support::relay::Relay;
use super::*;

fn impatient(url: &str) -> MemcachedStore {
    let patient = MemcachedStore::builder(url).deadline(Duration::from_millis(500)).pool_size(2);
    let mut store = None;
    assert!(soon(|| {
        store = MemcachedStore::builder(url).deadline(Duration::from_millis(500)).pool_size(2).connect().ok();
        store.is_some()
    }));
    drop(patient);
    store.unwrap()
}

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(server) = Server::start(&[]) else { return };
    let store = open(&server);
    super::support::leavers::leave_no_answers(&store, 100);
}

/// Calls whose deadline ends while their answer is on its way leave it to nobody.
#[test]
fn no_call_gets_the_answer_to_a_call_whose_deadline_ended() {
    let Some(server) = Server::start(&[]) else { return };
    let relay = Relay::to(server.port());
    let store = impatient(&relay.url().replace("redis:", "memcached:"));
    assert!(soon(
        || commit(&store, &(0..20).map(|n| put(n, row(u64::from(n) + 1))).collect::<Vec<_>>()).is_ok()
    ));
    for round in 0..3 {
        relay.hold();
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        // What has been held back is answered now, to nobody.
        if round % 2 == 0 {
            relay.release();
        }
        for n in 2..20 {
            let mut loaded = None;
            assert!(soon(|| {
                loaded = block_on(store.load(&id(n))).ok();
                loaded.is_some()
            }));
            assert_eq!(loaded.unwrap(), Some(row(u64::from(n) + 1)), "row {n}");
        }
        relay.release();
    }
}

/// A creation whose answer never came is made again; the session is ended; then the first one reaches the server.
#[test]
fn a_creation_that_comes_late_does_not_bring_an_ended_session_back() {
    let Some(server) = Server::start(&[]) else { return };
    let relay = Relay::to(server.port());
    let store = impatient(&relay.url().replace("redis:", "memcached:"));
    for n in 0..3 {
        assert!(soon(|| commit(&store, &[put(100, row(1))]).is_ok()));
        let before = server.stat("cmd_set");
        relay.hold();
        assert_eq!(kind(commit(&store, &[insert(n, row(1))])), StoreErrorKind::Unavailable);
        assert_eq!(server.stat("cmd_set"), before, "it is on its way");
        // Over other connections.
        assert!(soon(|| commit(&store, &[insert(n, row(1))]).is_ok()));
        assert!(soon(|| commit(&store, &[delete(n)]).is_ok()));
        let before = server.stat("cmd_set");
        relay.release();
        assert!(soon(|| server.stat("cmd_set") > before), "it has reached the server");
        assert_eq!(load(&store, n), None, "round {n}");
    }
}

#[test]
fn a_server_that_dies_is_unavailable_until_it_is_back_with_nothing() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = impatient(&server.url());
    assert!(soon(|| commit(&store, &[put(1, row(1))]).is_ok()));
    server.kill();
    let start = Instant::now();
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, NOW + 1, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let hasty = builder(&server).deadline(Duration::from_millis(300));
    assert_eq!(kind(hasty.connect()), StoreErrorKind::Unavailable);
    server.restart();
    recovers(&store, 2);
    assert_eq!(load(&store, 1), None);
    assert_eq!(commit(&store, &[update(1, 1, row(2))]).unwrap(), [Outcome::Missing], "it does not come back");
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start(&[]) else { return };
    let store = impatient(&server.url());
    assert!(soon(|| commit(&store, &[put(1, row(1))]).is_ok()));
    server.freeze(true);
    let start = Instant::now();
    for _ in 0..3 {
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    server.freeze(false);
    recovers(&store, 1);
}

/// The only connections are used by others; nothing is wrong with that.
#[test]
fn many_callers_share_a_few_connections() {
    let Some(server) = Server::start(&[]) else { return };
    let store = builder(&server).pool_size(2).connect().unwrap();
    done(&store, &(0..500).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let store = &store;
            scope.spawn(move || {
                (0..100).for_each(|n| assert!(load(store, (n + worker * 60) % 500).is_some()))
            });
        }
    });
    assert!(server.stat("curr_connections") < 10);
}
