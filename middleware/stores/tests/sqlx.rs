//! The store over an app's own pool, `SQLx`'s or `SeaORM`'s, against a real PostgreSQL: the conformance suite, two apps
//! with different clients over one table, callers that go away, a server that ends. Without PostgreSQL it says so.
#![cfg(all(feature = "sqlx-0_9", feature = "postgres"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Notice, Outcome, Store};
use sessile_engine::{Delivery, Engine, StoreErrorKind};
use sessile_stores::postgres::PostgresStore;
use sessile_stores::sqlx::SqlxPostgresStore;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::postgres::Server;
use support::{id, insert, row, update};

const BOUND: Duration = Duration::from_secs(20);

async fn pool(server: &Server, size: u32) -> PgPool {
    PgPoolOptions::new().max_connections(size).connect(&server.url("postgres")).await.unwrap()
}

async fn over(pool: PgPool, table: &str) -> SqlxPostgresStore {
    let builder = SqlxPostgresStore::from_pool(pool).table(table).unwrap().deadline(BOUND);
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
    let app = runtime();
    let pool = app.block_on(pool(&server, 16));
    let version = format!("PostgreSQL {}, real", support::postgres::version());
    // The app's runtime has the pool; the engine calls from threads without one.
    support::conforms("PostgreSQL, over SQLx", &version, async |n| {
        let table = format!("case_{n}");
        let open = move |handle: tokio::runtime::Handle, pool: PgPool, table: String| async move {
            Subject::new(handle.spawn(async move { over(pool, &table).await }).await.unwrap())
        };
        let again = (app.handle().clone(), pool.clone(), table.clone());
        open(app.handle().clone(), pool.clone(), table).await.reopened_by(move || {
            let (handle, pool, table) = again.clone();
            Box::pin(open(handle, pool, table))
        })
    });
}

/// A pool whose runtime has one thread would stand still whenever the engine is waited for there.
#[test]
fn a_runtime_of_one_thread_is_refused() {
    let Some(server) = Server::start() else { return };
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    one.block_on(async {
        let builder = SqlxPostgresStore::from_pool(pool(&server, 2).await);
        assert_eq!(builder.migrate().await.unwrap_err().kind(), StoreErrorKind::Config);
        assert_eq!(builder.open().await.unwrap_err().kind(), StoreErrorKind::Config);
    });
}

/// An app may change from one client to the other, and two apps may use both at once.
#[test]
fn it_shares_its_tables_with_the_other_client() {
    run(async |server| {
        let ours = over(pool(&server, 8).await, "t").await;
        let builder = PostgresStore::builder(server.url("postgres")).table("t").unwrap().deadline(BOUND);
        builder.migrate().await.unwrap();
        let theirs = builder.open().await.unwrap();
        let mut told = theirs.watch().await.unwrap();
        let _ = ours.commit(1, &[insert(1, row(1))]).await.unwrap();
        assert_eq!(theirs.load(&id(1)).await.unwrap(), Some(row(1)));
        loop {
            match told.next().await.unwrap() {
                Notice::Alive => {}
                told => {
                    assert_eq!(told, Notice::Changed(vec![id(1)]));
                    break;
                }
            }
        }
        let mut told = ours.watch().await.unwrap();
        assert_eq!(theirs.commit(1, &[update(1, 1, row(2))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(ours.load(&id(1)).await.unwrap().unwrap().version, 2);
        loop {
            match told.next().await.unwrap() {
                Notice::Alive => {}
                told => {
                    assert_eq!(told, Notice::Changed(vec![id(1)]));
                    break;
                }
            }
        }
        assert_eq!(ours.commit(1, &[update(1, 1, row(3))]).await.unwrap(), [Outcome::Conflict { found: 2 }]);
    });
}

/// What an app with `SeaORM` does: its own tables and the sessions, over one pool, which stays open when the engine ends.
#[test]
fn an_app_with_sea_orm_keeps_its_pool() {
    run(async |server| {
        let database = sea_orm::Database::connect(server.url("postgres")).await.unwrap();
        database.execute_unprepared("CREATE TABLE orders (id BIGINT PRIMARY KEY)").await.unwrap();
        let store = over(database.get_postgres_connection_pool().clone(), "app_sessions").await;
        let engine = Engine::builder().open(store).unwrap();
        let session = engine.session(None).await.unwrap();
        session.put("cart", "three apples").unwrap();
        let Delivery::Issue(issued) = session.commit().await.unwrap() else { panic!("a token") };
        database.execute_unprepared("INSERT INTO orders VALUES (1)").await.unwrap();
        engine.close().await.unwrap();

        let store = over(database.get_postgres_connection_pool().clone(), "app_sessions").await;
        let engine = Engine::builder().open(store).unwrap();
        let session = engine.session(Some(&issued.token)).await.unwrap();
        assert_eq!(session.get::<String>("cart").unwrap().as_deref(), Some("three apples"));
        engine.close().await.unwrap();
        database.execute_unprepared("INSERT INTO orders VALUES (2)").await.unwrap();
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM orders"), ["2"]);
    });
}

/// Writers over the same rows, through both clients: each accepted change is there exactly once.
#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server| {
        let builder = PostgresStore::builder(server.url("postgres")).table("t").unwrap().deadline(BOUND);
        let ours = over(pool(&server, 8).await, "t").await;
        support::rivals::all_get_through(ours, builder.open().await.unwrap()).await;
    });
}

/// Callers that go away at any moment leave no connection with another's answer, and no open transaction.
#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    run(async |server| {
        let store = Arc::new(over(pool(&server, 3).await, "t").await);
        for n in 0..100 {
            let _ = store.commit(1, &[insert(n, row(u64::from(n) + 1))]).await.unwrap();
        }
        for round in 0..2000_u32 {
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
        let mut idle = false;
        for _ in 0..200 {
            let open = "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
            idle = server.sql("postgres", open).is_empty();
            if idle {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(idle, "a transaction was left open");
    });
}

/// A call whose deadline ends inside a transaction: its connection is closed, its locks go, and the next call works.
#[test]
fn a_deadline_ends_a_call_and_its_transaction() {
    run(async |server| {
        let made = over(pool(&server, 1).await, "t").await;
        let _ = made.commit(1, &[insert(1, row(1))]).await.unwrap();
        let pool = pool(&server, 1).await;
        let builder = SqlxPostgresStore::from_pool(pool).table("t").unwrap();
        let store = builder.deadline(Duration::from_millis(300)).open().await.unwrap();
        let (client, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; UPDATE t SET version = version").await.unwrap();
        for _ in 0..3 {
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        client.batch_execute("COMMIT").await.unwrap();
        let mut outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        while outcome.is_err() {
            outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        }
        assert_eq!(outcome.unwrap(), [Outcome::Done]);
    });
}

/// The server is killed and comes back: the failures in between are "unavailable", what was confirmed is there, and the
/// same store works again.
#[test]
fn a_server_that_ends_is_unavailable_and_comes_back() {
    run(async |mut server| {
        let pool = pool(&server, 4).await;
        let builder = SqlxPostgresStore::from_pool(pool).table("t").unwrap();
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        for n in 0..50 {
            assert_eq!(store.commit(1, &[insert(n, row(1))]).await.unwrap(), [Outcome::Done]);
        }
        server.kill();
        let e = store.commit(1, &[insert(99, row(1))]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        server.resume();
        let mut loaded = store.load(&id(0)).await;
        for _ in 0..100 {
            match &loaded {
                Ok(_) => break,
                Err(e) => assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}"),
            }
            loaded = store.load(&id(0)).await;
        }
        assert_eq!(loaded.unwrap(), Some(row(1)));
        assert_eq!(store.count().await.unwrap(), Some(50));
    });
}

#[test]
fn it_is_opened_with_its_tables_only() {
    run(async |server| {
        let pool = pool(&server, 4).await;
        let builder = SqlxPostgresStore::from_pool(pool).table("absent").unwrap();
        assert_eq!(builder.clone().open().await.unwrap_err().kind(), StoreErrorKind::Config);
        server.sql("postgres", &builder.schema_sql());
        let store = builder.clone().open().await.unwrap();
        assert!(!format!("{store:?} {builder:?}").contains(support::postgres::PASSWORD));
        store.close().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
        server.sql("postgres", "UPDATE absent_marks SET value = 2 WHERE name = 'schema'");
        assert_eq!(builder.open().await.unwrap_err().kind(), StoreErrorKind::NewerFormat);
    });
}
