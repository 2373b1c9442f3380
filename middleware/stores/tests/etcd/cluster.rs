//! Three members: one of them dies, or stands still, and nothing that was answered is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// Writers go on while each member in turn is killed and comes back. What was answered is there; an insert that was
/// refused for want of an answer is there or not.
#[test]
fn a_member_that_dies_under_load_loses_nothing_that_was_answered() {
    const WRITERS: u32 = 4;
    let Some(mut cluster) = Cluster::start(3) else { return };
    let store = EtcdStore::builder(&cluster.url()).deadline(Duration::from_secs(6)).connect().unwrap();
    let over = AtomicBool::new(false);
    let written: Vec<(Vec<u32>, u64)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (store, over) = (&store, &over);
                scope.spawn(move || {
                    let (mut answered, mut version) = (Vec::new(), 1);
                    while commit(store, &[insert(w, row(1))]).is_err() {}
                    for n in 1.. {
                        if over.load(Ordering::Acquire) {
                            break;
                        }
                        let n = n * WRITERS + w;
                        if commit(store, &[insert(n, owned(1, "u"))]).is_ok_and(|o| o == [Outcome::Done]) {
                            answered.push(n);
                        }
                        // A counter by compare-and-set: what failed may have been done.
                        match commit(store, &[update(w, version, row(version + 1))]) {
                            Ok(outcomes) if outcomes == [Outcome::Done] => version += 1,
                            Ok(outcomes) => assert_eq!(outcomes, [Outcome::Conflict { found: version + 1 }]),
                            Err(_) => {
                                if let Ok(Some(row)) = block_on(store.load(&id(w))) {
                                    assert!(row.version == version || row.version == version + 1);
                                    version = row.version;
                                }
                            }
                        }
                    }
                    (answered, version)
                })
            })
            .collect();
        for n in 0..3 {
            std::thread::sleep(Duration::from_millis(500));
            cluster.kill(n);
            // The two that are left serve.
            assert!(soon(|| commit(&store, &[put(1_000_000 + n as u32, row(1))]).is_ok()), "without {n}");
            std::thread::sleep(Duration::from_millis(500));
            cluster.restart(n, false);
        }
        over.store(true, Ordering::Release);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let mut all = 0;
    for (w, (answered, version)) in (0..).zip(written) {
        all += answered.len();
        for n in answered {
            assert_eq!(load(&store, n), Some(owned(1, "u")), "{n} was answered");
        }
        let found = load(&store, w).unwrap().version;
        assert!(found == version || found == version + 1, "{found}, not {version}");
    }
    assert!(all > 10, "only {all} were answered");
    println!("three members of etcd, each killed once: {all} answered inserts all there");
}

#[test]
fn without_a_majority_nothing_is_answered() {
    let Some(mut cluster) = Cluster::start(3) else { return };
    let store = open(&cluster);
    done(&store, &[insert(1, row(1))]);
    cluster.kill(0);
    cluster.kill(1);
    let start = Instant::now();
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    // Not even what the last one has: it may be old.
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    cluster.restart(0, false);
    assert!(soon(|| block_on(store.load(&id(1))).is_ok()));
    let found = load(&store, 1).unwrap().version;
    assert!(found == 1 || found == 2, "{found}");
}

#[test]
fn a_member_that_stands_still_is_left_for_another() {
    let Some(cluster) = Cluster::start(3) else { return };
    let store = open(&cluster);
    done(&store, &[insert(1, row(1))]);
    for n in 0..3 {
        cluster.freeze(n, true);
        assert!(soon(|| block_on(store.load(&id(1))).is_ok()), "reading without {n}");
        recovers(&store, 10 + n as u32);
        cluster.freeze(n, false);
    }
}
