//! The PostgreSQL store in its mode for CockroachDB, against a real PostgreSQL with serializable transactions: no
//! package has CockroachDB itself, of which `SESSILE_TEST_COCKROACHDB` names one. Transactions lose to others as they do
//! there, by the same code. What only the real one could show is in docs/stores.md.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Outcome, Store};
use sessile_engine::{Delivery, Engine, StoreErrorKind};
use sessile_stores::postgres::{Builder, PostgresStore};
use support::postgres::Server;
use support::{id, insert, row, update};

const BOUND: Duration = Duration::from_secs(20);

fn builder(url: &str, table: &str) -> Builder {
    PostgresStore::builder(url).cockroachdb().table(table).unwrap().deadline(BOUND)
}

async fn open(url: &str, table: &str) -> PostgresStore {
    let builder = builder(url, table);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

fn run(test: impl AsyncFnOnce(Server, String)) {
    let Some(server) = Server::start() else { return };
    let url = server.url("postgres");
    runtime().block_on(test(server, url));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn conformance() {
    let named = std::env::var("SESSILE_TEST_COCKROACHDB").ok().filter(|url| !url.is_empty());
    let (_server, url, version) = match named {
        Some(url) => (None, url, "CockroachDB, real".to_owned()),
        None => {
            let Some(server) = Server::start() else { return };
            let url = server.url("postgres");
            let version = format!("PostgreSQL {}, serializable, compatible", support::postgres::version());
            (Some(server), url, version)
        }
    };
    support::conforms("CockroachDB", &version, async |n| {
        let (url, table) = (url.clone(), format!("case_{}_{n}", std::process::id()));
        let again = (url.clone(), table.clone());
        Subject::new(open(&url, &table).await).reopened_by(move || {
            let (url, table) = again.clone();
            Box::pin(async move { Subject::new(open(&url, &table).await) })
        })
    });
}

/// Two transactions that both read a row before one changes it: the server refuses the other, which is made again and
/// finds what the first one wrote.
#[test]
fn a_transaction_that_lost_is_made_again() {
    run(async |server, url| {
        let store = Arc::new(open(&url, "t").await);
        let _ = store.commit(1, &(0..2).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await.unwrap();
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let hex: String = id(1).as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&format!("UPDATE t SET version = 7 WHERE id = '\\x{hex}'")).await.unwrap();
        let commit = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(2, &[update(0, 1, row(2)), update(1, 1, row(2))]).await })
        };
        // Until the store waits for the second row: its view of the rows is made.
        while server.sql("postgres", "SELECT 1 FROM pg_locks WHERE NOT granted").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(commit.await.unwrap().unwrap(), [Outcome::Done, Outcome::Conflict { found: 7 }]);
        assert!(server.logged("could not serialize access"), "nothing was made again");
    });
}

#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server, url| {
        support::rivals::all_get_through(open(&url, "t").await, open(&url, "t").await).await;
        assert!(server.logged("could not serialize access"), "nobody lost to anybody");
    });
}

/// A read is a transaction of its own, which may lose too: this table refuses two of three that read it.
#[test]
fn reads_that_lose_are_made_again() {
    run(async |server, url| {
        let first = open(&url, "t").await;
        let _ = first.commit(1, &[insert(1, row(1))]).await.unwrap();
        server.sql(
            "postgres",
            "CREATE SEQUENCE reads; CREATE FUNCTION lose() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
             IF nextval('reads') % 3 <> 0 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END IF; \
             RETURN true; END $$; \
             ALTER TABLE t RENAME TO t_rows; CREATE VIEW t AS SELECT * FROM t_rows WHERE lose()",
        );
        // Another one, whose connections know the view and not the table.
        let store = builder(&url, "t").open().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap(), Some(row(1)));
        assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
        assert_eq!(store.count().await.unwrap(), Some(1));
        assert_eq!(server.sql("postgres", "SELECT last_value FROM reads"), ["9"]);
    });
}

#[test]
fn its_tables_are_made_once_and_have_no_changes_to_watch() {
    run(async |server, url| {
        let nodes: Vec<_> = (0..8)
            .map(|_| {
                let builder = builder(&url, "eight");
                tokio::spawn(async move { builder.migrate().await })
            })
            .collect();
        for node in nodes {
            node.await.unwrap().unwrap();
        }
        let store = builder(&url, "eight").open().await.unwrap();
        assert!(!store.capabilities().watch);
        assert_eq!(store.watch().await.err().unwrap().kind(), StoreErrorKind::Unsupported);
        let tables = server
            .sql("postgres", "SELECT tablename FROM pg_tables WHERE tablename LIKE 'eight%' ORDER BY 1");
        assert_eq!(tables, ["eight", "eight_marks", "eight_quarantine"]);
    });
}

/// The URL that an app would have, from the address of a server to a logout that the other engine honours.
#[test]
fn two_engines_agree_over_its_url() {
    run(async |_server, url| {
        let url = url.replace("postgres://", "cockroachdb://");
        let engine = async || {
            let builder = Engine::builder().max_staleness(Duration::ZERO);
            sessile_stores::open(builder, &url).await.unwrap()
        };
        let (here, there) = (engine().await, engine().await);
        let session = here.session(None).await.unwrap();
        session.put("user", "ann").unwrap();
        let Delivery::Issue(issued) = session.commit().await.unwrap() else { panic!("a token") };
        let other = there.session(Some(&issued.token)).await.unwrap();
        assert_eq!(other.get::<String>("user").unwrap().as_deref(), Some("ann"));
        other.destroy().unwrap();
        other.commit().await.unwrap();
        let after = here.session(Some(&issued.token)).await.unwrap();
        assert_eq!(after.get::<String>("user").unwrap(), None);
        here.close().await.unwrap();
        there.close().await.unwrap();
    });
}
