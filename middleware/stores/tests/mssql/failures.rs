//! Connections and servers that end, fall silent or come back, and callers that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::{Change, Outcome, Row, Store};
use sessile_stores::mssql::MssqlStore;

use super::{BOUND, loaded, open, run};
use crate::support::mssql::Fault;
use crate::support::relay::Relay;
use crate::support::{id, insert, row, update};

/// What had changed nothing is asked again over another connection; a change whose answer was lost is an error, and done
/// or not done as a whole.
#[test]
fn a_connection_that_ends_is_replaced() {
    run(async |server| {
        let store = Arc::new(open(&server).await);
        let _ = store.commit(1, &[insert(1, row(1))]).await.unwrap();
        for _ in 0..5 {
            server.kill_connections();
            assert_eq!(store.load(&id(1)).await.unwrap(), Some(row(1)));
        }
        // Four of them at once, and none that waits in the pool is asked after that.
        let before = server.count("load");
        server.fault("load", Fault::Half, 4);
        let loads: Vec<_> = (0..4)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.load(&id(1)).await })
            })
            .collect();
        while server.count("load") < before + 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.release();
        for load in loads {
            assert_eq!(load.await.unwrap().unwrap(), Some(row(1)));
        }
        server.kill_connections();
        assert_eq!(store.commit(1, &[insert(2, row(1))]).await.unwrap(), [Outcome::Done]);
        for (statement, fault) in [("load", Fault::CloseBefore), ("load", Fault::CloseAfter)] {
            server.fault(statement, fault, 1);
            assert_eq!(store.load(&id(1)).await.unwrap(), Some(row(1)));
        }
        server.fault("versions", Fault::CloseAfter, 1);
        assert_eq!(store.commit(1, &[update(1, 1, row(2))]).await.unwrap(), [Outcome::Done]);
        for (fault, found) in [(Fault::CloseBefore, 2), (Fault::CloseAfter, 3)] {
            server.fault("write", fault, 1);
            let both = [update(1, 2, row(3)), update(2, 1, row(3))];
            let e = store.commit(1, &both).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
            assert_eq!(store.load(&id(1)).await.unwrap().unwrap().version, found);
        }
        assert_eq!(store.load(&id(2)).await.unwrap().unwrap().version, 3);
        assert!(server.is_sound());
    });
}

/// Callers that go away at any moment leave no connection with another's answer.
#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    run(async |server| {
        let builder = MssqlStore::builder(server.url()).table("t").unwrap().pool_size(2).deadline(BOUND);
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        crate::support::leavers::leave_rows_as_they_were(&store).await;
    });
}

/// A call whose deadline ends inside of an answer: its connection is closed, and the next call works on another.
#[test]
fn a_deadline_inside_of_an_answer_costs_the_connection() {
    run(async |server| {
        let builder = MssqlStore::builder(server.url()).table("t").unwrap().pool_size(1);
        builder.clone().deadline(BOUND).migrate().await.unwrap();
        let store = builder.deadline(Duration::from_millis(400)).open().await.unwrap();
        let large = |n: u8| Row { bytes: vec![n; 20_000], ..row(u64::from(n)) };
        for n in 1..4 {
            while store.commit(1, &[insert(n, large(u8::try_from(n).unwrap()))]).await.is_err() {}
        }
        for statement in ["load", "versions", "write"] {
            let before = server.connections();
            server.fault(statement, Fault::Half, 1);
            let e = if statement == "load" {
                store.load(&id(1)).await.unwrap_err()
            } else {
                store.commit(1, &[Change::Delete { id: id(9) }]).await.unwrap_err()
            };
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
            // With the rest of the other answer on its way.
            for n in 2..4 {
                assert_eq!(loaded(&store, n).await.unwrap().version, u64::from(n));
                server.release();
            }
            assert!(server.connections() > before, "{statement}: it went back to the pool");
        }
    });
}

/// Connections on which nothing moves any more, with nobody to say so, do not keep their places in the pool.
#[test]
fn silent_connections_are_replaced() {
    run(async |server| {
        let relay = Relay::to(server.port());
        let builder = MssqlStore::builder(server.url_at(relay.port)).table("t").unwrap();
        builder.clone().deadline(BOUND).migrate().await.unwrap();
        let store = Arc::new(builder.pool_size(2).deadline(Duration::from_millis(500)).open().await.unwrap());
        while store.commit(1, &[insert(1, row(1))]).await.is_err() {}
        for _ in 0..3 {
            relay.hold();
            // Both connections, and a call that waits for one.
            let calls: Vec<_> = (0..3)
                .map(|_| {
                    let store = Arc::clone(&store);
                    tokio::spawn(async move { store.load(&id(1)).await })
                })
                .collect();
            for call in calls {
                if let Err(e) = call.await.unwrap() {
                    assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
                }
            }
            assert_eq!(loaded(&store, 1).await, Some(row(1)));
        }
    });
}

/// The server goes away under load and comes back: every failure is "unavailable", what was confirmed is there, and the
/// same store works again.
#[test]
fn a_server_that_ends_is_unavailable_and_comes_back() {
    run(async |server| {
        let store = Arc::new(open(&server).await);
        let ended = Arc::new(AtomicBool::new(false));
        let (confirmed, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writers: Vec<_> = (0..4_u32)
            .map(|w| {
                let (store, ended) = (Arc::clone(&store), Arc::clone(&ended));
                let (confirmed, failed) = (Arc::clone(&confirmed), Arc::clone(&failed));
                tokio::spawn(async move {
                    let mut mine = Vec::new();
                    let mut n = w * 1_000_000;
                    while !ended.load(Ordering::Relaxed) {
                        match store.commit(1, &[insert(n, row(1))]).await {
                            Ok(_) => {
                                mine.push(n);
                                confirmed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => {
                                assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
                                failed.fetch_add(1, Ordering::Relaxed);
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                        n += 1;
                    }
                    mine
                })
            })
            .collect();
        for _ in 0..3 {
            let before = confirmed.load(Ordering::Relaxed);
            while confirmed.load(Ordering::Relaxed) < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let before = failed.load(Ordering::Relaxed);
            server.kill();
            while failed.load(Ordering::Relaxed) < before + 4 {
                server.kill_connections();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.resume();
        }
        ended.store(true, Ordering::Relaxed);
        for writer in writers {
            for n in writer.await.unwrap() {
                assert!(store.load(&id(n)).await.unwrap().is_some(), "row {n} was confirmed");
            }
        }
        let _ = store.commit(1, &[insert(8_000_000, row(1))]).await.unwrap();
    });
}

#[test]
fn a_store_that_was_closed_says_so() {
    run(async |server| {
        let store = open(&server).await;
        store.close().await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
    });
}
