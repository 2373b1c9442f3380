//! The settings of a SQL Server store, and how it is opened. It never prints the URL, which holds a password.

use std::fmt;
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind};

use super::address::Address;
use super::client::{Connected, Connections, Lent};
use super::text::{Texts, list};
use super::{Mssql, MssqlStore, NAME, PAUSE, number, read};
use crate::driver::Driver;
use crate::sql;
use crate::sql::name::Name;
use crate::sql::server::Tables;

/// Settings of a [`MssqlStore`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    url: String,
    table: Name,
    deadline: Duration,
    pool_size: usize,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("table", &self.table)
            .field("deadline", &self.deadline)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn of_url(url: String) -> Self {
        Self { url, table: Name::default_table(), deadline: Duration::from_secs(2), pool_size: 8 }
    }

    /// The table's name, with a schema before a dot or without. `sessile_sessions` by default.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if a part is not `[A-Za-z_][A-Za-z0-9_]*` of at most 48 bytes.
    pub fn table(mut self, name: &str) -> Result<Self, StoreError> {
        self.table = Name::parse(NAME, name)?;
        Ok(self)
    }

    /// How long a call may take, waiting for a connection and retries included. 2 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Most connections at once. 8 by default.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// The statements that make the tables, to run by hand. They may be run again.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        Texts::new(&self.table).schema
    }

    fn pool(&self) -> Result<Connected, StoreError> {
        let connections = Connections { address: Address::parse(&self.url)?, deadline: self.deadline };
        Connected::builder(connections).max_size(self.pool_size.max(1)).build().map_err(|e| {
            StoreError::new(StoreErrorKind::Config, NAME, "its pool could not be made").with_source(e)
        })
    }

    /// Makes the tables, unless they are there. Several machines may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (pool, texts) = (self.pool()?, Texts::new(&self.table));
        let driver = Driver::start(NAME, self.deadline)?;
        driver
            .run(async move {
                let what = "its tables could not be made";
                loop {
                    let mut conn = Lent::from(&pool).await.map_err(|e| e.into_store(what))?;
                    match conn.batch(&texts.schema).await {
                        Ok(()) => return Ok(()),
                        Err(e) if e.is_made() => tokio::time::sleep(PAUSE).await,
                        Err(e) => return Err(e.into_store(what)),
                    }
                }
            })
            .await
    }

    /// Connects, and checks that the tables are there and known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the URL is wrong, the server refuses the user, or the tables are missing or not
    /// ours, or the database is older than SQL Server 2016 (a compatibility level below 130);
    /// [`StoreErrorKind::NewerFormat`] if a newer release made the tables; [`StoreErrorKind::Unavailable`] if the server
    /// cannot be reached.
    pub async fn open(self) -> Result<MssqlStore, StoreError> {
        let mssql = Mssql { pool: self.pool()?, texts: Texts::new(&self.table) };
        let driver = Driver::start(NAME, self.deadline)?;
        let checked = driver.run(async move {
            let found = match number(&mssql.pool, &mssql.texts.found).await {
                Err(e) if e.is_missing_table() => return Err(sql::no_tables(NAME)),
                other => other.map_err(|e| e.into_store("it could not be opened"))?,
            };
            sql::check_schema(NAME, found)?;
            // Where the tables are there, it is `OPENJSON` that is not.
            match read(&mssql.pool, &mssql.texts.versions, &[&list(&[])]).await {
                Err(e) if e.is_missing_table() => {
                    Err(e.into_store("the database needs a compatibility level of 130 or more"))
                }
                other => other.map(|_| mssql).map_err(|e| e.into_store("it could not be opened")),
            }
        });
        let mssql = checked.await?;
        Ok(MssqlStore(Tables::new(mssql, driver)))
    }
}
