//! Engines over one server: what one does, the others see.

use std::time::Instant;

use sessile_engine::{Engine, Health, OwnerLimit};

use super::support::engines::{self, issued, read};
use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server)).unwrap()
}

#[test]
fn counters_of_two_engines_are_exact() {
    let Some(server) = Server::start(&[]) else { return };
    engines::count_exactly(|| engine(&server), 50);
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let Some(server) = Server::start(&[]) else { return };
    engines::keep_different_keys(|| engine(&server));
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(server) = Server::start(&[]) else { return };
    engines::see_a_logout(|| engine(&server), 4);
}

#[test]
fn a_session_that_the_server_evicted_ends_for_who_holds_it() {
    let Some(server) = Server::start(&[]) else { return };
    let engine = engine(&server);
    let token = issued(&engine, "who", 7);
    let session = block_on(engine.session(Some(&token))).unwrap();
    server.evict(&format!("sessile/1/s/{}", token.id()));
    session.put("who", &8).unwrap();
    let _ = block_on(session.commit());
    assert_eq!(read(&engine, &token, "who"), None, "it is not brought back");
    assert_eq!(server.item(&format!("sessile/1/s/{}", token.id())), None);
}

#[test]
fn an_engine_that_needs_sessions_by_owner_does_not_open() {
    let Some(server) = Server::start(&[]) else { return };
    let limited = Engine::builder().max_sessions_per_owner(3, OwnerLimit::Refuse).open(open(&server));
    assert_eq!(limited.unwrap_err().kind(), sessile_engine::ErrorKind::Config);
}

/// Never a part of them as if it were all.
#[test]
fn ending_all_sessions_of_an_owner_ends_those_in_memory_and_says_that_there_may_be_others() {
    let Some(server) = Server::start(&[]) else { return };
    let engine = engine(&server);
    let session = block_on(async {
        let session = engine.session(None).await.unwrap();
        session.login("ann").await.unwrap();
        session.put("who", &7).unwrap();
        let _ = session.commit().await.unwrap();
        session
    });
    let unsupported = |e: sessile_engine::Error| {
        assert_eq!(e.store_error().unwrap().kind(), StoreErrorKind::Unsupported, "{e}");
    };
    unsupported(block_on(engine.sessions_of("ann")).unwrap_err());
    unsupported(block_on(engine.destroy_all("ann", None)).unwrap_err());
    assert_eq!(session.get::<u64>("who").unwrap(), None, "it has ended");
}

#[test]
fn an_engine_says_that_its_server_is_down_and_recovers_without_the_sessions() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = builder(&server).deadline(Duration::from_millis(700)).connect().unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let token = issued(&engine, "who", 7);
    server.kill();
    let start = Instant::now();
    let nowhere = issued(&Engine::builder().in_memory().unwrap(), "who", 1);
    let unread = block_on(engine.session(Some(&nowhere))).unwrap_err();
    assert_eq!(unread.store_error().unwrap().kind(), StoreErrorKind::Unavailable, "not an empty session");
    let write = || {
        block_on(async {
            let session = engine.session(None).await?;
            session.put("who", &8)?;
            session.commit().await.map(|_| ())
        })
    };
    assert_eq!(write().unwrap_err().store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < BOUND);
    assert!(soon(|| engine.health() != Health::Ok), "{:?}", engine.health());
    server.restart();
    assert!(soon(|| write().is_ok()));
    assert!(soon(|| engine.health() == Health::Ok), "{:?}", engine.health());
    assert!(soon(
        || block_on(engine.session(Some(&token))).is_ok_and(|s| s.get::<u64>("who").unwrap().is_none())
    ));
}
