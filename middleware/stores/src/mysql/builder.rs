//! The settings of a MySQL store, and how it is opened. It never prints the URL, which holds a password.

use std::fmt;
use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, SslOpts};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::client::{Lent, is_missing_table, store_error};
use super::text::{SLACK, Texts};
use super::{Mysql, MysqlStore, NAME, number};
use crate::driver::Driver;
use crate::sql::name::Name;
use crate::sql::server::Tables;
use crate::sql::{self, MAX_ROW_BYTES};

/// Settings of a [`MysqlStore`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    source: Source,
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
            .field("table", &self.table)
            .field("deadline", &self.deadline)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl Builder {
    fn of(source: Source) -> Self {
        Self { source, table: Name::default_table(), deadline: Duration::from_secs(2), pool_size: 8 }
    }

    pub(super) fn of_url(url: String) -> Self {
        Self::of(Source::Url(url))
    }

    pub(super) fn of_pool(pool: Pool) -> Self {
        Self::of(Source::Pool(pool))
    }

    /// The table's name, with its database before a dot or without. `sessile_sessions` by default.
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

    /// Most connections at once. 8 by default. Not for a pool that was given.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// The statements that make the tables, to run by hand. They may be run again.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        Texts::new(self.table.clone()).schema()
    }

    fn pool(&self) -> Result<Pool, StoreError> {
        let url = match &self.source {
            Source::Pool(pool) => return Ok(pool.clone()),
            Source::Url(url) => url,
        };
        let config_error = |what| StoreError::new(StoreErrorKind::Config, NAME, what);
        // The parser's own error may quote what it does not understand.
        let url = match url.strip_prefix("mariadb:") {
            Some(rest) => format!("mysql:{rest}"),
            None => url.clone(),
        };
        let opts = Opts::from_url(&url).map_err(|_| config_error("its URL cannot be read"))?;
        let tls = opts.ssl_opts().map(trusting_the_system).transpose()?;
        let constraints = PoolConstraints::new(0, self.pool_size.max(1)).unwrap_or_default();
        let pool = PoolOpts::new().with_constraints(constraints).with_reset_connection(false);
        // For who has gone away: what waits for a lock must not do so for ever.
        let wait = self.deadline.as_secs().clamp(1, 3600);
        let opts = OptsBuilder::from_opts(opts)
            .pool_opts(pool)
            .ssl_opts(tls)
            .prefer_socket(Some(false))
            .init(vec![format!("SET SESSION innodb_lock_wait_timeout = {wait}, autocommit = 1")]);
        Ok(Pool::new(opts))
    }

    /// Makes the tables, unless they are there. Several machines may do so at once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let (builder, texts) = (self.clone(), Texts::new(self.table.clone()));
        let driver = Driver::start(NAME, self.deadline)?;
        driver
            .run(async move {
                let pool = builder.pool()?;
                let migrated = async {
                    let mut conn = Lent::from(&pool).await?;
                    conn.run(texts.schema()).await?;
                    conn.done();
                    if matches!(builder.source, Source::Url(_)) {
                        pool.disconnect().await?;
                    }
                    Ok(())
                };
                migrated.await.map_err(|e| store_error("its tables could not be made", &e))
            })
            .await
    }

    /// Connects, and checks that the tables are there and known.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] if the URL is wrong, the server refuses the user, or the tables are missing or not
    /// ours; [`StoreErrorKind::NewerFormat`] if a newer release made them; [`StoreErrorKind::Unavailable`] if the
    /// server cannot be reached.
    pub async fn open(self) -> Result<MysqlStore, StoreError> {
        let driver = Driver::start(NAME, self.deadline)?;
        let opened = driver.run(async move {
            let pool = self.pool()?;
            let texts = Texts::new(self.table.clone());
            let found = match number(&pool, &texts.found()).await {
                Err(e) if is_missing_table(&e) => return Err(sql::no_tables(NAME)),
                other => other.map_err(|e| store_error("it could not be opened", &e))?,
            };
            sql::check_schema(NAME, found.map(|n| i64::try_from(n).unwrap_or(i64::MAX)))?;
            let packet = number(&pool, "SELECT @@max_allowed_packet").await;
            let packet = packet.map_err(|e| store_error("it could not be opened", &e))?.unwrap_or(0);
            // Two digits a byte, and the statement around them.
            let most = usize::try_from(packet).unwrap_or(usize::MAX).saturating_sub(SLACK) / 2;
            let owns_pool = matches!(self.source, Source::Url(_));
            let max_row_bytes = most.min(MAX_ROW_BYTES);
            Ok(Mysql { pool, owns_pool, texts, max_row_bytes })
        });
        let mysql = opened.await?;
        Ok(MysqlStore(Tables::new(mysql, driver)))
    }
}

#[cfg(not(feature = "tls-rustls"))]
fn trusting_the_system(_: &SslOpts) -> Result<SslOpts, StoreError> {
    Err(StoreError::new(StoreErrorKind::Config, NAME, "require_ssl needs the feature `tls-rustls`"))
}

/// With the certificates that the system trusts, not those that the driver brings.
#[cfg(feature = "tls-rustls")]
fn trusting_the_system(tls: &SslOpts) -> Result<SslOpts, StoreError> {
    // The driver takes the process's provider, and panics if there are several to choose from.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Whoever came first has set one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // The driver refuses all for one that it does not understand.
    let roots = rustls_native_certs::load_native_certs().certs.into_iter();
    let roots = roots.filter(|cert| rustls::RootCertStore::empty().add(cert.clone()).is_ok());
    let roots = roots.map(|cert| cert.to_vec().into()).collect();
    Ok(tls.clone().with_root_certs(roots).with_disable_built_in_roots(true))
}
