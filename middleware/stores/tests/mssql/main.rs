//! The SQL Server store against a test double, which speaks its protocol and keeps rows in SQLite: the conformance suite,
//! how it is opened, and TLS. The suite runs against the server that `SESSILE_TEST_MSSQL` names, if it names one.

#![cfg(all(feature = "mssql", feature = "sqlite"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod failures;
mod races;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::time::Duration;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Change, Outcome, Row, Store};
use sessile_stores::mssql::MssqlStore;
use support::mssql::{DATABASE, Fault, PASSWORD, Server, USER, encoded};
use support::{id, insert, row};

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
