//! Sessions in PostgreSQL, over the pool of an app that uses `SQLx` or `SeaORM`. It owns what a connection of theirs is;
//! the statements and their order are those of any such pool, and which change is made, and when, it never decides.
//!
//! The tables are those of `postgres::PostgresStore`, and engines over either may share them. Prefer that one if you
//! have the choice: it sends the statements of a commit at once, where `SQLx` waits for the answer to each.

mod connection;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};
use sqlx::PgPool;

use crate::sql::postgres::pooled::{Pooled, Settings, is_builder};
use crate::sql::server::{Tables, is_store};

const NAME: &str = "sqlx-postgres";

/// A [`Store`] in PostgreSQL 13 or newer, over an `sqlx::PgPool`.
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose transaction or answer is
/// incomplete is closed and never given back.
///
/// # Durability
/// A commit that returned is as durable as the server's `synchronous_commit` makes it.
///
/// # Complexity
/// A commit is six exchanges with the server or some more, and one wait for its disk, whatever the number of changes.
///
/// # Examples
/// `SeaORM` has such a pool too: `database.get_postgres_connection_pool()`.
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use sessile_stores::sqlx::SqlxPostgresStore;
///
/// let pool = sqlx::PgPool::connect("postgres://app:secret@db.internal/app").await?;
/// let builder = SqlxPostgresStore::from_pool(pool.clone());
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct SqlxPostgresStore(Tables<Pooled<PgPool>>);

is_store!(SqlxPostgresStore);
is_builder!(SqlxPostgresStore, PgPool);

impl SqlxPostgresStore {
    /// Settings for the app's pool, on a tokio runtime with several threads that outlives the engine. It needs a connection
    /// more than the app and the engine use at once: the watch keeps one. A pooler between must keep a connection to one
    /// server for a transaction, and know prepared statements.
    pub fn from_pool(pool: PgPool) -> Builder {
        Builder(Settings::of(pool))
    }
}
