//! Many requests on one session at once.

use super::*;

fn race(engine: &Engine, token: &Token, threads: usize, f: impl Fn(usize, Session) + Sync) {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (barrier, f) = (&barrier, &f);
            scope.spawn(move || {
                let session = begin(engine, Some(token));
                barrier.wait();
                f(i, session);
            });
        }
    });
}

#[test]
fn p1_sixty_four_requests_on_one_session_lose_nothing() {
    let engine = memory();
    let token = fresh(&engine);
    race(&engine, &token, 64, |i, session| {
        for _ in 0..50 {
            session.update("count", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        }
        session.put(&format!("key{i}"), &i).unwrap();
    });
    let session = begin(&engine, Some(&token));
    assert_eq!(session.get::<u32>("count").unwrap(), Some(64 * 50));
    assert_eq!(session.keys().len(), 64 + 2);
}

#[test]
fn p2_sixty_four_pops_deliver_once() {
    let engine = memory();
    let token = fresh(&engine);
    for _ in 0..50 {
        begin(&engine, Some(&token)).put("flash", "hello").unwrap();
        let got = Mutex::new(0);
        race(&engine, &token, 64, |_, session| {
            if session.pop::<String>("flash").unwrap().is_some() {
                *got.lock().unwrap() += 1;
            }
        });
        assert_eq!(*got.lock().unwrap(), 1);
    }
}

#[test]
fn p1_transactions_are_all_or_nothing() {
    let engine = memory();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    session.put("a", &100_i64).unwrap();
    session.put("b", &0_i64).unwrap();
    race(&engine, &token, 8, |i, session| {
        for _ in 0..100 {
            if i % 2 == 0 {
                session
                    .transact(|tx| {
                        let a: i64 = tx.get("a")?.unwrap_or(0);
                        tx.put("a", &(a - 1))?;
                        let b: i64 = tx.get("b")?.unwrap_or(0);
                        tx.put("b", &(b + 1))
                    })
                    .unwrap();
            } else {
                let s = session.snapshot().unwrap();
                assert_eq!(s.i64("a").unwrap().unwrap() + s.i64("b").unwrap().unwrap(), 100);
            }
        }
    });
    // An error undoes everything, and so does a limit hit half way.
    let result: Result<()> = session.transact(|tx| {
        tx.put("a", &1_000)?;
        tx.put("", &1)
    });
    assert_eq!(kind(result), ErrorKind::InvalidKey);
    assert_eq!(session.get::<i64>("a").unwrap(), Some(100 - 400));
    // Reads inside see the transaction's own writes.
    session
        .transact(|tx| {
            tx.put("x", "y")?;
            assert!(tx.exists("x"));
            assert_eq!(tx.pop::<String>("x")?.as_deref(), Some("y"));
            assert!(!tx.remove("x"));
            tx.clear();
            assert!(tx.keys().is_empty());
            Ok(())
        })
        .unwrap();
    assert!(session.keys().is_empty());
    // One that writes nothing creates nothing.
    let empty = begin(&engine, None);
    empty.transact(|tx| tx.get::<u8>("k")).unwrap();
    assert!(empty.is_new() && empty.id().is_none());
}
