//! Merging one session into another: what is taken over, what is not, and that the data of both is never lost
//! and never there twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::{MemoryStore, Store};
use sessile_engine::{
    Conflicts, Delivery, Durability, Ended, Engine, ErrorKind, Issue, Merged, Session, Token,
};

const START_MS: u64 = 1_800_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn issue(session: &Session) -> Issue {
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A published session with these keys, each with `value`.
fn with(engine: &Engine, keys: &[&str], value: &str) -> Token {
    let session = begin(engine, None);
    for key in keys {
        session.put(key, value).unwrap();
    }
    issue(&session).token
}

fn merge(session: &Session, token: &Token) -> Merged {
    block_on(session.merge(token)).unwrap()
}

fn get(session: &Session, key: &str) -> Option<String> {
    session.get(key).unwrap()
}

fn rows(store: &MemoryStore) -> u64 {
    block_on(Store::count(store)).unwrap().unwrap()
}

fn engines() -> Vec<(Engine, Option<MemoryStore>)> {
    let store = MemoryStore::default();
    vec![
        (Engine::builder().in_memory().unwrap(), None),
        (Engine::builder().open(store.clone()).unwrap(), Some(store)),
    ]
}

#[test]
fn the_other_sessions_data_comes_over_and_the_other_is_dead() {
    for (engine, store) in engines() {
        let theirs = with(&engine, &["both", "theirs"], "theirs");
        let ours = with(&engine, &["both", "ours"], "ours");
        let held = begin(&engine, Some(&theirs));
        let session = begin(&engine, Some(&ours));
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 2 });
        assert_eq!(session.keys(), ["both", "ours", "theirs"]);
        assert_eq!(get(&session, "both").as_deref(), Some("theirs"), "as SCS");
        assert!(held.is_revoked());
        assert_eq!(held.put("late", "x").unwrap_err().kind(), ErrorKind::Revoked);
        assert_eq!(begin(&engine, Some(&theirs)).id(), None);
        let _ = block_on(session.commit()).unwrap();
        assert_eq!(begin(&engine, Some(&ours)).keys(), ["both", "ours", "theirs"]);
        assert_eq!(merge(&begin(&engine, Some(&ours)), &theirs), Merged::Absent, "once");
        if let Some(store) = store {
            assert_eq!(rows(&store), 1, "the other's row is deleted when the response leaves");
        }
    }
}

#[test]
fn ours_can_be_kept() {
    let engine = Engine::builder().in_memory().unwrap();
    let theirs = with(&engine, &["both"], "theirs");
    let session = begin(&engine, Some(&with(&engine, &["both"], "ours")));
    assert_eq!(block_on(session.merge_with(&theirs, Conflicts::Ours)).unwrap(), Merged::Done { keys: 1 });
    assert_eq!(get(&session, "both").as_deref(), Some("ours"));
}

#[test]
fn merging_into_nothing_begins_a_session() {
    for (engine, _) in engines() {
        let theirs = with(&engine, &["cart"], "full");
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        assert_eq!(get(&session, "cart").as_deref(), Some("full"), "at once");
        let token = issue(&session).token;
        assert_ne!(token.id(), theirs.id());
        assert_eq!(get(&begin(&engine, Some(&token)), "cart").as_deref(), Some("full"));
        assert_eq!(begin(&engine, Some(&theirs)).id(), None);
    }
}

#[test]
fn a_merge_of_nothing_or_of_itself_changes_nothing() {
    let (engine, _) = engines().remove(1);
    let ours = with(&engine, &["k"], "v");
    let session = begin(&engine, Some(&ours));
    assert_eq!(merge(&session, &ours), Merged::Same);
    assert_eq!(merge(&session, &Token::generate().unwrap()), Merged::Absent);
    assert!(matches!(block_on(session.commit()).unwrap(), Delivery::Nothing));
    let empty = begin(&engine, None);
    assert_eq!(merge(&empty, &Token::generate().unwrap()), Merged::Absent);
    assert!(matches!(block_on(empty.commit()).unwrap(), Delivery::Nothing), "no session was begun");
    assert_eq!(get(&begin(&engine, Some(&ours)), "k").as_deref(), Some("v"));
}

#[test]
fn an_expired_session_is_not_merged() {
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder().clock(clock.clone()).lifetime(HOUR).in_memory().unwrap();
    let theirs = with(&engine, &["k"], "v");
    clock.advance(HOUR);
    assert_eq!(merge(&begin(&engine, None), &theirs), Merged::Absent);
}

#[test]
fn deadline_and_persistence_come_over_but_no_owner() {
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder()
        .clock(clock.clone())
        .lifetime(HOUR)
        .persistent(false)
        .open(MemoryStore::default())
        .unwrap();
    let theirs = begin(&engine, None);
    theirs.set_owner(Some("user:1")).unwrap();
    theirs.remember_me(true).unwrap();
    theirs.set_lifetime(9 * HOUR).unwrap();
    theirs.set_idle_timeout(HOUR).unwrap();
    let theirs = issue(&theirs).token;
    let ours = with(&engine, &["k"], "v");
    let session = begin(&engine, Some(&ours));
    assert_eq!(merge(&session, &theirs), Merged::Done { keys: 0 });
    assert_eq!(session.owner(), None);
    assert_eq!(session.idle_timeout(), None);
    let again = issue(&session);
    assert_eq!(again.token.id(), ours.id(), "the token stays; it is delivered again");
    assert!(again.persistent);
    assert_eq!(again.max_age, 9 * HOUR);
}

#[test]
fn a_merge_beyond_a_limit_changes_neither() {
    let engine = Engine::builder().max_record_bytes(2048).open(MemoryStore::default()).unwrap();
    let theirs = with(&engine, &["a"], &"x".repeat(1200));
    let ours = with(&engine, &["b"], &"y".repeat(1200));
    let session = begin(&engine, Some(&ours));
    assert_eq!(block_on(session.merge(&theirs)).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(session.keys(), ["b"]);
    assert_eq!(begin(&engine, Some(&theirs)).keys(), ["a"]);
}

#[test]
fn a_request_that_comes_to_nothing_gives_the_data_back() {
    for (engine, store) in engines() {
        let theirs = with(&engine, &["cart"], "full");
        block_on(engine.flush()).unwrap();
        // The request is dropped: before its commit, or while it waits.
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        assert_eq!(begin(&engine, Some(&theirs)).id(), None, "taken");
        drop(session);
        assert_eq!(get(&begin(&engine, Some(&theirs)), "cart").as_deref(), Some("full"), "given back");
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        drop(session.commit());
        drop(session);
        let other = begin(&engine, Some(&theirs));
        assert_eq!(get(&other, "cart").as_deref(), Some("full"));
        other.put("more", "x").unwrap();
        drop(other);
        block_on(engine.close()).unwrap();
        if let Some(store) = store {
            let engine = Engine::builder().open(store).unwrap();
            assert_eq!(begin(&engine, Some(&theirs)).keys(), ["cart", "more"], "also after a restart");
        }
    }
}

#[test]
fn a_handle_from_before_works_again_when_the_data_is_given_back() {
    let (engine, _) = engines().remove(1);
    let theirs = with(&engine, &["cart"], "full");
    let held = begin(&engine, Some(&theirs));
    let session = begin(&engine, None);
    assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
    assert!(held.is_revoked());
    drop(session);
    assert!(!held.is_revoked());
    held.put("more", "x").unwrap();
    assert_eq!(begin(&engine, Some(&theirs)).keys(), ["cart", "more"]);
    held.destroy().unwrap();
    assert_eq!(begin(&engine, Some(&theirs)).id(), None, "and its logout counts");
}

#[test]
fn a_logout_during_a_merge_wins() {
    for revoke in [true, false] {
        let store = MemoryStore::default();
        let engine = Engine::builder().open(store.clone()).unwrap();
        let theirs = with(&engine, &["cart"], "full");
        let held = begin(&engine, Some(&theirs));
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        if revoke {
            block_on(engine.destroy_session(&theirs.id())).unwrap();
        } else {
            held.destroy().unwrap();
            let _ = block_on(held.commit()).unwrap();
        }
        drop(session);
        assert_eq!(begin(&engine, Some(&theirs)).id(), None);
        block_on(engine.close()).unwrap();
        assert_eq!(rows(&store), 0);
    }
}

/// Also through a handle that knows the session from before: it was merged and given back, or rotated, meanwhile.
#[test]
fn a_logout_by_an_older_handle_during_a_merge_wins() {
    for rotated in [true, false] {
        for (engine, _) in engines() {
            let mut theirs = with(&engine, &["cart"], "full");
            let held = begin(&engine, Some(&theirs));
            if rotated {
                let session = begin(&engine, Some(&theirs));
                session.rotate().unwrap();
                theirs = issue(&session).token;
            } else {
                let session = begin(&engine, None);
                assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
            }
            assert_eq!(get(&held, "cart").as_deref(), Some("full"));
            let session = begin(&engine, None);
            assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
            held.destroy().unwrap();
            let _ = block_on(held.commit()).unwrap();
            drop(session);
            assert_eq!(begin(&engine, Some(&theirs)).id(), None, "rotated: {rotated}");
        }
    }
}

#[test]
fn a_handle_from_before_a_merge_that_came_to_nothing_delivers_the_token() {
    for (engine, _) in engines() {
        let theirs = with(&engine, &["cart"], "full");
        let (later, rotating) = (begin(&engine, Some(&theirs)), begin(&engine, Some(&theirs)));
        rotating.rotate().unwrap();
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        drop(session);
        later.set_lifetime(48 * HOUR).unwrap();
        assert_eq!(issue(&later).token.id(), theirs.id(), "a later deadline is told");
        let rotated = issue(&rotating).token;
        assert_ne!(rotated.id(), theirs.id(), "a rotation is carried out");
        assert_eq!(get(&begin(&engine, Some(&rotated)), "cart").as_deref(), Some("full"));
    }
}

#[test]
fn who_waits_for_the_other_is_told_when_the_merge_is_decided() {
    for (engine, _) in engines() {
        for given_back in [true, false] {
            let theirs = with(&engine, &["k"], "v");
            let mut revoked = begin(&engine, Some(&theirs)).revoked();
            let mut poll = || Pin::new(&mut revoked).poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll().is_pending());
            let session = begin(&engine, None);
            assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
            assert!(poll().is_pending(), "nothing is decided yet");
            if given_back {
                drop(session);
                assert!(poll().is_pending(), "it lives on");
                begin(&engine, Some(&theirs)).destroy().unwrap();
            } else {
                issue(&session);
            }
            assert_eq!(poll(), Poll::Ready(Ended::Destroyed), "given back: {given_back}");
        }
    }
}

#[test]
fn ending_all_of_an_owners_sessions_ends_one_that_is_being_merged() {
    for (engine, store) in engines() {
        let other = begin(&engine, None);
        other.put("k", "v").unwrap();
        other.set_owner(Some("user:1")).unwrap();
        let theirs = issue(&other).token;
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        block_on(engine.destroy_all("user:1", None)).unwrap();
        drop(session);
        assert_eq!(begin(&engine, Some(&theirs)).id(), None, "it is not given back");
        assert!(block_on(engine.sessions_of("user:1")).unwrap().is_empty());
        if let Some(store) = store {
            block_on(engine.flush()).unwrap();
            assert_eq!(rows(&store), 0);
        }
        // And one that was given back belongs to its owner as before.
        let other = begin(&engine, None);
        other.put("k", "v").unwrap();
        other.set_owner(Some("user:1")).unwrap();
        let theirs = issue(&other).token;
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        drop(session);
        assert_eq!(block_on(engine.destroy_all("user:1", None)).unwrap(), 1);
        assert_eq!(begin(&engine, Some(&theirs)).id(), None);
    }
}

#[test]
fn destroying_the_merged_session_ends_both() {
    for (engine, store) in engines() {
        let theirs = with(&engine, &["cart"], "full");
        let session = begin(&engine, None);
        assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
        session.destroy().unwrap();
        assert!(matches!(block_on(session.commit()).unwrap(), Delivery::Nothing | Delivery::Remove));
        assert_eq!(begin(&engine, Some(&theirs)).id(), None);
        block_on(engine.close()).unwrap();
        if let Some(store) = store {
            assert_eq!(rows(&store), 0);
        }
    }
}

#[test]
fn the_row_is_kept_until_the_merged_session_is_stored() {
    let store = MemoryStore::default();
    let window = Durability::Eventual { window: Duration::from_millis(1) };
    let engine = Engine::builder().durability(window).open(store.clone()).unwrap();
    let theirs = with(&engine, &["cart"], "full");
    let session = begin(&engine, None);
    assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
    block_on(engine.flush()).unwrap();
    // What a crash here would leave behind is what another engine finds in the store.
    assert!(block_on(Store::load(&store, &theirs.id())).unwrap().is_some());
    let token = issue(&session).token;
    assert!(block_on(Store::load(&store, &theirs.id())).unwrap().is_none());
    assert!(block_on(Store::load(&store, &token.id())).unwrap().is_some());
}

#[test]
fn of_racing_merges_one_gets_the_data() {
    for (engine, _) in engines() {
        for _ in 0..50 {
            let theirs = Arc::new(with(&engine, &["cart"], "full"));
            let barrier = Arc::new(Barrier::new(8));
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    let (engine, theirs, barrier) = (engine.clone(), theirs.clone(), barrier.clone());
                    std::thread::spawn(move || {
                        let ours = (i % 2 == 0).then(|| with(&engine, &["ours"], "x"));
                        let session = begin(&engine, ours.as_ref());
                        barrier.wait();
                        let merged = merge(&session, &theirs);
                        let _ = block_on(session.commit()).unwrap();
                        assert_eq!(session.exists("cart"), merged == Merged::Done { keys: 1 });
                        usize::from(session.exists("cart"))
                    })
                })
                .collect();
            let got: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
            assert_eq!(got, 1);
            assert_eq!(begin(&engine, Some(&theirs)).id(), None);
        }
    }
}

#[cfg(feature = "redb")]
#[test]
fn a_merge_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    let engine = Engine::builder().open_redb(&path).unwrap();
    let theirs = with(&engine, &["cart"], "full");
    let session = begin(&engine, None);
    session.put("state", "abc").unwrap();
    assert_eq!(merge(&session, &theirs), Merged::Done { keys: 1 });
    let token = issue(&session).token;
    drop(session);
    block_on(engine.close()).unwrap();
    drop(engine);
    let engine = Engine::builder().open_redb(&path).unwrap();
    assert_eq!(begin(&engine, Some(&theirs)).id(), None);
    assert_eq!(begin(&engine, Some(&token)).keys(), ["cart", "state"]);
}
