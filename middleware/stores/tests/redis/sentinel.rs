//! A primary that sentinels watch: who is asked, before, during and after a failover.

use std::time::Duration;

use super::sentinel_server::{Guarded, NAME};
use super::*;

fn follows(store: &RedisStore, n: u32, row: &Row) {
    assert!(soon(|| commit(store, &[put(n, row.clone())]).is_ok()), "the store never found the new primary");
    assert_eq!(load(store, n).as_ref(), Some(row));
}

#[test]
fn rows_are_on_the_primary_that_the_sentinels_name() {
    const PASSWORD: &str = "s3cret-of-both";
    let Some(mut guarded) = Guarded::start(Some(PASSWORD)) else { return };
    let store = RedisStore::connect(&guarded.url(Some(PASSWORD))).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert_eq!(guarded.servers[0].ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len(), 1);
    assert_eq!(load(&store, 1), Some(row(1)));
    let url = guarded.url(Some(PASSWORD));
    let engine = sessile_stores::open(sessile_engine::Engine::builder(), &url);
    block_on(async { engine.await.unwrap().close().await }).unwrap();
    // Any of the sentinels will do.
    guarded.lose_a_sentinel();
    let store = RedisStore::connect(&url).unwrap();
    assert_eq!(load(&store, 1), Some(row(1)));
    let e = RedisStore::connect(&guarded.url(Some("wr0ng-guess"))).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Config, "{e}");
    assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
    let unknown = url.replace(NAME, "another");
    assert_eq!(kind(RedisStore::connect(&unknown)), StoreErrorKind::Unavailable);
}

#[test]
fn a_primary_that_dies_is_followed_by_its_replica() {
    let Some(mut guarded) = Guarded::start(None) else { return };
    let store = RedisStore::connect(&guarded.url(None)).unwrap();
    done(&store, &(0..100).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    done(&store, &[Change::Delete { id: id(7) }]);
    let mut watch = block_on(store.watch()).unwrap();
    // All of it has reached the replica before the primary dies.
    assert!(soon(|| guarded.servers[1].ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len() == 99));
    let replica = guarded.servers[1].port();
    guarded.servers[0].kill();
    assert!(soon(|| block_on(watch.next()).is_err()), "the channel ended with it");
    let e = block_on(store.load(&id(1))).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    assert!(soon(|| guarded.primary() == Some(replica)), "no failover");
    follows(&store, 1000, &row(1));
    assert_eq!(load(&store, 7), None, "who had logged out is out");
    assert_eq!(block_on(store.count()).unwrap(), Some(100));
    assert_eq!(load(&store, 1), Some(owned(1, "u")));
    let mut again = block_on(store.watch()).unwrap();
    done(&store, &[update(1, 1, owned(2, "u"))]);
    assert!(soon(|| {
        let notice = block_on(again.next()).unwrap();
        matches!(notice, sessile_engine::store::Notice::Changed(ids) if ids.contains(&id(1)))
    }));
}

/// The old primary lives on as a replica: nothing is read from it, and nothing that is written is lost in it.
#[test]
fn a_primary_that_became_a_replica_is_left() {
    let Some(guarded) = Guarded::start(None) else { return };
    let store = RedisStore::builder(&guarded.url(None)).deadline(Duration::from_secs(1)).connect().unwrap();
    done(&store, &[insert(1, row(1))]);
    assert!(soon(|| guarded.servers[1].ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len() == 1));
    let mut watch = block_on(store.watch()).unwrap();
    let replica = guarded.servers[1].port();
    guarded.fail_over();
    assert!(soon(|| block_on(watch.next()).is_err()), "the channel to it is given up");
    assert!(soon(|| guarded.primary() == Some(replica)), "no failover");
    follows(&store, 2, &row(2));
    assert_eq!(guarded.servers[1].ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len(), 2);
    assert_eq!(load(&store, 1), Some(row(1)));
    // An exclusive store needs its lease on the new primary, and has it.
    block_on(store.close()).unwrap();
    let only = RedisStore::builder(&guarded.url(None)).exclusive().connect().unwrap();
    done(&only, &[put(3, row(1))]);
    block_on(only.close()).unwrap();
}

#[test]
fn writes_to_a_primary_that_became_a_replica_may_be_tried_again() {
    let Some(guarded) = Guarded::start(None) else { return };
    let store = RedisStore::connect(&guarded.url(None)).unwrap();
    done(&store, &[insert(1, row(1))]);
    // Behind the back of the sentinels, which soon make it the primary again.
    let port = guarded.servers[1].port().to_string();
    let _: String = guarded.servers[0].ask(&["REPLICAOF", "127.0.0.1", &port]);
    if let Err(e) = commit(&store, &[put(2, row(1))]) {
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    let _: String = guarded.servers[0].ask(&["REPLICAOF", "NO", "ONE"]);
    follows(&store, 3, &row(1));
}

/// It says of itself that it is the primary, and the sentinels have another: it is not believed.
#[test]
fn a_primary_that_was_cut_off_is_left() {
    let Some(guarded) = Guarded::start(None) else { return };
    let store = RedisStore::connect(&guarded.url(None)).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert!(soon(|| guarded.servers[1].ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len() == 1));
    let mut watch = block_on(store.watch()).unwrap();
    // Nobody is told, so the old one goes on.
    let other = Server::start().unwrap();
    guarded.replace(other.port());
    assert!(soon(|| block_on(watch.next()).is_err()), "its channel is believed still");
    assert_eq!(guarded.servers[0].ask::<Vec<redis::Value>>(&["ROLE"]).len(), 3);
    follows(&store, 2, &row(1));
    assert_eq!(other.ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len(), 1, "it is on the other");
    assert_eq!(load(&store, 1), None, "which never had this");
}
