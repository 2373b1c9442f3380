//! Renewals that broke off: whatever was done last, a session has one id, and whoever comes next can work with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, doc};

use super::*;

fn key(n: u32) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: id(n).as_bytes().to_vec() })
}

/// What stood after `steps` steps of a renewal of 1, owned by a user, to 2.
fn broken_off(server: &Server, name: &str, steps: u32) -> MongoStore {
    let store = open(server, name);
    done(&store, &[insert(1, owned(5, "u")), insert(2, owned(6, "u"))]);
    server.with(&server.name(name), async |rows| {
        if steps < 3 {
            rows.update_one(doc! { "_id": key(2) }, doc! { "$set": { "from": key(1) } }).await?;
        }
        if steps > 1 {
            let signpost = doc! {
                "$set": { "to": key(2), "due": 0_i64 },
                "$unset": { "version": "", "owner": "", "record": "" },
            };
            rows.update_one(doc! { "_id": key(1) }, signpost).await?;
        }
        Ok(())
    });
    store
}

/// Nothing of the renewal is left but a row.
fn is_settled(server: &Server, name: &str) -> bool {
    let open = doc! { "$or": [{ "from": { "$exists": true } }, { "to": { "$exists": true } }] };
    server.with(&server.name(name), async |rows| rows.count_documents(open).await) == 0
}

fn ids(store: &MongoStore) -> [Vec<u32>; 2] {
    let of = |listed: Vec<sessile_engine::store::Listed>| -> Vec<u32> {
        let mut ids: Vec<_> = (0..10).filter(|n| listed.iter().any(|l| l.id == id(*n))).collect();
        assert_eq!(ids.len(), listed.len());
        ids.sort_unstable();
        ids
    };
    [of(block_on(store.list(None, 10)).unwrap()), of(block_on(store.list_owner("u")).unwrap())]
}

#[test]
fn before_the_decision_only_the_old_id_counts() {
    let Some(server) = Server::any() else { return };
    for case in 0..8 {
        let name = format!("case{case}");
        let store = broken_off(&server, &name, 1);
        assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(5, "u")), None));
        assert_eq!(ids(&store), [vec![1], vec![1]]);
        assert_eq!(block_on(store.count()).unwrap(), Some(1));
        match case {
            0 => {
                // The same renewal is made again, and brings what it brings now.
                done(&store, &[rekey(1, 5, 2, owned(7, "u"))]);
                assert_eq!((load(&store, 1), load(&store, 2)), (None, Some(owned(7, "u"))));
                assert!(is_settled(&server, &name));
            }
            1 => {
                assert_eq!(commit(&store, &[update(2, 6, row(7))]).unwrap(), [Outcome::Missing]);
                done(&store, &[update(1, 5, owned(6, "u"))]);
            }
            2 => {
                done(&store, &[Change::Delete { id: id(1) }]);
                assert_eq!((load(&store, 1), load(&store, 2)), (None, None), "it does not come back");
                assert_eq!(commit(&store, &[rekey(1, 5, 2, row(1))]).unwrap(), [Outcome::Missing]);
                assert!(is_settled(&server, &name), "it has taken back what it prepared");
            }
            3 => {
                done(&store, &[rekey(1, 5, 3, owned(7, "u"))]);
                assert_eq!((load(&store, 2), load(&store, 3)), (None, Some(owned(7, "u"))));
                assert_eq!(ids(&store), [vec![3], vec![3]]);
            }
            4 => {
                // Its version has changed meanwhile: nothing is left of the attempt.
                done(&store, &[update(1, 5, owned(6, "u"))]);
                let found = commit(&store, &[rekey(1, 5, 2, row(7))]).unwrap();
                assert_eq!(found, [Outcome::Conflict { found: 6 }]);
                assert!(is_settled(&server, &name));
                assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(6, "u")), None));
            }
            5 => {
                assert_eq!(commit(&store, &[rekey(2, 6, 3, row(7))]).unwrap(), [Outcome::Missing]);
                assert!(load(&store, 3).is_none());
            }
            6 => {
                let removed = block_on(store.expire(u64::MAX - 1, 0, 10)).unwrap();
                assert_eq!((removed.removed, removed.more), (1, false), "one session was there");
                assert!(is_settled(&server, &name));
            }
            _ => assert_eq!(commit(&store, &[insert(2, row(1))]).unwrap(), [Outcome::Exists]),
        }
    }
}

/// After the decision, with the new row still pending (2 steps) or not (3): by whatever call it is met first.
#[test]
fn after_the_decision_only_the_new_id_counts() {
    let Some(server) = Server::any() else { return };
    for (steps, call) in (2..=3).flat_map(|steps| (0..13).map(move |call| (steps, call))) {
        let name = format!("s{steps}c{call}");
        let store = broken_off(&server, &name, steps);
        let case = format!("{steps} steps, call {call}");
        let mut still = Some(owned(6, "u"));
        match call {
            0 => assert_eq!(load(&store, 1), None, "{case}"),
            1 => assert_eq!(load(&store, 2), still, "{case}"),
            2 => assert_eq!(commit(&store, &[update(1, 5, row(6))]).unwrap(), [Outcome::Missing], "{case}"),
            3 => {
                still = Some(owned(7, "u"));
                done(&store, &[update(2, 6, owned(7, "u"))]);
            }
            4 => done(&store, &[Change::Delete { id: id(1) }]),
            5 => {
                still = None;
                done(&store, &[Change::Delete { id: id(2) }]);
            }
            6 => assert_eq!(ids(&store), [vec![2], vec![2]], "{case}"),
            7 => {
                done(&store, &[insert(1, row(9))]);
                assert_eq!(load(&store, 1), Some(row(9)), "{case}");
                done(&store, &[Change::Delete { id: id(1) }]);
            }
            8 => {
                done(&store, &[put(1, row(9))]);
                assert_eq!(load(&store, 1), Some(row(9)), "{case}");
                done(&store, &[Change::Delete { id: id(1) }]);
            }
            9 => {
                done(&store, &[rekey(2, 6, 3, owned(7, "u"))]);
                assert_eq!(load(&store, 3), Some(owned(7, "u")), "{case}");
                still = None;
            }
            10 => {
                assert_eq!(commit(&store, &[rekey(1, 5, 3, row(7))]).unwrap(), [Outcome::Missing], "{case}");
            }
            11 => {
                // Sent again, as its answer was lost.
                let again = commit(&store, &[rekey(1, 5, 2, owned(6, "u"))]).unwrap();
                assert_eq!(again, [Outcome::Exists], "{case}");
            }
            _ => {
                let swept = block_on(store.expire(NOW, 0, 10)).unwrap();
                assert_eq!((swept.removed, swept.more), (0, false), "{case}");
                assert!(is_settled(&server, &name), "{case}");
            }
        }
        assert_eq!((load(&store, 1), load(&store, 2)), (None, still.clone()), "{case}");
        let _ = block_on(store.expire(NOW, 0, 10)).unwrap();
        assert!(is_settled(&server, &name), "{case}");
        assert_eq!((load(&store, 1), load(&store, 2)), (None, still), "{case}");
    }
}

/// Whoever looks while a session is renewed again and again finds one of the two ids, not both and not none.
#[test]
fn who_looks_during_renewals_finds_one_id() {
    const RENEWALS: u32 = 60;
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    let other = open(&server, "t");
    done(&store, &[insert(0, row(1))]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (mut n, mut looks) = (0, 0_u32);
                    while n < RENEWALS && !ended.load(Atomic::Relaxed) {
                        looks += 1;
                        if load(&other, n + 1).is_some() {
                            assert_eq!(load(&other, n), None, "both at {n}");
                        } else if load(&other, n).is_none() {
                            // It has moved on, and cannot go back: somebody who goes up meets it.
                            assert!((n + 1..=RENEWALS).any(|n| load(&other, n).is_some()), "none at {n}");
                            n += 1;
                        }
                    }
                    looks
                })
            })
            .collect();
        for n in 0..RENEWALS {
            done(&store, &[rekey(n, u64::from(n) + 1, n + 1, row(u64::from(n) + 2))]);
        }
        ended.store(true, Atomic::Relaxed);
        assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>() > 0);
    });
    assert_eq!(load(&store, RENEWALS), Some(row(u64::from(RENEWALS) + 1)));
    assert_eq!(block_on(store.count()).unwrap(), Some(1));
}

/// The server is killed again and again under renewals: then every session is there under one id, and nothing of a
/// confirmed renewal is undone.
#[test]
fn a_server_that_is_killed_under_renewals_loses_and_doubles_no_session() {
    const SESSIONS: u32 = 4;
    let Some(mut server) = Server::start(&[]) else { return };
    let store = open(&server, "t");
    let impatient = block_on(builder(&server, "t").deadline(Duration::from_millis(500)).open()).unwrap();
    done(&store, &(0..SESSIONS).map(|s| insert(s * 10_000, row(1))).collect::<Vec<_>>());
    let ended = AtomicBool::new(false);
    let confirmed: HashMap<u32, u32> = std::thread::scope(|scope| {
        let (impatient, ended) = (&impatient, &ended);
        let renewers: Vec<_> = (0..SESSIONS)
            .map(|s| {
                scope.spawn(move || {
                    let mut n = s * 10_000;
                    while !ended.load(Atomic::Relaxed) {
                        let version = u64::from(n % 10_000) + 1;
                        match commit(impatient, &[rekey(n, version, n + 1, row(version + 1))]) {
                            Ok(outcomes) if outcomes == [Outcome::Done] => n += 1,
                            // An attempt that failed has been made.
                            Ok(outcomes) if outcomes == [Outcome::Exists] => n += 1,
                            Ok(outcomes) => panic!("{outcomes:?}"),
                            Err(e) => assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}"),
                        }
                    }
                    (s, n)
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(700));
            server.kill();
            server.restart();
        }
        std::thread::sleep(Duration::from_millis(700));
        ended.store(true, Atomic::Relaxed);
        renewers.into_iter().map(|renewer| renewer.join().unwrap()).collect()
    });
    for (s, n) in confirmed {
        assert!(n > s * 10_000, "nothing was renewed");
        let there: Vec<_> = (s * 10_000..n + 3).filter(|n| load(&store, *n).is_some()).collect();
        assert!(there == [n] || there == [n + 1], "{there:?} and not {n}");
    }
}
