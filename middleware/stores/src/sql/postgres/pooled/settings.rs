//! The settings of a store over the app's pool, and how it is opened.

use std::fmt;
use std::time::Duration;

use sessile_engine::store::StoreError;

use super::held::Held;
use super::{Connection, Meaning, Pool, Pooled};
use crate::driver::Driver;
use crate::sql;
use crate::sql::name::Name;
use crate::sql::postgres::text::{Dialect, Texts};
use crate::sql::server::Tables;

/// The settings behind a store's `Builder`: see [`is_builder`].
#[derive(Clone)]
pub(crate) struct Settings<P> {
    pool: P,
    pub(crate) table: Name,
    pub(crate) deadline: Duration,
}

impl<P> fmt::Debug for Settings<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("table", &self.table)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl<P: Pool> Settings<P> {
    pub(crate) fn of(pool: P) -> Self {
        Self { pool, table: Name::default_table(), deadline: Duration::from_secs(2) }
    }

    pub(crate) fn texts(&self) -> Texts {
        Texts::new(&self.table, Dialect::Postgres)
    }

    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        let (pool, texts) = (self.pool.clone(), self.texts());
        let driver = Driver::beside(P::NAME, self.deadline)?;
        driver
            .run(async move {
                let migrated = async {
                    let mut held = Held::from(&pool).await?;
                    held.run(&texts.migrate).await?;
                    held.done();
                    Ok(())
                };
                migrated.await.map_err(|e: P::Error| e.into_store("its tables could not be made"))
            })
            .await
    }

    pub(crate) async fn open(self) -> Result<Tables<Pooled<P>>, StoreError> {
        // For who has gone away: what waits for a lock, or was left in the middle, must not hold rows for ever.
        let limit = self.deadline.as_millis().clamp(1, i32::MAX.unsigned_abs().into());
        let texts = self.texts();
        let begin = format!(
            "{}; SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}",
            texts.begin
        );
        let pooled = Pooled { pool: self.pool, texts, begin };
        let driver = Driver::beside(P::NAME, self.deadline)?;
        let checked = driver.run(async move {
            let failed = |e: P::Error| e.into_store("it could not be opened");
            if pooled.numbers(&pooled.texts.there).await.map_err(failed)? != [1] {
                return Err(sql::no_tables(P::NAME));
            }
            let found = pooled.numbers(&pooled.texts.found).await.map_err(failed)?;
            sql::check_schema(P::NAME, found.first().copied())?;
            Ok(pooled)
        });
        Ok(Tables::new(checked.await?, driver))
    }
}

/// Makes the public type `Builder` of a store over the pool `$pool`.
macro_rules! is_builder {
    ($store:ident, $pool:ty) => {
        #[doc = concat!("Settings of a [`", stringify!($store), "`].")]
        #[derive(Clone)]
        #[must_use]
        pub struct Builder($crate::sql::postgres::pooled::Settings<$pool>);

        impl std::fmt::Debug for Builder {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Builder {
            /// The table's name, with a schema before a dot or without. `sessile_sessions` by default.
            ///
            /// # Errors
            /// [`StoreErrorKind::Config`](sessile_engine::StoreErrorKind::Config) if a part is not
            /// `[A-Za-z_][A-Za-z0-9_]*` of at most 48 bytes.
            pub fn table(mut self, name: &str) -> Result<Self, StoreError> {
                self.0.table = $crate::sql::name::Name::parse(NAME, name)?;
                Ok(self)
            }

            /// How long a call may take, waiting for a connection and retries included. 2 s by default.
            pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
                self.0.deadline = deadline;
                self
            }

            /// The statements that make the tables, to run by hand or as a migration of the app. They may be run again.
            #[must_use]
            pub fn schema_sql(&self) -> String {
                self.0.texts().schema
            }

            /// Makes the tables, unless they are there. Several machines may do so at once. To be called on the pool's
            /// runtime.
            ///
            /// # Errors
            /// As [`open`](Self::open).
            pub async fn migrate(&self) -> Result<(), StoreError> {
                self.0.migrate().await
            }

            /// Checks that the tables are there and known. To be called on the pool's runtime, where all calls will run:
            /// it must have several threads, and outlive the engine.
            ///
            /// # Errors
            /// [`StoreErrorKind::Config`](sessile_engine::StoreErrorKind::Config) if the tables are missing or not ours,
            /// or the caller is not on such a runtime;
            /// [`NewerFormat`](sessile_engine::StoreErrorKind::NewerFormat) if a newer release made them;
            /// [`Unavailable`](sessile_engine::StoreErrorKind::Unavailable) if the server cannot be reached.
            pub async fn open(self) -> Result<$store, StoreError> {
                Ok($store(self.0.open().await?))
            }
        }
    };
}
pub(crate) use is_builder;
