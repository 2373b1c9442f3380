//! Schedule tests of what belongs to owners: listing and ending sessions while they are loaded, evicted, renewed
//! and reassigned, the limit of sessions per owner, and waiting for a session's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shuttle::future::block_on;
use shuttle::thread;

use super::{Writer, alive, check, commit_new, engine, open, tiny_engine};
use crate::store::MemoryStore;
use crate::{Delivery, Ended, Engine, ErrorKind, OwnerLimit, SessionId, Token};

/// A stored, clean session of `owner`.
fn owned(engine: &Engine, owner: &str) -> Token {
    let session = block_on(engine.session(None)).expect("begins");
    session.put("n", &0_u32).expect("puts");
    session.set_owner(Some(owner)).expect("assigns");
    let token = commit_new(&session);
    drop(session);
    while engine.core().queue.dirty() > 0 {
        engine.step();
    }
    token
}

fn of(engine: &Engine, owner: &str) -> Vec<SessionId> {
    block_on(engine.sessions_of(owner)).expect("lists").into_iter().map(|s| s.id).collect()
}

/// Whether nobody is left in the index once nobody is left alive.
fn index_is_empty(engine: &Engine) -> bool {
    engine.core().cache.owners.len() == 0
}

#[test]
fn shuttle_a_listing_misses_nothing_while_sessions_are_evicted_and_loaded() {
    check(|| {
        let store = MemoryStore::default();
        let engine = tiny_engine(&store);
        let tokens = Arc::new([owned(&engine, "a"), owned(&engine, "a"), owned(&engine, "a")]);
        let mut expected: Vec<_> = tokens.iter().map(Token::id).collect();
        expected.sort_unstable();
        let writer = Writer::start(&engine);
        let other = {
            let (engine, tokens) = (engine.clone(), tokens.clone());
            thread::spawn(move || {
                for token in tokens.iter() {
                    open(&engine, token).update("n", |n: Option<u32>| n.unwrap_or(90) + 1).expect("updates");
                }
            })
        };
        for _ in 0..2 {
            assert_eq!(of(&engine, "a"), expected);
        }
        other.join().expect("joins");
        writer.finish(&engine);
        let cache = &engine.core().cache;
        assert_eq!(cache.owners.len(), cache.len(), "a member per cached session, none for evicted ones");
        assert_eq!(of(&engine, "a"), expected);
        assert_eq!(of(&self::engine(&store), "a"), expected);
    });
}

#[test]
fn shuttle_a_listing_shows_a_renewed_session_once() {
    for with_store in [true, false] {
        check(move || {
            let store = MemoryStore::default();
            let engine = if with_store {
                tiny_engine(&store)
            } else {
                Engine::builder().manual().in_memory().expect("opens")
            };
            let token = Arc::new(owned(&engine, "a"));
            let writer = Writer::start(&engine);
            let other = {
                let (engine, token) = (engine.clone(), token.clone());
                thread::spawn(move || {
                    let session = open(&engine, &token);
                    session.renew().expect("asks");
                    block_on(session.commit()).expect("commits");
                    session.id().expect("lives")
                })
            };
            let seen = of(&engine, "a");
            let renewed = other.join().expect("joins");
            assert_eq!(seen.len(), 1, "under one id at a time");
            assert!(seen[0] == token.id() || seen[0] == renewed);
            assert_eq!(of(&engine, "a"), [renewed]);
            writer.finish(&engine);
            assert_eq!(of(&engine, "a"), [renewed]);
        });
    }
}

#[test]
fn shuttle_a_listing_is_right_while_a_renewal_is_given_up() {
    check(|| {
        let store = MemoryStore::default();
        let token = Arc::new(owned(&engine(&store), "a"));
        let engine = engine(&store);
        let writer = Writer::start(&engine);
        let other = {
            let (engine, token) = (engine.clone(), token.clone());
            thread::spawn(move || {
                let session = open(&engine, &token);
                session.renew().expect("asks");
                let mut commit = Box::pin(session.commit());
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                for _ in 0..3 {
                    if commit.as_mut().poll(&mut cx).is_ready() {
                        break;
                    }
                    thread::yield_now();
                }
                drop(commit);
                session.id().expect("lives")
            })
        };
        let seen = of(&engine, "a");
        let paged: Vec<_> = block_on(engine.iterate(None, 10)).expect("lists").sessions;
        let id = other.join().expect("joins");
        assert_eq!(seen.len(), 1);
        assert!(seen[0] == token.id() || seen[0] == id);
        if id == token.id() {
            assert_eq!(
                paged.iter().map(|(info, _)| info.id).collect::<Vec<_>>(),
                [id],
                "it never had another id"
            );
        }
        writer.finish(&engine);
        assert_eq!(of(&engine, "a"), [id]);
        assert_eq!(store.len(), 1);
    });
}

#[test]
fn shuttle_destroy_all_catches_a_session_that_is_renewed() {
    for with_store in [true, false] {
        check(move || {
            let store = MemoryStore::default();
            let engine = if with_store {
                let token = owned(&self::engine(&store), "a");
                // A fresh engine: both sides start from the store.
                (self::engine(&store), token)
            } else {
                let engine = Engine::builder().manual().in_memory().expect("opens");
                let token = owned(&engine, "a");
                (engine, token)
            };
            let (engine, token) = (engine.0, Arc::new(engine.1));
            let writer = Writer::start(&engine);
            let other = {
                let (engine, token) = (engine.clone(), token.clone());
                thread::spawn(move || {
                    let session = open(&engine, &token);
                    let _ = session.renew();
                    match block_on(session.commit()).expect("commits") {
                        Delivery::Issue(issue) => Some(issue.token),
                        _ => None,
                    }
                })
            };
            let ended = block_on(engine.destroy_all("a", None)).expect("ends");
            assert_eq!(ended, 1, "it was there, under whatever id");
            if with_store {
                assert_eq!(store.len(), 0, "durable when it returns");
            }
            assert!(!alive(&engine, &token));
            let new = other.join().expect("joins");
            assert!(new.is_none_or(|t| !alive(&engine, &t)), "the renewal did not save it");
            writer.finish(&engine);
            assert_eq!(of(&engine, "a"), []);
            assert!(index_is_empty(&engine));
            if with_store {
                assert_eq!(store.len(), 0);
            }
        });
    }
}

#[test]
fn shuttle_destroy_all_spares_the_excepted_session_wherever_it_moves() {
    check(|| {
        let store = MemoryStore::default();
        let (mine, theirs) = {
            let engine = self::engine(&store);
            (Arc::new(owned(&engine, "a")), owned(&engine, "a"))
        };
        let engine = engine(&store);
        let writer = Writer::start(&engine);
        let other = {
            let (engine, mine) = (engine.clone(), mine.clone());
            thread::spawn(move || {
                let session = open(&engine, &mine);
                session.renew().expect("nobody ends it");
                block_on(session.commit()).expect("commits");
                session.id().expect("it lives")
            })
        };
        assert_eq!(block_on(engine.destroy_all("a", Some(&mine.id()))).expect("ends"), 1);
        let id = other.join().expect("joins");
        assert!(!alive(&engine, &theirs));
        writer.finish(&engine);
        assert_eq!(of(&engine, "a"), [id]);
        assert_eq!(of(&self::engine(&store), "a"), [id]);
    });
}

#[test]
fn shuttle_destroy_all_against_eviction_load_and_reassignment() {
    check(|| {
        let store = MemoryStore::default();
        let engine = tiny_engine(&store);
        let tokens = Arc::new([owned(&engine, "a"), owned(&engine, "b"), owned(&engine, "a")]);
        let writer = Writer::start(&engine);
        let kept = Arc::new(AtomicBool::new(false));
        let other = {
            let (engine, tokens, kept) = (engine.clone(), tokens.clone(), kept.clone());
            thread::spawn(move || {
                let _ = open(&engine, &tokens[0]).update("n", |n: Option<u32>| n.unwrap_or(0) + 1);
                open(&engine, &tokens[1]).put("x", &1).expect("b is not ended");
                let session = open(&engine, &tokens[2]);
                if session.id().is_some() && session.set_owner(Some("c")).is_ok() {
                    kept.store(true, Ordering::SeqCst);
                }
            })
        };
        let ended = block_on(engine.destroy_all("a", None)).expect("ends");
        other.join().expect("joins");
        writer.finish(&engine);
        let kept = kept.load(Ordering::SeqCst);
        assert_eq!(ended, if kept { 1 } else { 2 });
        for engine in [engine, self::engine(&store)] {
            assert_eq!(of(&engine, "a"), []);
            assert_eq!(of(&engine, "b"), [tokens[1].id()]);
            assert_eq!(of(&engine, "c").len(), usize::from(kept));
            assert!(!alive(&engine, &tokens[0]));
            assert_eq!(alive(&engine, &tokens[2]), kept);
        }
    });
}

#[test]
fn shuttle_racing_logins_keep_the_limit() {
    for policy in [OwnerLimit::Refuse, OwnerLimit::DropOldest] {
        for existing in [false, true] {
            check(move || {
                let store = MemoryStore::default();
                let engine = Engine::builder()
                    .manual()
                    .max_sessions_per_owner(1, policy)
                    .open(store.clone())
                    .expect("opens");
                let anonymous: Vec<_> = (0..2).map(|_| existing.then(|| super::stored(&engine))).collect();
                let writer = Writer::start(&engine);
                let logins: Vec<_> = anonymous
                    .into_iter()
                    .map(|token| {
                        let engine = engine.clone();
                        thread::spawn(move || {
                            let session = block_on(engine.session(token.as_ref())).expect("begins");
                            let done = match block_on(session.login("a")) {
                                Ok(()) => block_on(session.commit()),
                                Err(error) => Err(error),
                            };
                            match done {
                                Ok(Delivery::Issue(issue)) => Some(issue.token),
                                // Dropped between login and commit.
                                Ok(_) => None,
                                Err(error) => {
                                    assert!(
                                        error.is_revoked() || error.kind() == ErrorKind::OwnerLimit,
                                        "{error}"
                                    );
                                    None
                                }
                            }
                        })
                    })
                    .collect();
                assert!(of(&engine, "a").len() <= 1, "at no time are there more");
                let tokens: Vec<_> = logins.into_iter().map(|t| t.join().expect("joins")).collect();
                writer.finish(&engine);
                let left: Vec<_> =
                    tokens.iter().flatten().filter(|t| alive(&engine, t)).map(Token::id).collect();
                assert_eq!(left.len(), 1, "one of the two is in");
                assert_eq!(of(&engine, "a"), left);
                if policy == OwnerLimit::Refuse {
                    assert_eq!(tokens.iter().flatten().count(), 1, "the other was refused");
                }
            });
        }
    }
}

#[test]
fn shuttle_no_wake_up_is_lost() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(super::stored(&engine));
        let session = open(&engine, &token);
        let watcher = {
            let session = session.clone();
            thread::spawn(move || block_on(session.revoked()))
        };
        let teller = {
            let mut changed = session.changed();
            thread::spawn(move || {
                let mut last = 0;
                // Ends when the session does; a lost wake-up would be a deadlock.
                while let Some(snapshot) = block_on(&mut changed) {
                    last = snapshot.u64("n").expect("reads").unwrap_or(0);
                }
                last
            })
        };
        open(&engine, &token).put("n", &1_u32).expect("puts");
        block_on(async { engine.core().revoke(&token.id()) });
        assert_eq!(watcher.join().expect("joins"), Ended::Revoked);
        assert!(teller.join().expect("joins") <= 1);
        assert_eq!(engine.core().watches.len(), 0);
    });
}

#[test]
fn shuttle_a_change_is_told() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = Arc::new(super::stored(&engine));
        let mut changed = open(&engine, &token).changed();
        let other = {
            let (engine, token) = (engine.clone(), token.clone());
            thread::spawn(move || {
                let session = open(&engine, &token);
                session.put("n", &1_u32).expect("puts");
                session.put("n", &2_u32).expect("puts");
            })
        };
        loop {
            let snapshot = block_on(&mut changed).expect("lives");
            if snapshot.u64("n").expect("reads") == Some(2) {
                break;
            }
        }
        other.join().expect("joins");
    });
}

#[test]
fn shuttle_an_own_renewal_is_no_revocation() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let token = super::stored(&engine);
        let writer = Writer::start(&engine);
        let session = open(&engine, &token);
        let watcher = {
            let session = session.clone();
            thread::spawn(move || (block_on(session.revoked()), session.id().is_some()))
        };
        session.renew().expect("asks");
        let new = commit_new(&session);
        assert!(!session.is_revoked());
        block_on(engine.destroy_session(&new.id())).expect("ends");
        assert_eq!(
            watcher.join().expect("joins"),
            (Ended::Revoked, false),
            "by the second, not by the first"
        );
        writer.finish(&engine);
    });
}

#[test]
fn shuttle_anothers_renewal_and_the_engines_end_are_told() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let (first, second) = (super::stored(&engine), super::stored(&engine));
        let writer = Writer::start(&engine);
        let held = open(&engine, &first);
        let renewed = thread::spawn(move || block_on(held.revoked()));
        let held = open(&engine, &second);
        let closed = thread::spawn(move || block_on(held.revoked()));
        let session = open(&engine, &first);
        session.renew().expect("asks");
        commit_new(&session);
        assert_eq!(renewed.join().expect("joins"), Ended::Renewed);
        writer.finish(&engine);
        block_on(engine.close()).expect("closes");
        assert_eq!(closed.join().expect("joins"), Ended::Closed);
    });
}
