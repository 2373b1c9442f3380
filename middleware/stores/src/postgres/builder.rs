//! The settings of a PostgreSQL store, and how it is opened. It never prints the URL, which holds a password.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, Pool};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::client::{Failure, Lent};
use super::{NAME, PAUSE, Postgres, PostgresStore, read};
use crate::driver::Driver;
use crate::sql;
use crate::sql::name::Name;
use crate::sql::postgres::text::{Dialect, Texts};
use crate::sql::server::Tables;

/// Settings of a [`PostgresStore`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    source: Source,
    dialect: Dialect,
    table: Name,
    deadline: Duration,
    pool_size: usize,
}

#[derive(Clone)]
enum Source {
    Url(String),
    Pool(Pool),
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("dialect", &self.dialect)
            .field("table", &self.table)
            .field("deadline", &self.deadline)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

fn config_error(what: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Config, NAME, what)
}

impl Builder {
    fn of(source: Source) -> Self {
        Self {
            source,
            dialect: Dialect::default(),
            table: Name::default_table(),
            deadline: Duration::from_secs(2),
            pool_size: 8,
        }
    }

    pub(super) fn of_url(url: String) -> Self {
        match url.strip_prefix("cockroachdb:") {
            Some(rest) => Self::of(Source::Url(format!("postgresql:{rest}"))).cockroachdb(),
            None => Self::of(Source::Url(url)),
        }
    }

    pub(super) fn of_pool(pool: Pool) -> Self {
        Self::of(Source::Pool(pool))
    }

    /// The table's name, with a schema before a dot or without. `sessile_sessions` by default.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if a part is not `[A-Za-z_][A-Za-z0-9_]*` of at most 48 bytes.
    pub fn table(mut self, name: &str) -> Result<Self, StoreError> {
        self.table = Name::parse(NAME, name)?;
        Ok(self)
    }

    /// The server is CockroachDB 22.2 or newer, as for a URL that begins with `cockroachdb://`.
    ///
    /// Its transactions are serializable, and one that lost to another is tried again until the deadline. It has
    /// nothing to watch changes by: other engines find a change within their `max_staleness`. Its tables are not those
    /// of PostgreSQL.
    pub fn cockroachdb(mut self) -> Self {
        self.dialect = Dialect::Cockroach;
        self
    }

    /// How long a call may take, waiting for a connection and retries included. 2 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Most connections at once, without the one of each watch. 8 by default. Not for a pool that was given.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// The statements that make the tables, to run by hand. They may be run again.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        Texts::new(&self.table, self.dialect).schema
    }

    fn pool(&self) -> Result<Pool, StoreError> {
        let url = match &self.source {
            Source::Pool(pool) => return Ok(pool.clone()),
            Source::Url(url) => url,
        };
        // The parser's own error may quote what it does not understand.
        let mut config: Config = url.parse().map_err(|_| config_error("its URL cannot be read"))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(self.deadline);
        }
        if config.get_application_name().is_none() {
            config.application_name("sessile");
        }
        // For who has gone away: what waits for a lock, or was left in the middle, must not hold rows for ever.
        let limit = self.deadline.as_millis().clamp(1, i32::MAX.unsigned_abs().into());
        let limits =
            format!("SET statement_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}");
        Pool::builder(manager(config)?)
            .max_size(self.pool_size.max(1))
            .post_create(Hook::async_fn(move |client, _| {
                let limits = limits.clone();
                Box::pin(async move { client.batch_execute(&limits).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|e| config_error("its pool could not be made").with_source(e))
    }

    /// Makes the tables, unless they are there. Several machines may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (pool, texts) = (self.pool()?, Texts::new(&self.table, self.dialect));
        let driver = Driver::start(NAME, self.deadline)?;
        driver
            .run(async move {
                let migrated = async {
                    loop {
                        let client = Lent::from(&pool).await?;
                        match client.batch_execute(&texts.migrate).await.map_err(Failure::from) {
                            Err(e) if e.is_race() => client.roll_back().await?,
                            Ok(()) => {
                                client.done();
                                return Ok::<_, Failure>(());
                            }
                            Err(e) => return Err(e),
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                };
                migrated.await.map_err(|e| e.into_store("its tables could not be made"))
            })
            .await
    }

    /// Connects, and checks that the tables are there and known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the URL is wrong, the server refuses the user, or the tables are missing or not
    /// ours; [`StoreErrorKind::NewerFormat`] if a newer release made them; [`StoreErrorKind::Unavailable`] if the
    /// server cannot be reached.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let owns_pool = matches!(self.source, Source::Url(_));
        let postgres =
            Postgres { pool: self.pool()?, owns_pool, texts: Texts::new(&self.table, self.dialect) };
        let driver = Driver::start(NAME, self.deadline)?;
        let checked = driver.run(async move {
            let found = match read(&postgres.pool, &postgres.texts.found, &[]).await {
                Err(e) if e.is_missing_table() => return Err(sql::no_tables(NAME)),
                other => other.map_err(|e| e.into_store("it could not be opened"))?,
            };
            let version = found.first().map(|row| row.try_get::<_, i64>(0)).transpose();
            let version =
                version.map_err(|e| Failure::from(e).into_store("its version could not be read"))?;
            sql::check_schema(NAME, version)?;
            Ok(postgres)
        });
        let postgres = checked.await?;
        Ok(PostgresStore(Tables::new(postgres, driver)))
    }
}

#[cfg(not(feature = "tls-rustls"))]
fn manager(config: Config) -> Result<Manager, StoreError> {
    if config.get_ssl_mode() == SslMode::Require {
        return Err(config_error("sslmode=require needs the feature `tls-rustls`"));
    }
    Ok(Manager::new(config, tokio_postgres::NoTls))
}

/// Encrypted if the server can, or must by `sslmode=require`; with the certificates that the system trusts.
#[cfg(feature = "tls-rustls")]
fn manager(config: Config) -> Result<Manager, StoreError> {
    if config.get_ssl_mode() == SslMode::Disable {
        return Ok(Manager::new(config, tokio_postgres::NoTls));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| config_error("TLS could not be set up").with_source(e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Manager::new(config, tokio_postgres_rustls::MakeRustlsConnect::new(tls)))
}
