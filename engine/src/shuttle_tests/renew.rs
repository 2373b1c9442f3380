//! Schedule tests of renewals: against each other, against the end of the session, and dropped half-way.

use super::*;

#[test]
fn shuttle_renew_moves_everything_and_kills_the_old_token() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let old = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let put_ok = Arc::new(AtomicBool::new(false));
        let other = {
            let (engine, old, put_ok) = (engine.clone(), old.clone(), put_ok.clone());
            spawn(move || {
                let session = open(&engine, &old);
                if session.id().is_some() {
                    match session.put("other", &1) {
                        Ok(()) => put_ok.store(true, Ordering::SeqCst),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Revoked),
                    }
                }
            })
        };
        let session = open(&engine, &old);
        session.renew().expect("asks");
        let new = commit_new(&session);
        assert!(!alive(&engine, &old), "the old token is dead when the response leaves");
        {
            let restarted = self::engine(&store);
            assert!(!alive(&restarted, &old), "also after a crash");
            assert_eq!(
                open(&restarted, &new).get::<u32>("n").expect("reads"),
                Some(0),
                "and the new one works"
            );
        }
        other.join().expect("joins");
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert!(!alive(&engine, &old));
            let session = open(&engine, &new);
            assert_eq!(session.exists("other"), put_ok.load(Ordering::SeqCst), "no accepted write is lost");
        }
    });
}

#[test]
fn shuttle_renew_that_is_dropped_changes_nothing() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let old = Arc::new(stored(&engine));
        let other = {
            let (engine, old) = (engine.clone(), old.clone());
            spawn(move || open(&engine, &old).put("other", &1).expect("the old token keeps working"))
        };
        let session = open(&engine, &old);
        session.renew().expect("asks");
        // Poll once without a writer, so that it must wait; let the writer get anywhere; then drop it: a client
        // that went away.
        let mut commit = session.commit();
        let ready = block_on(std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut commit).poll(cx).is_ready())
        }));
        assert!(!ready, "a renewal waits for the writer");
        let writer = Writer::start(&engine);
        thread::yield_now();
        thread::yield_now();
        drop(commit);
        other.join().expect("joins");
        assert!(alive(&engine, &old));
        drop(session);
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            let session = open(&engine, &old);
            assert_eq!(session.keys(), ["n", "other"]);
        }
        assert_eq!(store.len(), 1, "and no second row stays behind");
    });
}

#[test]
fn shuttle_renew_under_power_loss_dropped_at_any_time() {
    check(|| {
        let store = MemoryStore::default();
        let engine =
            Engine::builder().manual().durability(Durability::PowerLoss).open(store.clone()).expect("opens");
        let begun = |engine: &Engine| {
            let session = block_on(engine.session(None)).expect("begins");
            session.put("n", &0_u32).expect("puts");
            session
        };
        let writer = Writer::start(&engine);
        let (old, noise) = (commit_new(&begun(&engine)), commit_new(&begun(&engine)));
        let other = {
            let engine = engine.clone();
            spawn(move || {
                for i in 1..4 {
                    open(&engine, &noise).put("n", &i).expect("puts");
                }
            })
        };
        let session = open(&engine, &old);
        session.put("n", &7_u32).expect("puts");
        session.renew().expect("asks");
        let mut commit = session.commit();
        let mut delivered = None;
        for _ in 0..6 {
            let polled = block_on(std::future::poll_fn(|cx| {
                std::task::Poll::Ready(std::pin::Pin::new(&mut commit).poll(cx))
            }));
            if let std::task::Poll::Ready(result) = polled {
                let Delivery::Issue(issue) = result.expect("commits") else {
                    panic!("a renewal has a token")
                };
                delivered = Some(issue.token);
                break;
            }
            thread::yield_now();
        }
        drop(commit);
        other.join().expect("joins");
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert_eq!(
                alive(&engine, &old),
                delivered.is_none(),
                "the old token dies with the delivery, not before"
            );
            let token = delivered.as_ref().unwrap_or(&old);
            assert_eq!(open(&engine, token).get::<u32>("n").expect("reads"), Some(7));
        }
        assert_eq!(store.len(), 2);
    });
}

#[test]
fn shuttle_renew_against_destroy() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let old = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let destroyed = Arc::new(AtomicBool::new(false));
        let other = {
            let (engine, old, destroyed) = (engine.clone(), old.clone(), destroyed.clone());
            spawn(move || {
                let session = open(&engine, &old);
                if session.id().is_some() {
                    session.destroy().expect("destroys");
                    destroyed.store(engine.core().counters.destroyed.get() > 0, Ordering::SeqCst);
                }
            })
        };
        let session = open(&engine, &old);
        let asked = session.renew();
        let new = match block_on(session.commit()).expect("commits") {
            Delivery::Issue(issue) => Some(issue.token),
            _ => None,
        };
        other.join().expect("joins");
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert!(!alive(&engine, &old), "dead either way");
            if let Some(new) = &new {
                assert!(asked.is_ok());
                assert!(alive(&engine, new), "a delivered token works: the logout came too late for it");
                assert!(!destroyed.load(Ordering::SeqCst));
            } else {
                assert_eq!(store.len(), 0, "logout won: nothing is left");
            }
        }
    });
}

#[test]
fn shuttle_concurrent_renewals_deliver_one_token() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let old = Arc::new(stored(&engine));
        let writer = Writer::start(&engine);
        let renew = |engine: Engine, old: Arc<Token>| {
            let session = open(&engine, &old);
            let _ = session.renew();
            match block_on(session.commit()).expect("commits") {
                Delivery::Issue(issue) => Some(issue.token),
                _ => None,
            }
        };
        let other = {
            let (engine, old) = (engine.clone(), old.clone());
            thread::spawn(move || renew(engine, old))
        };
        let mine = renew(engine.clone(), old.clone());
        let theirs = other.join().expect("joins");
        writer.finish(&engine);
        assert!(mine.is_some() ^ theirs.is_some(), "exactly one renewal wins");
        let new = mine.or(theirs).expect("one");
        assert!(alive(&engine, &new) && !alive(&engine, &old));
        assert_eq!(store.len(), 1);
    });
}
