//! Servers that die, freeze, forget, fill up and refuse; callers that go away.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::*;

/// No call takes longer than its deadline, but for what a busy machine adds.
const LATE: Duration = Duration::from_secs(20);

fn impatient(server: &Server) -> RedisStore {
    RedisStore::builder(&server.url()).deadline(Duration::from_millis(300)).connect().unwrap()
}

/// Thousands of callers that leave at any moment of their call, between callers that stay and know what they must
/// be told.
#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &(0..100).map(|n| insert(n, row(u64::from(n) + 1))).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for worker in 0..4_u32 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..1500_u32 {
                    let n = (round * 7 + worker * 31) % 100;
                    let wanted = id((n + 50) % 100);
                    let own = [put(1000 + worker, row(u64::from(round) + 1))];
                    let mut load_dropped = Box::pin(store.load(&wanted));
                    let mut commit_dropped = Box::pin(store.commit(NOW, &own));
                    let mut context = Context::from_waker(Waker::noop());
                    let _ = load_dropped.as_mut().poll(&mut context);
                    let _ = commit_dropped.as_mut().poll(&mut context);
                    if round % 3 == 0 {
                        std::thread::yield_now();
                    }
                    drop((load_dropped, commit_dropped));
                    assert_eq!(load(store, n), Some(row(u64::from(n) + 1)), "row {n}");
                    if round % 10 == 0 {
                        let refused = commit(store, &[update(n, 9999, row(1))]).unwrap();
                        assert_eq!(refused, [Outcome::Conflict { found: u64::from(n) + 1 }]);
                    }
                }
            });
        }
    });
    // What was sent was done, although nobody waited for it: the last put of each worker is there.
    for worker in 0..4 {
        assert!(soon(|| load(&store, 1000 + worker).is_some_and(|row| row.version == 1500)));
    }
}

#[test]
fn a_server_that_dies_is_unavailable_until_it_is_back_empty() {
    let Some(mut server) = Server::start() else { return };
    let store = impatient(&server);
    done(&store, &[insert(1, owned(1, "u"))]);
    server.kill();
    let start = Instant::now();
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list(None, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.count())), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    assert_eq!(kind(RedisStore::connect(&server.url())), StoreErrorKind::Unavailable);
    server.restart();
    recovers(&store, 2);
    assert_eq!(load(&store, 1), None, "it came back empty");
    assert_eq!(commit(&store, &[update(1, 1, row(2))]).unwrap(), [Outcome::Missing]);
    assert_eq!(server.ask::<String>(&["HGET", "sessile:meta", "layout"]), "1", "and is ours again");
}

#[test]
fn a_server_that_keeps_its_rows_has_them_after_it_died() {
    let args = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start_with(None, &args) else { return };
    let store = open(&server);
    done(&store, &(0..300).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    done(&store, &[update(1, 1, owned(2, "v")), Change::Delete { id: id(2) }]);
    server.restart();
    recovers(&store, 1000);
    assert_eq!(load(&store, 1), Some(owned(2, "v")));
    assert_eq!(load(&store, 2), None);
    assert_eq!(block_on(store.count()).unwrap(), Some(300));
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 298);
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
}

#[test]
fn a_connection_that_is_closed_is_replaced() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    for n in 0..20 {
        done(&store, &[insert(n, row(1))]);
        let _: i64 = server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        // A call may still meet the dead connection.
        assert!(soon(|| block_on(store.load(&id(n))).is_ok_and(|row| row.is_some())));
    }
}

#[test]
fn a_server_that_forgot_the_scripts_gets_them_again() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    let flush = || server.ask::<String>(&["SCRIPT", "FLUSH"]);
    flush();
    done(&store, &[insert(1, owned(1, "u"))]);
    flush();
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
    flush();
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
    flush();
    done(&store, &(2..1000).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    flush();
    assert_eq!(block_on(store.expire(NOW + 2_000_000, 0, 2000)).unwrap().removed, 999);
}

#[test]
fn a_wrong_password_is_a_mistake_of_the_configuration_and_nothing_prints_the_right_one() {
    const PASSWORD: &str = "s3cret-of-the-server";
    let Some(server) = Server::start_with(Some(PASSWORD), &[]) else { return };
    let port = server.port();
    for url in [format!("redis://127.0.0.1:{port}/"), format!("redis://:wr0ng-guess@127.0.0.1:{port}/")] {
        let e = RedisStore::connect(&url).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Config, "{e}");
        assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
    }
    let builder = RedisStore::builder(&server.url());
    assert!(!format!("{builder:?}").contains(PASSWORD));
    let store = builder.deadline(Duration::from_millis(300)).connect().unwrap();
    assert!(!format!("{store:?}").contains(PASSWORD));
    done(&store, &[insert(1, row(1))]);
    server.freeze(true);
    let e = block_on(store.load(&id(1))).unwrap_err();
    server.freeze(false);
    assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e:?}");
    drop(server);
    let e = block_on(store.load(&id(1))).unwrap_err();
    assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e:?}");
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start() else { return };
    let store = impatient(&server);
    done(&store, &[insert(1, row(1))]);
    server.freeze(true);
    let start = Instant::now();
    for _ in 0..3 {
        // The second and third find that a new connection is not answered either.
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    server.freeze(false);
    recovers(&store, 2);

    let _: String = server.ask(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    let _: String = server.ask(&["CLIENT", "UNPAUSE"]);
    // Nobody knows what became of it: it is one of the two states, and a retry finds out.
    assert!(soon(|| {
        let again = commit(&store, &[update(1, 1, row(2))]).unwrap();
        again == [Outcome::Done] || again == [Outcome::Conflict { found: 2 }]
    }));
    assert_eq!(load(&store, 1), Some(row(2)));
}

#[test]
fn a_full_server_is_full_until_there_is_space() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    let _: String = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Full);
    let many: Vec<_> = (2..1000).map(|n| insert(n, row(1))).collect();
    assert_eq!(kind(commit(&store, &many)), StoreErrorKind::Full);
    assert_eq!(load(&store, 1), Some(row(1)), "reading goes on");
    assert_eq!(load(&store, 2), None);
    let _: String = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    done(&store, &many);
}

#[test]
fn a_server_that_became_a_replica_is_unavailable() {
    let Some(server) = Server::start() else { return };
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    let _: String = server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    let _: String = server.ask(&["REPLICAOF", "NO", "ONE"]);
    recovers(&store, 2);
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let Some(server) = Server::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        let store = RedisStore::builder(&server.url()).connect_async().await.unwrap();
        let other = RedisStore::connect(&server.url()).unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        drop(store);
        other.close().await.unwrap();
    });
}

/// The rights that the documentation names are enough, and no more than needed to be of use.
#[test]
fn a_user_with_the_documented_rights_can_do_everything() {
    let Some(server) = Server::start() else { return };
    let page = include_str!("../../../../docs/stores.md");
    let (_, rights) = page.split_once("`~PREFIX* ").unwrap();
    let (rights, _) = rights.split_once('`').unwrap();
    let mut args = vec!["ACL", "SETUSER", "app", "on", ">pass", "~app:*"];
    args.extend(rights.split_whitespace());
    let _: String = server.ask(&args);
    let url = format!("redis://app:pass@127.0.0.1:{}/", server.port());
    for exclusive in [false, true] {
        let builder = RedisStore::builder(&url).prefix("app:");
        let store = if exclusive { builder.exclusive() } else { builder }.connect().unwrap();
        let _watch = block_on(store.watch()).unwrap();
        let rekey = Change::Rekey { from: id(1), expected: Some(2), to: id(4), row: due(1, u64::MAX) };
        let changes = [
            insert(1, owned(1, "u")),
            update(1, 1, owned(2, "v")),
            put(2, owned(1, "v")),
            put(3, owned(1, "v")),
            Change::Quarantine { id: id(2) },
            put(3, Row { owner: Some("v".into()), ..due(2, u64::MAX) }),
            rekey,
            Change::Delete { id: id(4) },
        ];
        done(&store, &changes);
        assert_eq!(load(&store, 3).map(|row| row.version), Some(2));
        assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
        assert_eq!(block_on(store.list_owner("v")).unwrap().len(), 1);
        assert_eq!(block_on(store.count()).unwrap(), Some(1));
        assert_eq!(block_on(store.high_water()).unwrap(), NOW);
        assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 1);
        block_on(store.close()).unwrap();
    }
    let elsewhere = RedisStore::builder(&url).prefix("other:").connect();
    assert_eq!(kind(elsewhere), StoreErrorKind::Config, "it is kept to its prefix");
}

#[test]
fn a_node_of_a_cluster_is_a_mistake_of_the_configuration() {
    let Some(server) = Server::start_with(None, &["--cluster-enabled", "yes"]) else { return };
    let _: String = server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    assert!(soon(|| server.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")));
    assert_eq!(kind(RedisStore::connect(&server.url())), StoreErrorKind::Config);
}
