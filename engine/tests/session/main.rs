//! What a session promises, seen from outside: data, life cycle, expiry, limits. Each test names the promise
//! it keeps where there is one (P1 to P12, `docs/design.md`).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod durability;
mod races;
mod time;

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use pollster::block_on;
use serde::{Deserialize, Serialize};
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{
    Builder, Delivery, Durability, Engine, ErrorKind, Event, Result, RevokedBy, Session, Status, Token,
};

const START_MS: u64 = 1_800_000_000_000;

fn memory() -> Engine {
    Engine::builder().in_memory().unwrap()
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn deliver(session: &Session) -> Delivery {
    block_on(session.commit()).unwrap()
}

fn issued(session: &Session) -> Token {
    match deliver(session) {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A published session with `k = "v"`.
fn fresh(engine: &Engine) -> Token {
    let session = begin(engine, None);
    session.put("k", "v").unwrap();
    issued(&session)
}

fn kind<T: std::fmt::Debug>(r: Result<T>) -> ErrorKind {
    r.unwrap_err().kind()
}

fn timed(clock: &ManualClock) -> Builder {
    Engine::builder().clock(clock.clone()).lifetime(Duration::from_secs(100))
}

#[test]
fn p6_nothing_exists_until_the_first_write() {
    let engine = memory();
    let session = begin(&engine, None);
    assert!(session.is_new());
    assert_eq!(session.id(), None);
    assert_eq!(session.get::<String>("k").unwrap(), None);
    assert!(!session.exists("k"));
    assert!(session.keys().is_empty());
    assert_eq!(session.pop::<String>("k").unwrap(), None);
    assert!(!session.remove("k").unwrap());
    session.clear().unwrap();
    session.renew().unwrap();
    session.destroy().unwrap();
    assert!(session.snapshot().is_none());
    assert!(matches!(deliver(&session), Delivery::Nothing));
    assert_eq!(block_on(engine.stats()).created, 0);
}

/// The engine ends, or could become read-only, while the transaction runs.
#[test]
fn p6_a_transaction_that_cannot_be_kept_begins_no_session() {
    let engine = memory();
    let session = begin(&engine, None);
    let kept = session.transact(|tx| {
        tx.put("k", &1)?;
        block_on(engine.close())
    });
    assert!(kept.is_err());
    assert_eq!(session.id(), None);
    assert!(session.is_new());
}

#[test]
fn p6_a_session_whose_response_never_left_is_no_orphan() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("k", "v").unwrap();
    assert!(session.is_new());
    assert_eq!(session.get::<String>("k").unwrap().as_deref(), Some("v"), "but its own request sees it");
    drop(session);
    assert_eq!(block_on(engine.stats()).cached, 0);
}

#[test]
fn p5_a_token_we_did_not_issue_is_never_adopted() {
    let engine = memory();
    let chosen = Token::generate().unwrap();
    let session = begin(&engine, Some(&chosen));
    assert_eq!(session.id(), None);
    session.put("k", "v").unwrap();
    let given = issued(&session);
    assert_ne!(given.id(), chosen.id());
    assert_eq!(begin(&engine, Some(&chosen)).id(), None);
}

#[test]
fn values_of_every_shape() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Cart {
        items: Vec<(String, u32)>,
        coupon: Option<String>,
        notes: BTreeMap<String, f64>,
    }
    let cart = Cart {
        items: vec![("apple".into(), 3), ("pear".into(), 1)],
        coupon: None,
        notes: BTreeMap::from([("weight".into(), 1.5)]),
    };
    let engine = memory();
    let session = begin(&engine, None);
    session.put("cart", &cart).unwrap();
    session.put("n", &-5_i8).unwrap();
    session.put("big", &u64::MAX).unwrap();
    session.put("yes", &true).unwrap();
    session.put("pi", &3.5_f32).unwrap();
    session.put("nothing", &None::<u8>).unwrap();
    session.put("str", "grüße").unwrap();
    let token = issued(&session);

    let session = begin(&engine, Some(&token));
    assert_eq!(session.get::<Cart>("cart").unwrap(), Some(cart));
    assert_eq!(session.get::<i64>("n").unwrap(), Some(-5));
    assert_eq!(session.get::<u64>("big").unwrap(), Some(u64::MAX));
    assert_eq!(session.get::<bool>("yes").unwrap(), Some(true));
    assert_eq!(session.get::<f64>("pi").unwrap(), Some(3.5));
    assert_eq!(session.get::<Option<u8>>("nothing").unwrap(), Some(None));
    let snapshot = session.snapshot().unwrap();
    assert_eq!(snapshot.str("str").unwrap(), Some("grüße"));
    assert_eq!(snapshot.i64("n").unwrap(), Some(-5));
    assert_eq!(snapshot.get::<&str>("str").unwrap(), Some("grüße"));
    assert_eq!(session.keys(), ["big", "cart", "n", "nothing", "pi", "str", "yes"]);
}

#[test]
fn p2_a_pop_of_the_wrong_type_deletes_nothing() {
    let engine = memory();
    let session = begin(&engine, Some(&fresh(&engine)));
    let error = session.pop::<u32>("k").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
    assert_eq!(error.key(), Some("k"));
    let text = error.to_string();
    assert!(text.contains("u32") && text.contains('k'), "{text}");
    assert!(!text.contains("\"v\""), "the value itself is not shown: {text}");
    assert_eq!(session.pop::<String>("k").unwrap().as_deref(), Some("v"));
    assert_eq!(session.pop::<String>("k").unwrap(), None);
}

#[test]
fn limits_are_checked_by_the_call_and_change_nothing() {
    let engine = memory();
    let session = begin(&engine, Some(&fresh(&engine)));
    assert_eq!(kind(session.put("", "x")), ErrorKind::InvalidKey);
    assert_eq!(kind(session.put(&"k".repeat(257), "x")), ErrorKind::InvalidKey);
    session.put(&"k".repeat(256), "x").unwrap();
    let error = session.put("big", &"x".repeat(65 << 10)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("65536"), "names the limit: {error}");
    assert!(!session.exists("big"));
    assert_eq!(session.keys().len(), 2);
    // A refused first write leaves an empty session empty.
    let empty = begin(&engine, None);
    assert_eq!(kind(empty.put("", "x")), ErrorKind::InvalidKey);
    assert!(matches!(deliver(&empty), Delivery::Nothing));
}

#[test]
fn p3_logout_is_final_for_every_handle() {
    let engine = memory();
    let token = fresh(&engine);
    let slow = begin(&engine, Some(&token));
    let session = begin(&engine, Some(&token));
    session.destroy().unwrap();
    assert_eq!(session.status(), Status::Destroyed);
    assert!(slow.is_revoked() && session.is_revoked());
    assert_eq!(slow.get::<String>("k").unwrap(), None);
    assert!(slow.snapshot().is_none());
    for result in [
        slow.put("k", "late"),
        slow.update("k", |_: Option<String>| String::new()).map(drop),
        slow.set_owner(Some("x")),
        slow.renew(),
        slow.remove("k").map(drop),
    ] {
        assert_eq!(kind(result), ErrorKind::Revoked);
    }
    assert!(matches!(deliver(&slow), Delivery::Nothing), "and no cookie is sent for it");
    assert!(matches!(deliver(&session), Delivery::Remove));
    assert_eq!(begin(&engine, Some(&token)).id(), None);
    session.destroy().unwrap();
}

#[test]
fn a_write_after_destroy_starts_a_new_session() {
    let engine = memory();
    let old = fresh(&engine);
    let session = begin(&engine, Some(&old));
    session.destroy().unwrap();
    session.put("fresh", &1).unwrap();
    assert!(!session.is_revoked());
    assert_eq!(session.keys(), ["fresh"]);
    let new = issued(&session);
    assert_ne!(old.id(), new.id());
    assert_eq!(begin(&engine, Some(&old)).id(), None);
    assert_eq!(begin(&engine, Some(&new)).keys(), ["fresh"]);
}

#[test]
fn p4_renew_is_tied_to_delivery() {
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder().clock(clock.clone()).in_memory().unwrap();
    let old = fresh(&engine);
    clock.advance(Duration::from_secs(3600));
    let other = begin(&engine, Some(&old));
    let session = begin(&engine, Some(&old));
    let deadline = session.deadline().unwrap();
    session.renew().unwrap();
    assert_eq!(session.status(), Status::Modified);
    // Not delivered: the old token works, and a dropped request leaves it working.
    assert!(begin(&engine, Some(&old)).id().is_some());
    drop(session);
    assert!(begin(&engine, Some(&old)).id().is_some());

    let session = begin(&engine, Some(&old));
    session.renew().unwrap();
    session.put("during", &1).unwrap();
    let new = issued(&session);
    assert_eq!(begin(&engine, Some(&old)).id(), None);
    assert!(other.is_revoked(), "another request that held the old token is out");
    assert_eq!(kind(other.put("x", "y")), ErrorKind::Revoked);
    let renewed = begin(&engine, Some(&new));
    assert_eq!(renewed.keys(), ["during", "k"]);
    assert_eq!(renewed.deadline().unwrap(), deadline + Duration::from_secs(3600), "the lifetime restarts");
    session.put("after", &1).unwrap();
    assert!(renewed.exists("after"), "the renewing handle stays live");
}

#[test]
fn rotate_keeps_the_deadline() {
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder().clock(clock.clone()).in_memory().unwrap();
    let old = fresh(&engine);
    let deadline = begin(&engine, Some(&old)).deadline();
    clock.advance(Duration::from_secs(3600));
    let session = begin(&engine, Some(&old));
    session.rotate().unwrap();
    let new = issued(&session);
    assert_ne!(new.id(), old.id());
    assert_eq!(begin(&engine, Some(&new)).deadline(), deadline);
}

#[test]
fn p12_late_writes_are_never_silent() {
    let engine = memory();
    let token = fresh(&engine);
    let stream = begin(&engine, Some(&token));
    assert!(matches!(deliver(&stream), Delivery::Nothing));
    stream.put("late", &1).unwrap();
    assert!(begin(&engine, Some(&token)).exists("late"));
    begin(&engine, Some(&token)).put("theirs", &2).unwrap();
    assert!(stream.exists("theirs"), "and it sees the changes of others");
    assert_eq!(kind(stream.renew()), ErrorKind::HeadSent);

    let empty = begin(&engine, None);
    deliver(&empty);
    assert_eq!(kind(empty.put("k", "v")), ErrorKind::HeadSent);
}

#[test]
fn a_second_commit_finds_nothing_to_do() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("k", "v").unwrap();
    issued(&session);
    assert!(matches!(deliver(&session), Delivery::Nothing));
    assert_eq!(block_on(engine.stats()).created, 1);
}

#[test]
fn callbacks_may_use_the_session_and_may_panic() {
    let engine = memory();
    let token = fresh(&engine);
    let session = begin(&engine, Some(&token));
    let seen = session.update("n", |n: Option<u32>| n.unwrap_or(session.keys().len() as u32)).unwrap();
    assert_eq!(seen, 1);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        session.update("n", |_: Option<u32>| -> u32 { panic!("in the callback") })
    }));
    assert!(caught.is_err());
    assert_eq!(session.get::<u32>("n").unwrap(), Some(1));
}

#[test]
fn events_are_told_and_a_panicking_observer_stops_nothing() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let engine = Engine::builder()
        .observer(move |e: &Event| {
            log.lock().unwrap().push(e.clone());
            assert!(!matches!(e, Event::Destroyed { .. }), "an observer that panics");
        })
        .in_memory()
        .unwrap();
    let first = fresh(&engine);
    let session = begin(&engine, Some(&first));
    session.renew().unwrap();
    let second = issued(&session);
    session.destroy().unwrap();
    assert!(begin(&engine, Some(&second)).id().is_none());
    let third = fresh(&engine);
    block_on(engine.destroy_session(&third.id())).unwrap();
    let (from, to) = (first.id(), second.id());
    assert_eq!(
        *events.lock().unwrap(),
        [
            Event::Created { id: from },
            Event::Renewed { from, to },
            Event::Destroyed { id: to },
            Event::Unknown { id: to },
            Event::Created { id: third.id() },
            Event::Revoked { id: third.id(), by: RevokedBy::Id },
        ]
    );
}

#[test]
fn a_limit_that_is_hit_is_told_for_new_and_for_known_sessions() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let engine = Engine::builder()
        .max_record_bytes(1024)
        .observer(move |e: &Event| {
            if let Event::LimitHit { id, kind } = e {
                log.lock().unwrap().push((*id, *kind));
            }
        })
        .in_memory()
        .unwrap();
    let large = "x".repeat(2048);
    begin(&engine, None).put("k", &large).unwrap_err();
    let token = fresh(&engine);
    let known = begin(&engine, Some(&token));
    known.put("k", &large).unwrap_err();
    known.renew().unwrap();
    let renewed = issued(&known);
    known.put("k", &large).unwrap_err();
    let expected = [None, Some(token.id()), Some(renewed.id())].map(|id| (id, ErrorKind::Limit));
    assert_eq!(*events.lock().unwrap(), expected);
}

#[test]
fn revoking_by_id_works_cached_or_not() {
    let store = MemoryStore::default();
    let token = {
        let engine = Engine::builder().open(store.clone()).unwrap();
        fresh(&engine)
    };
    let engine = Engine::builder().open(store.clone()).unwrap();
    block_on(engine.destroy_session(&token.id())).unwrap();
    assert_eq!(store.len(), 0);
    assert_eq!(begin(&engine, Some(&token)).id(), None);
    let token = fresh(&engine);
    let held = begin(&engine, Some(&token));
    block_on(engine.destroy_session(&token.id())).unwrap();
    assert!(held.is_revoked());
    block_on(engine.destroy_session(&token.id())).unwrap();
}

#[test]
fn owners_and_metadata() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).idle_timeout(Duration::from_secs(30)).in_memory().unwrap();
    let session = begin(&engine, None);
    session.set_owner(Some("user:1")).unwrap();
    let token = issued(&session);
    clock.advance(Duration::from_secs(10));
    let session = begin(&engine, Some(&token));
    assert_eq!(session.owner().as_deref(), Some("user:1"));
    assert_eq!(session.last_seen().unwrap(), session.created_at().unwrap() + Duration::from_secs(10));
    assert_eq!(session.idle_timeout(), Some(Duration::from_secs(30)));
    assert_eq!(session.expires_at().unwrap(), session.created_at().unwrap() + Duration::from_secs(40));
    assert_eq!(session.status(), Status::Unmodified);
    session.set_owner(Some("user:1")).unwrap();
    assert_eq!(session.status(), Status::Unmodified, "no change is no write");
    assert_eq!(kind(session.set_owner(Some(&"o".repeat(256)))), ErrorKind::Limit);
    session.set_owner(None).unwrap();
    assert_eq!(session.owner(), None);
}

#[test]
fn contradictory_settings_are_refused() {
    for builder in [
        Engine::builder().lifetime(Duration::ZERO),
        Engine::builder().idle_timeout(Duration::ZERO),
        Engine::builder().durability(Durability::Eventual { window: Duration::ZERO }),
        Engine::builder().max_record_bytes(1),
        Engine::builder().memory_limit(10),
    ] {
        assert_eq!(builder.in_memory().unwrap_err().kind(), ErrorKind::Config);
    }
    // Extreme but legal values do not overflow.
    let engine = Engine::builder().lifetime(Duration::MAX).idle_timeout(Duration::MAX).in_memory().unwrap();
    let token = fresh(&engine);
    assert!(begin(&engine, Some(&token)).exists("k"));
}

#[test]
fn no_debug_output_shows_a_token_or_a_value() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("k", "secret-value").unwrap();
    let delivery = deliver(&session);
    let text = format!("{session:?} {delivery:?} {engine:?} {:?}", session.snapshot());
    let Delivery::Issue(issue) = delivery else { panic!() };
    assert!(!text.contains(issue.token.encode().as_str()), "{text}");
    assert!(!text.contains("secret-value"), "{text}");
}
