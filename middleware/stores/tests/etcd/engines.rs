//! Engines over one cluster: what one does, the others see.

use sessile_engine::Engine;

use super::support::engines::{self, IMPATIENT};
use super::*;

fn engine(cluster: &Cluster) -> Engine {
    Engine::builder().open(open(cluster)).unwrap()
}

#[test]
fn counters_of_two_engines_are_exact() {
    let Some(cluster) = Cluster::start(1) else { return };
    engines::count_exactly(|| engine(&cluster), 150);
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let Some(cluster) = Cluster::start(1) else { return };
    engines::keep_different_keys(|| engine(&cluster));
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(cluster) = Cluster::start(1) else { return };
    engines::see_a_logout(|| engine(&cluster), 20);
}

#[test]
fn an_engine_says_that_its_cluster_is_down_and_recovers() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = EtcdStore::builder(&cluster.url()).deadline(IMPATIENT).connect().unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let (down, up) =
        (|cluster: &mut Cluster| cluster.kill(0), |cluster: &mut Cluster| cluster.restart(0, false));
    engines::say_that_the_server_is_down(&engine, &mut cluster, down, up);
}
