//! The SQL Server store against a test double, which speaks its protocol and keeps rows in SQLite: the conformance suite,
//! servers that end, callers that go away, writers that are in each other's way, and TLS. The suite runs against the server
//! that `SESSILE_TEST_MSSQL` names, if it names one.
#![cfg(all(feature = "mssql", feature = "sqlite"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store};
use sessile_stores::mssql::MssqlStore;
use support::mssql::{DATABASE, Fault, PASSWORD, Server, USER, encoded};
use support::relay::Relay;
use support::{id, insert, owned, row, update};

const BOUND: Duration = Duration::from_secs(20);
const NAMED: &str = "SESSILE_TEST_MSSQL";

async fn open_at(url: &str, table: &str) -> MssqlStore {
    let builder = MssqlStore::builder(url).table(table).unwrap().deadline(BOUND);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

async fn open(server: &Server) -> MssqlStore {
    open_at(&server.url(), "t").await
}

fn run(test: impl AsyncFnOnce(Server)) {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(server));
}

/// The row, from a store of a short deadline: a machine that is busy may need some attempts.
async fn loaded(store: &MssqlStore, n: u32) -> Option<Row> {
    for _ in 0..50 {
        if let Ok(row) = store.load(&id(n)).await {
            return row;
        }
    }
    panic!("row {n} is never loaded");
}

fn conforms_at(url: &str, prefix: &str, server: &str) {
    // No runtime here: the store has its own.
    support::conforms("Microsoft SQL Server", server, async |n| {
        let again = (url.to_owned(), format!("{prefix}case_{n}"));
        Subject::new(open_at(&again.0, &again.1).await).reopened_by(move || {
            let (url, table) = again.clone();
            Box::pin(async move { Subject::new(open_at(&url, &table).await) })
        })
    });
}

#[test]
fn conformance() {
    let server = format!("TDS over SQLite {}, double", rusqlite::version());
    conforms_at(&Server::start().url(), "", &server);
}

/// It leaves its tables, whose names begin with `sessile_test_`.
#[test]
fn conformance_of_the_server_that_is_named() {
    match std::env::var(NAMED) {
        Ok(url) if !url.is_empty() => {
            conforms_at(&url, &format!("sessile_test_{}_", std::process::id()), "SQL Server, real");
        }
        _ => support::skipped("no SQL Server can be installed, and SESSILE_TEST_MSSQL names none"),
    }
}

#[test]
fn it_is_opened_with_its_tables_only() {
    run(async |server| {
        let builder = MssqlStore::builder(server.url()).table("absent").unwrap().deadline(BOUND);
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::Config);
        let nodes: Vec<_> = (0..8)
            .map(|_| {
                let builder = builder.clone();
                tokio::spawn(async move { builder.migrate().await })
            })
            .collect();
        for node in nodes {
            node.await.unwrap().unwrap();
        }
        builder.clone().open().await.unwrap();
        for (version, kind) in [(2, StoreErrorKind::NewerFormat), (0, StoreErrorKind::Config)] {
            let version = format!("UPDATE absent_marks SET value = {version} WHERE slot = -1");
            assert_eq!(server.rows().execute(&version, []).unwrap(), 1);
            builder.migrate().await.unwrap();
            assert_eq!(builder.clone().open().await.unwrap_err().kind(), kind);
        }
        // Who is second to make them may be told so by the server.
        server.fault("schema", Fault::Error(2714), 2);
        builder.table("app.other").unwrap().migrate().await.unwrap();
        assert!(server.is_sound());
    });
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_without_the_password() {
    run(async |server| {
        let wrong = "n0t-the-password";
        for (url, kind) in [
            (server.url().replace(&encoded(PASSWORD), wrong), StoreErrorKind::Config),
            (server.url().replace(DATABASE, "nowhere"), StoreErrorKind::Config),
            (format!("mssql://tester:{wrong}@127.0.0.1:99999/x"), StoreErrorKind::Config),
            (format!("nssql://tester:{wrong}@127.0.0.1/x"), StoreErrorKind::Config),
            (format!("mssql://tester:{wrong}@127.0.0.1/x?{wrong}=1"), StoreErrorKind::Config),
            (wrong.to_owned(), StoreErrorKind::Config),
            (format!("mssql://tester:{wrong}@127.0.0.1:1/x?encrypt=false"), StoreErrorKind::Unavailable),
            // It is encrypted unless the URL says otherwise, and this server does not encrypt.
            (server.url().replace("?encrypt=false", ""), StoreErrorKind::Config),
        ] {
            let builder = MssqlStore::builder(url).deadline(BOUND);
            assert!(!format!("{builder:?}").contains(wrong));
            let e = builder.open().await.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            let said = format!("{e} {e:?}");
            assert!(!said.contains(wrong) && !said.contains(PASSWORD), "{said}");
        }
        assert!(!format!("{:?}", open(&server).await).contains(PASSWORD));
    });
}

#[test]
fn the_table_holds_what_it_says() {
    run(async |server| {
        let store = open(&server).await;
        let mut later = Row { expires_at: 4_000_000_123_456, ..owned(2, "Ann") };
        later.bytes = (0..=255).cycle().take(3 << 20).collect();
        let _ = store.commit(1, &[insert(1, row(1)), update(1, 1, later.clone())]).await.unwrap();
        assert!(store.load(&id(1)).await.unwrap() == Some(later));
        let held =
            server.rows().query_row("SELECT version, expires_at, CAST(owner AS TEXT) FROM t", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
            });
        assert_eq!(held.unwrap(), (2, 4_000_000_123_456, "Ann".to_owned()));
        for other in ["ann", "Ann ", "ANN", "Ánn", "Ann\0", ""] {
            assert!(store.list_owner(other).await.unwrap().is_empty());
        }
        assert_eq!(store.list_owner("Ann").await.unwrap().len(), 1);
        let _ = store.commit(5, &[Change::Quarantine { id: id(1) }]).await.unwrap();
        let aside = server.rows().query_row("SELECT version, quarantined_at FROM t_quarantine", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(aside.unwrap(), (2, 5));
    });
}

/// Versions, times and marks are unsigned, and never is the largest of them.
#[test]
fn numbers_beyond_63_bits_keep_their_order() {
    run(async |server| {
        let store = open(&server).await;
        let never = |version| Row { expires_at: u64::MAX, ..row(version) };
        let far = Row { expires_at: 1 << 63, ..row(u64::MAX - 1) };
        let _ =
            store.commit(7, &[insert(1, never(1)), insert(2, far.clone()), insert(3, row(1))]).await.unwrap();
        assert!(store.load(&id(2)).await.unwrap() == Some(far));
        assert_eq!(store.expire(i64::MAX.cast_unsigned(), 8, 10).await.unwrap().removed, 1);
        let expired = store.expire((1 << 63) + 1, 1 << 63, 10).await.unwrap();
        assert_eq!((expired.removed, expired.more), (1, false));
        assert_eq!(store.high_water().await.unwrap(), 1 << 63);
        let _ = store.commit(9, &[update(1, 1, never(u64::MAX))]).await.unwrap();
        assert_eq!(store.high_water().await.unwrap(), 1 << 63);
        assert_eq!(store.load(&id(1)).await.unwrap(), Some(never(u64::MAX)));
    });
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_and_named_by_a_scan() {
    run(async |server| {
        let store = open(&server).await;
        let _ = store.commit(1, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>()).await.unwrap();
        let damage = "UPDATE t SET owner = x'ff' WHERE id = ?1";
        assert_eq!(server.rows().execute(damage, [id(4).as_bytes().as_slice()]).unwrap(), 1);
        assert_eq!(store.load(&id(4)).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        let scan = store.scan(None, 100).await.unwrap();
        assert_eq!((scan.rows.len(), scan.damaged), (8, vec![id(4)]));
        assert_eq!(store.list(None, 8).await.unwrap().len(), 8);
    });
}

#[test]
fn a_commit_is_two_exchanges_of_any_number_of_rows() {
    run(async |server| {
        let store = open(&server).await;
        let before = (server.count("versions"), server.count("write"));
        let rows: Vec<_> = (0..500).map(|n| insert(n, owned(1, "a"))).collect();
        let _ = store.commit(1, &rows).await.unwrap();
        assert_eq!((server.count("versions"), server.count("write")), (before.0 + 1, before.1 + 1));
        // More than a transaction takes.
        let many: Vec<_> = (0..10_000).map(|n| Change::Delete { id: id(n) }).collect();
        assert_eq!(store.commit(1, &many).await.unwrap().len(), 10_000);
        assert_eq!(server.count("write"), before.1 + 4);
        assert_eq!(store.count().await.unwrap(), Some(0));
    });
}

/// Of all who change a row at the version that they have read, one wins each time.
#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server| {
        let stores = [open(&server).await, open(&server).await].map(Arc::new);
        let _ = stores[0].commit(1, &(0..20).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await.unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..8_u32)
            .map(|w| {
                let (store, done) = (Arc::clone(&stores[w as usize % 2]), Arc::clone(&done));
                tokio::spawn(async move {
                    for round in 0..20_u32 {
                        let mut changes = Vec::new();
                        for n in 0..20 {
                            let n = if w % 2 == 0 { n } else { 19 - n };
                            let version = store.load(&id(n)).await.unwrap().map_or(0, |row| row.version);
                            changes.push(update(n, version, row(version + 1)));
                            changes.push(insert(1000 + round * 20 + n, row(1)));
                        }
                        for outcome in store.commit(1, &changes).await.unwrap() {
                            if outcome == Outcome::Done {
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mut versions = 0;
        for n in 0..20 {
            versions += stores[0].load(&id(n)).await.unwrap().unwrap().version - 1;
        }
        assert_eq!(stores[0].count().await.unwrap(), Some(420));
        assert_eq!(done.load(Ordering::Relaxed), versions + 400);
    });
}

/// A session whose id is renewed by two at once has one id in the end.
#[test]
fn of_two_renewals_one_wins() {
    run(async |server| {
        let stores = [open(&server).await, open(&server).await].map(Arc::new);
        for n in 0..100 {
            let _ = stores[0].commit(1, &[insert(n, owned(1, "a"))]).await.unwrap();
            let renewals: Vec<_> = [1000, 2000]
                .into_iter()
                .zip(&stores)
                .map(|(base, store)| {
                    let renewal = Change::Rekey {
                        from: id(n),
                        expected: Some(1),
                        to: id(base + n),
                        row: owned(2, "a"),
                    };
                    let store = Arc::clone(store);
                    tokio::spawn(async move { store.commit(1, &[renewal]).await.unwrap()[0] })
                })
                .collect();
            let mut outcomes = Vec::new();
            for renewal in renewals {
                outcomes.push(renewal.await.unwrap());
            }
            outcomes.sort_by_key(|outcome| *outcome != Outcome::Done);
            assert_eq!(outcomes, [Outcome::Done, Outcome::Missing]);
        }
        assert_eq!(stores[0].list_owner("a").await.unwrap().len(), 100);
    });
}

/// A deadlock's victim, and who met a key that was not there a moment ago: both look again.
#[test]
fn a_deadlock_or_a_key_of_somebody_else_is_retried() {
    run(async |server| {
        let store = open(&server).await;
        server.fault("write", Fault::Error(1205), 3);
        server.fault("versions", Fault::Error(1205), 1);
        assert_eq!(store.commit(1, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        let _ = store.commit(1, &[insert(2, Row { expires_at: 5, ..row(1) })]).await.unwrap();
        server.fault("write", Fault::Error(2627), 2);
        assert_eq!(
            store.commit(1, &[insert(1, row(1)), insert(3, row(1))]).await.unwrap(),
            [Outcome::Exists, Outcome::Done]
        );
        server.fault("expire", Fault::Error(1205), 2);
        assert_eq!(store.expire(9, 9, 10).await.unwrap().removed, 1);
        server.fault("load", Fault::Error(1205), 2);
        assert!(store.load(&id(1)).await.unwrap().is_some());
        assert!(server.is_sound());
        // Others are not, and have applied nothing.
        for (number, kind) in [
            (1222, StoreErrorKind::Unavailable),
            (229, StoreErrorKind::Config),
            (9002, StoreErrorKind::Full),
            (824, StoreErrorKind::Corrupt),
        ] {
            server.fault("write", Fault::Error(number), 1);
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
        }
        assert_eq!(store.load(&id(1)).await.unwrap(), Some(row(1)));
    });
}

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
        let store = Arc::new(builder.open().await.unwrap());
        for n in 0..100 {
            let _ = store.commit(1, &[insert(n, row(u64::from(n) + 1))]).await.unwrap();
        }
        for round in 0..3000_u32 {
            let n = round % 100;
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
                assert_eq!(store.load(&wanted).await.unwrap().unwrap().version, u64::from(n) + 1);
            }
        }
        for n in 0..100 {
            assert_eq!(store.load(&id(n)).await.unwrap().unwrap().version, u64::from(n) + 1);
        }
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

/// What the store says it takes, it takes.
#[test]
fn the_largest_rows_and_batches_fit() {
    run(async |server| {
        let builder = MssqlStore::builder(server.url()).deadline(10 * BOUND).table("t").unwrap();
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        let most = store.capabilities().max_row_bytes;
        let large = |version| Row { bytes: vec![0xA5; most], ..owned(version, &"o".repeat(255)) };
        let _ = store.commit(1, &[insert(1, large(1)), insert(3, row(1))]).await.unwrap();
        let changes = [update(1, 1, large(2)), Change::Delete { id: id(3) }];
        assert_eq!(store.commit(1, &changes).await.unwrap(), [Outcome::Done; 2]);
        assert!(store.load(&id(1)).await.unwrap() == Some(large(2)));
        let larger = Row { bytes: vec![0; most + 1], ..row(1) };
        let e = store.commit(1, &[insert(4, larger)]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::TooLarge);
        // More bytes than a transaction takes.
        let half = |n| insert(n, Row { bytes: vec![7; most], ..row(1) });
        assert_eq!(
            store.commit(1, &(10..15).map(half).collect::<Vec<_>>()).await.unwrap(),
            [Outcome::Done; 5]
        );
        let ends: Vec<_> = (0..20).map(|n| Change::Quarantine { id: id(n) }).collect();
        let _ = store.commit(1, &ends).await.unwrap();
        assert_eq!(store.count().await.unwrap(), Some(0));
        let aside = "SELECT count(*), max(length(bytes)) FROM t_quarantine";
        let aside: (i64, i64) =
            server.rows().query_row(aside, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(aside, (6, i64::try_from(most).unwrap()));
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

/// Over TLS in both ways, and only with a server whose authority the system trusts.
#[cfg(feature = "tls-rustls")]
#[test]
fn over_tls_the_system_says_whom_to_trust() {
    const CHILD: &str = "SESSILE_TEST_MSSQL_OVER_TLS";
    let connect = |url: &str| {
        let store = MssqlStore::builder(url).deadline(BOUND);
        pollster::block_on(async {
            store.migrate().await?;
            let store = store.open().await?;
            let large = Row { bytes: vec![7; 100_000], ..row(1) };
            let _ = store.commit(1, &[Change::Delete { id: id(1) }]).await?;
            let outcomes = store.commit(1, &[insert(1, large.clone())]).await?;
            assert!(store.load(&id(1)).await? == Some(large));
            Ok::<_, sessile_engine::StoreError>(outcomes)
        })
    };
    let ways = |url: &str| ["true", "strict"].map(|way| url.replace("=false", &format!("={way}")));
    // The system's certificates are a matter of the environment, which is the whole process's.
    if let Ok(url) = std::env::var(CHILD) {
        for url in ways(&url) {
            assert_eq!(connect(&url).unwrap(), [Outcome::Done]);
            // No name but those in the certificate.
            let e = connect(&url.replace("127.0.0.1", "localhost")).unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Config, "{e}");
        }
        return;
    }
    let Some(dir) = support::tls::certificates() else { return };
    let server = Server::with_tls(dir.path());
    assert!(connect(&server.url()).is_err(), "the server takes encrypted connections only");
    for url in ways(&server.url()) {
        let e = connect(&url).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Config, "nobody knows the authority of this test: {e}");
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "over_tls_the_system_says_whom_to_trust"])
        .env(CHILD, server.url())
        .env("SSL_CERT_FILE", dir.path().join("ca.pem"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

/// The double answers what the store asks, and nothing else.
#[test]
fn the_double_knows_the_statements_of_the_store_only() {
    use tokio_util::compat::TokioAsyncWriteCompatExt as _;
    run(async |server| {
        drop(open(&server).await);
        let mut config = tiberius::Config::new();
        config.authentication(tiberius::AuthMethod::sql_server(USER, PASSWORD));
        config.database(DATABASE);
        config.encryption(tiberius::EncryptionLevel::NotSupported);
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        let mut client = tiberius::Client::connect(config, tcp.compat_write()).await.unwrap();
        for text in
            ["SELECT 1", "SELECT value FROM [t_marks] WHERE slot = -2", "SELECT COUNT_BIG (*) FROM [t]"]
        {
            let e = client.simple_query(text).await.map(drop).unwrap_err();
            assert_eq!(e.code(), Some(102), "{e}");
        }
        let count =
            client.query("SELECT COUNT_BIG(*) FROM [t]", &[]).await.unwrap().into_row().await.unwrap();
        assert_eq!(count.unwrap().get::<i64, _>(0), Some(0));
    });
}
