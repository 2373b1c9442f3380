//! What a watch tells, and when it ends.

use mongodb::bson::doc;
use sessile_engine::store::{Notice, Watch};

use super::*;

fn next(watch: &mut Box<dyn Watch>) -> Result<Notice, StoreError> {
    block_on(watch.next())
}

fn told(watch: &mut Box<dyn Watch>, wanted: &[u32]) {
    let mut missing: Vec<_> = wanted.to_vec();
    while !missing.is_empty() {
        match next(watch).unwrap() {
            Notice::Changed(ids) => missing.retain(|n| !ids.contains(&id(*n))),
            Notice::Alive => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_kind_of_change_is_told_whoever_makes_it() {
    let Some(server) = Server::any() else { return };
    let (store, other) = (open(&server, "t"), open(&server, "t"));
    if !store.capabilities().watch {
        return support::skipped("the server that was named tells of no changes");
    }
    let mut watch = block_on(store.watch()).unwrap();
    for n in 0..3 {
        done(&other, &[insert(n, row(1)), insert(100 + n, row(1)), insert(200 + n, row(1))]);
        told(&mut watch, &[n, 100 + n, 200 + n]);
        done(&store, &[update(n, 1, row(2))]);
        told(&mut watch, &[n]);
        done(&other, &[rekey(n, 2, 300 + n, row(3))]);
        told(&mut watch, &[n, 300 + n]);
        done(&other, &[Change::Delete { id: id(300 + n) }, Change::Quarantine { id: id(100 + n) }]);
        told(&mut watch, &[300 + n, 100 + n]);
        assert_eq!(block_on(other.expire(u64::MAX - 1, 0, 10)).unwrap().removed, 1);
        told(&mut watch, &[200 + n]);
    }
    // A change that changes nothing is not told; that all is well, is.
    while next(&mut watch).unwrap() != Notice::Alive {}
    for _ in 0..3 {
        assert_eq!(next(&mut watch).unwrap(), Notice::Alive);
    }
    let (rows, ticks) = (server.name("t"), doc! { "_id": { "$type": "string" } });
    let count = || server.with(&rows, async |rows| rows.count_documents(ticks.clone()).await);
    assert_eq!(count(), 1, "a watch has one tick");
    drop(watch);
    assert!(soon(|| count() == 0), "a watch that ended leaves nothing");
}

#[test]
fn many_changes_are_told_completely() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    if !store.capabilities().watch {
        return support::skipped("the server that was named tells of no changes");
    }
    let mut watch = block_on(store.watch()).unwrap();
    done(&store, &(0..1500).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    told(&mut watch, &(0..1500).collect::<Vec<_>>());
}

#[test]
fn a_watch_ends_with_its_store_and_with_its_server() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = open(&server, "t");
    let mut watch = block_on(store.watch()).unwrap();
    block_on(store.close()).unwrap();
    let end = loop {
        if let Err(e) = next(&mut watch) {
            break e;
        }
    };
    assert_eq!(end.kind(), StoreErrorKind::Closed);
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Closed);

    let store = block_on(builder(&server, "t").deadline(Duration::from_secs(1)).open()).unwrap();
    let mut watch = block_on(store.watch()).unwrap();
    // A server that hangs says nothing, and least of all that all is well.
    server.freeze(true);
    let mut well = 0;
    let end = loop {
        match next(&mut watch) {
            Ok(Notice::Alive) => well += 1,
            Ok(other) => panic!("{other:?}"),
            Err(e) => break e,
        }
    };
    server.freeze(false);
    assert_eq!(end.kind(), StoreErrorKind::Unavailable, "{end}");
    assert!(well < 5, "{well} times after the server hung");

    assert!(soon(|| block_on(store.watch()).is_ok()));
    let store = open(&server, "t");
    let mut watch = block_on(store.watch()).unwrap();
    server.kill();
    let end = loop {
        if let Err(e) = next(&mut watch) {
            break e;
        }
    };
    assert_eq!(end.kind(), StoreErrorKind::Unavailable, "{end}");
    server.restart();
    let mut watch = None;
    assert!(soon(|| {
        watch = block_on(store.watch()).ok();
        watch.is_some()
    }));
    recovers(&store, 7);
    let mut watch = watch.unwrap();
    done(&store, &[put(8, row(1))]);
    told(&mut watch, &[8]);
}

#[test]
fn a_collection_that_is_dropped_ends_the_watch() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    if !store.capabilities().watch {
        return support::skipped("the server that was named tells of no changes");
    }
    let mut watch = block_on(store.watch()).unwrap();
    server.with(&server.name("t"), async |rows| rows.drop().await);
    let end = loop {
        if let Err(e) = next(&mut watch) {
            break e;
        }
    };
    assert_eq!(end.kind(), StoreErrorKind::Unavailable, "{end}");
}

#[test]
fn a_server_without_replicas_says_that_it_tells_of_nothing() {
    let Some(server) = Server::start(&["--standalone"]) else { return };
    let store = open(&server, "t");
    assert!(!store.capabilities().watch);
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Unsupported);
}
