//! What a store tells of changes.

use std::collections::HashSet;

use sessile_engine::store::{Notice, Watch};

use super::*;

/// Notices until `wanted` have been told of, or something was lost.
fn told(watch: &mut dyn Watch, wanted: &[SessionId]) {
    let mut left: HashSet<_> = wanted.iter().map(|id| *id.as_bytes()).collect();
    assert!(
        soon(|| {
            match block_on(watch.next()).unwrap() {
                Notice::Changed(ids) => ids.iter().for_each(|id| {
                    left.remove(id.as_bytes());
                }),
                Notice::Alive => {}
                other => panic!("{other:?}"),
            }
            left.is_empty()
        }),
        "{} of {} were never told of",
        left.len(),
        wanted.len()
    );
}

#[test]
fn every_kind_of_change_is_told_by_whomever_it_is_made() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), open(&server));
    let mut watch = block_on(a.watch()).unwrap();
    for store in [&b, &a] {
        done(store, &[insert(1, row(1)), insert(2, row(1)), insert(3, due(1, NOW))]);
        told(&mut *watch, &[id(1), id(2), id(3)]);
        done(store, &[update(1, 1, row(2))]);
        told(&mut *watch, &[id(1)]);
        done(store, &[put(1, row(3))]);
        told(&mut *watch, &[id(1)]);
        done(store, &[Change::Rekey { from: id(1), expected: Some(3), to: id(4), row: row(1) }]);
        told(&mut *watch, &[id(1), id(4)]);
        done(store, &[Change::Quarantine { id: id(4) }]);
        told(&mut *watch, &[id(4)]);
        done(store, &[Change::Delete { id: id(2) }]);
        told(&mut *watch, &[id(2)]);
        assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap().removed, 1);
        told(&mut *watch, &[id(3)]);
        let many: Vec<_> = (0..1000).map(|n| put(n, row(1))).collect();
        done(store, &many);
        told(&mut *watch, &(0..1000).map(id).collect::<Vec<_>>());
        done(store, &(0..1000).map(|n| Change::Delete { id: id(n) }).collect::<Vec<_>>());
        told(&mut *watch, &(0..1000).map(id).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_committed_after_watch_returned_is_told() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), open(&server));
    for n in 0..100 {
        let mut watch = block_on(a.watch()).unwrap();
        done(&b, &[insert(n, row(1))]);
        told(&mut *watch, &[id(n)]);
    }
    // The connections of the watches that were dropped are gone.
    assert!(soon(|| server.ask::<String>(&["CLIENT", "LIST"]).lines().count() < 10));
}

#[test]
fn an_idle_watch_says_that_it_lives_and_tells_nothing_of_other_namespaces() {
    let Some(server) = Server::start() else { return };
    let a = open(&server);
    let other = RedisStore::builder(&server.url()).prefix("sessile:s:").connect().unwrap();
    let mut watch = block_on(a.watch()).unwrap();
    done(&other, &[insert(1, row(1))]);
    for _ in 0..3 {
        assert_eq!(block_on(watch.next()).unwrap(), Notice::Alive);
    }
}

#[test]
fn a_flushed_server_is_a_loss() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let mut watch = block_on(store.watch()).unwrap();
    let _: String = server.ask(&["FLUSHALL"]);
    assert!(soon(|| block_on(watch.next()).unwrap() == Notice::Lost));
    done(&store, &[insert(1, row(1))]);
    told(&mut *watch, &[id(1)]);
}

#[test]
fn a_broken_channel_is_an_error_and_another_can_be_opened() {
    let Some(mut server) = Server::start() else { return };
    let store = open(&server);
    let ends = |watch: &mut dyn Watch| soon(|| block_on(watch.next()).is_err());
    let mut watch = block_on(store.watch()).unwrap();
    let _: i64 = server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(ends(&mut *watch), "after the server has closed its connection");
    assert_eq!(kind(block_on(watch.next())), StoreErrorKind::Unavailable, "it stays so");

    let mut watch = block_on(store.watch()).unwrap();
    server.freeze(true);
    assert!(ends(&mut *watch), "when the server is silent");
    server.freeze(false);

    let mut watch = block_on(store.watch()).unwrap();
    server.kill();
    assert!(ends(&mut *watch), "after the server has died");
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Unavailable);
    server.restart();
    let mut watch = block_on(store.watch()).unwrap();
    recovers(&store, 1);
    told(&mut *watch, &[id(1)]);
}

#[test]
fn a_watch_ends_with_its_store() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let mut watch = block_on(store.watch()).unwrap();
    block_on(store.close()).unwrap();
    assert!(soon(|| block_on(watch.next()).is_err_and(|e| e.kind() == StoreErrorKind::Closed)));
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Closed);

    let store = open(&server);
    let mut watch = block_on(store.watch()).unwrap();
    drop(store);
    assert!(soon(|| block_on(watch.next()).is_err()));
}
