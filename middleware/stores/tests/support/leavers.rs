//! Callers that leave at any moment of their call, between callers that stay and know what they must be told. Of no store
//! in particular.

use std::task::{Context, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::{Outcome, Store};

use super::process::soon;
use super::{id, insert, row, update};

const NOW: u64 = 3_000_000_000_000;
const ROWS: u32 = 100;
const WORKERS: u32 = 4;

/// Nobody gets the answer to a call that was dropped, and what was sent is done although nobody waits for it.
pub fn leave_no_answers<S: Store>(store: &S, rounds: u32) {
    let version = |n: u32| u64::from(n) + 1;
    let own = |worker: u32, round: u32| 1000 + worker * 1000 + round;
    assert!(rounds <= 1000, "each call has an id of its own");
    let rows: Vec<_> = (0..ROWS).map(|n| insert(n, row(version(n)))).collect();
    assert_eq!(block_on(store.commit(NOW, &rows)).unwrap(), vec![Outcome::Done; rows.len()]);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                for round in 0..rounds {
                    let n = (round * 7 + worker * 31) % ROWS;
                    let wanted = id((n + 50) % ROWS);
                    let new = [insert(own(worker, round), row(1))];
                    let mut load_dropped = Box::pin(store.load(&wanted));
                    let mut commit_dropped = Box::pin(store.commit(NOW, &new));
                    let mut context = Context::from_waker(Waker::noop());
                    let _ = load_dropped.as_mut().poll(&mut context);
                    let _ = commit_dropped.as_mut().poll(&mut context);
                    if round % 3 == 0 {
                        std::thread::yield_now();
                    }
                    drop((load_dropped, commit_dropped));
                    assert_eq!(block_on(store.load(&id(n))).unwrap(), Some(row(version(n))), "row {n}");
                    if round % 10 == 0 {
                        let refused = block_on(store.commit(NOW, &[update(n, 9999, row(1))])).unwrap();
                        assert_eq!(refused, [Outcome::Conflict { found: version(n) }]);
                    }
                }
            });
        }
    });
    let is_there = |n| block_on(store.load(&id(n))).unwrap() == Some(row(1));
    assert!(soon(|| (0..WORKERS).all(|worker| (0..rounds).all(|round| is_there(own(worker, round))))));
    if store.capabilities().list {
        let all = (ROWS + WORKERS * rounds) as usize;
        assert_eq!(block_on(store.list(None, 2 * all)).unwrap().len(), all, "nothing else was made");
    }
}

/// Callers that give up after a time of each length up to two milliseconds: the rows are as they were, and who asks in
/// between is told what they are.
pub async fn leave_rows_as_they_were<S: Store>(store: &S) {
    let version = |n: u32| u64::from(n) + 1;
    for n in 0..ROWS {
        let _ = store.commit(1, &[insert(n, row(version(n)))]).await.unwrap();
    }
    for round in 0..3000 {
        let n = round % ROWS;
        let wanted = id(n);
        let call = async {
            match round % 3 {
                0 => drop(store.load(&wanted).await),
                1 => drop(store.list(None, 50).await),
                _ => drop(store.commit(1, &[insert(1000 + round, row(1))]).await),
            }
        };
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(round % 97) * 20), call).await;
        if round % 50 == 0 {
            assert_eq!(store.load(&wanted).await.unwrap().unwrap().version, version(n));
        }
    }
    for n in 0..ROWS {
        assert_eq!(store.load(&id(n)).await.unwrap().unwrap().version, version(n));
    }
}
