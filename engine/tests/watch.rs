//! Waiting for the end and for changes of a session.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Changed, Delivery, Ended, Engine, Revoked, Session, Token};

const START_MS: u64 = 1_800_000_000_000;

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn issued(session: &Session) -> Token {
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn fresh(engine: &Engine) -> Token {
    let session = begin(engine, None);
    session.put("n", &0).unwrap();
    issued(&session)
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once with a waker that counts.
fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Count>) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(&Waker::from(wakes.clone())))
}

fn woken(wakes: &Count) -> usize {
    wakes.0.swap(0, Ordering::SeqCst)
}

fn both_kinds() -> [Engine; 2] {
    [Engine::builder().in_memory().unwrap(), Engine::builder().open(MemoryStore::default()).unwrap()]
}

#[test]
fn the_futures_go_anywhere() {
    fn check<T: Send + Sync + Unpin + 'static>() {}
    check::<Revoked>();
    check::<Changed>();
}

#[test]
fn every_handle_is_told_how_it_ended() {
    for engine in both_kinds() {
        let wakes = Arc::new(Count::default());
        // Destroyed by another request.
        let token = fresh(&engine);
        let (held, other) = (begin(&engine, Some(&token)), begin(&engine, Some(&token)));
        let (mut one, mut two) = (held.revoked(), held.revoked());
        assert!(poll(&mut one, &wakes).is_pending() && poll(&mut two, &wakes).is_pending());
        assert!(poll(&mut two, &wakes).is_pending(), "polling again replaces the waker");
        held.put("n", &1).unwrap();
        woken(&wakes);
        assert!(
            poll(&mut one, &wakes).is_pending() && poll(&mut two, &wakes).is_pending(),
            "a change is no end"
        );
        other.destroy().unwrap();
        assert_eq!(woken(&wakes), 2);
        assert_eq!(poll(&mut one, &wakes), Poll::Ready(Ended::Destroyed));
        assert_eq!(block_on(two), Ended::Destroyed);
        assert_eq!(block_on(held.revoked()), Ended::Destroyed, "at once");
        assert_eq!(block_on(other.revoked()), Ended::Destroyed, "on its own handle, too");

        // Renewed by another request, revoked by id.
        let token = fresh(&engine);
        let (held, other) = (begin(&engine, Some(&token)), begin(&engine, Some(&token)));
        let mut future = held.revoked();
        assert!(poll(&mut future, &wakes).is_pending());
        other.renew().unwrap();
        assert!(poll(&mut future, &wakes).is_pending(), "asked for is not done");
        let token = issued(&other);
        assert!(woken(&wakes) > 0);
        assert_eq!(poll(&mut future, &wakes), Poll::Ready(Ended::Renewed));
        let mut future = other.revoked();
        assert!(poll(&mut future, &wakes).is_pending());
        block_on(engine.destroy_session(&token.id())).unwrap();
        assert!(woken(&wakes) > 0);
        assert_eq!(poll(&mut future, &wakes), Poll::Ready(Ended::Revoked));

        // Before it was published, by its own request.
        let session = begin(&engine, None);
        session.put("n", &1).unwrap();
        let mut future = session.revoked();
        assert!(poll(&mut future, &wakes).is_pending());
        session.destroy().unwrap();
        assert_eq!(woken(&wakes), 1);
        session.put("n", &2).unwrap();
        assert_eq!(
            poll(&mut future, &wakes),
            Poll::Ready(Ended::Destroyed),
            "the next session is another one"
        );
        issued(&session);
    }
}

#[test]
fn a_renewal_of_ones_own_is_no_end() {
    for engine in both_kinds() {
        let wakes = Arc::new(Count::default());
        let token = fresh(&engine);
        let session = begin(&engine, Some(&token));
        let (mut future, mut changed) = (session.revoked(), session.changed());
        assert!(poll(&mut future, &wakes).is_pending() && poll(&mut changed, &wakes).is_pending());
        session.rotate().unwrap();
        let token = issued(&session);
        assert!(poll(&mut future, &wakes).is_pending());
        assert!(poll(&mut changed, &wakes).is_pending(), "nor a change: the content is the same");
        begin(&engine, Some(&token)).put("n", &1).unwrap();
        let Poll::Ready(Some(snapshot)) = poll(&mut changed, &wakes) else {
            panic!("followed to the new id")
        };
        assert_eq!(snapshot.i64("n").unwrap(), Some(1));
        woken(&wakes);
        assert!(poll(&mut future, &wakes).is_pending());
        begin(&engine, Some(&token)).destroy().unwrap();
        assert!(woken(&wakes) > 0);
        assert_eq!(poll(&mut future, &wakes), Poll::Ready(Ended::Destroyed));
        assert!(matches!(poll(&mut changed, &wakes), Poll::Ready(None)));
    }
}

#[test]
fn an_idle_session_tells_when_the_wheel_fires() {
    let clock = ManualClock::new(START_MS);
    let engine =
        Engine::builder().clock(clock.clone()).idle_timeout(Duration::from_secs(30)).in_memory().unwrap();
    let token = fresh(&engine);
    let revoked = begin(&engine, Some(&token)).revoked();
    let waiting = std::thread::spawn(move || block_on(revoked));
    clock.advance(Duration::from_secs(29));
    // Waiting is no use: only this is.
    drop(begin(&engine, Some(&token)));
    clock.advance(Duration::from_secs(29));
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(2));
    // Nobody asks for the session any more: the engine's own thread finds it.
    assert_eq!(waiting.join().unwrap(), Ended::Expired);
    // And one that is due is over for whoever looks, whatever the wheel has come to.
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    let mut future = session.revoked();
    let wakes = Arc::new(Count::default());
    assert!(poll(&mut future, &wakes).is_pending());
    clock.advance(Duration::from_secs(30));
    assert_eq!(poll(&mut future, &wakes), Poll::Ready(Ended::Expired));
}

#[test]
fn changes_are_told_and_uses_are_not() {
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder()
        .clock(clock.clone())
        .idle_timeout(Duration::from_secs(60))
        .open(MemoryStore::default())
        .unwrap();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    let wakes = Arc::new(Count::default());
    let mut changed = session.changed();
    assert!(poll(&mut changed, &wakes).is_pending());
    clock.advance(Duration::from_secs(10));
    assert_eq!(begin(&engine, Some(&token)).get::<u32>("n").unwrap(), Some(0));
    session.put("n", &0).unwrap();
    assert!(poll(&mut changed, &wakes).is_pending(), "neither a use nor the same value again");
    woken(&wakes);
    session.put("n", &1).unwrap();
    session.put("n", &2).unwrap();
    assert!(woken(&wakes) > 0);
    let Poll::Ready(Some(snapshot)) = poll(&mut changed, &wakes) else { panic!("it changed") };
    assert_eq!(snapshot.i64("n").unwrap(), Some(2), "told as one");
    assert!(poll(&mut changed, &wakes).is_pending());
    for change in [|s: &Session| s.set_owner(Some("u")), |s: &Session| s.clear()] {
        change(&session).unwrap();
        assert_eq!(woken(&wakes), 1);
        assert!(poll(&mut changed, &wakes).is_ready());
        assert!(poll(&mut changed, &wakes).is_pending());
    }
    // A change before the first poll is told as well.
    let mut changed = session.changed();
    session.put("n", &3).unwrap();
    assert!(poll(&mut changed, &wakes).is_ready());
}

#[test]
fn without_a_session_only_the_engines_end_is_told() {
    let engine = Engine::builder().in_memory().unwrap();
    let wakes = Arc::new(Count::default());
    let empty = begin(&engine, None);
    let held = begin(&engine, Some(&fresh(&engine)));
    let (mut a, mut b, mut c) = (empty.revoked(), held.revoked(), empty.changed());
    assert!(poll(&mut a, &wakes).is_pending() && poll(&mut b, &wakes).is_pending());
    assert!(poll(&mut c, &wakes).is_pending());
    block_on(engine.close()).unwrap();
    assert_eq!(woken(&wakes), 3);
    assert_eq!(poll(&mut a, &wakes), Poll::Ready(Ended::Closed));
    assert_eq!(poll(&mut b, &wakes), Poll::Ready(Ended::Closed));
    assert!(matches!(poll(&mut c, &wakes), Poll::Ready(None)));
}

#[test]
fn a_waker_may_use_the_session_it_is_told_of() {
    struct Uses(Session);
    impl Wake for Uses {
        fn wake(self: Arc<Self>) {
            // Would block for ever under any lock of the engine.
            let _ = (self.0.put("n", &7), self.0.id(), self.0.destroy());
        }
    }
    for engine in both_kinds() {
        let token = fresh(&engine);
        let session = begin(&engine, Some(&token));
        let waker = Waker::from(Arc::new(Uses(begin(&engine, Some(&token)))));
        let mut changed = session.changed();
        assert!(pin!(&mut changed).poll(&mut Context::from_waker(&waker)).is_pending());
        session.put("n", &1).unwrap();
        assert_eq!(block_on(session.revoked()), Ended::Destroyed, "by the waker");
    }
}
