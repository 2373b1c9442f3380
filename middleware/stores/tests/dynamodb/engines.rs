//! Engines over one table: what one does, the others see. None of them is told of anything.

use std::time::{Duration, Instant};

use sessile_engine::{Delivery, Engine, Health, Token};

use super::support::dynamodb::{Stub, pass_on, refusal};
use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server, "t")).unwrap()
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
    const EACH: u64 = 50;
    let Some(server) = Server::any() else { return };
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
fn different_keys_of_two_engines_both_survive() {
    let Some(server) = Server::any() else { return };
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
            let third = engine(&server);
            let session = third.session(Some(&token)).await.unwrap();
            let found = ["who", "a", "b"].map(|key| session.get::<u64>(key).unwrap());
            assert_eq!(found, [Some(7), Some(1), Some(2)]);
        });
    }
}

#[test]
fn a_logout_at_one_engine_is_seen_by_the_other() {
    let Some(server) = Server::any() else { return };
    let (one, other) = (engine(&server), engine(&server));
    for _ in 0..10 {
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
            assert!(start.elapsed() < Duration::from_secs(60), "never seen");
            std::thread::sleep(Duration::from_millis(2));
        }
        let third = engine(&server);
        assert_eq!(block_on(third.session(Some(&token))).unwrap().get::<u64>("who").unwrap(), None);
    }
}

#[test]
fn an_owner_is_logged_out_everywhere_by_an_engine_that_knows_none_of_the_sessions() {
    const SESSIONS: usize = 120;
    let Some(server) = Server::any() else { return };
    let (one, other) = (engine(&server), engine(&server));
    let tokens: Vec<_> = (0..SESSIONS)
        .map(|_| {
            block_on(async {
                let session = one.session(None).await.unwrap();
                session.put("who", &7).unwrap();
                session.set_owner(Some("user:42")).unwrap();
                let Delivery::Issue(issue) = session.commit().await.unwrap() else {
                    panic!("a new session has a token")
                };
                issue.token
            })
        })
        .collect();
    block_on(one.flush()).unwrap();
    assert_eq!(block_on(other.destroy_all("user:42", None)).unwrap(), SESSIONS);
    let third = engine(&server);
    for token in &tokens {
        assert_eq!(block_on(third.session(Some(token))).unwrap().get::<u64>("who").unwrap(), None);
    }
    assert!(block_on(open(&server, "t").list_owner("user:42")).unwrap().is_empty());
}

#[test]
fn an_engine_says_that_its_server_is_silent_and_recovers() {
    let Some(server) = Server::start() else { return };
    let _ = open(&server, "t");
    let store = block_on(builder(&server, "t").deadline(Duration::from_millis(1500)).open()).unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let token = issued(&engine, "who", 7);
    let session = block_on(engine.session(Some(&token))).unwrap();
    server.freeze(true);
    let write = || {
        session.put("who", &8)?;
        block_on(session.commit()).map(|_| ())
    };
    let flush = || write().and_then(|()| block_on(engine.flush()));
    let found = flush().unwrap_err();
    assert_eq!(found.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    let nowhere = issued(&Engine::builder().in_memory().unwrap(), "who", 1);
    let unread = block_on(engine.session(Some(&nowhere))).unwrap_err();
    assert_eq!(unread.store_error().unwrap().kind(), StoreErrorKind::Unavailable, "not an empty session");
    assert!(soon(|| engine.health() != Health::Ok), "{:?}", engine.health());
    server.freeze(false);
    assert!(soon(|| flush().is_ok()));
    assert!(soon(|| engine.health() == Health::Ok), "{:?}", engine.health());
}

/// The answer to a renewal is lost, before the service has it or after it made it: the session has one token, and it works.
#[test]
fn a_session_whose_renewal_was_not_answered_has_one_token() {
    let Some(server) = Server::local() else { return };
    let _ = open(&server, "t");
    for is_made in [false, true] {
        let port = server.port();
        let stub = Stub::start(move |operation, body, n| {
            if operation != "transactwriteitems" || n > 0 {
                return Some(pass_on(port, operation, body));
            }
            if is_made {
                assert_eq!(pass_on(port, operation, body).0, 200);
            }
            Some((500, refusal("InternalServerError", "lost")))
        });
        let store = DynamoStore::builder(&stub.url()).table(server.table("t")).deadline(BOUND);
        let engine = Engine::builder().open(block_on(store.open()).unwrap()).unwrap();
        let old = issued(&engine, "who", 7);
        block_on(engine.flush()).unwrap();
        let session = block_on(engine.session(Some(&old))).unwrap();
        session.renew().unwrap();
        let token = match block_on(session.commit()) {
            Ok(Delivery::Issue(issue)) => issue.token,
            // It goes on under its old one.
            Ok(_) | Err(_) => old,
        };
        assert!(stub.asked("transactwriteitems") > 0);
        block_on(async {
            let session = engine.session(Some(&token)).await.unwrap();
            assert_eq!(session.get::<u64>("who").unwrap(), Some(7));
            session.put("who", &8).unwrap();
            let _ = session.commit().await.unwrap();
            engine.flush().await.unwrap();
            let third = self::engine(&server);
            let session = third.session(Some(&token)).await.unwrap();
            assert_eq!(session.get::<u64>("who").unwrap(), Some(8), "{is_made}");
            session.destroy().unwrap();
            let _ = session.commit().await.unwrap();
        });
        let left = block_on(open(&server, "t").list(None, 10)).unwrap();
        assert!(left.is_empty(), "{is_made}: another one was left: {left:?}");
    }
}
