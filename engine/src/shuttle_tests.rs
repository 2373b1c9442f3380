//! Schedule tests: the real cache, queue, writer and handles under shuttle, which runs thousands of random
//! interleavings of every lock and atomic. Each test states what no schedule may do.
//!
//! `SESSILE_SCHEDULES` sets the number of schedules per test (default 10,000). A failing schedule is printed and
//! can be replayed with `shuttle::replay`.

#[path = "shuttle_owner_tests.rs"]
mod owner;
mod renew;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use crate::store::MemoryStore;
use crate::{Delivery, Durability, Engine, ErrorKind, Session, Token};

mod by_id;
mod journal;
mod shared;

fn schedules() -> usize {
    std::env::var("SESSILE_SCHEDULES").ok().and_then(|s| s.parse().ok()).unwrap_or(10_000)
}

pub(crate) fn check(test: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(test, schedules());
}

fn engine(store: &MemoryStore) -> Engine {
    Engine::builder().manual().open(store.clone()).expect("opens")
}

/// An engine so short of memory that whatever is clean and unused is evicted by the next load.
fn tiny_engine(store: &MemoryStore) -> Engine {
    Engine::builder().manual().max_record_bytes(1024).memory_limit(1024).open(store.clone()).expect("opens")
}

pub(crate) fn commit_new(session: &Session) -> Token {
    match block_on(session.commit()).expect("commits") {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A stored, clean session with `n = 0`.
pub(crate) fn stored(engine: &Engine) -> Token {
    let session = block_on(engine.session(None)).expect("begins");
    session.put("n", &0_u32).expect("puts");
    let token = commit_new(&session);
    drop(session);
    while engine.core().queue.dirty() > 0 {
        engine.step();
    }
    token
}

pub(crate) fn open(engine: &Engine, token: &Token) -> Session {
    block_on(engine.session(Some(token))).expect("loads")
}

pub(crate) fn alive(engine: &Engine, token: &Token) -> bool {
    open(engine, token).id().is_some()
}

/// A writer thread that steps until told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(engine: &Engine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (engine, stop) = (engine.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    engine.step();
                    thread::yield_now();
                }
            })
        };
        Self { stop, thread }
    }

    /// Stops it and writes out what is left.
    pub(crate) fn finish(self, engine: &Engine) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer ends");
        for _ in 0..100 {
            if engine.core().queue.dirty() == 0 {
                break;
            }
            engine.step();
        }
        engine.step();
        assert_eq!(engine.core().queue.dirty(), 0, "everything gets written");
    }
}

pub(crate) fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(f)
}

#[test]
fn shuttle_destroy_is_final() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let slow = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                let existed = session.id().is_some();
                match session.put("late", &1) {
                    Ok(()) if existed => {}
                    // Without a session the put starts a new one, which is never published here.
                    Ok(()) => assert!(session.is_new()),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Revoked),
                }
                let _ = block_on(session.commit());
            })
        };
        let session = open(&engine, &token);
        session.destroy().expect("destroys");
        assert!(!alive(&engine, &token), "dead at once");
        slow.join().expect("joins");
        assert!(!alive(&engine, &token), "no racing request brings it back");
        writer.finish(&engine);
        assert!(!alive(&engine, &token), "no flush brings it back");
        drop(session);
        assert!(!alive(&self::engine(&store), &token), "nor does a restart");
    });
}

#[test]
fn shuttle_destroy_waits_for_its_deletion() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = stored(&engine);
        let writer = Writer::start(&engine);
        let other = {
            let session = open(&engine, &token);
            spawn(move || {
                let _ = session.put("n", &1);
            })
        };
        let session = open(&engine, &token);
        session.destroy().expect("destroys");
        assert!(matches!(block_on(session.commit()), Ok(Delivery::Remove)));
        assert!(!alive(&self::engine(&store), &token), "a crash right after the response changes nothing");
        other.join().expect("joins");
        writer.finish(&engine);
    });
}

#[test]
fn shuttle_no_update_is_lost() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let (engine, token) = (engine.clone(), token.clone());
                spawn(move || {
                    let session = open(&engine, &token);
                    session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).expect("updates");
                    session.put(&format!("key{i}"), &i).expect("puts");
                })
            })
            .collect();
        for t in threads {
            t.join().expect("joins");
        }
        writer.finish(&engine);
        let session = open(&self::engine(&store), &token);
        assert_eq!(session.get::<u32>("n").expect("reads"), Some(3));
        assert_eq!(session.keys(), ["key0", "key1", "key2", "n"]);
    });
}

/// A handle reads what it came with without a lock, for as long as that is current.
#[test]
fn shuttle_of_two_who_change_and_read_crosswise_one_sees_the_other() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let tokens = [stored(&engine), stored(&engine)];
        let threads: Vec<_> = [0, 1]
            .map(|i| {
                let (mine, other) = (open(&engine, &tokens[i]), open(&engine, &tokens[1 - i]));
                spawn(move || {
                    assert_eq!(mine.get::<u32>("n").expect("reads"), Some(0));
                    mine.put("n", &1_u32).expect("puts");
                    assert_eq!(mine.get::<u32>("n").expect("reads"), Some(1));
                    let first = other.get::<u32>("n").expect("reads");
                    let again = other.get::<u32>("n").expect("reads");
                    assert!(first <= again, "no read goes back");
                    first
                })
            })
            .into();
        let seen: Vec<_> = threads.into_iter().map(|t| t.join().expect("joins")).collect();
        assert!(seen.contains(&Some(1)), "neither saw the other");
    });
}

#[test]
fn shuttle_pop_is_exactly_once() {
    check(|| {
        let engine = engine(&MemoryStore::default());
        let token = Arc::new(stored(&engine));
        let got = Arc::new(AtomicU32::new(0));
        let writer = Writer::start(&engine);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (engine, token, got) = (engine.clone(), token.clone(), got.clone());
                spawn(move || {
                    if open(&engine, &token).pop::<u32>("n").expect("pops").is_some() {
                        got.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().expect("joins");
        }
        writer.finish(&engine);
        assert_eq!(got.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn shuttle_eviction_loses_nothing() {
    check(|| {
        let store = MemoryStore::default();
        let engine = tiny_engine(&store);
        let tokens = Arc::new([stored(&engine), stored(&engine), stored(&engine)]);
        let writer = Writer::start(&engine);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (engine, tokens) = (engine.clone(), tokens.clone());
                spawn(move || {
                    for token in tokens.iter() {
                        open(&engine, token)
                            .update("n", |n: Option<u32>| n.unwrap_or(90) + 1)
                            .expect("updates");
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().expect("joins");
        }
        writer.finish(&engine);
        for token in tokens.iter() {
            assert_eq!(open(&engine, token).get::<u32>("n").expect("reads"), Some(2));
            assert_eq!(open(&self::engine(&store), token).get::<u32>("n").expect("reads"), Some(2));
        }
    });
}

#[test]
fn shuttle_revoke_against_load() {
    check(|| {
        let store = MemoryStore::default();
        let token = Arc::new(stored(&engine(&store)));
        // A fresh engine: nothing is cached, so both sides start from the store.
        let engine = engine(&store);
        let writer = Writer::start(&engine);
        let other = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                if session.id().is_some() {
                    let _ = session.put("late", &1);
                }
            })
        };
        block_on(engine.destroy_session(&token.id())).expect("revokes");
        assert!(!alive(&engine, &token));
        assert!(!alive(&self::engine(&store), &token), "durable when revoke returns");
        other.join().expect("joins");
        writer.finish(&engine);
        assert!(!alive(&engine, &token));
        assert_eq!(store.len(), 0);
    });
}

#[test]
fn shuttle_sync_covers_writes_that_share_a_queue_slot() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let other = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || open(&engine, &token).put("theirs", &1).expect("puts"))
        };
        let session = open(&engine, &token);
        session.put("mine", &1).expect("puts");
        block_on(session.sync()).expect("syncs");
        assert!(open(&self::engine(&store), &token).exists("mine"), "synced means stored");
        other.join().expect("joins");
        writer.finish(&engine);
    });
}

#[test]
fn shuttle_a_new_session_is_published_once_or_not_at_all() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let session = block_on(engine.session(None)).expect("begins");
        let clone = session.clone();
        let writer = Writer::start(&engine);
        let other = spawn(move || {
            let _ = clone.put("theirs", &1);
        });
        session.put("mine", &1).expect("puts");
        let token = commit_new(&session);
        other.join().expect("joins");
        writer.finish(&engine);
        assert_eq!(store.len(), 1);
        assert_eq!(open(&self::engine(&store), &token).keys(), open(&engine, &token).keys());
        assert!(open(&engine, &token).exists("mine"));
    });
}
