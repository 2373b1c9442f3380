//! Engines over one database: what one does, the others see.

use std::time::Instant;

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

fn stored(server: &Server, token: &Token, key: &str) -> Option<u64> {
    let fresh = engine(server);
    block_on(fresh.session(Some(token))).unwrap().get::<u64>(key).unwrap()
}

#[test]
fn counters_of_two_engines_are_exact() {
    const EACH: u64 = 60;
    let server = Server::start();
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
    assert_eq!(stored(&server, &token, "n"), Some(4 * EACH));
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let server = Server::start();
    let engines = [engine(&server), engine(&server)];
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
        let third = engine(&server);
        let session = block_on(third.session(Some(&token))).unwrap();
        assert_eq!(
            ["who", "a", "b"].map(|key| session.get::<u64>(key).unwrap()),
            [Some(7), Some(1), Some(2)]
        );
    }
}

/// Nothing tells of changes: the other engine hears of it within `max_staleness`, and brings nothing back meanwhile.
#[test]
fn a_logout_at_one_engine_is_final_and_seen_by_the_other() {
    let server = Server::start();
    let (one, other) = (engine(&server), engine(&server));
    for _ in 0..3 {
        let token = issued(&one, "who", 7);
        let held = block_on(other.session(Some(&token))).unwrap();
        assert_eq!(held.get::<u64>("who").unwrap(), Some(7));
        block_on(async {
            let session = one.session(Some(&token)).await.unwrap();
            session.destroy().unwrap();
            let _ = session.commit().await.unwrap();
            // What the other still holds does not bring it back.
            let _ = held.put("who", &8);
            let _ = held.commit().await;
        });
        drop(held);
        let start = Instant::now();
        while block_on(other.session(Some(&token))).unwrap().get::<u64>("who").unwrap().is_some() {
            assert!(start.elapsed() < BOUND, "never seen");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(stored(&server, &token, "who"), None);
    }
}

/// The answer to a commit is lost: the response that waited for it fails, and what it wrote is neither lost nor doubled.
#[test]
fn a_lost_answer_is_made_up_for() {
    let server = Server::start();
    let engine = engine(&server);
    let token = issued(&engine, "n", 1);
    let session = block_on(engine.session(Some(&token))).unwrap();
    for n in 2..8 {
        let fault = if n % 2 == 0 { Fault::CloseAfter } else { Fault::CloseBefore };
        server.fault("commit", fault, 1);
        session.put("n", &n).unwrap();
        let _ = block_on(session.commit());
        assert!(soon(|| server.is_sound() && stored(&server, &token, "n") == Some(n)), "{n} never came");
    }
    // A renewal whose answer was lost: one of the two tokens works, and the session is whole.
    server.fault("commit", Fault::CloseAfter, 1);
    let session = block_on(engine.session(Some(&token))).unwrap();
    session.renew().unwrap();
    let renewed = block_on(session.commit());
    assert!(soon(|| server.is_sound()));
    let token = match renewed {
        Ok(Delivery::Issue(issue)) => issue.token,
        _ => token,
    };
    let session = block_on(engine.session(Some(&token))).unwrap();
    assert_eq!(session.get::<u64>("n").unwrap(), Some(7));
    session.put("n", &9).unwrap();
    assert!(soon(|| block_on(session.commit()).is_ok()));
    assert!(soon(|| stored(&server, &token, "n") == Some(9)));
    assert_eq!(server.paths("(default)", "sessile_sessions/").len(), 1, "it has one row");
}

#[test]
fn an_engine_says_that_its_server_is_down_and_recovers() {
    let server = Server::start();
    let _ = open(&server);
    let impatient = FirestoreStore::builder(&server.url()).deadline(Duration::from_millis(700));
    let engine = Engine::builder().open(opened(impatient)).unwrap();
    let token = issued(&engine, "who", 7);
    let session = block_on(engine.session(Some(&token))).unwrap();
    server.kill();
    let write = || {
        session.put("who", &8)?;
        block_on(session.commit()).map(|_| ())
    };
    let found = write().unwrap_err();
    assert_eq!(found.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    let nowhere = issued(&Engine::builder().in_memory().unwrap(), "who", 1);
    let unread = block_on(engine.session(Some(&nowhere))).unwrap_err();
    assert_eq!(unread.store_error().unwrap().kind(), StoreErrorKind::Unavailable, "not an empty session");
    assert!(soon(|| engine.health() != Health::Ok), "{:?}", engine.health());
    server.resume();
    assert!(soon(|| write().is_ok()));
    assert!(soon(|| engine.health() == Health::Ok), "{:?}", engine.health());
}
