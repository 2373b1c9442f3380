//! Sessions without owner: what they may take, and that nothing they do costs a session with an owner its place.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use pollster::block_on;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Builder, Delivery, Engine, ErrorKind, Event, Result, Session, SessionId, Stats, Token};

const LIMIT: usize = 256 << 10;

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn create(engine: &Engine, owner: Option<&str>) -> Result<Token> {
    let session = begin(engine, None);
    session.put("k", &"x".repeat(200))?;
    session.set_owner(owner)?;
    match block_on(session.commit())? {
        Delivery::Issue(issue) => Ok(issue.token),
        other => panic!("expected a token, got {other:?}"),
    }
}

fn stats(engine: &Engine) -> Stats {
    block_on(engine.stats())
}

fn limited() -> Builder {
    Engine::builder().memory_limit(LIMIT).anonymous_memory_limit(LIMIT / 2)
}

/// An engine over a store, and the ids that it evicted.
fn watched() -> (Engine, Arc<Mutex<HashSet<SessionId>>>) {
    let evicted = Arc::new(Mutex::new(HashSet::new()));
    let log = evicted.clone();
    let observer = move |event: &Event| {
        if let Event::Evicted { id } = event {
            log.lock().unwrap().insert(*id);
        }
    };
    (limited().observer(observer).open(MemoryStore::default()).unwrap(), evicted)
}

#[test]
fn bytes_move_with_the_owner() {
    let engine = limited().in_memory().unwrap();
    let token = create(&engine, None).unwrap();
    let anonymous = stats(&engine);
    assert_eq!(anonymous.anonymous_bytes, anonymous.memory_bytes);
    let session = begin(&engine, Some(&token));
    session.set_owner(Some("user:1")).unwrap();
    assert_eq!(stats(&engine).anonymous_bytes, 0);
    session.put("more", &"y".repeat(500)).unwrap();
    assert_eq!(stats(&engine).anonymous_bytes, 0);
    session.set_owner(None).unwrap();
    let back = stats(&engine);
    assert_eq!(back.anonymous_bytes, back.memory_bytes);
    session.renew().unwrap();
    let _ = block_on(session.commit()).unwrap();
    assert_eq!(stats(&engine).anonymous_bytes, back.memory_bytes, "a renewal moves nothing");
    session.destroy().unwrap();
    assert_eq!((stats(&engine).anonymous_bytes, stats(&engine).memory_bytes), (0, 0));
}

#[test]
fn an_engine_without_a_store_refuses_only_their_like() {
    let engine = limited().in_memory().unwrap();
    let owned: Vec<_> = (0..50).map(|i| create(&engine, Some(&format!("user:{i}"))).unwrap()).collect();
    let mut made = Vec::new();
    let error = loop {
        match create(&engine, None) {
            Ok(token) => made.push(token),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemoryBudget);
    assert!(error.to_string().contains("without owner"), "{error}");
    assert!(stats(&engine).anonymous_bytes as usize <= LIMIT / 2 + 1024);
    let more: Vec<_> = (0..50).map(|i| create(&engine, Some(&format!("late:{i}"))).unwrap()).collect();
    assert!(owned.iter().chain(&more).all(|t| begin(&engine, Some(t)).owner().is_some()));
    assert!(made.iter().all(|t| begin(&engine, Some(t)).exists("k")), "and none is forgotten");
    // One that is given an owner makes room for another.
    begin(&engine, Some(&made[0])).set_owner(Some("user:0")).unwrap();
    create(&engine, None).unwrap();
}

#[test]
fn a_flood_evicts_only_its_like() {
    let (engine, evicted) = watched();
    let owned: Vec<_> = (0..100).map(|i| create(&engine, Some(&format!("user:{i}"))).unwrap()).collect();
    block_on(engine.flush()).unwrap();
    let flood: Vec<_> = (0..5_000).map(|_| create(&engine, None).unwrap()).collect();
    block_on(engine.flush()).unwrap();
    create(&engine, None).unwrap();
    let now = stats(&engine);
    assert!(now.evicted > 3_000, "{now:?}");
    {
        let evicted = evicted.lock().unwrap();
        assert!(owned.iter().all(|t| !evicted.contains(&t.id())), "no session with an owner left the cache");
    }
    let misses = now.misses;
    assert!(owned.iter().all(|t| begin(&engine, Some(t)).owner().is_some()));
    assert_eq!(stats(&engine).misses, misses, "nor was one read back");
    assert!(
        flood.iter().step_by(97).all(|t| begin(&engine, Some(t)).exists("k")),
        "the flood's are read back"
    );
}

#[test]
fn few_among_many_are_found() {
    let (engine, evicted) = watched();
    // The cache is full of sessions with owners; what is kept for strangers is a small part of it.
    let owned: Vec<_> = (0..2_000).map(|i| create(&engine, Some(&format!("user:{i}"))).unwrap()).collect();
    block_on(engine.flush()).unwrap();
    evicted.lock().unwrap().clear();
    for _ in 0..500 {
        create(&engine, None).unwrap();
        block_on(engine.flush()).unwrap();
    }
    let evicted = evicted.lock().unwrap();
    assert!(owned.iter().all(|t| !evicted.contains(&t.id())), "strangers make only strangers leave");
    assert!(evicted.len() > 400, "and those are found: {}", evicted.len());
    assert!(stats(&engine).memory_bytes as usize <= LIMIT + 2048);
}

#[test]
fn owners_make_strangers_leave_before_their_like() {
    let (engine, evicted) = watched();
    let strangers: Vec<_> = (0..2_000).map(|_| create(&engine, None).unwrap()).collect();
    block_on(engine.flush()).unwrap();
    let owned: Vec<_> = (0..200).map(|i| create(&engine, Some(&format!("user:{i}"))).unwrap()).collect();
    block_on(engine.flush()).unwrap();
    let evicted = evicted.lock().unwrap();
    assert!(owned.iter().all(|t| !evicted.contains(&t.id())));
    assert!(strangers.iter().any(|t| evicted.contains(&t.id())));
}
