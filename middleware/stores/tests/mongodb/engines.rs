//! Engines over one database: what one does, the others see.

use sessile_engine::Engine;

use super::support::engines::{self, IMPATIENT};
use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server, "t")).unwrap()
}

#[test]
fn counters_of_two_engines_are_exact() {
    let Some(server) = Server::any() else { return };
    engines::count_exactly(|| engine(&server), 50);
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let Some(server) = Server::any() else { return };
    engines::keep_different_keys(|| engine(&server));
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(server) = Server::any() else { return };
    engines::see_a_logout(|| engine(&server), 10);
}

#[test]
fn a_logout_is_seen_where_the_server_tells_of_nothing() {
    let Some(server) = Server::start(&["--standalone"]) else { return };
    engines::see_a_logout(|| engine(&server), 10);
}

#[test]
fn an_engine_says_that_its_server_is_down_and_recovers() {
    let Some(mut server) = Server::start(&[]) else { return };
    let _ = open(&server, "t");
    let store = block_on(builder(&server, "t").deadline(IMPATIENT).open()).unwrap();
    let engine = Engine::builder().open(store).unwrap();
    engines::say_that_the_server_is_down(&engine, &mut server, Server::kill, Server::restart);
}
