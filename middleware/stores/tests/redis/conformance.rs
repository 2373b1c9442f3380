//! The engine's suite for stores, in each mode.

use std::sync::atomic::{AtomicU32, Ordering};

use sessile_engine::store::conformance::{Subject, run};
use sessile_stores::redis::Builder;

use super::cluster_server::Cluster;
use super::sentinel_server::Guarded;
use super::{RedisStore, Server, block_on};

fn holds(server: &Server, settings: fn(Builder) -> Builder) {
    holds_at(&server.url(), settings);
}

fn holds_at(url: &str, settings: fn(Builder) -> Builder) {
    let count = AtomicU32::new(0);
    block_on(run(async || {
        // Each case has a namespace of its own on the same server.
        let prefix = format!("case{}:", count.fetch_add(1, Ordering::Relaxed));
        let url = url.to_owned();
        let make = move || settings(RedisStore::builder(&url).prefix(&prefix)).connect().unwrap();
        let first = make();
        Subject::new(first).reopened_by(move || Box::pin(std::future::ready(Subject::new(make()))))
    }));
}

#[test]
fn a_server_conforms() {
    let Some(server) = Server::start() else { return };
    holds(&server, |settings| settings);
}

#[test]
fn a_server_conforms_without_a_listing() {
    let Some(server) = Server::start() else { return };
    holds(&server, |settings| settings.listing(false));
}

#[test]
fn the_only_writer_conforms() {
    let Some(server) = Server::start() else { return };
    holds(&server, Builder::exclusive);
}

#[test]
fn a_cluster_conforms() {
    let Some(cluster) = Cluster::start() else { return };
    holds_at(&cluster.url(), |settings| settings);
}

#[test]
fn a_cluster_conforms_without_a_listing() {
    let Some(cluster) = Cluster::start() else { return };
    holds_at(&cluster.url(), |settings| settings.listing(false));
}

#[test]
fn the_primary_of_sentinels_conforms() {
    let Some(guarded) = Guarded::start(None) else { return };
    holds_at(&guarded.url(None), |settings| settings);
}
