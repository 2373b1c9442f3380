//! What engines over one server owe each other, whichever server it is: the tests of the stores bring the engines.

use std::time::Duration;

use pollster::block_on;
use sessile_engine::{Delivery, Engine, Health, StoreErrorKind, Token};

use super::process::soon;

/// The token of a new session.
pub fn issued(engine: &Engine, key: &str, value: u64) -> Token {
    block_on(async {
        let session = engine.session(None).await.unwrap();
        session.put(key, &value).unwrap();
        let Delivery::Issue(issue) = session.commit().await.unwrap() else {
            panic!("a new session has a token")
        };
        issue.token
    })
}

/// What a session holds, as this engine finds it.
pub fn read(engine: &Engine, token: &Token, key: &str) -> Option<u64> {
    block_on(engine.session(Some(token))).unwrap().get(key).unwrap()
}

/// Counters that two engines raise are exact.
pub fn count_exactly(engine: impl Fn() -> Engine, each: u64) {
    let engines = [engine(), engine()];
    let token = issued(&engines[0], "n", 0);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (engine, token) = (&engines[n % 2], &token);
            scope.spawn(move || {
                for _ in 0..each {
                    block_on(async {
                        let session = engine.session(Some(token)).await.unwrap();
                        session.update_stored("n", |n: Option<u64>| n.unwrap_or(0) + 1).await.unwrap();
                    });
                }
            });
        }
    });
    assert_eq!(read(&engine(), &token, "n"), Some(4 * each));
}

/// Different keys that two engines put at one time both survive.
pub fn keep_different_keys(engine: impl Fn() -> Engine) {
    let engines = [engine(), engine()];
    for _ in 0..10 {
        let token = issued(&engines[0], "who", 7);
        block_on(async {
            let one = engines[0].session(Some(&token)).await.unwrap();
            let other = engines[1].session(Some(&token)).await.unwrap();
            one.put("a", &1).unwrap();
            other.put("b", &2).unwrap();
            let _ = one.commit().await.unwrap();
            let _ = other.commit().await.unwrap();
        });
        let third = engine();
        assert_eq!(["who", "a", "b"].map(|key| read(&third, &token, key)), [Some(7), Some(1), Some(2)]);
    }
}

/// A logout at one engine is seen by the other, which has the session in its cache, and every second time in use: what it
/// holds and writes then does not bring the session back.
pub fn see_a_logout(engine: impl Fn() -> Engine, rounds: u32) {
    let (one, other) = (engine(), engine());
    for round in 0..rounds {
        let token = issued(&one, "who", 7);
        let held = block_on(other.session(Some(&token))).unwrap();
        assert_eq!(held.get::<u64>("who").unwrap(), Some(7));
        let held = (round % 2 == 0).then_some(held);
        block_on(async {
            let session = one.session(Some(&token)).await.unwrap();
            session.destroy().unwrap();
            let _ = session.commit().await.unwrap();
            if let Some(held) = &held {
                let _ = held.put("who", &8);
                let _ = held.commit().await;
            }
        });
        drop(held);
        assert!(soon(|| read(&other, &token, "who").is_none()), "never seen");
        assert_eq!(read(&engine(), &token, "who"), None);
    }
}

/// While its server is down an engine says so of writes and of reads, never that a session is empty; and it recovers.
pub fn say_that_the_server_is_down<S>(
    engine: &Engine,
    server: &mut S,
    down: impl FnOnce(&mut S),
    up: impl FnOnce(&mut S),
) {
    let token = issued(engine, "who", 7);
    let session = block_on(engine.session(Some(&token))).unwrap();
    down(server);
    let write = || {
        session.put("who", &8)?;
        block_on(async {
            let _ = session.commit().await?;
            engine.flush().await
        })
    };
    let unavailable = |e: sessile_engine::Error| {
        assert_eq!(e.store_error().unwrap().kind(), StoreErrorKind::Unavailable, "{e}");
    };
    unavailable(write().unwrap_err());
    let nowhere = issued(&Engine::builder().in_memory().unwrap(), "who", 1);
    unavailable(block_on(engine.session(Some(&nowhere))).unwrap_err());
    assert!(soon(|| engine.health() != Health::Ok), "{:?}", engine.health());
    up(server);
    assert!(soon(|| write().is_ok()));
    assert!(soon(|| engine.health() == Health::Ok), "{:?}", engine.health());
}

/// Patience for a store whose server goes down.
pub const IMPATIENT: Duration = Duration::from_millis(700);
