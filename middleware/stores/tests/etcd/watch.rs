//! What a watch tells, and that it never keeps silent about what it missed.

use std::collections::HashSet;

use sessile_engine::SessionId;
use sessile_engine::store::{Notice, Watch};

use super::*;

/// Waits until all of these were told.
fn told(watch: &mut dyn Watch, ids: &[SessionId]) {
    let mut missing: HashSet<_> = ids.iter().map(|id| *id.as_bytes()).collect();
    while !missing.is_empty() {
        match block_on(watch.next()).unwrap() {
            Notice::Changed(ids) => ids.iter().for_each(|id| {
                missing.remove(id.as_bytes());
            }),
            Notice::Lost => panic!("lost"),
            _ => {}
        }
    }
}

#[test]
fn each_kind_of_change_is_told_by_whomever() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (a, b) = (open(&cluster), open(&cluster));
    let mut watch = block_on(a.watch()).unwrap();
    for store in [&b, &a] {
        done(store, &[insert(1, row(1)), insert(2, row(1)), insert(3, Row { expires_at: NOW, ..row(1) })]);
        told(&mut *watch, &[id(1), id(2), id(3)]);
        done(store, &[update(1, 1, row(2))]);
        told(&mut *watch, &[id(1)]);
        done(store, &[Change::Rekey { from: id(1), expected: Some(2), to: id(4), row: row(1) }]);
        told(&mut *watch, &[id(1), id(4)]);
        done(store, &[Change::Quarantine { id: id(4) }]);
        told(&mut *watch, &[id(4)]);
        done(store, &[Change::Delete { id: id(2) }]);
        told(&mut *watch, &[id(2)]);
        assert_eq!(block_on(store.expire(NOW, 0, 10)).unwrap().removed, 1);
        told(&mut *watch, &[id(3)]);
        done(store, &(0..500).map(|n| put(n, row(1))).collect::<Vec<_>>());
        told(&mut *watch, &(0..500).map(id).collect::<Vec<_>>());
        done(store, &(0..500).map(|n| Change::Delete { id: id(n) }).collect::<Vec<_>>());
        told(&mut *watch, &(0..500).map(id).collect::<Vec<_>>());
    }
    for _ in 0..3 {
        assert_eq!(block_on(watch.next()).unwrap(), Notice::Alive);
    }
}

#[test]
fn what_is_committed_after_watch_returned_is_told() {
    let Some(cluster) = Cluster::start(3) else { return };
    let (a, b) = (open(&cluster), open(&cluster));
    for n in 0..50 {
        let mut watch = block_on(a.watch()).unwrap();
        done(&b, &[insert(n, row(1))]);
        told(&mut *watch, &[id(n)]);
    }
}

/// The member that tells dies. Another one goes on where it stopped: nothing is missed, and nothing need be forgotten.
#[test]
fn a_watch_goes_on_at_another_member() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let store = open(&cluster);
    let mut watch = block_on(store.watch()).unwrap();
    for n in 0..3 {
        cluster.kill(n);
        let first = 100 * n as u32;
        let written: Vec<_> = (first..first + 20).map(id).collect();
        for n in first..first + 20 {
            assert!(soon(|| commit(&store, &[put(n, row(1))]).is_ok()));
        }
        let mut missing: HashSet<_> = written.iter().map(|id| *id.as_bytes()).collect();
        while !missing.is_empty() {
            match block_on(watch.next()) {
                Ok(Notice::Changed(ids)) => ids.iter().for_each(|id| {
                    missing.remove(id.as_bytes());
                }),
                Ok(Notice::Lost) => missing.clear(),
                Ok(_) => {}
                // No majority found in time: whoever opens another watch trusts nothing.
                Err(_) => {
                    missing.clear();
                    assert!(soon(|| block_on(store.watch()).map(|new| watch = new).is_ok()));
                }
            }
        }
        cluster.restart(n, false);
    }
}

#[test]
fn what_the_servers_have_forgotten_is_a_loss() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let (a, b) = (EtcdStore::builder(&cluster.url()).connect().unwrap(), open(&cluster));
    let mut watch = block_on(a.watch()).unwrap();
    // It comes back as another one: what was told before says nothing about it.
    cluster.restart(0, true);
    let lost = soon(|| match block_on(watch.next()) {
        Ok(notice) => notice == Notice::Lost,
        Err(_) => true,
    });
    assert!(lost);
    let mut watch = block_on(a.watch()).unwrap();
    recovers(&b, 1);
    told(&mut *watch, &[id(1)]);
}

#[test]
fn a_broken_channel_is_an_error_and_another_can_be_opened() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
    let ends = |watch: &mut dyn Watch| soon(|| block_on(watch.next()).is_err());
    let mut watch = block_on(store.watch()).unwrap();
    cluster.freeze(0, true);
    assert!(ends(&mut *watch), "when the server is silent");
    assert_eq!(kind(block_on(watch.next())), StoreErrorKind::Unavailable, "it stays so");
    cluster.freeze(0, false);
    assert!(soon(|| block_on(store.watch()).map(|new| watch = new).is_ok()));
    cluster.kill(0);
    assert!(ends(&mut *watch), "after the server has died");
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Unavailable);
    cluster.restart(0, false);
    assert!(soon(|| block_on(store.watch()).map(|new| watch = new).is_ok()));
    recovers(&store, 1);
    told(&mut *watch, &[id(1)]);
}

#[test]
fn a_watch_ends_with_its_store() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster);
    let mut watch = block_on(store.watch()).unwrap();
    block_on(store.close()).unwrap();
    assert!(soon(|| block_on(watch.next()).is_err_and(|e| e.kind() == StoreErrorKind::Closed)));
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Closed);
    let store = open(&cluster);
    let mut watch = block_on(store.watch()).unwrap();
    drop(store);
    assert!(soon(|| block_on(watch.next()).is_err()));
}
