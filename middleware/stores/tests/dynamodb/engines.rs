//! Engines over one table: what one does, the others see. None of them is told of anything.

use std::time::Duration;

use sessile_engine::{Delivery, Engine};

use super::support::dynamodb::{Stub, pass_on, refusal};
use super::support::engines::{self, issued, read};
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
        assert_eq!(read(&third, token, "who"), None);
    }
    assert!(block_on(open(&server, "t").list_owner("user:42")).unwrap().is_empty());
}

#[test]
fn an_engine_says_that_its_server_is_silent_and_recovers() {
    let Some(mut server) = Server::start() else { return };
    let _ = open(&server, "t");
    let store = block_on(builder(&server, "t").deadline(Duration::from_millis(1500)).open()).unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let freeze = |stop| move |server: &mut Server| server.freeze(stop);
    engines::say_that_the_server_is_down(&engine, &mut server, freeze(true), freeze(false));
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
