//! Writers that are in each other's way: all get through, one of many wins, and what the service aborts is sent again.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Of 64 who change a row at the version that they have read, one wins each time; of 64 who add a row, one does.
#[test]
fn of_sixty_four_one_wins() {
    const MANY: u64 = 64;
    const ROUNDS: u64 = 6;
    let server = Server::start();
    let stores = [open(&server), open(&server)];
    done(&stores[0], &[insert(1, row(1))]);
    let barrier = Barrier::new(MANY as usize);
    let (won, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..MANY {
            let (store, barrier, won, lost) = (&stores[n as usize % 2], &barrier, &won, &lost);
            scope.spawn(move || {
                for version in 1..=ROUNDS {
                    barrier.wait();
                    match commit(store, &[update(1, version, row(version + 1))]).unwrap()[..] {
                        [Outcome::Done] => won.fetch_add(1, Ordering::Relaxed),
                        [Outcome::Conflict { found }] if found == version + 1 => {
                            lost.fetch_add(1, Ordering::Relaxed)
                        }
                        ref other => panic!("{other:?}"),
                    };
                    barrier.wait();
                    match commit(store, &[insert(100 + version as u32, row(n + 1))]).unwrap()[..] {
                        [Outcome::Done] => won.fetch_add(1, Ordering::Relaxed),
                        [Outcome::Exists] => lost.fetch_add(1, Ordering::Relaxed),
                        ref other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    assert_eq!((won.into_inner(), lost.into_inner()), (2 * ROUNDS, 2 * ROUNDS * (MANY - 1)));
    assert_eq!(load(&stores[1], 1), Some(row(ROUNDS + 1)));
}

/// Of all who renew a session at once one wins, so that it has one id in the end; a change at its version in between wins
/// over the renewal, or comes too late.
#[test]
fn of_many_renewals_one_wins() {
    const MANY: u32 = 8;
    const SESSIONS: u32 = 40;
    let server = Server::start();
    let stores = [open(&server), open(&server)];
    for n in 0..SESSIONS {
        done(&stores[0], &[insert(n, owned(1, "a"))]);
        let barrier = Barrier::new(MANY as usize + 1);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let renewals: Vec<_> = (0..MANY)
                .map(|w| {
                    let (store, barrier) = (&stores[w as usize % 2], &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        commit(store, &[rekey(n, 1, 1000 + n * 100 + w, owned(2, "a"))]).unwrap()[0]
                    })
                })
                .collect();
            let change = scope.spawn(|| {
                barrier.wait();
                commit(&stores[1], &[update(n, 1, owned(5, "a"))]).unwrap()[0]
            });
            let changed = change.join().unwrap();
            let renewed: Vec<_> = renewals.into_iter().map(|renewal| renewal.join().unwrap()).collect();
            let winners = renewed.iter().filter(|outcome| **outcome == Outcome::Done).count();
            match changed {
                Outcome::Done => assert_eq!(winners, 0, "{renewed:?}"),
                Outcome::Missing => assert_eq!(winners, 1, "{renewed:?}"),
                other => panic!("{other:?}"),
            }
            renewed
        });
        let lost = outcomes.iter().filter(|outcome| **outcome != Outcome::Done);
        assert!(
            lost.clone().all(|o| matches!(o, Outcome::Missing | Outcome::Conflict { found: 5 })),
            "{outcomes:?}"
        );
        let ids = (0..MANY).map(|w| 1000 + n * 100 + w).chain([n]);
        assert_eq!(ids.filter(|n| load(&stores[0], *n).is_some()).count(), 1);
    }
    assert_eq!(block_on(stores[1].list_owner("a")).unwrap().len(), SESSIONS as usize);
}

/// Who looks while a session is renewed again and again finds one of its ids: the two documents change in one step.
#[test]
fn who_looks_during_renewals_finds_one_row() {
    const RENEWALS: u32 = 100;
    let server = Server::start();
    let (store, other) = (open(&server), open(&server));
    done(&store, &[insert(0, row(1))]);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0_u32;
            while !ended.load(Ordering::Relaxed) || looks == 0 {
                assert_eq!(block_on(other.list(None, 10)).unwrap().len(), 1);
                assert_eq!(block_on(other.count()).unwrap(), Some(1));
                looks += 1;
            }
        });
        for n in 0..RENEWALS {
            done(&store, &[rekey(n, u64::from(n) + 1, n + 1, row(u64::from(n) + 2))]);
        }
        ended.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
    assert_eq!(load(&store, RENEWALS), Some(row(u64::from(RENEWALS) + 1)));
}

/// Commits of many rows that overlap, in two orders: no change is lost and none is made twice.
#[test]
fn writers_in_each_others_way_all_get_through() {
    let server = Server::start();
    let stores = [open(&server), open(&server)];
    done(&stores[0], &(0..12).map(|n| insert(n, row(1))).collect::<Vec<_>>());
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for w in 0..6_u32 {
            let (store, made) = (&stores[w as usize % 2], &made);
            scope.spawn(move || {
                for round in 0..12_u32 {
                    let mut changes = Vec::new();
                    for n in 0..12 {
                        let n = if w % 2 == 0 { n } else { 11 - n };
                        let version = load(store, n).unwrap().version;
                        changes.push(update(n, version, row(version + 1)));
                        changes.push(insert(1000 + round * 20 + n, row(1)));
                    }
                    let done = commit(store, &changes).unwrap();
                    let done = done.into_iter().filter(|outcome| *outcome == Outcome::Done).count();
                    made.fetch_add(done as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let versions: u64 = (0..12).map(|n| load(&stores[0], n).unwrap().version - 1).sum();
    assert_eq!(made.into_inner(), versions + 12 * 12);
}

/// Two sweeps at once remove every row that is due once, and no other.
#[test]
fn two_sweeps_at_once_count_each_row_once() {
    const DUE: u32 = 700;
    let server = Server::start();
    let stores = [open(&server), open(&server)];
    let at = |n: u32| Row { expires_at: if n < DUE { 5 } else { NOW }, ..row(1) };
    done(&stores[0], &(0..DUE + 50).map(|n| insert(n, at(n))).collect::<Vec<_>>());
    let removed: u64 = std::thread::scope(|scope| {
        let sweeps = stores
            .each_ref()
            .map(|store| scope.spawn(move || block_on(store.expire(9, 0, 10_000)).unwrap().removed));
        sweeps.into_iter().map(|sweep| sweep.join().unwrap()).sum()
    });
    assert_eq!(removed, u64::from(DUE));
    assert_eq!(block_on(stores[0].count()).unwrap(), Some(50));
}

/// What the service aborts was not made and is sent again; not for ever.
#[test]
fn contention_is_waited_for_and_then_told() {
    let server = Server::start();
    let store = open(&server);
    done(&store, &[insert(1, row(1)), insert(2, Row { expires_at: 5, ..row(1) })]);
    let sent = server.count("commit");
    server.fault("commit", Fault::Refuse(Code::Aborted), 3);
    done(&store, &[update(1, 1, row(2))]);
    assert_eq!(server.count("commit"), sent + 4);
    server.fault("commit", Fault::Refuse(Code::Aborted), 2);
    assert_eq!(block_on(store.expire(9, 0, 10)).unwrap().removed, 1);
    server.fault("commit", Fault::Refuse(Code::Aborted), 2);
    assert!(block_on(builder_at(&server.url()).migrate()).is_ok());
    let sent = server.count("commit");
    server.fault("commit", Fault::Refuse(Code::Aborted), 1000);
    assert_eq!(kind(commit(&store, &[update(1, 2, row(3))])), StoreErrorKind::Unavailable);
    assert!((2..=10).contains(&(server.count("commit") - sent)), "it gives up");
    assert_eq!(load(&store, 1), Some(row(2)));
}

/// What the service says of a precondition is never taken for an outcome: the row is looked at.
#[test]
fn a_refused_precondition_is_looked_at_again() {
    let server = Server::start();
    let store = open(&server);
    done(&store, &[insert(1, row(1))]);
    for (n, code) in (2..).zip([Code::FailedPrecondition, Code::NotFound, Code::AlreadyExists]) {
        server.fault("commit", Fault::Refuse(code), 2);
        done(&store, &[update(1, n - 1, row(n)), insert(10 * n as u32, row(1))]);
        server.fault("commit", Fault::Refuse(code), 1);
        assert_eq!(commit(&store, &[insert(1, row(9))]).unwrap(), [Outcome::Exists]);
    }
    assert!(server.is_sound());
}
