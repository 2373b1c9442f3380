//! When a session ends and what its client is told: persistence, deadlines, idle timeouts, and what a destroyed
//! session leaves behind. Time is simulated, so nothing here waits.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Builder, Delivery, Engine, ErrorKind, Issue, Result, Session, Status, Token};

const START_MS: u64 = 1_800_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn clocked() -> (Builder, ManualClock) {
    let clock = ManualClock::new(START_MS);
    (Engine::builder().clock(clock.clone()), clock)
}

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

fn kind<T: std::fmt::Debug>(r: Result<T>) -> ErrorKind {
    r.unwrap_err().kind()
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

#[test]
fn persistence_is_delivered_when_it_changes() {
    let engine = Engine::builder().persistent(false).in_memory().unwrap();
    let session = begin(&engine, None);
    assert!(!session.is_persistent());
    session.put("k", "v").unwrap();
    let first = issue(&session);
    assert!(!first.persistent);

    let session = begin(&engine, Some(&first.token));
    session.remember_me(true).unwrap();
    assert!(session.is_persistent());
    assert_eq!(session.status(), Status::Modified);
    let second = issue(&session);
    assert!(second.persistent);
    assert_eq!(second.token.id(), first.token.id(), "the token stays");

    let session = begin(&engine, Some(&first.token));
    session.remember_me(true).unwrap();
    assert_eq!(session.status(), Status::Unmodified);
    assert!(matches!(deliver(&session), Delivery::Nothing), "nothing changed");
    assert_eq!(kind(session.remember_me(false)), ErrorKind::HeadSent);

    let session = begin(&engine, Some(&first.token));
    session.put("other", "value").unwrap();
    assert!(matches!(deliver(&session), Delivery::Nothing), "a write alone is not told");
    session.clear().unwrap();
    assert!(begin(&engine, Some(&first.token)).is_persistent(), "it is no value that a clear removes");

    let session = begin(&engine, Some(&first.token));
    session.remember_me(false).unwrap();
    assert!(!issue(&session).persistent);
}

#[test]
fn persistence_alone_begins_a_session_only_if_it_says_something() {
    let engine = Engine::builder().in_memory().unwrap();
    let session = begin(&engine, None);
    session.remember_me(true).unwrap();
    assert_eq!(session.id(), None);
    assert!(matches!(deliver(&session), Delivery::Nothing), "it was the default");
    let session = begin(&engine, None);
    session.remember_me(false).unwrap();
    session.put("k", "v").unwrap();
    assert!(!issue(&session).persistent, "said before the first write");
}

#[test]
fn persistence_survives_renewal_and_restart() {
    let store = MemoryStore::default();
    let engine = Engine::builder().open(store.clone()).unwrap();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    session.remember_me(false).unwrap();
    session.renew().unwrap();
    let renewed = issue(&session);
    assert!(!renewed.persistent);
    block_on(engine.close()).unwrap();
    let engine = Engine::builder().open(store).unwrap();
    assert!(!begin(&engine, Some(&renewed.token)).is_persistent());
}

#[test]
fn a_deadline_is_validated() {
    let (builder, _) = clocked();
    let engine = builder.in_memory().unwrap();
    let session = begin(&engine, None);
    for bad in [at(0), at(START_MS), at(START_MS - 1), at(253_402_300_800_000)] {
        assert_eq!(kind(session.set_deadline(bad)), ErrorKind::InvalidTime, "{bad:?}");
    }
    assert_eq!(kind(session.set_lifetime(Duration::ZERO)), ErrorKind::InvalidTime);
    assert_eq!(kind(session.set_lifetime(Duration::from_nanos(1))), ErrorKind::InvalidTime);
    assert_eq!(kind(session.set_lifetime(Duration::MAX)), ErrorKind::InvalidTime);
    assert_eq!(kind(session.set_idle_timeout(Duration::ZERO)), ErrorKind::InvalidTime);
    assert_eq!(session.id(), None, "none of them began a session");
    session.set_deadline(at(START_MS + 1)).unwrap();
    assert_eq!(session.deadline(), Some(at(START_MS + 1)));
}

#[test]
fn a_later_deadline_is_delivered_and_an_earlier_one_is_not() {
    let (builder, clock) = clocked();
    let engine = builder.lifetime(HOUR).in_memory().unwrap();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    session.set_lifetime(2 * HOUR).unwrap();
    let again = issue(&session);
    assert_eq!(again.token.id(), token.id());
    assert_eq!(again.max_age, 2 * HOUR);

    let session = begin(&engine, Some(&token));
    session.set_lifetime(HOUR / 2).unwrap();
    assert!(
        matches!(deliver(&session), Delivery::Nothing),
        "the client's copy lives longer, which is harmless"
    );
    clock.advance(HOUR / 2);
    assert_eq!(begin(&engine, Some(&token)).id(), None, "and the server ends it");
}

#[test]
fn an_earlier_end_is_met_without_anybody_asking() {
    let (builder, clock) = clocked();
    let engine = builder.in_memory().unwrap();
    let token = fresh(&engine);
    begin(&engine, Some(&token)).set_lifetime(Duration::from_secs(60)).unwrap();
    clock.advance(Duration::from_secs(62));
    // The wheel is turned by the writer's thread, about once a second; this waits for it, not for the clock.
    for _ in 0..200 {
        if block_on(engine.stats()).cached == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(block_on(engine.stats()).expired, 1);
}

#[test]
fn a_chosen_deadline_outlives_a_renewal_of_the_same_request() {
    let (builder, clock) = clocked();
    let engine = builder.lifetime(HOUR).open(MemoryStore::default()).unwrap();
    for first in [true, false] {
        let session = begin(&engine, Some(&fresh(&engine)));
        if first {
            session.set_lifetime(5 * HOUR).unwrap();
        }
        session.renew().unwrap();
        if !first {
            session.set_lifetime(5 * HOUR).unwrap();
        }
        let renewed = issue(&session);
        assert_eq!(renewed.max_age, 5 * HOUR);
        clock.advance(Duration::from_secs(60));
        let session = begin(&engine, Some(&renewed.token));
        session.renew().unwrap();
        assert_eq!(issue(&session).max_age, HOUR, "a later one restarts the engine's lifetime");
    }
}

#[test]
fn an_idle_timeout_of_its_own_survives_restart_and_counts_from_now() {
    let (builder, clock) = clocked();
    let store = MemoryStore::default();
    let engine = builder.idle_timeout(10 * HOUR).open(store.clone()).unwrap();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    clock.advance(HOUR);
    session.set_idle_timeout(HOUR / 2).unwrap();
    assert_eq!(session.idle_timeout(), Some(HOUR / 2));
    assert_eq!(session.expires_at(), Some(at(START_MS + 90 * 60_000)));
    assert!(matches!(deliver(&session), Delivery::Nothing), "the server enforces it; the client is not told");
    drop(session);
    block_on(engine.close()).unwrap();

    let engine = Engine::builder().clock(clock.clone()).open(store).unwrap();
    assert_eq!(begin(&engine, Some(&token)).idle_timeout(), Some(HOUR / 2));
    clock.advance(HOUR / 2);
    assert_eq!(begin(&engine, Some(&token)).id(), None);

    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    session.set_idle_timeout(HOUR).unwrap();
    session.set_idle_timeout(None).unwrap();
    assert_eq!(session.idle_timeout(), None);
}

/// The use that setting it is has to be told to the store, though the timeout is the one that was there.
#[test]
fn setting_the_same_idle_timeout_is_a_use_that_survives_a_restart() {
    for publish_first in [false, true] {
        let (builder, clock) = clocked();
        let store = MemoryStore::default();
        let engine = builder.idle_timeout(10 * HOUR).open(store.clone()).unwrap();
        let session = begin(&engine, None);
        session.set_idle_timeout(HOUR).unwrap();
        let first = publish_first.then(|| issue(&session).token);
        clock.advance(HOUR / 2);
        session.set_idle_timeout(HOUR).unwrap();
        let token = match first {
            Some(token) => token,
            None => issue(&session).token,
        };
        drop(session);
        block_on(engine.close()).unwrap();

        clock.advance(HOUR - HOUR / 60);
        let engine = Engine::builder().clock(clock.clone()).open(store).unwrap();
        assert!(begin(&engine, Some(&token)).id().is_some(), "published first: {publish_first}");
    }
}

#[test]
fn sessions_without_owner_have_a_shorter_idle_timeout() {
    let (builder, clock) = clocked();
    let engine = builder.idle_timeout(HOUR).anonymous_idle_timeout(HOUR / 4).in_memory().unwrap();
    let session = begin(&engine, None);
    session.put("k", "v").unwrap();
    assert_eq!(session.idle_timeout(), Some(HOUR / 4));
    session.set_owner(Some("user:1")).unwrap();
    assert_eq!(session.idle_timeout(), Some(HOUR), "lifted with the owner");
    let owned = issue(&session).token;
    let anonymous = fresh(&engine);
    clock.advance(HOUR / 4);
    assert_eq!(begin(&engine, Some(&anonymous)).id(), None);
    let session = begin(&engine, Some(&owned));
    session.set_owner(None).unwrap();
    assert_eq!(session.idle_timeout(), Some(HOUR / 4), "and back without");
    session.set_idle_timeout(2 * HOUR).unwrap();
    session.set_owner(Some("user:1")).unwrap();
    assert_eq!(session.idle_timeout(), Some(2 * HOUR), "a chosen one stays");
}

#[test]
fn a_destroyed_session_leaves_nothing_to_the_next_one() {
    let (builder, clock) = clocked();
    let engine = builder.lifetime(HOUR).open(MemoryStore::default()).unwrap();
    let session = begin(&engine, None);
    session.set_owner(Some("user:1")).unwrap();
    session.remember_me(false).unwrap();
    session.set_lifetime(9 * HOUR).unwrap();
    session.set_idle_timeout(HOUR / 3).unwrap();
    let old = issue(&session).token;

    clock.advance(Duration::from_secs(60));
    let session = begin(&engine, Some(&old));
    session.set_lifetime(8 * HOUR).unwrap();
    session.renew().unwrap();
    session.destroy().unwrap();
    assert_eq!(session.status(), Status::Destroyed);
    assert!(session.is_persistent(), "the default again");
    session.put("k", "new").unwrap();
    assert_eq!(session.status(), Status::Modified);
    assert_eq!(session.keys(), ["k"]);
    assert_eq!(session.owner(), None);
    assert_eq!(session.idle_timeout(), None);
    let new = issue(&session);
    assert_ne!(new.token.id(), old.id());
    assert!(new.persistent);
    assert_eq!(new.max_age, HOUR, "a lifetime of its own");
    assert_eq!(begin(&engine, Some(&old)).id(), None);
}

#[test]
fn an_untouched_request_keeps_no_session_alive() {
    let (builder, clock) = clocked();
    let engine = builder.idle_timeout(HOUR).in_memory().unwrap();
    let token = fresh(&engine);
    let poll = || block_on(engine.session_untouched(Some(&token))).unwrap();
    for minute in 0..60 {
        assert_eq!(poll().get::<String>("k").unwrap().as_deref(), Some("v"), "minute {minute}");
        poll().put("polled", &minute).unwrap();
        clock.advance(HOUR / 60);
    }
    assert_eq!(poll().id(), None, "an hour without a use");
    assert!(block_on(engine.session_untouched(None)).unwrap().is_new());

    let token = fresh(&engine);
    clock.advance(HOUR / 2);
    assert!(begin(&engine, Some(&token)).exists("k"));
    clock.advance(HOUR / 2);
    assert!(
        block_on(engine.session_untouched(Some(&token))).unwrap().exists("k"),
        "the use in between counts"
    );
}

#[test]
fn an_untouched_load_ends_no_session_early() {
    let (builder, clock) = clocked();
    let store = MemoryStore::default();
    let engine = builder.idle_timeout(HOUR).open(store.clone()).unwrap();
    let token = fresh(&engine);
    // A use that is not written down, because the one before is too recent.
    clock.advance(Duration::from_secs(120));
    assert!(begin(&engine, Some(&token)).exists("k"));
    block_on(engine.close()).unwrap();
    clock.advance(HOUR - Duration::from_secs(60));
    let engine = Engine::builder().clock(clock.clone()).open(store).unwrap();
    let poll = || block_on(engine.session_untouched(Some(&token))).unwrap();
    assert!(poll().exists("k"), "its last use is less than an hour ago, whatever was written down");
    clock.advance(Duration::from_secs(180));
    assert_eq!(poll().id(), None);
}
