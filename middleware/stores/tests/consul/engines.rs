//! Engines over one server: what one does, the others see.

use std::time::{Duration, Instant};

use sessile_engine::{Delivery, Engine, Health, Token};

use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server)).unwrap()
}

fn issued(engine: &Engine, key: &str, value: u64) -> Token {
    block_on(async {
        let session = engine.session(None).await.unwrap();
        session.put(key, &value).unwrap();
        let Delivery::Issue(issue) = session.commit().await.unwrap() else {
            panic!("a new session has a token")
        };
        issue.token
    })
}

#[test]
fn counters_of_two_engines_are_exact() {
    const EACH: u64 = 150;
    let Some(server) = Server::start() else { return };
    let engines = [engine(&server), engine(&server)];
    let token = issued(&engines[0], "n", 0);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (engine, token) = (&engines[n % 2], &token);
            scope.spawn(move || {
                for _ in 0..EACH {
                    block_on(async {
                        let session = engine.session(Some(token)).await.unwrap();
                        session.update_stored("n", |n: Option<u64>| n.unwrap_or(0) + 1).await.unwrap();
                    });
                }
            });
        }
    });
    let third = engine(&server);
    let session = block_on(third.session(Some(&token))).unwrap();
    assert_eq!(session.get::<u64>("n").unwrap(), Some(4 * EACH));
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(server) = Server::start() else { return };
    let (one, other) = (engine(&server), engine(&server));
    for _ in 0..20 {
        let token = issued(&one, "who", 7);
        let held = block_on(other.session(Some(&token))).unwrap();
        assert_eq!(held.get::<u64>("who").unwrap(), Some(7));
        drop(held);
        block_on(async {
            let session = one.session(Some(&token)).await.unwrap();
            session.destroy().unwrap();
            let _ = session.commit().await.unwrap();
        });
        let start = Instant::now();
        while block_on(other.session(Some(&token))).unwrap().get::<u64>("who").unwrap().is_some() {
            assert!(start.elapsed() < Duration::from_secs(60), "never seen");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn issued_nowhere() -> Token {
    issued(&Engine::builder().in_memory().unwrap(), "who", 1)
}

#[test]
fn an_engine_says_that_its_server_is_down_and_recovers() {
    let Some(mut server) = Server::start() else { return };
    let store = ConsulStore::builder(&server.url()).deadline(Duration::from_millis(500)).connect().unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let token = issued(&engine, "who", 7);
    let session = block_on(engine.session(Some(&token))).unwrap();
    server.kill();
    let write = || {
        session.put("who", &8)?;
        block_on(session.commit()).map(|_| ())
    };
    let found = write().unwrap_err();
    assert_eq!(found.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    let unread = block_on(engine.session(Some(&issued_nowhere()))).unwrap_err();
    assert_eq!(unread.store_error().unwrap().kind(), StoreErrorKind::Unavailable, "not an empty session");
    assert!(soon(|| engine.health() != Health::Ok), "{:?}", engine.health());
    server.restart(false);
    assert!(soon(|| write().is_ok()));
    assert!(soon(|| engine.health() == Health::Ok), "{:?}", engine.health());
}
