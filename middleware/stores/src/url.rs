//! Opening an engine over whatever a URL names: the one line that an app changes. It knows schemes and default settings;
//! each store's own builder has the rest.

use std::pin::Pin;

use sessile_engine::{Builder, Engine, Error, Result, StoreError, StoreErrorKind};

/// Opens an engine over the store at `url`:
///
/// | URL | feature | store |
/// |---|---|---|
/// | `redis://`, `rediss://`, `redis+unix://`, `valkey://` | `redis` | [`RedisStore`](crate::redis::RedisStore) |
/// | `redis+cluster://host:port,host:port`, `redis+sentinel://host:port,host:port/primary`; `rediss+…`, `valkey+…` | `redis` | the same |
/// | `postgres://`, `postgresql://`, `cockroachdb://` | `postgres` | [`PostgresStore`](crate::postgres::PostgresStore) |
/// | `mysql://`, `mariadb://` | `mysql` | [`MysqlStore`](crate::mysql::MysqlStore) |
/// | `mssql://`, `sqlserver://` | `mssql` | [`MssqlStore`](crate::mssql::MssqlStore) |
/// | `etcd://`, `etcds://` | `etcd` | [`EtcdStore`](crate::etcd::EtcdStore) |
/// | `consul://`, `consuls://` | `consul` | [`ConsulStore`](crate::consul::ConsulStore) |
/// | `mongodb://`, `mongodb+srv://` | `mongodb` | [`MongoStore`](crate::mongodb::MongoStore) |
/// | `dynamodb:///TABLE?region=REGION`, `dynamodb://host:port/TABLE`, `dynamodbs://` | `dynamodb` | [`DynamoStore`](crate::dynamodb::DynamoStore) |
/// | `firestore://project/database` | `firestore` | [`FirestoreStore`](crate::firestore::FirestoreStore) |
/// | `memcached://host:port,host:port/prefix` | `memcached` | [`MemcachedStore`](crate::memcached::MemcachedStore) |
/// | `sqlite:PATH` | `sqlite` | [`SqliteStore`](crate::sqlite::SqliteStore) |
///
/// Tables are created if they are missing. To choose their names, a prefix, deadlines or an existing pool, open the store
/// with its own builder and give it to [`Builder::open`].
///
/// # Errors
/// [`StoreErrorKind::Config`] for a URL that no store of this build understands; else what opening the store, or the
/// engine, says. No error shows a password.
///
/// # Cancel safety
/// Dropping the future leaves at most empty tables behind.
///
/// # Examples
/// ```no_run
/// # async fn open() -> sessile_engine::Result<()> {
/// use sessile_engine::Engine;
///
/// let engine = sessile_stores::open(Engine::builder(), "redis://10.0.0.5/").await?;
/// # Ok(())
/// # }
/// ```
pub async fn open(builder: Builder, url: &str) -> Result<Engine> {
    // Behind a pointer: the futures of all clients, one in the other, are deeper than the compiler follows.
    let opening: Pin<Box<dyn Future<Output = Result<Engine>> + Send + '_>> = Box::pin(open_any(builder, url));
    opening.await
}

#[cfg_attr(
    not(any(
        feature = "redis",
        feature = "postgres",
        feature = "mysql",
        feature = "mssql",
        feature = "sqlite",
        feature = "etcd",
        feature = "consul",
        feature = "mongodb",
        feature = "dynamodb",
        feature = "firestore",
        feature = "memcached"
    )),
    expect(unused_variables, reason = "there is no store to open")
)]
async fn open_any(builder: Builder, url: &str) -> Result<Engine> {
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        #[cfg(feature = "redis")]
        scheme
            if matches!(
                scheme
                    .strip_suffix("+cluster")
                    .or_else(|| scheme.strip_suffix("+sentinel"))
                    .unwrap_or(scheme),
                "redis" | "rediss" | "valkey" | "valkeys"
            ) || matches!(scheme, "redis+unix" | "unix") =>
        {
            let store = crate::redis::RedisStore::builder(url).connect_async().await?;
            builder.open(store)
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" | "cockroachdb" => {
            let store = crate::postgres::PostgresStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let store = crate::mysql::MysqlStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "mssql")]
        "mssql" | "sqlserver" => {
            let store = crate::mssql::MssqlStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let store = crate::etcd::EtcdStore::builder(url).connect_async().await?;
            builder.open(store)
        }
        #[cfg(feature = "consul")]
        "consul" | "consuls" => {
            let store = crate::consul::ConsulStore::builder(url).connect_async().await?;
            builder.open(store)
        }
        #[cfg(feature = "mongodb")]
        "mongodb" | "mongodb+srv" => {
            let store = crate::mongodb::MongoStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "dynamodb")]
        "dynamodb" | "dynamodbs" => {
            let store = crate::dynamodb::DynamoStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "firestore")]
        "firestore" => {
            let store = crate::firestore::FirestoreStore::builder(url);
            store.migrate().await?;
            builder.open(store.open().await?)
        }
        #[cfg(feature = "memcached")]
        "memcached" => {
            let store = crate::memcached::MemcachedStore::builder(url).connect_async().await?;
            builder.open(store)
        }
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
            let store = crate::sqlite::SqliteStore::builder(path);
            store.migrate()?;
            builder.open(store.open()?)
        }
        scheme => Err(no_store(scheme)),
    }
}

fn no_store(scheme: &str) -> Error {
    let known = [
        ("redis", "redis"),
        ("valkey", "redis"),
        ("postgres", "postgres"),
        ("cockroachdb", "postgres"),
        ("mysql", "mysql"),
        ("mariadb", "mysql"),
        ("mssql", "mssql"),
        ("sqlserver", "mssql"),
        ("sqlite", "sqlite"),
        ("etcd", "etcd"),
        ("consul", "consul"),
        ("mongodb", "mongodb"),
        ("dynamodb", "dynamodb"),
        ("memcached", "memcached"),
        ("firestore", "firestore"),
    ];
    let feature = known.iter().find(|(known, _)| scheme.starts_with(known));
    let message = match feature.map(|(_, feature)| feature) {
        Some(known) => format!("this build has no {known} store: enable the feature `{known}`"),
        // Not the URL: whatever it is, it may hold a password.
        None => "the URL names no store: expected redis://, postgres://, mysql://, mssql://, etcd://, \
                 consul://, mongodb://, dynamodb://, firestore://, memcached:// or sqlite:PATH"
            .to_owned(),
    };
    StoreError::new(StoreErrorKind::Config, "remote", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_no_store_is_refused_without_being_shown() {
        for url in ["", "secret", "ftp://user:secret@host/", "redi:secret"] {
            let error = pollster::block_on(open(Engine::builder(), url)).unwrap_err();
            assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Config);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }
}
