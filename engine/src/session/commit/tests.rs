//! What no test from outside can bring about: publishing when the random source repeats itself, and which handles may be
//! left without a commit.

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

#[test]
fn a_handle_is_left_only_if_its_commit_would_do_nothing() {
    let engine = Engine::builder().in_memory().unwrap();
    let token = published(&engine, "me");
    let open = || block_on(engine.session(Some(&token))).unwrap();
    assert!(block_on(engine.session(None)).unwrap().leave().is_ok(), "nothing began");

    let reader = open();
    assert_eq!(reader.get::<String>("who").unwrap().as_deref(), Some("me"));
    let clone = reader.clone();
    let reader = reader.leave().expect_err("somebody else has it too");
    drop(clone);
    assert!(reader.leave().is_ok());

    let writer = open();
    writer.put("who", "you").unwrap();
    assert!(writer.leave().is_ok(), "there is no store to wait for");
    let begun = block_on(engine.session(None)).unwrap();
    begun.put("who", "new").unwrap();
    token_of(block_on(begun.leave().expect_err("it has to be published").commit()).unwrap());
    let renewed = open();
    renewed.renew().unwrap();
    token_of(block_on(renewed.leave().expect_err("it has to be renewed").commit()).unwrap());

    let rotating = Engine::builder().rotate_every(Duration::from_secs(60)).in_memory().unwrap();
    let token = published(&rotating, "me");
    assert!(block_on(rotating.session(Some(&token))).unwrap().leave().is_err(), "it may be due");

    let store = crate::store::MemoryStore::default();
    let durable = crate::Durability::PowerLoss;
    let engine = Engine::builder().durability(durable).open(store).unwrap();
    let token = published(&engine, "me");
    let writer = block_on(engine.session(Some(&token))).unwrap();
    writer.put("who", "you").unwrap();
    assert!(writer.leave().is_err(), "its write has to be waited for");
}
