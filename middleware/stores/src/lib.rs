//! Remote stores for sessile, one cargo feature each: an app that outgrew one machine opens its engine over one of
//! these and keeps everything else. It owns connections, statements and scripts; what a session is, and when a
//! change is made, it never decides.
//!
//! | feature | store | several engines |
//! |---|---|---|
//! | `redis` | `redis::RedisStore`: Redis 6.2 or later, Valkey, also a cluster or behind sentinels | yes |
//! | `postgres` | `postgres::PostgresStore`: PostgreSQL 13 or later; a mode for CockroachDB | yes |
//! | `sqlx-0_9` | `sqlx::SqlxPostgresStore`: the same tables, over the pool of an app that uses SQLx or SeaORM | yes |
//! | `diesel-async-0_9` | `diesel::DieselPostgresStore`: the same tables, over the pool of an app that uses Diesel | yes |
//! | `mysql` | `mysql::MysqlStore`: MariaDB 10.6 or later, MySQL 8 | yes |
//! | `mssql` | `mssql::MssqlStore`: Microsoft SQL Server 2016 or later, Azure SQL; tested against a double | yes |
//! | `sqlite` | `sqlite::SqliteStore`: a file that processes of one machine share | yes |
//! | `etcd` | `etcd::EtcdStore`: etcd 3.4 or later; its build needs `protoc` | yes |
//! | `mongodb` | `mongodb::MongoStore`: MongoDB 4.4 or later, a replica set or a single server | yes |
//! | `consul` | `consul::ConsulStore`: Consul 1.13 or later | yes |
//! | `dynamodb` | `dynamodb::DynamoStore`: Amazon DynamoDB; tested against a compatible server | yes |
//! | `firestore` | `firestore::FirestoreStore`: Firestore in native mode, and its emulator | yes |
//! | `memcached` | `memcached::MemcachedStore`: memcached 1.6 or later, a volatile tier: any session may end at any time | yes |
//! | `tower-sessions-store-0_14`, `tower-sessions-store-0_15` | `tower_sessions::TowerStore`: any store of tower-sessions | no |
//! | `tls-rustls` | TLS for the stores that are switched on, by rustls with ring and the system's roots | |

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "etcd", feature = "consul", feature = "dynamodb", feature = "firestore"))]
mod address;
#[cfg(any(
    feature = "redis",
    feature = "postgres",
    feature = "sqlx-0_9",
    feature = "diesel-async-0_9",
    feature = "mysql",
    feature = "mssql",
    feature = "etcd",
    feature = "consul",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "memcached",
    feature = "firestore",
    feature = "_tower-sessions-store"
))]
#[allow(dead_code, reason = "not every store needs all of it")]
mod driver;
#[cfg(any(
    feature = "redis",
    feature = "etcd",
    feature = "consul",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "memcached",
    feature = "firestore",
    feature = "_tower-sessions-store"
))]
mod keyed;
#[cfg(any(
    feature = "postgres",
    feature = "sqlx-0_9",
    feature = "diesel-async-0_9",
    feature = "mysql",
    feature = "mssql",
    feature = "sqlite"
))]
#[allow(dead_code, reason = "not every store needs all of it")]
mod sql;
mod url;
#[cfg(any(feature = "consul", feature = "firestore"))]
mod web;

#[cfg(feature = "consul")]
#[cfg_attr(docsrs, doc(cfg(feature = "consul")))]
pub mod consul;
#[cfg(feature = "diesel-async-0_9")]
#[cfg_attr(docsrs, doc(cfg(feature = "diesel-async-0_9")))]
pub mod diesel;
#[cfg(feature = "dynamodb")]
#[cfg_attr(docsrs, doc(cfg(feature = "dynamodb")))]
pub mod dynamodb;
#[cfg(feature = "etcd")]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub mod etcd;
#[cfg(feature = "firestore")]
#[cfg_attr(docsrs, doc(cfg(feature = "firestore")))]
pub mod firestore;
#[cfg(feature = "memcached")]
#[cfg_attr(docsrs, doc(cfg(feature = "memcached")))]
pub mod memcached;
#[cfg(feature = "mongodb")]
#[cfg_attr(docsrs, doc(cfg(feature = "mongodb")))]
pub mod mongodb;
#[cfg(feature = "mssql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mssql")))]
pub mod mssql;
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub mod mysql;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub mod postgres;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub mod sqlite;

#[cfg(feature = "sqlx-0_9")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlx-0_9")))]
pub mod sqlx;
#[cfg(feature = "_tower-sessions-store")]
#[cfg_attr(
    docsrs,
    doc(cfg(any(feature = "tower-sessions-store-0_14", feature = "tower-sessions-store-0_15")))
)]
pub mod tower_sessions;

pub use self::url::open;
