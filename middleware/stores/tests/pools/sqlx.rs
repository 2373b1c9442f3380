//! The store over `SQLx`'s pool, and an app with `SeaORM`, which has the same.

use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use sessile_engine::store::StoreError;
use sessile_engine::{Delivery, Engine};
use sessile_stores::sqlx::{Builder, SqlxPostgresStore};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::support::postgres::Server;
use super::{Client, over, run};

struct Sqlx;

impl Client for Sqlx {
    const NAME: &'static str = "SQLx";

    type Pool = PgPool;
    type Builder = Builder;
    type Opened = SqlxPostgresStore;

    async fn pool(server: &Server, size: u32) -> PgPool {
        PgPoolOptions::new().max_connections(size).connect(&server.url("postgres")).await.unwrap()
    }

    fn builder(pool: PgPool, table: &str, deadline: Duration) -> Builder {
        SqlxPostgresStore::from_pool(pool).table(table).unwrap().deadline(deadline)
    }

    fn schema_sql(builder: &Builder) -> String {
        builder.schema_sql()
    }

    async fn migrate(builder: &Builder) -> Result<(), StoreError> {
        builder.migrate().await
    }

    async fn open(builder: Builder) -> Result<SqlxPostgresStore, StoreError> {
        builder.open().await
    }
}

all_cases! { Sqlx }

/// What an app with `SeaORM` does: its own tables and the sessions, over one pool, which stays open when the engine ends.
#[test]
fn an_app_with_sea_orm_keeps_its_pool() {
    run(async |server| {
        let database = sea_orm::Database::connect(server.url("postgres")).await.unwrap();
        database.execute_unprepared("CREATE TABLE orders (id BIGINT PRIMARY KEY)").await.unwrap();
        let store = over::<Sqlx>(database.get_postgres_connection_pool().clone(), "app_sessions").await;
        let engine = Engine::builder().open(store).unwrap();
        let session = engine.session(None).await.unwrap();
        session.put("cart", "three apples").unwrap();
        let Delivery::Issue(issued) = session.commit().await.unwrap() else { panic!("a token") };
        database.execute_unprepared("INSERT INTO orders VALUES (1)").await.unwrap();
        engine.close().await.unwrap();

        let store = over::<Sqlx>(database.get_postgres_connection_pool().clone(), "app_sessions").await;
        let engine = Engine::builder().open(store).unwrap();
        let session = engine.session(Some(&issued.token)).await.unwrap();
        assert_eq!(session.get::<String>("cart").unwrap().as_deref(), Some("three apples"));
        engine.close().await.unwrap();
        database.execute_unprepared("INSERT INTO orders VALUES (2)").await.unwrap();
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM orders"), ["2"]);
    });
}
