//! Engines over one server: what one does, the others see.

use sessile_engine::Engine;

use super::support::engines::{self, IMPATIENT};
use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server)).unwrap()
}

#[test]
fn counters_of_two_engines_are_exact() {
    let Some(server) = Server::start() else { return };
    engines::count_exactly(|| engine(&server), 150);
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let Some(server) = Server::start() else { return };
    engines::keep_different_keys(|| engine(&server));
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(server) = Server::start() else { return };
    engines::see_a_logout(|| engine(&server), 20);
}

#[test]
fn an_engine_says_that_its_server_is_down_and_recovers() {
    let Some(mut server) = Server::start() else { return };
    let store = ConsulStore::builder(&server.url()).deadline(IMPATIENT).connect().unwrap();
    let engine = Engine::builder().open(store).unwrap();
    engines::say_that_the_server_is_down(&engine, &mut server, Server::kill, |server| server.restart(false));
}
