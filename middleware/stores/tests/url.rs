//! Engines that are opened by the URL of a real server: what one of them stores, the next one has. One test for each kind
//! of server that this build knows.
#![cfg(any(
    feature = "redis",
    feature = "postgres",
    feature = "mysql",
    feature = "sqlite",
    feature = "etcd",
    feature = "consul",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "firestore",
    feature = "memcached"
))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests fail by panicking")]

#[cfg(all(feature = "redis", unix))]
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod redis_server;
#[cfg(any(
    feature = "redis",
    feature = "postgres",
    feature = "mysql",
    feature = "mssql",
    feature = "etcd",
    feature = "consul",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "firestore",
    feature = "memcached"
))]
mod support;

use std::time::Duration;
#[cfg(all(feature = "redis", unix))]
use support::process;

use pollster::block_on;
use sessile_engine::{Delivery, Engine, StoreErrorKind};

/// An engine that asks the store for each request.
fn engine(url: &str) -> Engine {
    block_on(sessile_stores::open(Engine::builder().max_staleness(Duration::ZERO), url)).unwrap()
}

fn sessions_are_shared_over(url: &str) {
    block_on(async {
        let one = engine(url);
        let session = one.session(None).await.unwrap();
        session.put("who", "ann").unwrap();
        let Delivery::Issue(issue) = session.commit().await.unwrap() else {
            panic!("a new session has a token")
        };
        // Its tables are there already.
        let other = engine(url);
        let same = other.session(Some(&issue.token)).await.unwrap();
        assert_eq!(same.get::<String>("who").unwrap().as_deref(), Some("ann"));
        same.put("who", "bob").unwrap();
        same.commit().await.unwrap();
        let back = one.session(Some(&issue.token)).await.unwrap();
        assert_eq!(back.get::<String>("who").unwrap().as_deref(), Some("bob"));
        one.close().await.unwrap();
        other.close().await.unwrap();
        // Nobody has it in memory any more.
        let third = engine(url);
        let stored = third.session(Some(&issue.token)).await.unwrap();
        assert_eq!(stored.get::<String>("who").unwrap().as_deref(), Some("bob"));
        third.close().await.unwrap();
    });
}

/// A server that cannot be reached, or that refuses us: said without the password.
fn is_refused(url: &str, password: &str, kind: StoreErrorKind) {
    let error = block_on(sessile_stores::open(Engine::builder(), url)).unwrap_err();
    assert_eq!(error.store_error().unwrap().kind(), kind, "{error}");
    assert!(!format!("{error} {error:?}").contains(password), "{error:?}");
}

#[cfg(all(feature = "redis", unix))]
#[test]
fn redis() {
    let Some(server) = redis_server::Server::start_with(Some("s3cret"), &[]) else { return };
    sessions_are_shared_over(&server.url());
    sessions_are_shared_over(&server.url().replace("redis:", "valkey:"));
    is_refused(&server.url().replace("s3cret", "n0t-it"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "postgres")]
#[test]
fn postgres() {
    use support::postgres::{PASSWORD, Server};
    let Some(server) = Server::start() else { return };
    sessions_are_shared_over(&server.url("postgres"));
    sessions_are_shared_over(&server.url("postgres").replace("postgres:", "postgresql:"));
    is_refused(&server.url("postgres").replace(PASSWORD, "n0t-it"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "mysql")]
#[test]
fn mysql() {
    use support::mysql::{PASSWORD, Server};
    let Some(server) = Server::start() else { return };
    sessions_are_shared_over(&server.url("sessions"));
    sessions_are_shared_over(&server.url("sessions").replace("mysql:", "mariadb:"));
    is_refused(&server.url("sessions").replace(PASSWORD, "n0t-it"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(all(feature = "mssql", feature = "sqlite"))]
#[test]
fn mssql() {
    use support::mssql::{PASSWORD, Server, encoded};
    let server = Server::start();
    sessions_are_shared_over(&server.url());
    sessions_are_shared_over(&server.url().replace("mssql:", "sqlserver:"));
    let other = server.url().replace(&encoded(PASSWORD), "n0t-it");
    is_refused(&other, "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "etcd")]
#[test]
fn etcd() {
    use support::etcd::{Cluster, PASSWORD};
    let Some(server) = Cluster::start(1) else { return };
    sessions_are_shared_over(&server.url());
    server.wants_a_password();
    sessions_are_shared_over(&server.url());
    is_refused(&server.url().replace(PASSWORD, "n0t-it"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "consul")]
#[test]
fn consul() {
    use support::consul::{Server, TOKEN};
    if let Some(server) = Server::start() {
        sessions_are_shared_over(&server.url());
    }
    let Some(server) = Server::start_with_token() else { return };
    sessions_are_shared_over(&format!("{}/shop?token={TOKEN}", server.url()));
    is_refused(&format!("{}/?token=n0t-it", server.url()), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "mongodb")]
#[test]
fn mongodb() {
    use support::mongodb::{PASSWORD, Server};
    let Some(mut server) = Server::start(&[]) else { return };
    sessions_are_shared_over(&server.url());
    server.wants_a_password();
    sessions_are_shared_over(&server.url());
    is_refused(&server.url().replace(PASSWORD, "n0t-it"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "dynamodb")]
#[test]
fn dynamodb() {
    use support::dynamodb::{SECRET, Server};
    let Some(server) = Server::start() else { return };
    sessions_are_shared_over(&server.url());
    sessions_are_shared_over(&format!("{}/other_sessions?region=eu-central-1", server.url()));
    // No server of ours checks a key: see the store's own tests.
    is_refused(&server.url().replace(SECRET, "n0t-it%zz"), "n0t-it", StoreErrorKind::Config);
}

#[cfg(feature = "firestore")]
#[test]
fn firestore() {
    use support::firestore::{OWNER, Server};
    let server = Server::start();
    sessions_are_shared_over(&server.url());
    sessions_are_shared_over(&format!("{}&collection=shop", server.url()));
    server.takes(&["another"]);
    is_refused(&server.url(), OWNER, StoreErrorKind::Config);
}

#[cfg(feature = "memcached")]
#[test]
fn memcached() {
    use support::memcached::Server;
    let (Some(one), Some(other)) = (Server::start(&[]), Server::start(&[])) else { return };
    sessions_are_shared_over(&one.url());
    sessions_are_shared_over(&format!("{},127.0.0.1:{}/shop", one.url(), other.port()));
    is_refused(&one.url().replace("://", "://u:n0t-it@"), "n0t-it", StoreErrorKind::Config);
    drop(other);
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.sqlite");
    sessions_are_shared_over(&format!("sqlite:{}", path.display()));
    sessions_are_shared_over(&format!("sqlite://{}", path.display()));
    is_refused(&format!("sqlite:{}", dir.path().display()), "no password", StoreErrorKind::Config);
}
