//! Many at the same row at once: exactly one wins, and who looks sees no state in between.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const RACERS: u32 = 64;

/// What each of [`RACERS`] threads was told, all of which began at once.
fn race(change: impl Fn(u32) -> Change + Sync, stores: &[DynamoStore]) -> Vec<Outcome> {
    let start = std::sync::Barrier::new(RACERS as usize);
    std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let (start, change) = (&start, &change);
                let store = &stores[n as usize % stores.len()];
                scope.spawn(move || {
                    start.wait();
                    let outcomes = commit(store, &[change(n)]).unwrap();
                    assert_eq!(outcomes.len(), 1);
                    outcomes[0]
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn winners(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count()
}

#[test]
fn of_many_insertions_updates_and_renewals_one_wins() {
    let Some(server) = Server::any() else { return };
    let stores = [open(&server, "t"), open(&server, "t")];
    for round in 0..3 {
        let n = round * 1000;
        let bytes = |w: u32, version| Row { bytes: w.to_le_bytes().to_vec(), ..owned(version, "u") };
        let outcomes = race(|w| insert(n, bytes(w, 1)), &stores);
        assert_eq!(winners(&outcomes), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Exists).count(), 63);

        let outcomes = race(|w| update(n, 1, bytes(w, 2)), &stores);
        assert_eq!(winners(&outcomes), 1, "{outcomes:?}");
        let lost = Outcome::Conflict { found: 2 };
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == lost).count(), 63, "{outcomes:?}");
        let winner = outcomes.iter().position(|outcome| *outcome == Outcome::Done).unwrap() as u32;
        assert_eq!(load(&stores[0], n), Some(bytes(winner, 2)), "the winner's row");

        let outcomes = race(|w| rekey(n, 2, n + 1 + w, bytes(w, 3)), &stores);
        assert_eq!(winners(&outcomes), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Missing).count(), 63);
        let winner = outcomes.iter().position(|outcome| *outcome == Outcome::Done).unwrap() as u32;
        let there: Vec<_> = (n..=n + RACERS).filter(|n| load(&stores[1], *n).is_some()).collect();
        assert_eq!(there, [n + 1 + winner]);

        // To one id, with one content: still one.
        let from = n + 1 + winner;
        let outcomes = race(|_| rekey(from, 3, n + 900, bytes(0, 4)), &stores);
        assert_eq!(winners(&outcomes), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Exists).count(), 63);
        done(&stores[0], &[Change::Delete { id: id(n + 900) }]);
    }
    assert!(block_on(stores[0].list(None, 10)).unwrap().is_empty(), "nothing is left of those that lost");
}

/// Renewals against updates and removals of the same session: it has one id or has ended.
#[test]
fn renewals_updates_and_removals_at_once_leave_one_row_or_none() {
    let Some(server) = Server::any() else { return };
    let stores = [open(&server, "t"), open(&server, "t")];
    for round in 0..8 {
        let n = round * 1000;
        done(&stores[0], &[insert(n, row(1))]);
        let outcomes = race(
            |w| match w % 4 {
                0 => update(n, 1, row(2)),
                3 if w == 63 => Change::Delete { id: id(n) },
                _ => rekey(n, 1, n + 1 + w, row(2)),
            },
            &stores,
        );
        let there: Vec<_> = (n..=n + RACERS).filter(|n| load(&stores[0], *n).is_some()).collect();
        let changes = winners(&outcomes[..63]);
        assert!(changes <= 1, "{outcomes:?}");
        assert!(there.len() <= 1, "{there:?}");
        let moved = (0..63).find(|w| w % 4 != 0 && outcomes[*w as usize] == Outcome::Done);
        match moved {
            Some(w) => assert_eq!(there, [n + 1 + w], "a removal under the old id ends nothing"),
            None => assert!(there.is_empty(), "it was removed: {outcomes:?}"),
        }
    }
}

/// Whoever looks while a session is renewed again and again finds one of the two ids, not both and not none; and so does who
/// lists the sessions of its owner.
#[test]
fn who_looks_during_renewals_finds_the_session() {
    const RENEWALS: u32 = 100;
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    let other = open(&server, "t");
    done(&store, &[insert(0, owned(1, "u"))]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut n, mut looks) = (0, 0_u32);
            while n < RENEWALS && !ended.load(Ordering::Relaxed) {
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
        });
        for n in 0..RENEWALS {
            done(&store, &[rekey(n, u64::from(n) + 1, n + 1, owned(u64::from(n) + 2, "u"))]);
        }
        ended.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(load(&store, RENEWALS), Some(owned(u64::from(RENEWALS) + 1, "u")));
    assert_eq!(block_on(store.list(None, 10)).unwrap().len(), 1);
}

/// Sweeps of two engines at once remove each row once, and none that got another time.
#[test]
fn sweeps_at_once_remove_each_row_once() {
    const ROWS: u32 = 200;
    let Some(server) = Server::any() else { return };
    let stores = [open(&server, "t"), open(&server, "t")];
    let due = |version, at| Row { expires_at: at, ..row(version) };
    done(&stores[0], &(0..ROWS).map(|n| insert(n, due(1, NOW + u64::from(n)))).collect::<Vec<_>>());
    let removed: u64 = std::thread::scope(|scope| {
        let sweeps: Vec<_> = stores
            .iter()
            .map(|store| {
                scope.spawn(move || {
                    let mut removed = 0;
                    loop {
                        let swept = block_on(store.expire(NOW + 10_000, 0, 30)).unwrap();
                        removed += swept.removed;
                        if !swept.more {
                            return removed;
                        }
                    }
                })
            })
            .collect();
        // Touched meanwhile: what an update has met stays.
        let touched: HashSet<_> = (0..ROWS)
            .rev()
            .filter(|n| {
                commit(&stores[0], &[update(*n, 1, due(2, NOW + 900_000))]).unwrap() == [Outcome::Done]
            })
            .collect();
        let removed = sweeps.into_iter().map(|sweep| sweep.join().unwrap()).sum();
        let left = block_on(stores[1].list(None, 1000)).unwrap();
        assert_eq!(left.iter().filter(|listed| listed.row.version == 2).count(), touched.len());
        assert_eq!(removed + left.len() as u64, u64::from(ROWS));
        removed
    });
    assert!(removed > 0);
}
