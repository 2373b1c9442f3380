//! Engines over one database: what one does, the others see.

use sessile_engine::{Delivery, Engine, Token};

use super::support::engines::{self, IMPATIENT, issued, read};
use super::*;

fn engine(server: &Server) -> Engine {
    Engine::builder().open(open(server)).unwrap()
}

fn stored(server: &Server, token: &Token, key: &str) -> Option<u64> {
    read(&engine(server), token, key)
}

#[test]
fn counters_of_two_engines_are_exact() {
    let server = Server::start();
    engines::count_exactly(|| engine(&server), 60);
}

#[test]
fn different_keys_of_two_engines_both_survive() {
    let server = Server::start();
    engines::keep_different_keys(|| engine(&server));
}

/// Nothing tells of changes: the other engine hears of it within `max_staleness`, and brings nothing back meanwhile.
#[test]
fn a_logout_at_one_engine_is_final_and_seen_by_the_other() {
    let server = Server::start();
    engines::see_a_logout(|| engine(&server), 4);
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
    let mut server = Server::start();
    let _ = open(&server);
    let impatient = FirestoreStore::builder(&server.url()).deadline(IMPATIENT);
    let engine = Engine::builder().open(opened(impatient)).unwrap();
    engines::say_that_the_server_is_down(
        &engine,
        &mut server,
        |server| server.kill(),
        |server| server.resume(),
    );
}
