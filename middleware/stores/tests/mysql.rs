//! The MySQL store against a real MariaDB: the conformance suite, servers that end, callers that go away, writers that
//! are in each other's way, and who may see what. Without MariaDB it says so.
#![cfg(feature = "mysql")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Store};
use sessile_stores::mysql::MysqlStore;
use support::mysql::{PASSWORD, Server};
use support::relay::Relay;
use support::{id, insert, owned, row, update};

const BOUND: Duration = Duration::from_secs(20);

async fn open(server: &Server, table: &str) -> MysqlStore {
    let builder = MysqlStore::builder(server.url("sessions")).table(table).unwrap().deadline(BOUND);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

fn run(test: impl AsyncFnOnce(Server)) {
    let Some(server) = Server::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(server));
}

fn hex(n: u32) -> String {
    id(n).as_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

async fn operator(server: &Server) -> mysql_async::Conn {
    mysql_async::Conn::new(mysql_async::Opts::from_url(&server.url("sessions")).unwrap()).await.unwrap()
}

#[test]
fn conformance() {
    let Some(server) = Server::start() else { return };
    let server = Arc::new(server);
    let version = format!("MariaDB {}, real", support::version("mariadbd"));
    // No runtime here: the store has its own.
    support::conforms("MySQL, MariaDB", &version, async |n| {
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
        let builder = MysqlStore::builder(server.url("sessions")).table("absent").unwrap().deadline(BOUND);
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::Config);
        server.sql(&builder.schema_sql()).await;
        server.sql(&builder.schema_sql()).await;
        builder.clone().open().await.unwrap();
        let nodes: Vec<_> = (0..8)
            .map(|_| {
                let builder =
                    MysqlStore::builder(server.url("sessions")).table("eight").unwrap().deadline(BOUND);
                tokio::spawn(async move { builder.migrate().await })
            })
            .collect();
        for node in nodes {
            node.await.unwrap().unwrap();
        }
        for (version, kind) in [(2, StoreErrorKind::NewerFormat), (0, StoreErrorKind::Config)] {
            server.sql(&format!("UPDATE absent_marks SET value = {version} WHERE slot = -1")).await;
            builder.migrate().await.unwrap();
            assert_eq!(builder.clone().open().await.unwrap_err().kind(), kind);
        }
    });
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_without_the_password() {
    run(async |server| {
        let wrong = "n0t-the-password";
        for (url, kind) in [
            (server.url("sessions").replace(PASSWORD, wrong), StoreErrorKind::Config),
            (format!("mysql://tester:{wrong}@127.0.0.1:99999/x"), StoreErrorKind::Config),
            (format!("nysql://tester:{wrong}@127.0.0.1/x"), StoreErrorKind::Config),
            (format!("mysql://tester:{wrong}@127.0.0.1/x?{wrong}=1"), StoreErrorKind::Config),
            (wrong.to_owned(), StoreErrorKind::Config),
            (format!("mysql://tester:{wrong}@127.0.0.1:1/x"), StoreErrorKind::Unavailable),
        ] {
            let builder = MysqlStore::builder(url);
            assert!(!format!("{builder:?}").contains(wrong));
            let e = builder.open().await.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(!format!("{e} {e:?}").contains(wrong), "{e:?}");
        }
        let nowhere = MysqlStore::builder(server.url("nowhere"));
        assert_eq!(nowhere.open().await.unwrap_err().kind(), StoreErrorKind::Config);
        let store = open(&server, "t").await;
        assert!(!format!("{store:?}").contains(PASSWORD));
    });
}

#[test]
fn the_table_holds_what_it_says() {
    run(async |server| {
        let store = open(&server, "t").await;
        let mut later = sessile_engine::store::Row { expires_at: 4_000_000_123_456, ..owned(2, "Ann") };
        // More than a BLOB would hold.
        later.bytes = (0..=255).cycle().take(3 << 20).collect();
        let _ = store.commit(1, &[insert(1, row(1)), update(1, 1, later.clone())]).await.unwrap();
        assert!(store.load(&id(1)).await.unwrap() == Some(later));
        let held = "SELECT CONCAT_WS('|', version, expires_at, CONVERT(owner USING utf8mb4)) FROM t";
        assert_eq!(server.sql(held).await, ["2|4000000123456|Ann"]);
        // No collation makes two owners one.
        for other in ["ann", "Ann ", "ANN", "Ánn"] {
            assert!(store.list_owner(other).await.unwrap().is_empty());
        }
        assert_eq!(store.list_owner("Ann").await.unwrap().len(), 1);
        let _ = store.commit(5, &[Change::Quarantine { id: id(1) }]).await.unwrap();
        assert_eq!(
            server.sql("SELECT CONCAT(version, '|', quarantined_at) FROM t_quarantine").await,
            ["2|5"]
        );
        let rows: Vec<_> = (0..2000).map(|n| insert(n, owned(1, &format!("u{n}")))).collect();
        let _ = store.commit(1, &rows).await.unwrap();
        for (query, index) in [
            ("SELECT id FROM t WHERE expires_at <= 5 ORDER BY expires_at LIMIT 10", "t_expiry"),
            ("SELECT id FROM t WHERE owner = x'7537' ORDER BY id", "t_owner"),
        ] {
            let plan = server.sql(&format!("EXPLAIN FORMAT=JSON {query}")).await.join("\n");
            assert!(plan.contains(&format!("\"key\": \"{index}\"")), "{plan}");
        }
    });
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_and_named_by_a_scan() {
    run(async |server| {
        let store = open(&server, "t").await;
        let _ = store.commit(1, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>()).await.unwrap();
        server.sql(&format!("UPDATE t SET owner = x'ff' WHERE id = x'{}'", hex(4))).await;
        assert_eq!(store.load(&id(4)).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        let scan = store.scan(None, 100).await.unwrap();
        assert_eq!((scan.rows.len(), scan.damaged), (8, vec![id(4)]));
        assert_eq!(store.list(None, 8).await.unwrap().len(), 8);
    });
}

/// Who works with sessions needs no right to anything else, and none to make tables.
#[test]
fn a_user_needs_four_rights_on_the_tables() {
    run(async |server| {
        drop(open(&server, "t").await);
        let mut rights = "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'of-the-app'".to_owned();
        for table in ["t", "t_quarantine", "t_marks"] {
            rights +=
                &format!("; GRANT SELECT, INSERT, UPDATE, DELETE ON sessions.{table} TO app@'127.0.0.1'");
        }
        server.sql(&rights).await;
        let url = server.url("sessions").replace("tester", "app").replace(PASSWORD, "of-the-app");
        let builder = MysqlStore::builder(url).table("t").unwrap().deadline(BOUND);
        let store = builder.clone().open().await.unwrap();
        let all = [
            insert(1, owned(1, "a")),
            update(1, 1, row(2)),
            insert(2, row(1)),
            Change::Quarantine { id: id(2) },
        ];
        assert_eq!(store.commit(1, &all).await.unwrap(), [Outcome::Done; 4]);
        let _ = store.commit(1, &[insert(3, row(1))]).await.unwrap();
        let _ = store.commit(1, &[Change::Quarantine { id: id(3) }]).await.unwrap();
        assert_eq!(store.expire(u64::MAX - 1, 9, 10).await.unwrap().removed, 1);
        assert_eq!(store.high_water().await.unwrap(), 9);
        let other = builder.table("other").unwrap();
        assert_eq!(other.migrate().await.unwrap_err().kind(), StoreErrorKind::Config);
    });
}

/// A binary log of statements cannot hold transactions that lock no gaps: said as what it is, a setting.
#[test]
fn the_binary_log_has_to_be_of_rows() {
    let Some(server) = Server::start_with(vec!["--log-bin=log".into()]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for (n, (format, works)) in
            [("ROW", true), ("MIXED", true), ("STATEMENT", false)].into_iter().enumerate()
        {
            server.sql(&format!("SET GLOBAL binlog_format = {format}")).await;
            let store = open(&server, "t").await;
            let n = u32::try_from(n).unwrap();
            match store.commit(1, &[insert(n, row(1))]).await {
                Ok(outcomes) => assert!(works && outcomes == [Outcome::Done], "{format}"),
                Err(e) => assert!(!works && e.kind() == StoreErrorKind::Config, "{format}: {e}"),
            }
        }
    });
}

#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server| {
        support::rivals::all_get_through(open(&server, "t").await, open(&server, "t").await).await;
    });
}

/// The server chooses one of two transactions to give up, the one that changed less: ours. It must be made again.
#[test]
fn a_deadlock_is_retried() {
    run(async |server| {
        let store = Arc::new(open(&server, "t").await);
        let _ = store.commit(1, &(0..100).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await.unwrap();
        let (first, second) = if id(0).as_bytes() < id(1).as_bytes() { (0, 1) } else { (1, 0) };
        let mut other = operator(&server).await;
        other.query_drop("START TRANSACTION").await.unwrap();
        let touch = |n| format!("UPDATE t SET version = 1, owner = 'x' WHERE id = x'{}'", hex(n));
        for n in 2..100 {
            other.query_drop(touch(n)).await.unwrap();
        }
        other.query_drop(touch(second)).await.unwrap();
        let commit = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(2, &[update(0, 1, row(2)), update(1, 1, row(2))]).await })
        };
        let waits = "SELECT trx_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
        while server.sql(waits).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        other.query_drop(touch(first)).await.unwrap();
        other.query_drop("COMMIT").await.unwrap();
        assert_eq!(commit.await.unwrap().unwrap(), [Outcome::Done, Outcome::Done]);
        let deadlocks = "SELECT variable_value FROM information_schema.global_status \
                         WHERE variable_name = 'Innodb_deadlocks'";
        assert_ne!(server.sql(deadlocks).await, ["0"], "there was no deadlock to retry");
    });
}

/// Callers that go away at any moment leave no connection with another's answer, and no open transaction.
#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    run(async |server| {
        let builder =
            MysqlStore::builder(server.url("sessions")).table("t").unwrap().pool_size(2).deadline(BOUND);
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        support::leavers::leave_rows_as_they_were(&store).await;
        let mut left = true;
        for _ in 0..100 {
            left = !server.sql("SELECT trx_id FROM information_schema.innodb_trx").await.is_empty();
            if !left {
                break;
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        assert!(!left, "a transaction was left open");
    });
}

/// A call whose deadline ends inside a transaction: its connection is closed, and the next call works on another.
#[test]
fn a_deadline_ends_a_call_and_its_transaction() {
    run(async |server| {
        let builder = MysqlStore::builder(server.url("sessions")).table("t").unwrap().pool_size(1);
        builder.clone().deadline(BOUND).migrate().await.unwrap();
        let store = builder.deadline(Duration::from_millis(400)).open().await.unwrap();
        while store.commit(1, &[insert(1, row(1))]).await.is_err() {}
        let mut other = operator(&server).await;
        other.query_drop("START TRANSACTION; UPDATE t SET version = 1, owner = 'x'").await.unwrap();
        for _ in 0..3 {
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        let mut loaded = store.load(&id(1)).await;
        while loaded.is_err() {
            loaded = store.load(&id(1)).await;
        }
        assert_eq!(loaded.unwrap().unwrap().version, 1);
        other.query_drop("COMMIT").await.unwrap();
        let mut outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        while outcome.is_err() {
            outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        }
        assert_eq!(outcome.unwrap(), [Outcome::Done]);
    });
}

/// A pool of the app may wait for locks for ever. A call that ended meanwhile, with half of its answer, does not keep its
/// place in the pool.
#[test]
fn a_call_that_waits_for_a_lock_leaves_its_place_at_its_deadline() {
    run(async |server| {
        let first = open(&server, "t").await;
        let _ = first.commit(1, &[insert(1, row(1))]).await.unwrap();
        server.sql("SET GLOBAL innodb_lock_wait_timeout = 1000000").await;
        let mut other = operator(&server).await;
        other.query_drop("START TRANSACTION; UPDATE t SET version = 1, owner = 'x'").await.unwrap();
        let one = mysql_async::PoolConstraints::new(0, 1).unwrap();
        let opts = mysql_async::Opts::from_url(&server.url("sessions")).unwrap();
        let opts = mysql_async::OptsBuilder::from_opts(opts)
            .prefer_socket(Some(false))
            .pool_opts(mysql_async::PoolOpts::new().with_constraints(one));
        let pool = MysqlStore::from_pool(mysql_async::Pool::new(opts)).table("t").unwrap();
        let store = pool.deadline(Duration::from_millis(500)).open().await.unwrap();
        for _ in 0..2 {
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        // The lock is still held; only its place was needed.
        let mut loaded = store.load(&id(1)).await;
        for _ in 0..40 {
            if loaded.is_err() {
                loaded = store.load(&id(1)).await;
            }
        }
        assert_eq!(loaded.unwrap(), Some(row(1)));
        other.query_drop("ROLLBACK").await.unwrap();
    });
}

/// Connections on which nothing moves any more, with nobody to say so, do not keep their places in the pool.
#[test]
fn silent_connections_are_replaced() {
    run(async |server| {
        let relay = Relay::to(server.port());
        let builder = MysqlStore::builder(server.url_at(relay.port, "sessions")).table("t").unwrap();
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
            let mut loaded = store.load(&id(1)).await;
            while loaded.is_err() {
                loaded = store.load(&id(1)).await;
            }
            assert_eq!(loaded.unwrap(), Some(row(1)));
        }
    });
}

/// What the store says it takes, it takes, in any number and whatever the size of the server's packets.
#[test]
fn the_largest_rows_and_batches_fit() {
    let Some(server) = Server::start_with(vec!["--max-allowed-packet=2M".into()]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&server, "t").await;
        let most = store.capabilities().max_row_bytes;
        assert!((512 << 10..1 << 20).contains(&most), "{most}");
        let large = |version| sessile_engine::store::Row {
            bytes: vec![0xA5; most],
            ..owned(version, &"o".repeat(255))
        };
        let _ =
            store.commit(1, &[insert(1, large(1)), insert(2, large(1)), insert(3, row(1))]).await.unwrap();
        assert_eq!(
            store
                .commit(1, &[update(1, 1, large(2)), update(2, 1, large(2)), Change::Delete { id: id(3) }])
                .await
                .unwrap(),
            [Outcome::Done; 3]
        );
        assert!(store.load(&id(1)).await.unwrap() == Some(large(2)));
        let larger = sessile_engine::store::Row { bytes: vec![0; most + 1], ..row(1) };
        let e = store.commit(1, &[insert(4, larger)]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::TooLarge);
        // More ids than MariaDB leaves in a list.
        let many = |version| -> Vec<_> {
            (100..4100)
                .map(|n| {
                    let row = sessile_engine::store::Row {
                        bytes: vec![1; 1900],
                        ..owned(version, &"o".repeat(255))
                    };
                    if version == 1 { insert(n, row) } else { update(n, version - 1, row) }
                })
                .collect()
        };
        for version in [1, 2] {
            let outcomes = store.commit(1, &many(version)).await.unwrap();
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
        }
        assert_eq!(store.count().await.unwrap(), Some(4002));
        let ends: Vec<_> = (100..4100).map(|n| Change::Quarantine { id: id(n) }).collect();
        let _ = store.commit(1, &ends).await.unwrap();
        assert_eq!(store.count().await.unwrap(), Some(2));
        assert_eq!(server.sql("SELECT COUNT(*) FROM t_quarantine").await, ["4000"]);
    });
}

/// Over TLS, and only with a server whose authority the system trusts.
#[cfg(feature = "tls-rustls")]
#[test]
fn over_tls_the_system_says_whom_to_trust() {
    let connect = |url: &str| {
        let store = MysqlStore::builder(url).deadline(BOUND);
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
    let file = |name: &str| dir.path().join(name).display().to_string();
    let args = [("cert", "server.pem"), ("key", "server.key"), ("ca", "ca.pem")];
    let args = args.map(|(arg, name)| format!("--ssl-{arg}={}", file(name))).to_vec();
    let Some(server) = Server::start_with([args, vec!["--require-secure-transport=ON".into()]].concat())
    else {
        return;
    };
    let url = format!("{}?require_ssl=true", server.url("sessions"));
    assert!(connect(&server.url("sessions")).is_err(), "the server takes encrypted connections only");
    assert!(connect(&url).is_err(), "nobody knows the authority of this test");
    support::tls::trusts(dir.path(), "over_tls_the_system_says_whom_to_trust", &url);
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
        let pool = mysql_async::Pool::from_url(server.url("sessions")).unwrap();
        let store =
            MysqlStore::from_pool(pool.clone()).table("t").unwrap().deadline(BOUND).open().await.unwrap();
        let _ = store.commit(1, &[insert(1, row(1))]).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
        let mut conn = pool.get_conn().await.unwrap();
        assert_eq!(conn.query_first::<u64, _>("SELECT COUNT(*) FROM t").await.unwrap(), Some(1));
        drop(conn);
        pool.disconnect().await.unwrap();
    });
}
