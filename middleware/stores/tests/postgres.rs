//! The PostgreSQL store against a real server: the conformance suite, servers that end, callers that go away, writers
//! that are in each other's way, and who may see what. Without PostgreSQL it says so.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Notice, Outcome, Store};
use sessile_stores::postgres::PostgresStore;
use support::postgres::{PASSWORD, Server};
use support::{id, insert, owned, row, update};

const BOUND: Duration = Duration::from_secs(20);

async fn open(server: &Server, table: &str) -> PostgresStore {
    let builder = PostgresStore::builder(server.url("postgres")).table(table).unwrap().deadline(BOUND);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

fn run(test: impl AsyncFnOnce(Server)) {
    let Some(server) = Server::start() else { return };
    runtime().block_on(test(server));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn conformance() {
    let Some(server) = Server::start() else { return };
    let server = Arc::new(server);
    let version = format!("PostgreSQL {}, real", support::postgres::version());
    // No runtime here: the store has its own.
    support::conforms("PostgreSQL", &version, async |n| {
        let table = format!("case_{n}");
        let again = (Arc::clone(&server), table.clone());
        Subject::new(open(&server, &table).await).reopened_by(move || {
            let (server, table) = again.clone();
            Box::pin(async move { Subject::new(open(&server, &table).await) })
        })
    });
}

#[test]
fn it_is_opened_with_its_tables_only() {
    run(async |server| {
        let builder = PostgresStore::builder(server.url("postgres")).table("absent").unwrap();
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::Config);
        // By hand, twice, and by eight machines at once.
        server.sql("postgres", &builder.schema_sql());
        server.sql("postgres", &builder.schema_sql());
        builder.clone().open().await.unwrap();
        let nodes: Vec<_> = (0..8)
            .map(|_| {
                let builder =
                    PostgresStore::builder(server.url("postgres")).table("eight").unwrap().deadline(BOUND);
                tokio::spawn(async move { builder.migrate().await })
            })
            .collect();
        for node in nodes {
            node.await.unwrap().unwrap();
        }
        server.sql("postgres", "UPDATE absent_marks SET value = 2 WHERE name = 'schema'");
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::NewerFormat);
        server.sql("postgres", "UPDATE absent_marks SET value = 0 WHERE name = 'schema'");
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::Config);
        // A migration leaves what it finds.
        builder.migrate().await.unwrap();
        assert_eq!(builder.open().await.unwrap_err().kind(), StoreErrorKind::Config);
    });
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_without_the_password() {
    run(async |server| {
        let good = server.url("postgres");
        let wrong = "n0t-the-password";
        for url in [
            good.replace(PASSWORD, wrong),
            server.url("nowhere").replace(PASSWORD, wrong),
            format!("postgres://tester:{wrong}@127.0.0.1:99999/x"),
            format!("host=127.0.0.1 password={wrong} port=x"),
            format!("{wrong} {wrong}"),
        ] {
            let builder = PostgresStore::builder(url);
            assert!(!format!("{builder:?}").contains(wrong));
            let e = builder.open().await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Config, "{e}");
            assert!(!format!("{e} {e:?}").contains(wrong), "{e:?}");
        }
        let builder = PostgresStore::builder(server.url("nowhere"));
        assert_eq!(builder.open().await.unwrap_err().kind(), StoreErrorKind::Config);
        let nobody = PostgresStore::builder(format!("postgres://a:{wrong}@127.0.0.1:1/x"));
        let e = nobody.open().await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        assert!(!format!("{e} {e:?}").contains(wrong), "{e:?}");
        let store = open(&server, "t").await;
        assert!(!format!("{store:?}").contains(PASSWORD));
    });
}

/// An update and a rekey move the expiry in the table itself, and a write leaves one row.
#[test]
fn the_table_holds_what_it_says() {
    run(async |server| {
        let store = open(&server, "t").await;
        let later = sessile_engine::store::Row { expires_at: 4_000_000_123_456, ..owned(2, "Ann") };
        let _ = store.commit(1, &[insert(1, row(1)), update(1, 1, later)]).await.unwrap();
        let rows = server.sql(
            "postgres",
            "SELECT concat_ws('|', version, expires_at, convert_from(owner, 'UTF8')) FROM t",
        );
        assert_eq!(rows, ["2|4000000123456|Ann"]);
        // Neither case nor trailing spaces make two owners one.
        for other in ["ann", "Ann ", "ANN"] {
            assert!(store.list_owner(other).await.unwrap().is_empty());
        }
        assert_eq!(store.list_owner("Ann").await.unwrap().len(), 1);
        let _ = store.commit(5, &[Change::Quarantine { id: id(1) }]).await.unwrap();
        assert_eq!(
            server.sql("postgres", "SELECT version || '|' || quarantined_at FROM t_quarantine"),
            ["2|5"]
        );
    });
}

#[test]
fn expiry_and_owners_are_found_by_their_indexes() {
    run(async |server| {
        let store = open(&server, "t").await;
        let rows: Vec<_> = (0..2000).map(|n| insert(n, owned(1, &format!("u{n}")))).collect();
        let _ = store.commit(1, &rows).await.unwrap();
        server.sql("postgres", "ANALYZE t");
        for (query, index) in [
            ("SELECT id FROM t WHERE expires_at BETWEEN 0 AND 5 ORDER BY expires_at LIMIT 10", "t_expiry"),
            ("SELECT id FROM t WHERE owner = 'u7' ORDER BY id", "t_owner"),
        ] {
            let plan = server.sql("postgres", &format!("EXPLAIN {query}")).join("\n");
            assert!(plan.contains(index), "{plan}");
        }
    });
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_and_named_by_a_scan() {
    run(async |server| {
        let store = open(&server, "t").await;
        let _ = store.commit(1, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>()).await.unwrap();
        let hex: String = id(4).as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        server.sql("postgres", &format!("UPDATE t SET owner = '\\xff' WHERE id = '\\x{hex}'"));
        assert_eq!(store.load(&id(4)).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        assert!(store.load(&id(3)).await.unwrap().is_some());
        let scan = store.scan(None, 100).await.unwrap();
        assert_eq!((scan.rows.len(), scan.damaged), (8, vec![id(4)]));
        // A listing is as long as it can be, though a row between is damaged.
        assert_eq!(store.list(None, 8).await.unwrap().len(), 8);
    });
}

/// Batches over the same rows in opposite orders: without one order of locks they would wait for each other.
#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server| {
        support::rivals::all_get_through(open(&server, "t").await, open(&server, "t").await).await;
    });
}

/// The server chooses one of two transactions to give up; it must be made again.
#[test]
fn a_deadlock_is_retried() {
    run(async |server| {
        // So long the store's connection waits before it looks for a deadlock.
        server.sql("postgres", "ALTER ROLE tester SET deadlock_timeout = '1s'");
        let store = Arc::new(open(&server, "t").await);
        let _ = store.commit(1, &(0..2).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await.unwrap();
        let mut ids = [*id(0).as_bytes(), *id(1).as_bytes()];
        ids.sort_unstable();
        let hex = ids.map(|id| id.iter().map(|b| format!("{b:02x}")).collect::<String>());
        let (client, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // Somebody who locks in the other order, and looks for deadlocks much later than the store's connection.
        let touch = |n: usize| format!("UPDATE t SET version = version WHERE id = '\\x{}'", hex[n]);
        client.batch_execute("SET deadlock_timeout = '5s'").await.unwrap();
        for version in 1.. {
            client.batch_execute(&format!("BEGIN; {}", touch(1))).await.unwrap();
            let commit = {
                let store = Arc::clone(&store);
                let changes = [0, 1].map(|n| update(n, version, row(version + 1)));
                tokio::spawn(async move { store.commit(2, &changes).await })
            };
            // Until the store waits for the second row, with the first one locked.
            while server.sql("postgres", "SELECT 1 FROM pg_locks WHERE NOT granted").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let touched = client.batch_execute(&touch(0)).await;
            client.batch_execute(if touched.is_ok() { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
            assert_eq!(commit.await.unwrap().unwrap(), [Outcome::Done, Outcome::Done]);
            // On a busy machine the store's connection may look before there is anything to see. Then the other gives up.
            if touched.is_ok() {
                break;
            }
        }
        let deadlocks = "SELECT pg_stat_force_next_flush(); SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'";
        let mut counted = false;
        for _ in 0..200 {
            counted = server.sql("postgres", deadlocks).last().is_some_and(|n| n != "0");
            if counted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(counted, "there was no deadlock to retry");
    });
}

/// Callers that go away at any moment leave no connection with another's answer, and no open transaction.
#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    run(async |server| {
        let builder = PostgresStore::builder(server.url("postgres")).table("t").unwrap().pool_size(2);
        builder.migrate().await.unwrap();
        let store = builder.deadline(BOUND).open().await.unwrap();
        support::leavers::leave_rows_as_they_were(&store).await;
        assert!(server.is_idle().await, "a transaction was left open");
    });
}

/// A call whose deadline ends inside a transaction: its connection is closed, its locks go, and the next call works.
#[test]
fn a_deadline_ends_a_call_and_its_transaction() {
    run(async |server| {
        let builder = PostgresStore::builder(server.url("postgres")).table("t").unwrap().pool_size(1);
        builder.migrate().await.unwrap();
        let store = builder.deadline(Duration::from_millis(300)).open().await.unwrap();
        let _ = store.commit(1, &[insert(1, row(1))]).await.unwrap();
        let (client, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; UPDATE t SET version = version").await.unwrap();
        for _ in 0..3 {
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        assert_eq!(store.load(&id(1)).await.unwrap().unwrap().version, 1);
        client.batch_execute("COMMIT").await.unwrap();
        let mut outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        while outcome.is_err() {
            outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        }
        assert_eq!(outcome.unwrap(), [Outcome::Done]);
    });
}

/// The server is killed under load and comes back: every failure is "unavailable", what was confirmed is there, and the
/// same store works again.
#[test]
fn a_server_that_ends_is_unavailable_and_comes_back() {
    run(async |mut server| {
        let store = Arc::new(open(&server, "t").await);
        let ended = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4_u32)
            .map(|w| {
                let (store, ended) = (Arc::clone(&store), Arc::clone(&ended));
                tokio::spawn(async move {
                    let (mut confirmed, mut failed) = (Vec::new(), 0);
                    let mut n = w * 1_000_000;
                    while !ended.load(Ordering::Relaxed) {
                        match store.commit(1, &[insert(n, row(1))]).await {
                            Ok(_) => confirmed.push(n),
                            Err(e) => {
                                assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
                                failed += 1;
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                        n += 1;
                    }
                    (confirmed, failed)
                })
            })
            .collect();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.resume();
        }
        let probe = store.commit(1, &[insert(9_000_000, row(1))]).await;
        if let Err(e) = probe {
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        ended.store(true, Ordering::Relaxed);
        let mut failures = 0;
        for writer in writers {
            let (confirmed, failed) = writer.await.unwrap();
            failures += failed;
            for n in confirmed {
                assert!(store.load(&id(n)).await.unwrap().is_some(), "row {n} was confirmed");
            }
        }
        assert!(failures > 0, "no call met the server's end");
        let _ = store.commit(1, &[insert(8_000_000, row(1))]).await.unwrap();
    });
}

#[test]
fn a_pool_of_the_app_is_used_and_left_open() {
    run(async |server| {
        drop(open(&server, "t").await);
        let manager =
            deadpool_postgres::Manager::new(server.url("postgres").parse().unwrap(), tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager).max_size(3).build().unwrap();
        let store = PostgresStore::from_pool(pool.clone()).table("t").unwrap().open().await.unwrap();
        let _ = store.commit(1, &[insert(1, row(1))]).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
        let count: i64 =
            pool.get().await.unwrap().query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(count, 1);
    });
}

/// Transactions of several writers that begin and end in different orders, one of them held open across many
/// questions: each change is told, by a watch that was there before.
#[test]
fn every_change_is_told_whatever_the_order_of_the_transactions() {
    run(async |server| {
        let store = Arc::new(open(&server, "t").await);
        let mut watch = store.watch().await.unwrap();
        let (slow, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // It has an early number, and is seen late.
        slow.batch_execute(&format!(
            "BEGIN; INSERT INTO t_changes (ids) VALUES ('\\x{}')",
            id(77_777).as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()
        ))
        .await
        .unwrap();
        let writers: Vec<_> = (0..4_u32)
            .map(|w| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for n in 0..150 {
                        let _ = store.commit(1, &[insert(w * 1000 + n, row(1))]).await.unwrap();
                    }
                })
            })
            .collect();
        let mut told = std::collections::HashMap::new();
        let mut missing: std::collections::HashSet<_> =
            (0..4_u32).flat_map(|w| (0..150).map(move |n| id(w * 1000 + n))).collect();
        let mut notices = 0;
        while !missing.is_empty() {
            notices += 1;
            assert!(notices < 500, "{} changes are not told", missing.len());
            match watch.next().await.unwrap() {
                Notice::Changed(ids) => {
                    for id in ids {
                        missing.remove(&id);
                        *told.entry(id).or_insert(0) += 1;
                    }
                }
                other => assert_eq!(other, Notice::Alive),
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(!told.contains_key(&id(77_777)));
        slow.batch_execute("COMMIT").await.unwrap();
        while !told.contains_key(&id(77_777)) {
            if let Notice::Changed(ids) = watch.next().await.unwrap() {
                for id in ids {
                    *told.entry(id).or_insert(0) += 1;
                }
            }
        }
        assert!(told.values().all(|times| *times == 1), "a change was told twice");
        // Removal by expiry is a change.
        assert_eq!(store.expire(4_000_000_000_000, 1, 10).await.unwrap().removed, 10);
        loop {
            if let Notice::Changed(ids) = watch.next().await.unwrap() {
                assert_eq!(ids.len(), 10);
                break;
            }
        }
    });
}

/// Changes are forgotten when they have been visible for a minute, not before; who slept for longer is told that.
#[test]
fn changes_are_trimmed_behind_the_watches() {
    run(async |server| {
        let store = open(&server, "t").await;
        let mut watch = store.watch().await.unwrap();
        let _ = store.commit(1, &[insert(1, row(1))]).await.unwrap();
        let kept = || server.sql("postgres", "SELECT count(*) FROM t_changes");
        let age = || server.sql("postgres", "UPDATE t_marks SET value = value - 61000 WHERE name = 'trim'");
        for _ in 0..3 {
            let _ = store.expire(1, 1, 10).await.unwrap();
        }
        assert_eq!(kept(), ["1"]);
        let _ = store.commit(1, &[insert(2, row(1))]).await.unwrap();
        age();
        let _ = store.expire(1, 1, 10).await.unwrap();
        assert_eq!(kept(), ["1"], "only the older one has been visible for a minute");
        age();
        let _ = store.expire(1, 1, 10).await.unwrap();
        assert_eq!(kept(), ["0"]);
        assert!(watch.next().await.is_ok());
    });
}

#[test]
fn a_watch_ends_with_its_server_and_with_its_store() {
    run(async |mut server| {
        let store = open(&server, "t").await;
        let mut watch = store.watch().await.unwrap();
        assert_eq!(watch.next().await.unwrap(), Notice::Alive);
        server.kill();
        let e = watch.next().await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        assert!(watch.next().await.is_err(), "an error is final");
        server.resume();
        let mut watch = store.watch().await.unwrap();
        assert_eq!(watch.next().await.unwrap(), Notice::Alive);
        store.close().await.unwrap();
        assert_eq!(watch.next().await.unwrap_err().kind(), StoreErrorKind::Closed);
    });
}

/// Over TLS, and only with a server whose authority the system trusts.
#[cfg(feature = "tls-rustls")]
#[test]
fn over_tls_the_system_says_whom_to_trust() {
    let connect = |url: &str| {
        let store = PostgresStore::builder(url).deadline(BOUND);
        pollster::block_on(async {
            store.migrate().await?;
            store.open().await?.commit(1, &[insert(1, row(1))]).await
        })
    };
    if let Some(url) = support::tls::url_of_child() {
        assert_eq!(connect(&url).unwrap(), [Outcome::Done]);
        // No name but those in the certificate.
        assert!(connect(&url.replace("127.0.0.1", "localhost")).is_err());
        return;
    }
    let Some(dir) = support::tls::certificates() else { return };
    for file in std::fs::read_dir(dir.path()).unwrap() {
        support::give_away(&file.unwrap().path());
    }
    support::give_away(dir.path());
    let Some(server) = Server::start_with_tls(dir.path()) else { return };
    let url = format!("{}?sslmode=require", server.url("postgres"));
    let plain = format!("{}?sslmode=disable", server.url("postgres"));
    assert!(connect(&plain).is_err(), "the server takes encrypted connections only");
    assert!(connect(&url).is_err(), "nobody knows the authority of this test");
    support::tls::trusts(dir.path(), "over_tls_the_system_says_whom_to_trust", &url);
}
