//! Rows over a cluster: renewals between its servers, what breaks off in the middle of one, and whom notices reach.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sessile_engine::store::Notice;
use sessile_engine::{Delivery, Engine, Token};

use super::cluster_server::Cluster;
use super::*;

fn open(cluster: &Cluster) -> RedisStore {
    RedisStore::connect(&cluster.url()).unwrap()
}

fn rekey(from: u32, to: u32, row: Row) -> Change {
    Change::Rekey { from: id(from), expected: None, to: id(to), row }
}

/// Asks whichever primary has the key.
fn ask<T: redis::FromRedisValue>(cluster: &Cluster, args: &[&str]) -> T {
    let mut answers = cluster.primaries().filter_map(|node| node.try_ask(args).ok());
    answers.next().unwrap()
}

/// All keys of one id: its row, a pointer to it.
fn keys_of(cluster: &Cluster, n: u32) -> Vec<String> {
    cluster.keys(&format!("sessile:s:*{}", hex(id(n))))
}

#[test]
fn rows_are_spread_over_all_primaries() {
    let Some(cluster) = Cluster::start() else { return };
    let store = open(&cluster);
    done(&store, &(0..2000).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    for node in cluster.primaries() {
        let rows = node.ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).len();
        assert!((500..900).contains(&rows), "{rows} of 2000");
    }
    assert_eq!(block_on(store.count()).unwrap(), Some(2000));
}

/// Who looks at the same time sees the session under one of its ids, and never under both.
#[test]
fn a_renewal_is_one_step_wherever_its_ids_belong() {
    let Some(cluster) = Cluster::start() else { return };
    let (store, other) = (open(&cluster), open(&cluster));
    let ended = AtomicBool::new(false);
    const SESSIONS: u32 = 300;
    done(&store, &(0..SESSIONS).map(|n| insert(n, owned(1, "u"))).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (other, ended) = (&other, &ended);
            scope.spawn(move || {
                let mut n = worker * SESSIONS / 2;
                while !ended.load(Ordering::Acquire) {
                    let new = load(other, n + 10_000);
                    let old = load(other, n);
                    assert!(new.is_none() || old.is_none(), "session {n} lives twice");
                    let old = load(other, n);
                    let new = load(other, n + 10_000);
                    assert!(new.is_some() || old.is_some(), "session {n} is nowhere");
                    n = (n + 1) % SESSIONS;
                }
            });
        }
        for n in 0..SESSIONS {
            done(&store, &[rekey(n, n + 10_000, owned(2, "u"))]);
        }
        ended.store(true, Ordering::Release);
    });
    assert_eq!(block_on(store.count()).unwrap(), Some(u64::from(SESSIONS)));
    assert_eq!(block_on(store.list_owner("u")).unwrap().len(), SESSIONS as usize);
    let listed = block_on(store.list(None, 1000)).unwrap();
    assert_eq!(listed.len(), SESSIONS as usize);
    assert!(listed.windows(2).all(|two| two[0].id < two[1].id));
    assert!(listed.iter().all(|listed| listed.row == owned(2, "u")));
}

/// The state between the two steps of a renewal, written by hand: what a crash leaves there.
#[test]
fn a_renewal_that_broke_off_between_its_steps_leaves_the_old_session() {
    let Some(cluster) = Cluster::start() else { return };
    let store = open(&cluster);
    for (n, round) in (0..60_u32).step_by(3).zip(0..) {
        let (old, new, third) = (n, n + 1, n + 2);
        done(&store, &[insert(old, owned(1, "u")), insert(new, row(1))]);
        let key = keys_of(&cluster, new).pop().unwrap();
        let home = id(old).as_bytes()[0];
        done(&store, &[Change::Delete { id: id(new) }]);
        if home == id(new).as_bytes()[0] {
            continue;
        }
        // The first step, by hand.
        let (bytes, until) = (id(new), NOW + 1_000_000);
        let pointer = [&[b'P', home][..], &until.to_le_bytes()].concat();
        let at =
            |name: &str| key.replace("s:{", &format!("{name}:{{")).rsplit_once(':').unwrap().0.to_owned();
        for node in cluster.primaries() {
            let client = redis::Client::open(format!("redis://127.0.0.1:{}/", node.port)).unwrap();
            let mut connection = client.get_connection().unwrap();
            if redis::cmd("SET").arg(&key).arg(&pointer).query::<()>(&mut connection).is_ok() {
                for (name, score) in [("p", until), ("i", 0)] {
                    let mut cmd = redis::cmd("ZADD");
                    cmd.arg(at(name)).arg(score).arg(&bytes.as_bytes()[..]);
                    cmd.query::<i64>(&mut connection).unwrap();
                }
            }
        }
        let old_lives = || {
            assert_eq!((load(&store, old), load(&store, new)), (Some(owned(1, "u")), None));
            assert_eq!(block_on(store.count()).unwrap(), Some(1));
            assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
            assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
        };
        old_lives();
        assert_eq!(commit(&store, &[update(new, 1, row(2))]).unwrap(), [Outcome::Missing]);
        done(&store, &[Change::Delete { id: id(new) }]);
        old_lives();
        let last = match round % 3 {
            // Tried again.
            0 => {
                done(&store, &[rekey(old, new, owned(2, "u"))]);
                assert_eq!((load(&store, old), load(&store, new)), (None, Some(owned(2, "u"))));
                new
            }
            // To another id instead.
            1 => {
                done(&store, &[rekey(old, third, owned(2, "u"))]);
                assert_eq!((load(&store, old), load(&store, new)), (None, None));
                assert_eq!(load(&store, third), Some(owned(2, "u")));
                third
            }
            // Ended before anybody tries again: then the renewal finds nothing.
            _ => {
                done(&store, &[Change::Delete { id: id(old) }]);
                assert_eq!(commit(&store, &[rekey(old, new, row(2))]).unwrap(), [Outcome::Missing]);
                assert_eq!((load(&store, old), load(&store, new)), (None, None));
                new
            }
        };
        // What came late after it: no write brings back what has ended.
        assert_eq!(commit(&store, &[update(old, 1, row(9))]).unwrap(), [Outcome::Missing]);
        done(&store, &[Change::Delete { id: id(last) }]);
        for n in [old, new, third] {
            assert_eq!(load(&store, n), None);
        }
        assert_eq!(block_on(store.count()).unwrap(), Some(0));
    }
}

/// The server of the second step stands still: nobody knows what it did, and it is one of the two.
#[test]
fn a_renewal_whose_server_stood_still_has_happened_or_not() {
    let Some(cluster) = Cluster::start() else { return };
    for node in &cluster.nodes {
        let _: String = node.ask(&["CONFIG", "SET", "cluster-node-timeout", "60000"]);
    }
    let store = RedisStore::builder(&cluster.url()).deadline(Duration::from_millis(300)).connect().unwrap();
    let (mut failed, mut moved) = (0, 0);
    for round in 0..30_u32 {
        let (old, new) = (2 * round, 2 * round + 1);
        assert!(soon(|| commit(&store, &[put(old, row(1))]).is_ok()));
        let still = cluster.primaries().nth(round as usize % 3).unwrap();
        still.freeze(true);
        let outcome = commit(&store, &[rekey(old, new, row(2))]);
        still.freeze(false);
        failed += u32::from(outcome.is_err());
        // It may arrive yet; in the end one of them lives.
        let find = |n| {
            let mut found = None;
            assert!(soon(|| block_on(store.load(&id(n))).is_ok_and(|row| {
                found = row;
                true
            })));
            found
        };
        assert!(soon(|| {
            let new_first = find(new);
            let old_second = find(old);
            assert!(new_first.is_none() || old_second.is_none(), "it lives twice");
            new_first.is_some() || old_second.is_some()
        }));
        match outcome {
            Ok(outcome) => {
                assert_eq!(outcome, [Outcome::Done]);
                assert_eq!((find(old), find(new)), (None, Some(row(2))));
            }
            Err(e) => assert_eq!(e.kind(), StoreErrorKind::Unavailable),
        }
        // Whoever asks again finishes it.
        assert!(soon(|| match commit(&store, &[rekey(old, new, row(2))]) {
            Ok(outcome) => {
                let [outcome] = outcome[..] else { panic!("one change") };
                moved += u32::from(outcome == Outcome::Exists || outcome == Outcome::Missing);
                assert!(matches!(outcome, Outcome::Done | Outcome::Exists | Outcome::Missing));
                true
            }
            Err(_) => false,
        }));
        assert_eq!((find(old), find(new)), (None, Some(row(2))));
    }
    println!(
        "of 30 renewals {failed} were not answered; {moved} had happened when they were asked for again"
    );
}

#[test]
fn a_pointer_stays_as_long_as_its_row_and_not_for_ever() {
    let Some(cluster) = Cluster::start() else { return };
    let store = open(&cluster);
    let lives = |key: &str| ask::<i64>(&cluster, &["PEXPIRETIME", key]);
    for n in (0..40).step_by(2) {
        done(&store, &[insert(n, due(1, NOW + 1000)), rekey(n, n + 1, due(2, NOW + 2000))]);
        for (version, at) in (3..).zip([NOW + 5000, NOW + 100, NOW + 800_000, NOW + 900_000, NOW + 10]) {
            done(&store, &[update(n + 1, version - 1, due(version, at))]);
            let ends: Vec<_> = keys_of(&cluster, n + 1).iter().map(|key| lives(key)).collect();
            let row = i64::try_from(at).unwrap() + 5 * 60 * 1000;
            assert!(ends.contains(&row), "{ends:?} {row}");
            assert!(ends.iter().all(|end| *end >= row), "{ends:?} {row}");
        }
        assert_eq!(load(&store, n + 1), Some(due(7, NOW + 10)));
    }
    assert_eq!(block_on(store.count()).unwrap(), Some(20));
    let at = |now| block_on(store.expire(now, now, 1000)).unwrap();
    assert_eq!(at(NOW + 9).removed, 0);
    assert_eq!(at(NOW + 10).removed, 20);
    assert!(!cluster.keys("sessile:s:*").is_empty(), "pointers that are not due stay");
    assert_eq!(at(NOW + 4_000_000).removed, 0);
    assert_eq!(cluster.keys("sessile:s:*"), Vec::<String>::new());
    let indexes = ["sessile:x:*", "sessile:i:*", "sessile:p:*", "sessile:o:*"];
    assert!(indexes.iter().all(|index| cluster.keys(index).is_empty()));
}

#[test]
fn what_cannot_be_is_a_mistake_of_the_configuration() {
    let Some(cluster) = Cluster::start() else { return };
    assert_eq!(kind(RedisStore::builder(&cluster.url()).exclusive().connect()), StoreErrorKind::Config);
    let one = cluster.url().replace("redis+cluster", "redis");
    let (one, _) = one.split_once(',').unwrap();
    assert_eq!(kind(RedisStore::connect(one)), StoreErrorKind::Config, "one node is not the cluster");
    let Some(server) = Server::start() else { return };
    let alone = server.url().replace("redis:", "redis+cluster:");
    assert_eq!(kind(RedisStore::connect(&alone)), StoreErrorKind::Config, "nor a server a cluster");
    // Nodes that are given as the driver's clients.
    let clients = cluster.nodes.iter().map(|node| format!("redis://127.0.0.1:{}/", node.port));
    let clients: Vec<_> = clients.map(|url| redis::Client::open(url).unwrap()).collect();
    let store = RedisStore::builder_with_cluster(clients).connect().unwrap();
    done(&store, &[insert(1, row(1))]);
}

/// Waits until the watch has told of all ids, or of a loss: then everything is read again.
fn told(watch: &mut dyn sessile_engine::store::Watch, wanted: &[SessionId]) {
    let mut left: Vec<_> = wanted.to_vec();
    assert!(soon(|| {
        match block_on(watch.next()).unwrap() {
            Notice::Changed(ids) => left.retain(|id| !ids.contains(id)),
            Notice::Lost => left.clear(),
            _ => {}
        }
        left.is_empty()
    }));
}

#[test]
fn every_primary_tells_of_changes_and_a_channel_that_is_cut_ends_the_watch() {
    let Some(cluster) = Cluster::start() else { return };
    let (a, b) = (open(&cluster), open(&cluster));
    let mut watch = block_on(a.watch()).unwrap();
    done(&b, &(0..100).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    told(&mut *watch, &(0..100).map(id).collect::<Vec<_>>());
    done(&b, &(0..100).map(|n| rekey(n, n + 1000, row(2))).collect::<Vec<_>>());
    told(&mut *watch, &(0..100).chain(1000..1100).map(id).collect::<Vec<_>>());
    for n in 0..3 {
        let primary = cluster.primaries().nth(n).unwrap();
        let _: i64 = primary.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(soon(|| block_on(watch.next()).is_err()), "primary {n}");
        assert!(soon(|| match block_on(a.watch()) {
            Ok(again) => {
                watch = again;
                true
            }
            Err(_) => false,
        }));
        assert!(soon(|| commit(&b, &[put(7, row(1))]).is_ok()));
        told(&mut *watch, &[id(7)]);
    }
}

pub(crate) fn engine(cluster: &Cluster) -> Engine {
    block_on(sessile_stores::open(Engine::builder(), &cluster.url())).unwrap()
}

/// Nothing if the store does not take it just now.
pub(crate) fn log_in(engine: &Engine, name: &str) -> Option<Token> {
    block_on(async {
        let session = engine.session(None).await.ok()?;
        session.put("user", name).ok()?;
        match session.commit().await.ok()? {
            Delivery::Issue(issue) => Some(issue.token),
            _ => panic!("a new session has a token"),
        }
    })
}

/// Nothing if the store cannot be asked just now.
pub(crate) fn user(engine: &Engine, token: &Token) -> Option<Option<String>> {
    block_on(async { engine.session(Some(token)).await.ok()?.get("user").ok() })
}

pub(crate) fn log_out(engine: &Engine, token: &Token) -> bool {
    block_on(async {
        let Ok(session) = engine.session(Some(token)).await else { return false };
        session.destroy().is_ok() && session.commit().await.is_ok()
    })
}

/// Logged in here and known there; logged out here, and refused there.
fn logouts_are_honoured(a: &Engine, b: &Engine) {
    for n in 0..20 {
        let name = format!("user {n}");
        let token = log_in(a, &name).unwrap();
        for _ in 0..3 {
            assert!(soon(|| user(b, &token).is_some()));
            assert_eq!(user(b, &token), Some(Some(name.clone())));
        }
        assert!(soon(|| log_out(a, &token)));
        assert!(soon(|| user(b, &token) == Some(None)), "{name} is served still");
    }
}

#[test]
fn a_logout_is_seen_by_another_engine() {
    let Some(cluster) = Cluster::start() else { return };
    let (a, b) = (engine(&cluster), engine(&cluster));
    logouts_are_honoured(&a, &b);
    logouts_are_honoured(&b, &a);
}

#[test]
fn a_logout_is_seen_when_the_channel_of_one_primary_is_cut() {
    let Some(cluster) = Cluster::start() else { return };
    let (a, b) = (engine(&cluster), engine(&cluster));
    for n in 0..3 {
        let tokens: Vec<_> = (0..10).map(|n| log_in(&a, &n.to_string()).unwrap()).collect();
        assert!(tokens.iter().all(|token| matches!(user(&b, token), Some(Some(_)))));
        let primary = cluster.primaries().nth(n).unwrap();
        let _: i64 = primary.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for token in &tokens {
            assert!(soon(|| log_out(&a, token)));
        }
        for token in &tokens {
            assert!(soon(|| user(&b, token) == Some(None)), "served still");
        }
    }
}

/// A primary without slots that is there when the slots come, and that nobody listened to when the watch began.
#[test]
fn a_primary_that_joins_is_listened_to_before_it_serves() {
    let Some(mut cluster) = Cluster::start() else { return };
    let (a, b) = (open(&cluster), open(&cluster));
    done(&b, &(0..300).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    let mut watch = block_on(a.watch()).unwrap();
    cluster.join();
    let joined = cluster.nodes.last().unwrap();
    let listened = || {
        let clients: String = joined.ask(&["CLIENT", "LIST"]);
        clients
            .lines()
            .any(|line| line.contains("flags=tB") || line.contains("flags=B") || line.contains("resp=3"))
    };
    assert!(soon(|| {
        let _ = block_on(watch.next()).unwrap();
        listened()
    }));
    // All slots of one primary that have rows go to it.
    let giver = cluster.nodes[0].port;
    for slot in cluster.slots_of("sessile:*").into_iter().filter(|(port, _)| *port == giver) {
        cluster.migrate(slot.1, 0, cluster.nodes.len() - 1);
    }
    assert!(!joined.ask::<Vec<String>>(&["KEYS", "sessile:s:*"]).is_empty());
    // Some notices of the move are left; they are no harm.
    done(&b, &(0..300).map(|n| update(n, 1, row(2))).collect::<Vec<_>>());
    told(&mut *watch, &(0..300).map(id).collect::<Vec<_>>());
    for n in 0..300 {
        assert_eq!(load(&a, n), Some(row(2)));
    }
}

/// The rights that the documentation names are enough.
#[test]
fn a_user_with_the_documented_rights_can_do_everything_in_a_cluster() {
    let Some(cluster) = Cluster::start() else { return };
    let page = include_str!("../../../../docs/stores.md");
    let between = |from: &str| page.split_once(from).unwrap().1.split_once('`').unwrap().0;
    let mut args = vec!["ACL", "SETUSER", "app", "on", ">pass", "~app:*"];
    args.extend(between("`~PREFIX* ").split_whitespace());
    args.extend(between("In a cluster also `").split_whitespace());
    for node in &cluster.nodes {
        let _: String = node.ask(&args);
    }
    let url = cluster.url().replace("://", "://app:pass@");
    let store = RedisStore::builder(&url).prefix("app:").connect().unwrap();
    let mut watch = block_on(store.watch()).unwrap();
    let changes = [
        insert(1, owned(1, "u")),
        update(1, 1, owned(2, "v")),
        put(2, owned(1, "v")),
        Change::Quarantine { id: id(2) },
        rekey(1, 3, owned(3, "v")),
        update(3, 3, owned(4, "v")),
        insert(4, row(1)),
        Change::Delete { id: id(4) },
    ];
    done(&store, &changes);
    told(&mut *watch, &[id(3)]);
    assert_eq!(load(&store, 3), Some(owned(4, "v")));
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
    assert_eq!(block_on(store.list_owner("v")).unwrap().len(), 1);
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
    assert_eq!(block_on(store.expire(u64::MAX, 0, 10)).unwrap().removed, 1);
    let elsewhere = RedisStore::builder(&url).prefix("other:").connect();
    assert_eq!(kind(elsewhere), StoreErrorKind::Config, "it is kept to its prefix");
    let wrong = cluster.url().replace("://", "://app:wr0ng-guess@");
    let e = RedisStore::connect(&wrong).unwrap_err();
    assert_eq!(e.kind(), StoreErrorKind::Config, "{e}");
    assert!(!format!("{e} {e:?}").contains("wr0ng-guess"), "{e:?}");
}
