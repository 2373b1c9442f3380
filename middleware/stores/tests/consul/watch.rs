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
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), open(&server));
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
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), open(&server));
    for n in 0..50 {
        let mut watch = block_on(a.watch()).unwrap();
        done(&b, &[insert(n, row(1))]);
        told(&mut *watch, &[id(n)]);
    }
}

/// A watch that falls far behind: a lane holds only so much.
#[test]
fn a_watch_that_has_missed_something_says_so() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (open(&server), open(&server));
    let mut watch = block_on(a.watch()).unwrap();
    done(&b, &[insert(0, row(1))]);
    told(&mut *watch, &[id(0)]);
    // Two entries, of which the lane does not hold the first any more.
    let (_, lanes) = server.ask("GET", "kv/sessile/t/lane/?keys", b"");
    let lanes: Vec<String> = serde_json::from_slice(&lanes).unwrap();
    let mut raw = vec![1];
    raw.extend_from_slice(&NOW.to_le_bytes());
    raw.extend_from_slice(&3_u64.to_le_bytes());
    raw.extend_from_slice(&1_u16.to_le_bytes());
    raw.extend_from_slice(id(9).as_bytes());
    assert_eq!(server.ask("PUT", &format!("kv/{}", lanes[0]), &raw).0, 200);
    assert!(soon(|| block_on(watch.next()).unwrap() == Notice::Lost));
    let other = open(&server);
    done(&other, &[insert(1, row(1))]);
    told(&mut *watch, &[id(1)]);
}

#[test]
fn what_the_servers_have_forgotten_is_a_loss() {
    let Some(mut server) = Server::start() else { return };
    let (a, b) = (ConsulStore::builder(&server.url()).connect().unwrap(), open(&server));
    let mut watch = block_on(a.watch()).unwrap();
    // It comes back as another one: what was told before says nothing about it.
    server.restart(true);
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
    let Some(mut server) = Server::start() else { return };
    let store = open(&server);
    let ends = |watch: &mut dyn Watch| soon(|| block_on(watch.next()).is_err());
    let mut watch = block_on(store.watch()).unwrap();
    server.freeze(true);
    assert!(ends(&mut *watch), "when the server is silent");
    assert_eq!(kind(block_on(watch.next())), StoreErrorKind::Unavailable, "it stays so");
    server.freeze(false);
    assert!(soon(|| block_on(store.watch()).map(|new| watch = new).is_ok()));
    server.kill();
    assert!(ends(&mut *watch), "after the server has died");
    assert_eq!(kind(block_on(store.watch())), StoreErrorKind::Unavailable);
    server.restart(false);
    assert!(soon(|| block_on(store.watch()).map(|new| watch = new).is_ok()));
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
