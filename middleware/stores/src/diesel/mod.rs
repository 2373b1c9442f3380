//! Sessions in PostgreSQL, over the pool of an app that uses Diesel. It owns what a connection of `diesel-async`'s is;
//! the statements and their order are those of any such pool, and which change is made, and when, it never decides.
//!
//! The tables are those of `postgres::PostgresStore`, and engines over either may share them. Prefer that one if you
//! have the choice: Diesel prepares each statement anew, and waits for the answer to each.

mod connection;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::Pool;
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};

use crate::sql::postgres::pooled::{Pooled, Settings, is_builder};
use crate::sql::server::{Tables, is_store};

const NAME: &str = "diesel-postgres";

/// A [`Store`] in PostgreSQL 13 or newer, over a pool of `diesel-async`'s: deadpool's, of `AsyncPgConnection`s.
///
/// # Errors
/// Diesel passes on few of the server's codes. A disk of the server's that is full, or a right that is missing, is
/// [`Unavailable`](sessile_engine::StoreErrorKind::Unavailable) here, with the server's message, where `PostgresStore`
/// says which it is.
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose transaction or answer is
/// incomplete is closed and never given back.
///
/// # Durability
/// A commit that returned is as durable as the server's `synchronous_commit` makes it.
///
/// # Complexity
/// A commit is ten exchanges with the server or some more, and one wait for its disk, whatever the number of changes.
///
/// # Examples
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel_async::AsyncPgConnection;
/// use diesel_async::pooled_connection::AsyncDieselConnectionManager;
/// use diesel_async::pooled_connection::deadpool::Pool;
/// use sessile_stores::diesel::DieselPostgresStore;
///
/// let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new("postgres://app:secret@db.internal/app");
/// let pool = Pool::builder(manager).build()?;
/// let builder = DieselPostgresStore::from_pool(pool.clone());
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct DieselPostgresStore(Tables<Pooled<Pool<AsyncPgConnection>>>);

is_store!(DieselPostgresStore);
is_builder!(DieselPostgresStore, Pool<AsyncPgConnection>);

impl DieselPostgresStore {
    /// Settings for the app's pool, on a tokio runtime with several threads that outlives the engine. It needs a connection
    /// more than the app and the engine use at once: the watch keeps one. A pooler between must keep a connection to one
    /// server for a transaction, and know prepared statements.
    ///
    /// An `Instrumentation` that the app gives its connections sees our statements too, with the rows in them.
    pub fn from_pool(pool: Pool<AsyncPgConnection>) -> Builder {
        Builder(Settings::of(pool))
    }
}
