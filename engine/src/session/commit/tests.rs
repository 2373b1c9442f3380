//! Publishing when the random source repeats itself, which no test from outside can bring about.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use pollster::block_on;

use super::*;
use crate::engine::Engine;

/// A session with `who`, and its token.
fn published(engine: &Engine, who: &str) -> Token {
    let session = block_on(engine.session(None)).unwrap();
    session.put("who", who).unwrap();
    token_of(block_on(session.commit()).unwrap())
}

fn token_of(delivery: Delivery) -> Token {
    match delivery {
        Delivery::Issue(issue) => issue.token,
        other => panic!("no token: {other:?}"),
    }
}

#[test]
fn t6_a_token_that_is_in_use_is_not_issued_again() {
    let engine = Engine::builder().in_memory().unwrap();
    let theirs = published(&engine, "them");
    let session = block_on(engine.session(None)).unwrap();
    session.put("who", "me").unwrap();
    {
        let mut slot = session.unit().slot.lock();
        let Read::Live(record) = slot.entry.as_ref().unwrap().read(0) else { panic!("not live") };
        slot.entry = Some(Entry::unpublished(theirs.id(), record));
        slot.token = Some(theirs.clone());
    }
    let mine = token_of(block_on(session.commit()).unwrap());
    assert_ne!(mine.id(), theirs.id());
    let who = |token| block_on(engine.session(Some(token))).unwrap().get::<String>("who").unwrap();
    assert_eq!(who(&theirs).as_deref(), Some("them"), "theirs is unharmed");
    assert_eq!(who(&mine).as_deref(), Some("me"));
}
