//! Schedule tests of two engines over one store.

use std::time::Duration;

use super::*;

fn pair() -> (MemoryStore, Engine, Engine) {
    let store = MemoryStore::shared();
    let open = || {
        let builder =
            Engine::builder().manual().max_staleness(Duration::ZERO).durability(Durability::eventual());
        builder.open(store.clone()).expect("opens")
    };
    let (a, b) = (open(), open());
    (store, a, b)
}

fn settle(engines: &[&Engine]) {
    for _ in 0..100 {
        for engine in engines {
            engine.step();
        }
        if engines.iter().all(|engine| engine.core().queue.pending() == 0) {
            return;
        }
    }
    panic!("it is never written");
}

#[test]
fn shuttle_shared_no_write_of_two_engines_is_lost() {
    check(|| {
        let (_, a, b) = pair();
        let token = Arc::new(stored(&a));
        let writers = [Writer::start(&a), Writer::start(&b)];
        let threads: Vec<_> = [(&a, "a"), (&b, "b"), (&a, "c")]
            .map(|(engine, key)| {
                let (engine, token) = (engine.clone(), token.clone());
                spawn(move || open(&engine, &token).put(key, &1).expect("puts"))
            })
            .into();
        threads.into_iter().for_each(|thread| thread.join().expect("joins"));
        for (writer, engine) in writers.into_iter().zip([&a, &b]) {
            writer.finish(engine);
        }
        settle(&[&a, &b]);
        for engine in [&a, &b] {
            assert_eq!(open(engine, &token).keys(), ["a", "b", "c", "n"]);
        }
    });
}

#[test]
fn shuttle_shared_stored_counters_are_exact() {
    check(|| {
        let (_, a, b) = pair();
        let token = Arc::new(stored(&a));
        let writers = [Writer::start(&a), Writer::start(&b)];
        let threads: Vec<_> = [&a, &b, &b]
            .map(|engine| {
                let (engine, token) = (engine.clone(), token.clone());
                spawn(move || {
                    let session = open(&engine, &token);
                    block_on(session.update_stored("n", |n: Option<u32>| n.unwrap_or(0) + 1))
                        .expect("counts");
                })
            })
            .into();
        threads.into_iter().for_each(|thread| thread.join().expect("joins"));
        for (writer, engine) in writers.into_iter().zip([&a, &b]) {
            writer.finish(engine);
        }
        settle(&[&a, &b]);
        for engine in [&a, &b] {
            assert_eq!(open(engine, &token).get("n").expect("reads"), Some(3_u32));
        }
    });
}

#[test]
fn shuttle_shared_destroy_is_final() {
    check(|| {
        let (store, a, b) = pair();
        let token = Arc::new(stored(&a));
        let writers = [Writer::start(&a), Writer::start(&b)];
        let late = {
            let (engine, token) = (b.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                if session.exists("n") {
                    let _ = session.put("late", &1);
                }
            })
        };
        let session = open(&a, &token);
        session.destroy().expect("destroys");
        block_on(session.commit()).expect("commits");
        assert!(!alive(&b, &token), "on every engine, once it was answered");
        late.join().expect("joins");
        for (writer, engine) in writers.into_iter().zip([&a, &b]) {
            writer.finish(engine);
        }
        settle(&[&a, &b]);
        assert_eq!(store.len(), 0);
        assert!(!alive(&a, &token) && !alive(&b, &token));
    });
}

#[test]
fn shuttle_shared_renewal_meets_a_write() {
    check(|| {
        let (store, a, b) = pair();
        let token = Arc::new(stored(&a));
        let writers = [Writer::start(&a), Writer::start(&b)];
        let late = {
            let (engine, token) = (b.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                if session.exists("n") {
                    let _ = session.put("late", &1);
                }
            })
        };
        let session = open(&a, &token);
        session.put("mine", &1).expect("puts");
        session.renew().expect("asks");
        let new = commit_new(&session);
        late.join().expect("joins");
        for (writer, engine) in writers.into_iter().zip([&a, &b]) {
            writer.finish(engine);
        }
        settle(&[&a, &b]);
        assert_eq!(store.len(), 1);
        for engine in [&a, &b] {
            assert!(!alive(engine, &token));
            let session = open(engine, &new);
            assert!(session.exists("n") && session.exists("mine"));
        }
    });
}

/// Nobody waits for the response: the session goes on under its old id, on both engines.
#[test]
fn shuttle_shared_dropped_renewal_meets_a_write() {
    check(|| {
        let (store, a, b) = pair();
        let token = Arc::new(stored(&a));
        let writers = [Writer::start(&a), Writer::start(&b)];
        let other = {
            let (engine, token) = (b.clone(), token.clone());
            spawn(move || {
                let session = open(&engine, &token);
                // While the row is under the new id, the session is not found.
                session.exists("n") && session.put("late", &1).is_ok()
            })
        };
        let session = open(&a, &token);
        session.renew().expect("asks");
        let mut response = Box::pin(session.commit());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        use std::future::Future as _;
        let ended = response.as_mut().poll(&mut cx).is_ready();
        drop(response);
        other.join().expect("joins");
        for (writer, engine) in writers.into_iter().zip([&a, &b]) {
            writer.finish(engine);
        }
        settle(&[&a, &b]);
        assert!(store.len() <= 1);
        if !ended {
            assert_eq!(store.len(), 1);
            assert!(alive(&a, &token) && alive(&b, &token));
        }
    });
}
