//! Sessions by id, as adapters use them.

#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use pollster::block_on;
use sessile_engine::by_id::{derive_id, not_now};
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Engine, ErrorKind, SessionId, Token};

const START: u64 = 1_700_000_000_000;

fn id(n: u8) -> SessionId {
    derive_id("test", &[n; 16])
}

fn engines() -> [Engine; 2] {
    [Engine::builder().in_memory().unwrap(), Engine::builder().open(MemoryStore::new()).unwrap()]
}

async fn get(engine: &Engine, id: &SessionId, key: &str) -> Option<u64> {
    engine.by_id().load(id).await.unwrap()?.snapshot.u64(key).unwrap()
}

async fn create(engine: &Engine, id: SessionId, n: u64) -> bool {
    engine.by_id().create(id, |draft| draft.put("n", &n)).await.unwrap()
}

#[test]
fn ids_depend_on_domain_and_secret_and_are_not_those_of_tokens() {
    assert_eq!(derive_id("a", &[1; 32]), derive_id("a", &[1; 32]));
    assert_ne!(derive_id("a", &[1; 32]), derive_id("a", &[2; 32]));
    assert_ne!(derive_id("a", b"bc"), derive_id("ab", b"c"));
    // Stored ids depend on it, so it never changes.
    let secret = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let known = "f1099a356bc0ce2279b81761db93327e278536f1e334f142baf227799474c255";
    assert_eq!(derive_id("tower-sessions", &secret).to_string(), known);
    let token = Token::generate().unwrap();
    let text = token.encode();
    assert_ne!(derive_id("", text.as_bytes()), token.id());
}

#[test]
fn a_taken_id_is_refused_and_what_it_holds_stays() {
    block_on(async {
        for engine in engines() {
            assert!(create(&engine, id(1), 1).await);
            assert!(!create(&engine, id(1), 2).await);
            assert_eq!(get(&engine, &id(1), "n").await, Some(1));
            engine.flush().await.unwrap();
            assert!(!create(&engine, id(1), 2).await);
        }
    });
}

#[test]
fn edits_take_effect_as_a_whole_or_not_at_all_and_create_nothing() {
    block_on(async {
        for engine in engines() {
            assert_eq!(engine.by_id().update(&id(1), |draft| draft.put("n", &1)).await.unwrap(), None);
            assert_eq!(get(&engine, &id(1), "n").await, None);
            create(&engine, id(1), 1).await;
            let error = engine
                .by_id()
                .update(&id(1), |draft| {
                    draft.put("n", &2)?;
                    Err::<(), _>(not_now())
                })
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Serialize);
            assert_eq!(get(&engine, &id(1), "n").await, Some(1));
            let (by_id, id) = (engine.by_id(), id(1));
            let removed = by_id.update(&id, |draft| {
                draft.put("m", &2)?;
                draft.set_owner(Some("user:1"))?;
                Ok(draft.remove("n"))
            });
            assert_eq!(removed.await.unwrap(), Some(true));
            let loaded = by_id.load(&id).await.unwrap().unwrap();
            assert_eq!((loaded.snapshot.len(), loaded.snapshot.owner()), (1, Some("user:1")));
        }
    });
}

#[test]
fn destroyed_is_final_and_told_once() {
    block_on(async {
        for engine in engines() {
            create(&engine, id(1), 1).await;
            let mut told = None;
            assert!(engine.by_id().destroy(&id(1), |ended| told = Some(ended)).await.unwrap());
            assert_eq!(told, Some(true));
            assert_eq!(get(&engine, &id(1), "n").await, None);
            assert_eq!(engine.by_id().update(&id(1), |draft| draft.put("n", &2)).await.unwrap(), None);
            assert!(!engine.by_id().destroy(&id(1), |ended| told = Some(ended)).await.unwrap());
            assert_eq!(told, Some(false));
        }
    });
}

#[test]
fn a_rename_moves_everything_and_leaves_nothing() {
    block_on(async {
        for engine in engines() {
            create(&engine, id(1), 1).await;
            assert!(engine.by_id().rename(&id(1), id(2)).await.unwrap());
            assert_eq!(get(&engine, &id(1), "n").await, None);
            assert_eq!(get(&engine, &id(2), "n").await, Some(1));
            assert!(!engine.by_id().rename(&id(1), id(3)).await.unwrap());
        }
    });
}

#[test]
fn a_deadline_may_move_both_ways() {
    block_on(async {
        let clock = ManualClock::new(START);
        let at =
            |secs: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(START) + Duration::from_secs(secs);
        let engine = Engine::builder().clock(clock.clone()).open(MemoryStore::new()).unwrap();
        let by_id = engine.by_id();
        create(&engine, id(1), 1).await;
        let set = async |secs| {
            by_id
                .update(&id(1), |d| {
                    d.set_deadline(at(secs));
                    Ok(())
                })
                .await
                .unwrap()
        };
        set(1_000_000).await;
        assert_eq!(by_id.load(&id(1)).await.unwrap().unwrap().deadline, at(1_000_000));
        set(60).await;
        clock.advance(Duration::from_secs(59));
        assert!(by_id.load(&id(1)).await.unwrap().is_some());
        clock.advance(Duration::from_secs(1));
        assert!(by_id.load(&id(1)).await.unwrap().is_none());
        assert_eq!(set(1_000).await, None);
    });
}

#[test]
fn a_wall_clock_that_steps_leaves_the_time_that_is_left() {
    block_on(async {
        let clock = ManualClock::new(START);
        let engine = Engine::builder().clock(clock.clone()).in_memory().unwrap();
        clock.step_wall_to(START + 3_600_000);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(START + 3_600_000);
        let fill = |d: &mut sessile_engine::by_id::Draft<'_>| {
            d.set_deadline(wall + Duration::from_secs(10));
            Ok(())
        };
        assert!(engine.by_id().create(id(1), fill).await.unwrap());
        let loaded = engine.by_id().load(&id(1)).await.unwrap().unwrap();
        assert_eq!(loaded.deadline, wall + Duration::from_secs(10));
        clock.advance(Duration::from_secs(10));
        assert!(engine.by_id().load(&id(1)).await.unwrap().is_none());
    });
}

#[test]
fn a_rename_that_is_dropped_leaves_the_old_id() {
    block_on(async {
        let engine = Engine::builder().open(MemoryStore::new()).unwrap();
        create(&engine, id(1), 1).await;
        {
            let (by_id, old) = (engine.by_id(), id(1));
            let mut rename = pin!(by_id.rename(&old, id(2)));
            if let Poll::Ready(done) = rename.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                done.unwrap();
                return;
            }
        }
        engine.flush().await.unwrap();
        assert_eq!(get(&engine, &id(1), "n").await, Some(1));
        assert_eq!(get(&engine, &id(2), "n").await, None);
    });
}
