//! The stores over an app's own pool, `SQLx`'s (which is `SeaORM`'s too) and Diesel's, against a real PostgreSQL: the
//! conformance suite, two apps with different clients over one table, callers that go away, a server that ends. Without
//! PostgreSQL it says so.
#![cfg(all(feature = "sqlx-0_9", feature = "diesel-async-0_9", feature = "postgres"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

/// Each case with that client.
macro_rules! all_cases {
    ($client:ident: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            super::cases::$case::<$client>();
        })*
    };
    ($client:ident) => {
        all_cases! { $client:
            conformance
            a_runtime_of_one_thread_is_refused
            it_shares_its_tables_with_the_other_client
            writers_in_each_others_way_all_get_through
            calls_that_are_dropped_leave_nothing_behind
            nobody_gets_the_answer_of_a_caller_who_left
            a_deadline_ends_a_call_and_its_transaction
            a_connection_that_the_server_ended_is_replaced
            a_server_that_ends_is_unavailable_and_comes_back
            it_is_opened_with_its_tables_only
            errors_show_no_secret
        }
    };
}

mod cases;
mod diesel;
mod sqlx;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use sessile_engine::store::{Store, StoreError};
use support::postgres::Server;

/// Longer than any call here takes.
const BOUND: Duration = Duration::from_secs(20);

/// A client whose pool an app has.
trait Client: 'static {
    const NAME: &'static str;

    type Pool: Clone + Send + Sync + 'static;
    type Builder: Clone + std::fmt::Debug + Send + Sync + 'static;
    type Opened: Store + std::fmt::Debug + Send + Sync + 'static;

    fn pool(server: &Server, size: u32) -> impl Future<Output = Self::Pool> + Send;
    fn builder(pool: Self::Pool, table: &str, deadline: Duration) -> Self::Builder;
    fn schema_sql(builder: &Self::Builder) -> String;
    fn migrate(builder: &Self::Builder) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn open(builder: Self::Builder) -> impl Future<Output = Result<Self::Opened, StoreError>> + Send;
}

/// A store of an app whose tables are there.
async fn over<C: Client>(pool: C::Pool, table: &str) -> C::Opened {
    let builder = C::builder(pool, table, BOUND);
    C::migrate(&builder).await.unwrap();
    C::open(builder).await.unwrap()
}

/// Runs a test on an app's runtime, with a server of its own.
fn run(test: impl AsyncFnOnce(Server)) {
    let Some(server) = Server::start() else { return };
    runtime().block_on(test(server));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
