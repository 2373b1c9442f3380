//! Logout, revocation and expiry, as the other engines see them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Delivery, Ended, Engine, ErrorKind, Event, RevokedBy};

use crate::support::{Silent, begin, commit, fresh, get, put, soon, strict, strict_pair};

#[test]
fn p3_a_logout_elsewhere_beats_every_write_here() {
    let (rows, a, b) = strict_pair();
    let token = fresh(&a);
    let late = begin(&b, &token);
    let leaving = begin(&a, &token);
    leaving.destroy().unwrap();
    assert!(matches!(commit(&leaving), Delivery::Remove));
    assert_eq!(rows.len(), 0);
    late.put("k", &9).unwrap();
    assert!(matches!(commit(&late), Delivery::Nothing));
    assert_eq!(rows.len(), 0, "nothing but a creation makes a row");
    assert!(late.is_revoked());
    assert_eq!(late.put("k", &10).unwrap_err().kind(), ErrorKind::Revoked);
    for engine in [&a, &b] {
        assert!(!begin(engine, &token).exists("k"));
    }
    assert_eq!(block_on(b.stats()).cached, 0);
}

#[test]
fn a_stored_transaction_on_an_ended_session_is_refused() {
    let (rows, a, b) = strict_pair();
    let token = fresh(&a);
    let late = begin(&b, &token);
    block_on(a.destroy_session(&token.id())).unwrap();
    let error = block_on(late.update_stored("k", |n: Option<u64>| n.unwrap_or(0) + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Revoked);
    assert_eq!(rows.len(), 0);
}

#[test]
fn revoking_an_owner_reaches_sessions_of_other_engines() {
    let (rows, a, b) = strict_pair();
    let tokens: Vec<_> = [&a, &b, &b]
        .map(|engine| {
            let token = fresh(engine);
            let session = begin(engine, &token);
            session.set_owner(Some("ann")).unwrap();
            commit(&session);
            token
        })
        .into();
    let keep = begin(&a, &tokens[0]).id().unwrap();
    assert_eq!(block_on(a.sessions_of("ann")).unwrap().len(), 3);
    assert_eq!(block_on(a.destroy_all("ann", Some(&keep))).unwrap(), 2);
    assert_eq!(rows.len(), 1);
    assert!(!begin(&b, &tokens[1]).exists("k"));
    assert_eq!(block_on(b.sessions_of("ann")).unwrap().len(), 1);
    assert!(begin(&b, &tokens[0]).exists("k"));
}

#[test]
fn those_who_wait_elsewhere_are_woken() {
    let rows = MemoryStore::shared();
    let open = || Engine::builder().open(rows.clone()).unwrap();
    let (a, b) = (open(), open());
    let token = fresh(&a);
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let seen = events.clone();
    let c = Engine::builder()
        .observer(move |event: &Event| seen.lock().unwrap().push(event.clone()))
        .open(rows.clone())
        .unwrap();
    let waiting: Vec<_> = [&b, &c]
        .map(|engine| {
            let session = begin(engine, &token);
            std::thread::spawn(move || block_on(session.revoked()))
        })
        .into();
    put(&a, &token, "k", 1);
    soon("the change is seen", || get(&b, &token, "k") == Some(1));
    let leaving = begin(&a, &token);
    leaving.destroy().unwrap();
    commit(&leaving);
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), Ended::Revoked);
    }
    let id = token.id();
    let told = |by| {
        events
            .lock()
            .unwrap()
            .iter()
            .any(|e| matches!(e, Event::Revoked { id: i, by: b } if *i == id && *b == by))
    };
    assert!(told(RevokedBy::Elsewhere));
}

/// Without notices, by asking.
#[test]
fn those_who_wait_at_a_silent_store_are_woken() {
    let rows = MemoryStore::new();
    let open =
        || Engine::builder().max_staleness(Duration::from_millis(20)).open(Silent(rows.clone())).unwrap();
    let (a, b) = (open(), open());
    let token = fresh(&a);
    let session = begin(&b, &token);
    let waiting = std::thread::spawn(move || block_on(session.revoked()));
    block_on(a.destroy_session(&token.id())).unwrap();
    assert_eq!(waiting.join().unwrap(), Ended::Revoked);
}

#[test]
fn p8_nobodys_clock_ends_what_others_use() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(1_800_000_000_000);
    let idle = Duration::from_secs(600);
    let open = || strict().clock(clock.clone()).idle_timeout(idle).open(Silent(rows.clone())).unwrap();
    let (a, b) = (open(), open());
    let token = fresh(&a);
    assert_eq!(get(&b, &token, "k"), Some(0));
    for _ in 0..5 {
        clock.advance(Duration::from_secs(400));
        assert_eq!(get(&a, &token, "k"), Some(0), "used here");
        block_on(a.flush()).unwrap();
    }
    assert_eq!(get(&b, &token, "k"), Some(0), "and so alive there, where it was not used for long");
    clock.advance(Duration::from_secs(2 * 600));
    assert_eq!(get(&a, &token, "k"), None);
    assert_eq!(get(&b, &token, "k"), None);
    assert_eq!(rows.len(), 1, "the row is the sweep's");
}
