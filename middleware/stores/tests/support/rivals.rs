//! Writers over one table that are in each other's way. Of no store in particular.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sessile_engine::store::{Outcome, Store};

use super::{id, insert, row, update};

const ROUNDS: u32 = 40;

/// Batches over the same rows in opposite orders, through both stores: without one order of locks they would wait for
/// each other. All are answered, and each change that was accepted is there exactly once.
pub async fn all_get_through<A: Store + 'static, B: Store + 'static>(ours: A, theirs: B) {
    let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
    let _ = ours.commit(1, &(0..20).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await.unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8_u32)
        .map(|w| {
            let (ours, theirs, done) = (Arc::clone(&ours), Arc::clone(&theirs), Arc::clone(&done));
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let mut changes = Vec::new();
                    for n in 0..20 {
                        let n = if w % 4 < 2 { n } else { 19 - n };
                        let version = ours.load(&id(n)).await.unwrap().map_or(0, |row| row.version);
                        changes.push(update(n, version, row(version + 1)));
                        // New rows too, by two writers each.
                        changes.push(insert(1000 + round * 20 + n, row(1)));
                    }
                    let outcomes = match w % 2 {
                        0 => ours.commit(1, &changes).await.unwrap(),
                        _ => theirs.commit(1, &changes).await.unwrap(),
                    };
                    let accepted = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
                    done.fetch_add(accepted as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut versions = 0;
    for n in 0..20 {
        versions += ours.load(&id(n)).await.unwrap().unwrap().version - 1;
    }
    assert_eq!(ours.count().await.unwrap(), Some(u64::from(20 + 20 * ROUNDS)));
    assert_eq!(done.load(Ordering::Relaxed), versions + u64::from(20 * ROUNDS));
}
