//! Rotation: a new token every so often, and a grace for requests that are under way with the old one. Whatever
//! ends the session, or renews it, ends the grace.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Builder, Delivery, Ended, Engine, ErrorKind, Issue, Merged, Session, Token};

const START_MS: u64 = 1_800_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(10);

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn deliver(session: &Session) -> Delivery {
    block_on(session.commit()).unwrap()
}

fn issue(session: &Session) -> Issue {
    match deliver(session) {
        Delivery::Issue(issue) => issue,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn fresh(engine: &Engine) -> Token {
    let session = begin(engine, None);
    session.put("k", "v").unwrap();
    issue(&session).token
}

fn alive(engine: &Engine, token: &Token) -> bool {
    begin(engine, Some(token)).exists("k")
}

/// Counts how often it was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(wakes.clone())))
}

fn settings() -> (Builder, ManualClock) {
    let clock = ManualClock::new(START_MS);
    (Engine::builder().clock(clock.clone()).rotate_every(15 * MINUTE).rotation_grace(GRACE), clock)
}

fn engines() -> Vec<(Engine, ManualClock)> {
    let (memory, first) = settings();
    let (stored, second) = settings();
    vec![(memory.in_memory().unwrap(), first), (stored.open(MemoryStore::default()).unwrap(), second)]
}

/// A session, rotated just now: its old and its new token.
fn rotated(engine: &Engine, clock: &ManualClock) -> (Token, Token) {
    let old = fresh(engine);
    clock.advance(15 * MINUTE);
    let new = issue(&begin(engine, Some(&old))).token;
    (old, new)
}

#[test]
fn a_token_is_replaced_when_it_is_old() {
    for (engine, clock) in engines() {
        let first = fresh(&engine);
        let deadline = begin(&engine, Some(&first)).deadline();
        clock.advance(15 * MINUTE - Duration::from_millis(1));
        assert!(
            matches!(deliver(&begin(&engine, Some(&first))), Delivery::Nothing),
            "a millisecond too young"
        );
        clock.advance(Duration::from_millis(1));
        let session = begin(&engine, Some(&first));
        let second = issue(&session).token;
        assert_ne!(second.id(), first.id());
        assert_eq!(session.id(), Some(second.id()), "the handle goes on");
        assert_eq!(session.deadline(), deadline, "the deadline stays");
        assert!(matches!(deliver(&begin(&engine, Some(&second))), Delivery::Nothing), "the new one is new");
        clock.advance(15 * MINUTE);
        assert_ne!(issue(&begin(&engine, Some(&second))).token.id(), second.id());
    }
}

#[test]
fn the_old_token_works_for_the_grace_and_gets_no_other() {
    for (engine, clock) in engines() {
        let (old, new) = rotated(&engine, &clock);
        clock.advance(GRACE - Duration::from_millis(1));
        let session = begin(&engine, Some(&old));
        assert_eq!(session.get::<String>("k").unwrap().as_deref(), Some("v"));
        assert_eq!(session.id(), Some(new.id()), "the same session");
        assert!(!session.is_new() && !session.is_revoked());
        session.put("late", &1).unwrap();
        session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        assert_eq!(session.pop::<u32>("n").unwrap(), Some(1));
        session.remember_me(false).unwrap();
        session.rotate().unwrap();
        assert!(matches!(deliver(&session), Delivery::Nothing), "the response that rotated has delivered it");
        assert_eq!(begin(&engine, Some(&new)).get::<u32>("late").unwrap(), Some(1));

        clock.advance(Duration::from_millis(1));
        assert!(session.is_revoked(), "the grace is over for the handle");
        assert_eq!(session.put("later", &1).unwrap_err().kind(), ErrorKind::Revoked);
        assert_eq!(session.get::<String>("k").unwrap(), None);
        assert_eq!(begin(&engine, Some(&old)).id(), None, "and for the token");
        assert!(alive(&engine, &new));
    }
}

#[test]
fn a_request_under_way_goes_on() {
    for (engine, clock) in engines() {
        let old = fresh(&engine);
        clock.advance(15 * MINUTE);
        let slow = begin(&engine, Some(&old));
        let snapshot = slow.snapshot().unwrap();
        let new = issue(&begin(&engine, Some(&old))).token;
        slow.put("slow", &1).unwrap();
        slow.transact(|tx| tx.put("more", &2)).unwrap();
        assert_eq!(snapshot.str("k").unwrap(), Some("v"));
        assert!(slow.last_seen().is_some() && slow.expires_at().is_some() && slow.deadline().is_some());
        assert!(matches!(deliver(&slow), Delivery::Nothing));
        assert_eq!(begin(&engine, Some(&new)).keys(), ["k", "more", "slow"]);
    }
}

#[test]
fn a_request_under_way_can_still_log_in_and_hand_its_token_out() {
    for (engine, clock) in engines() {
        let old = fresh(&engine);
        clock.advance(15 * MINUTE);
        let (slow, other) = (begin(&engine, Some(&old)), begin(&engine, Some(&old)));
        let new = issue(&begin(&engine, Some(&old))).token;
        block_on(slow.login("user:1")).unwrap();
        let given = slow.issue().unwrap().unwrap().token;
        assert!(matches!(deliver(&slow), Delivery::Nothing), "it was given out");
        let session = begin(&engine, Some(&given));
        assert_eq!((session.owner().as_deref(), session.exists("k")), (Some("user:1"), true));
        assert!(!alive(&engine, &old) && !alive(&engine, &new) && other.is_revoked(), "a login has no grace");
    }
}

#[test]
fn who_waits_under_the_old_token_is_told_what_happens_in_the_grace_and_of_its_end() {
    for (engine, clock) in engines() {
        let old = fresh(&engine);
        clock.advance(15 * MINUTE);
        let held = begin(&engine, Some(&old));
        let (mut revoked, mut changed) = (held.revoked(), held.changed());
        let wakes = Arc::new(Wakes::default());
        assert!(poll(&mut revoked, &wakes).is_pending() && poll(&mut changed, &wakes).is_pending());
        let new = issue(&begin(&engine, Some(&old))).token;
        assert!(poll(&mut revoked, &wakes).is_pending(), "a rotation is no end");
        assert!(poll(&mut changed, &wakes).is_pending(), "and no change of the content");
        wakes.take();
        begin(&engine, Some(&new)).put("n", &1).unwrap();
        assert!(wakes.take() > 0, "woken by a write under the new token");
        assert!(poll(&mut revoked, &wakes).is_pending());
        let Poll::Ready(Some(seen)) = poll(&mut changed, &wakes) else { panic!("a change is told") };
        assert_eq!(seen.i64("n").unwrap(), Some(1));
        wakes.take();
        clock.advance(GRACE);
        // The engine looks after its graces about once a second.
        let woken = (0..6_000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            wakes.take() > 0
        });
        assert!(woken, "the end of the grace wakes who waits");
        assert_eq!(poll(&mut revoked, &wakes), Poll::Ready(Ended::Renewed));
        assert!(matches!(poll(&mut changed, &wakes), Poll::Ready(None)));

        let (old, new) = rotated(&engine, &clock);
        let mut revoked = begin(&engine, Some(&old)).revoked();
        assert!(poll(&mut revoked, &wakes).is_pending());
        wakes.take();
        begin(&engine, Some(&new)).destroy().unwrap();
        assert!(wakes.take() > 0, "a logout under the new token");
        assert_eq!(poll(&mut revoked, &wakes), Poll::Ready(Ended::Destroyed));
    }
}

#[test]
fn whatever_ends_the_session_ends_the_grace() {
    for (engine, clock) in engines() {
        let (old, new) = rotated(&engine, &clock);
        begin(&engine, Some(&new)).destroy().unwrap();
        assert!(!alive(&engine, &old), "a logout with the new token");

        let (old, new) = rotated(&engine, &clock);
        let session = begin(&engine, Some(&old));
        session.destroy().unwrap();
        assert!(matches!(deliver(&session), Delivery::Remove));
        assert!(!alive(&engine, &new) && !alive(&engine, &old), "a logout with the old one");

        let (old, new) = rotated(&engine, &clock);
        block_on(engine.destroy_session(&new.id())).unwrap();
        assert!(!alive(&engine, &old), "a revocation");

        let (old, new) = rotated(&engine, &clock);
        block_on(engine.destroy_session(&old.id())).unwrap();
        assert!(!alive(&engine, &new), "a revocation by an id that was listed before the rotation");

        let (old, new) = rotated(&engine, &clock);
        let held = begin(&engine, Some(&old));
        let session = begin(&engine, Some(&new));
        session.renew().unwrap();
        let newest = issue(&session).token;
        assert!(!alive(&engine, &old) && !alive(&engine, &new), "a renewal leaves no old token");
        assert!(held.is_revoked() && alive(&engine, &newest));
        let session = begin(&engine, None);
        assert_eq!(block_on(session.merge(&newest)).unwrap(), Merged::Done { keys: 1 });

        let (old, new) = rotated(&engine, &clock);
        let session = begin(&engine, Some(&old));
        session.renew().unwrap();
        let newest = issue(&session).token;
        assert!(!alive(&engine, &old) && !alive(&engine, &new), "nor one by the holder of the old one");
        assert!(alive(&engine, &newest));
    }
}

#[test]
fn a_renewal_has_no_grace() {
    for (engine, _) in engines() {
        let old = fresh(&engine);
        let held = begin(&engine, Some(&old));
        let session = begin(&engine, Some(&old));
        session.renew().unwrap();
        // Asking for both is asking for the stricter one, in any order.
        session.rotate().unwrap();
        let new = issue(&session).token;
        assert!(!alive(&engine, &old) && held.is_revoked() && alive(&engine, &new));
    }
}

#[test]
fn a_chain_of_rotations_is_followed() {
    for (engine, _) in engines() {
        let first = fresh(&engine);
        let held = begin(&engine, Some(&first));
        let mut token = first.clone();
        for _ in 0..4 {
            let session = begin(&engine, Some(&token));
            session.rotate().unwrap();
            token = issue(&session).token;
        }
        assert!(alive(&engine, &first) && held.exists("k"));
        held.destroy().unwrap();
        assert!(!alive(&engine, &token));
    }
}

#[test]
fn an_untouched_request_that_rotates_is_no_use() {
    let (builder, clock) = settings();
    let engine = builder.idle_timeout(20 * MINUTE).in_memory().unwrap();
    let token = fresh(&engine);
    clock.advance(15 * MINUTE);
    let polled = block_on(engine.session_untouched(Some(&token))).unwrap();
    let new = issue(&polled).token;
    clock.advance(5 * MINUTE);
    assert!(!alive(&engine, &new), "20 minutes without a use");
}

#[test]
fn without_a_grace_the_old_token_is_dead_at_once() {
    let (builder, clock) = settings();
    let engine = builder.rotation_grace(Duration::ZERO).in_memory().unwrap();
    let (old, new) = rotated(&engine, &clock);
    assert!(!alive(&engine, &old) && alive(&engine, &new));
}

#[test]
fn a_restart_ends_the_grace_and_keeps_the_age() {
    let (builder, clock) = settings();
    let store = MemoryStore::default();
    let engine = builder.open(store.clone()).unwrap();
    let (old, new) = rotated(&engine, &clock);
    block_on(engine.close()).unwrap();
    let again = Engine::builder().clock(clock.clone()).rotate_every(15 * MINUTE).open(store).unwrap();
    assert!(!alive(&again, &old) && alive(&again, &new));
    clock.advance(15 * MINUTE - Duration::from_secs(1));
    assert!(matches!(deliver(&begin(&again, Some(&new))), Delivery::Nothing));
    clock.advance(Duration::from_secs(1));
    assert!(matches!(deliver(&begin(&again, Some(&new))), Delivery::Issue(_)));
}

#[test]
fn settings_are_checked() {
    let config = |b: Builder| b.in_memory().unwrap_err().kind() == ErrorKind::Config;
    assert!(config(Engine::builder().rotate_every(Duration::from_millis(999))));
    assert!(config(Engine::builder().rotation_grace(Duration::from_secs(301))));
    assert!(config(Engine::builder().anonymous_memory_limit(0)));
    assert!(config(Engine::builder().anonymous_memory_limit(257 << 20)));
    assert!(config(Engine::builder().anonymous_idle_timeout(Duration::ZERO)));
}

#[test]
fn parallel_requests_at_the_rotation_all_succeed_and_one_token_is_issued() {
    for (engine, clock) in engines() {
        for round in 0..30 {
            let old = Arc::new(fresh(&engine));
            clock.advance(15 * MINUTE);
            let barrier = Arc::new(Barrier::new(6));
            let threads: Vec<_> = (0..6)
                .map(|i| {
                    let (engine, old, barrier) = (engine.clone(), old.clone(), barrier.clone());
                    std::thread::spawn(move || {
                        barrier.wait();
                        let session = begin(&engine, Some(&old));
                        session.put(&format!("key{i}"), &round).unwrap();
                        let delivered = deliver(&session);
                        assert!(session.exists("k"));
                        match delivered {
                            Delivery::Issue(issue) => Some(issue.token),
                            _ => None,
                        }
                    })
                })
                .collect();
            let issued: Vec<_> = threads.into_iter().filter_map(|t| t.join().unwrap()).collect();
            assert_eq!(issued.len(), 1);
            let keys = begin(&engine, Some(&issued[0])).keys();
            assert_eq!(keys, ["k", "key0", "key1", "key2", "key3", "key4", "key5"], "no write is lost");
        }
    }
}
