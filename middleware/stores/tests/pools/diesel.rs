//! The store over Diesel's pool, and an app that keeps its orders with it.

use std::time::Duration;

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use sessile_engine::store::StoreError;
use sessile_engine::{Delivery, Engine};
use sessile_stores::diesel::{Builder, DieselPostgresStore};

use super::support::postgres::Server;
use super::{Client, over, run};

struct Diesel;

impl Client for Diesel {
    const NAME: &'static str = "Diesel";

    type Pool = Pool<AsyncPgConnection>;
    type Builder = Builder;
    type Opened = DieselPostgresStore;

    /// One that asks no connection whether it lives before it is lent.
    async fn pool(server: &Server, size: u32) -> Self::Pool {
        let mut config = ManagerConfig::default();
        config.recycling_method = RecyclingMethod::Fast;
        let manager = AsyncDieselConnectionManager::new_with_config(server.url("postgres"), config);
        Pool::builder(manager).max_size(size as usize).build().unwrap()
    }

    fn builder(pool: Self::Pool, table: &str, deadline: Duration) -> Builder {
        DieselPostgresStore::from_pool(pool).table(table).unwrap().deadline(deadline)
    }

    fn schema_sql(builder: &Builder) -> String {
        builder.schema_sql()
    }

    async fn migrate(builder: &Builder) -> Result<(), StoreError> {
        builder.migrate().await
    }

    async fn open(builder: Builder) -> Result<DieselPostgresStore, StoreError> {
        builder.open().await
    }
}

all_cases! { Diesel }

diesel::table! {
    orders (id) {
        id -> BigInt,
    }
}

/// Its own tables and the sessions, over one pool, which stays open when the engine ends.
#[test]
fn an_app_with_diesel_keeps_its_pool() {
    run(async |server| {
        let pool = Diesel::pool(&server, 8).await;
        let mut own = pool.get().await.unwrap();
        own.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY)").await.unwrap();
        let engine = Engine::builder().open(over::<Diesel>(pool.clone(), "app_sessions").await).unwrap();
        let session = engine.session(None).await.unwrap();
        session.put("cart", "three apples").unwrap();
        let Delivery::Issue(issued) = session.commit().await.unwrap() else { panic!("a token") };
        let order = |n: i64| diesel::insert_into(orders::table).values(orders::id.eq(n));
        order(1).execute(&mut own).await.unwrap();
        engine.close().await.unwrap();

        let engine = Engine::builder().open(over::<Diesel>(pool.clone(), "app_sessions").await).unwrap();
        let session = engine.session(Some(&issued.token)).await.unwrap();
        assert_eq!(session.get::<String>("cart").unwrap().as_deref(), Some("three apples"));
        engine.close().await.unwrap();
        order(2).execute(&mut own).await.unwrap();
        assert_eq!(orders::table.count().get_result::<i64>(&mut own).await.unwrap(), 2);
    });
}
