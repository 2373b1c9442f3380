//! Schedule tests of rotation and merging: what no interleaving with a logout, a renewal or another merge may do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shuttle::future::block_on;

use crate::shuttle_tests::{Writer, alive, check, commit_new, open, spawn, stored};
use crate::store::MemoryStore;
use crate::{Delivery, Engine, ErrorKind, Merged};

fn engine(store: &MemoryStore) -> Engine {
    Engine::builder().manual().rotation_grace(Duration::from_secs(300)).open(store.clone()).expect("opens")
}

#[test]
fn shuttle_a_logout_ends_a_rotation_and_its_grace() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let rotating = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                let _ = session.rotate();
                let delivered = block_on(session.commit()).expect("commits");
                if let Delivery::Issue(issue) = delivered {
                    // The logout may come after it, not before.
                    let _ = alive(&engine, &issue.token);
                }
                session
            })
        };
        let session = open(&engine, &token);
        assert!(session.id().is_some(), "the grace bridges the rotation");
        session.destroy().expect("destroys");
        assert!(!alive(&engine, &token), "dead at once, also by its old token");
        let rotated = rotating.join().expect("joins");
        assert_eq!(rotated.id(), None, "whatever the rotation made of it");
        assert!(!alive(&engine, &token));
        writer.finish(&engine);
        assert_eq!(store.len(), 0, "no row is left");
    });
}

#[test]
fn shuttle_a_request_under_way_survives_a_rotation() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let slow = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                session.put("slow", &1).expect("the grace bridges the rotation");
                session.update("n", |n: Option<u32>| n.expect("is there") + 1).expect("updates");
                assert_eq!(session.pop::<u32>("slow").expect("pops"), Some(1));
            })
        };
        let session = open(&engine, &token);
        session.rotate().expect("asks");
        let new = commit_new(&session);
        slow.join().expect("joins");
        writer.finish(&engine);
        assert_eq!(open(&engine, &new).get::<u32>("n").expect("reads"), Some(1));
        assert_eq!(
            open(&self::engine(&store), &new).get::<u32>("n").expect("reads"),
            Some(1),
            "and is stored"
        );
    });
}

#[test]
fn shuttle_a_renewal_against_a_rotation_leaves_no_old_token() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let rotating = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                let _ = session.rotate();
                match block_on(session.commit()).expect("commits") {
                    Delivery::Issue(issue) => Some(issue.token),
                    _ => None,
                }
            })
        };
        let session = open(&engine, &token);
        session.renew().expect("asks");
        let new = commit_new(&session);
        assert!(!alive(&engine, &token), "the planted token is dead when the renewal is delivered");
        if let Some(rotated) = rotating.join().expect("joins") {
            assert!(rotated.id() == new.id() || !alive(&engine, &rotated));
        }
        assert!(!alive(&engine, &token));
        assert!(alive(&engine, &new));
        writer.finish(&engine);
        assert_eq!(store.len(), 1);
    });
}

#[test]
fn shuttle_of_racing_merges_one_gets_the_data() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let got = Arc::new(AtomicU32::new(0));
        let writer = Writer::start(&engine);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (engine, token, got) = (engine.clone(), token.clone(), got.clone());
                spawn(move || {
                    let session = block_on(engine.session(None)).expect("begins");
                    let merged = block_on(session.merge(&token)).expect("merges");
                    let _ = block_on(session.commit()).expect("commits");
                    if merged == (Merged::Done { keys: 1 }) {
                        assert_eq!(session.get::<u32>("n").expect("reads"), Some(0));
                        got.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().expect("joins");
        }
        assert_eq!(got.load(Ordering::SeqCst), 1);
        assert!(!alive(&engine, &token));
        writer.finish(&engine);
        assert!(!alive(&self::engine(&store), &token), "nor after a restart");
        assert_eq!(store.len(), 1);
    });
}

#[test]
fn shuttle_a_logout_against_a_merge_that_is_dropped() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let held = open(&engine, &token);
        let merging = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = block_on(engine.session(None)).expect("begins");
                let _ = block_on(session.merge(&token)).expect("merges");
            })
        };
        held.destroy().expect("destroys");
        merging.join().expect("joins");
        assert!(
            !alive(&engine, &token),
            "what is given back is not given back to a session that was logged out"
        );
        writer.finish(&engine);
        assert_eq!(store.len(), 0);
    });
}

#[test]
fn shuttle_no_schedule_loses_the_data_of_both() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let merging = {
            let (engine, token) = (engine.clone(), token.clone());
            spawn(move || {
                let session = block_on(engine.session(None)).expect("begins");
                match block_on(session.merge(&token)) {
                    Ok(Merged::Done { .. }) => {
                        let _ = block_on(session.commit()).expect("commits");
                    }
                    Ok(other) => panic!("nobody else takes it: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Store),
                }
            })
        };
        // A crash at any moment leaves the store as it is then.
        for _ in 0..3 {
            assert!(!store.is_empty(), "one of the two rows is there");
            shuttle::thread::yield_now();
        }
        merging.join().expect("joins");
        writer.finish(&engine);
        assert_eq!(store.len(), 1);
    });
}
