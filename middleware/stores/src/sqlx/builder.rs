//! The settings of a store over the app's pool, and how it is opened.

use std::fmt;
use std::time::Duration;

use sessile_engine::store::StoreError;
use sqlx::{PgPool, Row as _};

use super::connection::{Failure, Lent, statement};
use super::{NAME, Pooled, SqlxPostgresStore, read};
use crate::driver::Driver;
use crate::sql;
use crate::sql::name::Name;
use crate::sql::postgres::text::{Dialect, Texts};
use crate::sql::server::Tables;

/// Settings of a [`SqlxPostgresStore`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    pool: PgPool,
    table: Name,
    deadline: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("table", &self.table)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn of(pool: PgPool) -> Self {
        Self { pool, table: Name::default_table(), deadline: Duration::from_secs(2) }
    }

    /// The table's name, with a schema before a dot or without. `sessile_sessions` by default.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`](sessile_engine::StoreErrorKind::Config) if a part is not `[A-Za-z_][A-Za-z0-9_]*` of at
    /// most 48 bytes.
    pub fn table(mut self, name: &str) -> Result<Self, StoreError> {
        self.table = Name::parse(NAME, name)?;
        Ok(self)
    }

    /// How long a call may take, waiting for a connection and retries included. 2 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The statements that make the tables, to run by hand or as a migration of the app. They may be run again.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        Texts::new(&self.table, Dialect::Postgres).schema
    }

    /// Makes the tables, unless they are there. Several machines may do so at once. To be called on the pool's runtime.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (pool, texts) = (self.pool.clone(), Texts::new(&self.table, Dialect::Postgres));
        let driver = Driver::beside(NAME, self.deadline)?;
        driver
            .run(async move {
                let migrated = async {
                    let mut lent = Lent::from(&pool).await?;
                    lent.run(&texts.migrate).await?;
                    lent.done();
                    Ok::<_, Failure>(())
                };
                migrated.await.map_err(|e| e.into_store("its tables could not be made"))
            })
            .await
    }

    /// Checks that the tables are there and known. To be called on the pool's runtime, where all calls will run: it must
    /// have several threads, and outlive the engine.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`](sessile_engine::StoreErrorKind::Config) if the tables are missing or not ours, or the
    /// caller is not on such a runtime;
    /// [`NewerFormat`](sessile_engine::StoreErrorKind::NewerFormat) if a newer release made them;
    /// [`Unavailable`](sessile_engine::StoreErrorKind::Unavailable) if the server cannot be reached.
    pub async fn open(self) -> Result<SqlxPostgresStore, StoreError> {
        // For who has gone away: what waits for a lock, or was left in the middle, must not hold rows for ever.
        let limit = self.deadline.as_millis().clamp(1, i32::MAX.unsigned_abs().into());
        let texts = Texts::new(&self.table, Dialect::Postgres);
        let pooled = Pooled {
            pool: self.pool,
            begin: format!(
                "{}; SET LOCAL statement_timeout = {limit}; \
                 SET LOCAL idle_in_transaction_session_timeout = {limit}",
                texts.begin
            ),
            texts,
        };
        let driver = Driver::beside(NAME, self.deadline)?;
        let checked = driver.run(async move {
            let found = match read(&pooled.pool, || statement(&pooled.texts.found)).await {
                Err(e) if e.is_missing_table() => return Err(sql::no_tables(NAME)),
                other => other.map_err(|e| e.into_store("it could not be opened"))?,
            };
            let version = found.first().map(|row| row.try_get::<i64, _>(0)).transpose();
            let version =
                version.map_err(|e| Failure::from(e).into_store("its version could not be read"))?;
            sql::check_schema(NAME, version)?;
            Ok(pooled)
        });
        let pooled = checked.await?;
        Ok(SqlxPostgresStore(Tables::new(pooled, driver)))
    }
}
