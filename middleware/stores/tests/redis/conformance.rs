//! The engine's suite for stores, in each mode.

use std::sync::atomic::{AtomicU32, Ordering};

use sessile_engine::store::conformance::{Subject, run};
use sessile_stores::redis::Builder;

use super::cluster_server::Cluster;
use super::sentinel_server::Guarded;
use super::{RedisStore, Server, block_on, server};

fn holds(store: &str, server: &Server, settings: fn(Builder) -> Builder) {
    holds_at(store, &server.url(), settings);
}

fn holds_at(store: &str, url: &str, settings: fn(Builder) -> Builder) {
    let count = AtomicU32::new(0);
    let report = block_on(run(async || {
        // Each case has a namespace of its own on the same server.
        let prefix = format!("case{}:", count.fetch_add(1, Ordering::Relaxed));
        let url = url.to_owned();
        let make = move || settings(RedisStore::builder(&url).prefix(&prefix)).connect().unwrap();
        let first = make();
        Subject::new(first).reopened_by(move || Box::pin(std::future::ready(Subject::new(make()))))
    }));
    // `tests/stores/run` collects these for docs/stores.md.
    println!("conforms: {}", report.row(store, &server::version()));
}

#[test]
fn a_server_conforms() {
    let Some(server) = Server::start() else { return };
    holds("Redis", &server, |settings| settings);
}

#[test]
fn a_server_conforms_without_a_listing() {
    let Some(server) = Server::start() else { return };
    holds("Redis, without a listing", &server, |settings| settings.listing(false));
}

#[test]
fn the_only_writer_conforms() {
    let Some(server) = Server::start() else { return };
    holds("Redis, one user", &server, Builder::exclusive);
}

#[test]
fn a_cluster_conforms() {
    let Some(cluster) = Cluster::start() else { return };
    holds_at("Redis Cluster", &cluster.url(), |settings| settings);
}

#[test]
fn a_cluster_conforms_without_a_listing() {
    let Some(cluster) = Cluster::start() else { return };
    holds_at("Redis Cluster, without a listing", &cluster.url(), |settings| settings.listing(false));
}

#[test]
fn the_primary_of_sentinels_conforms() {
    let Some(guarded) = Guarded::start(None) else { return };
    holds_at("Redis behind sentinels", &guarded.url(None), |settings| settings);
}
