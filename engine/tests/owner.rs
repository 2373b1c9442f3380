//! Sessions by owner, seen from outside: listing, ending, login and its limit. Waiting for a session's end and
//! going through all sessions are in `watch.rs` and `iterate.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{
    Builder, Delivery, Engine, ErrorKind, Event, OwnerLimit, RevokedBy, Session, SessionId, Status, Token,
};

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

fn login(engine: &Engine, owner: &str) -> Token {
    let session = begin(engine, None);
    block_on(session.login(owner)).unwrap();
    issued(&session)
}

fn alive(engine: &Engine, token: &Token) -> bool {
    begin(engine, Some(token)).id().is_some()
}

fn of(engine: &Engine, owner: &str) -> Vec<SessionId> {
    block_on(engine.sessions_of(owner)).unwrap().into_iter().map(|s| s.id).collect()
}

fn ids(tokens: &[&Token]) -> Vec<SessionId> {
    let mut ids: Vec<_> = tokens.iter().map(|t| t.id()).collect();
    ids.sort_unstable();
    ids
}

fn timed(clock: &ManualClock) -> Builder {
    Engine::builder().clock(clock.clone())
}

/// What a listing must say at each of these stages, over whatever `open` opens.
fn a_listing_follows(engine: &Engine) {
    let (a, b, c) = (login(engine, "u"), login(engine, "u"), login(engine, "v"));
    let nobody = begin(engine, None);
    nobody.put("k", &1).unwrap();
    issued(&nobody);
    assert_eq!(of(engine, "u"), ids(&[&a, &b]), "unwritten");
    block_on(engine.flush()).unwrap();
    assert_eq!(of(engine, "u"), ids(&[&a, &b]), "written");
    assert_eq!(of(engine, "v"), ids(&[&c]));
    for other in ["", "U", "u ", "user", "w"] {
        assert_eq!(of(engine, other), [], "{other:?}");
    }

    begin(engine, Some(&c)).set_owner(Some("u")).unwrap();
    assert_eq!(of(engine, "u"), ids(&[&a, &b, &c]), "a change of the owner counts at once");
    assert_eq!(of(engine, "v"), []);
    begin(engine, Some(&b)).set_owner(None).unwrap();
    assert_eq!(of(engine, "u"), ids(&[&a, &c]));
    let session = begin(engine, Some(&a));
    session.renew().unwrap();
    let renewed = issued(&session);
    assert_eq!(of(engine, "u"), ids(&[&renewed, &c]), "under its new id only");
    session.destroy().unwrap();
    assert_eq!(of(engine, "u"), ids(&[&c]), "before its row is deleted");
    block_on(engine.destroy_session(&c.id())).unwrap();
    assert_eq!(of(engine, "u"), []);
}

#[test]
fn a_listing_follows_owners_in_memory() {
    a_listing_follows(&Engine::builder().in_memory().unwrap());
}

#[test]
fn a_listing_follows_owners_over_a_store() {
    a_listing_follows(&Engine::builder().open(MemoryStore::default()).unwrap());
}

#[cfg(feature = "redb")]
#[test]
fn a_listing_follows_owners_over_a_file_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    let open = || Engine::builder().open_redb(&path).unwrap();
    let engine = open();
    a_listing_follows(&engine);
    let (a, b) = (login(&engine, "u"), login(&engine, "u"));
    block_on(engine.close()).unwrap();
    assert_eq!(block_on(engine.sessions_of("u")).unwrap_err().kind(), ErrorKind::Closed);
    drop(engine);

    let engine = open();
    assert_eq!(of(&engine, "u"), ids(&[&a, &b]), "nothing is cached");
    assert_eq!(block_on(engine.stats()).cached, 0, "and looking changes nothing about that");
    begin(&engine, Some(&a)).set_owner(Some("v")).unwrap();
    assert_eq!(of(&engine, "u"), ids(&[&b]), "memory hides the row");
    assert_eq!(of(&engine, "v"), ids(&[&a]));
    assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 1);
    assert_eq!(of(&engine, "u"), []);
    block_on(engine.close()).unwrap();
    drop(engine);

    let engine = open();
    assert_eq!((of(&engine, "u"), of(&engine, "v")), (Vec::new(), ids(&[&a])));
    assert!(!alive(&engine, &b));
}

#[test]
fn a_listing_tells_what_a_page_of_logins_needs() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).idle_timeout(Duration::from_secs(60)).in_memory().unwrap();
    let session = begin(&engine, None);
    session.put("cart", &3).unwrap();
    clock.advance(Duration::from_secs(5));
    block_on(session.login("u")).unwrap();
    session.set_client_info(Some("Firefox"), Some("192.0.2.7")).unwrap();
    let token = issued(&session);
    clock.advance(Duration::from_secs(10));
    let session = begin(&engine, Some(&token));
    let info = block_on(engine.sessions_of("u")).unwrap().pop().unwrap();
    assert_eq!(info.id, token.id());
    assert_eq!(info.owner.as_deref(), Some("u"));
    assert_eq!((info.user_agent.as_deref(), info.ip.as_deref()), (Some("Firefox"), Some("192.0.2.7")));
    assert_eq!(Some(info.created_at), session.created_at());
    assert_eq!(info.authenticated_at, Some(info.created_at + Duration::from_secs(5)));
    assert_eq!(info.last_seen, info.created_at + Duration::from_secs(15));
    assert_eq!(info.expires_at, info.last_seen + Duration::from_secs(60));

    // Recording the same again writes nothing, forgetting does.
    session.set_client_info(Some("Firefox"), Some("192.0.2.7")).unwrap();
    assert_eq!(session.status(), Status::Unmodified);
    session.set_client_info(None, None).unwrap();
    let info = block_on(engine.sessions_of("u")).unwrap().pop().unwrap();
    assert_eq!((info.user_agent, info.ip), (None, None));

    // An expired one is left out, whether or not anybody has noticed.
    clock.advance(Duration::from_secs(60));
    assert_eq!(of(&engine, "u"), []);
}

#[test]
fn expired_rows_are_not_listed() {
    let clock = ManualClock::new(START_MS);
    let store = MemoryStore::default();
    {
        let engine = timed(&clock).lifetime(Duration::from_secs(60)).open(store.clone()).unwrap();
        login(&engine, "u");
        block_on(engine.close()).unwrap();
    }
    let engine = timed(&clock).open(store.clone()).unwrap();
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(of(&engine, "u").len(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(of(&engine, "u"), []);
    assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 0);
}

#[test]
fn unpublished_sessions_are_not_listed_and_not_ended() {
    let engine = Engine::builder().in_memory().unwrap();
    let session = begin(&engine, None);
    block_on(session.login("u")).unwrap();
    assert_eq!(of(&engine, "u"), []);
    assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 0);
    let token = issued(&session);
    assert_eq!(of(&engine, "u"), ids(&[&token]));
    let dropped = begin(&engine, None);
    block_on(dropped.login("u")).unwrap();
    drop(dropped);
    assert_eq!(of(&engine, "u"), ids(&[&token]));
}

#[test]
fn destroy_all_ends_the_owners_sessions_everywhere_and_for_good() {
    let store = MemoryStore::default();
    let events = Arc::new(Mutex::new(Vec::new()));
    let (a, b, c, other);
    {
        let engine = Engine::builder().open(store.clone()).unwrap();
        (a, b, c, other) =
            (login(&engine, "u"), login(&engine, "u"), login(&engine, "u"), login(&engine, "v"));
        block_on(engine.close()).unwrap();
    }
    let log = events.clone();
    let observer = move |e: &Event| log.lock().unwrap().push(e.clone());
    let engine = Engine::builder().observer(observer).open(store.clone()).unwrap();
    // One is cached and dirty, one is only on disk, one is spared.
    let held = begin(&engine, Some(&a));
    held.put("k", &1).unwrap();
    assert_eq!(block_on(engine.destroy_all("u", Some(&c.id()))).unwrap(), 2);
    assert_eq!(store.len(), 2, "durable when it returns");
    assert!(held.is_revoked());
    assert_eq!(held.put("k", &2).unwrap_err().kind(), ErrorKind::Revoked);
    assert!(!alive(&engine, &a) && !alive(&engine, &b));
    assert!(alive(&engine, &c) && alive(&engine, &other));
    let mut told = std::mem::take(&mut *events.lock().unwrap());
    told.retain(|e| matches!(e, Event::Revoked { .. }));
    told.sort_by_key(|e| if let Event::Revoked { id, .. } = e { Some(*id) } else { None });
    let expected: Vec<_> =
        ids(&[&a, &b]).into_iter().map(|id| Event::Revoked { id, by: RevokedBy::Owner }).collect();
    assert_eq!(told, expected);
    assert_eq!(block_on(engine.destroy_all("u", Some(&c.id()))).unwrap(), 0);
    assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 1);
    let stats = block_on(engine.stats());
    assert_eq!((stats.revoked, stats.stored), (3, Some(1)));
    block_on(engine.close()).unwrap();
    assert_eq!(block_on(engine.destroy_all("v", None)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn destroy_all_counts_no_session_that_was_over() {
    let clock = ManualClock::new(START_MS);
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    let engine = timed(&clock)
        .observer(move |event: &Event| told.lock().unwrap().push(event.clone()))
        .lifetime(Duration::from_secs(60))
        .in_memory()
        .unwrap();
    login(&engine, "u");
    clock.advance(Duration::from_secs(60));
    assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 0);
    let events = events.lock().unwrap();
    assert!(events.iter().any(|event| matches!(event, Event::Expired { .. })), "it expired");
    assert!(!events.iter().any(|event| matches!(event, Event::Revoked { .. })), "nobody revoked it");
}

#[test]
fn a_login_is_owner_renewal_and_time_in_one() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).lifetime(Duration::from_secs(3600)).in_memory().unwrap();
    let session = begin(&engine, None);
    session.put("cart", &3).unwrap();
    assert_eq!(session.authenticated_at(), None);
    assert!(!session.authenticated_within(Duration::MAX));
    let anonymous = issued(&session);

    clock.advance(Duration::from_secs(600));
    let session = begin(&engine, Some(&anonymous));
    block_on(session.login("u")).unwrap();
    assert_eq!(session.owner().as_deref(), Some("u"), "at once");
    assert_eq!(session.status(), Status::Modified);
    let token = issued(&session);
    assert!(!alive(&engine, &anonymous), "a planted token is worth nothing");
    let session = begin(&engine, Some(&token));
    assert_eq!(session.get::<u32>("cart").unwrap(), Some(3));
    assert_eq!(session.deadline().unwrap(), session.created_at().unwrap() + Duration::from_secs(4200));
    assert_eq!(session.authenticated_at().unwrap(), session.created_at().unwrap() + Duration::from_secs(600));
    assert!(session.authenticated_within(Duration::from_millis(1)));
    assert!(!session.authenticated_within(Duration::ZERO));
    clock.advance(Duration::from_secs(300));
    assert!(session.authenticated_within(Duration::from_millis(300_001)));
    assert!(!session.authenticated_within(Duration::from_secs(300)));

    // What fails changes nothing.
    for bad in [String::new(), "o".repeat(256)] {
        assert!(block_on(session.login(&bad)).is_err());
        assert_eq!(session.status(), Status::Unmodified);
        let empty = begin(&engine, None);
        assert!(block_on(empty.login(&bad)).is_err());
        assert!(matches!(block_on(empty.commit()).unwrap(), Delivery::Nothing));
    }
    assert!(matches!(block_on(session.commit()).unwrap(), Delivery::Nothing));
    assert_eq!(block_on(session.login("v")).unwrap_err().kind(), ErrorKind::HeadSent);
    assert_eq!(session.owner().as_deref(), Some("u"));
    let gone = begin(&engine, Some(&token));
    session.destroy().unwrap();
    assert_eq!(block_on(gone.login("v")).unwrap_err().kind(), ErrorKind::Revoked);
}

#[test]
fn a_refused_login_changes_nothing() {
    let store = MemoryStore::default();
    let engine = Engine::builder().max_sessions_per_owner(2, OwnerLimit::Refuse).open(store.clone()).unwrap();
    let (a, b) = (login(&engine, "u"), login(&engine, "u"));
    login(&engine, "v");
    let session = begin(&engine, None);
    let error = block_on(session.login("u")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OwnerLimit);
    assert!(!error.to_string().contains('u') || !error.to_string().contains("\"u\""), "{error}");
    assert!(error.to_string().contains("the limit is 2"), "{error}");
    assert_eq!((session.id(), session.status()), (None, Status::Unmodified));
    assert!(matches!(block_on(session.commit()).unwrap(), Delivery::Nothing));

    let session = begin(&engine, None);
    session.put("k", &1).unwrap();
    let token = issued(&session);
    let session = begin(&engine, Some(&token));
    assert_eq!(block_on(session.login("u")).unwrap_err().kind(), ErrorKind::OwnerLimit);
    assert_eq!(
        (session.owner(), session.authenticated_at(), session.status()),
        (None, None, Status::Unmodified)
    );
    assert!(matches!(block_on(session.commit()).unwrap(), Delivery::Nothing), "no renewal");
    assert_eq!(
        begin(&engine, Some(&token)).set_owner(Some("u")).unwrap_err().kind(),
        ErrorKind::OwnerLimit,
        "nor by the back door"
    );
    begin(&engine, Some(&token)).set_owner(None).unwrap();

    // Who is in may log in again; who logs out makes room; a restart forgets no session.
    let session = begin(&engine, Some(&a));
    block_on(session.login("u")).unwrap();
    let a = issued(&session);
    assert_eq!(of(&engine, "u"), ids(&[&a, &b]));
    block_on(engine.close()).unwrap();
    let engine = Engine::builder().max_sessions_per_owner(2, OwnerLimit::Refuse).open(store).unwrap();
    let session = begin(&engine, Some(&token));
    assert_eq!(block_on(session.login("u")).unwrap_err().kind(), ErrorKind::OwnerLimit);
    begin(&engine, Some(&a)).destroy().unwrap();
    block_on(session.login("u")).unwrap();
    let c = issued(&session);
    assert_eq!(of(&engine, "u"), ids(&[&b, &c]));
}

#[test]
fn new_sessions_are_counted_when_they_are_published() {
    for store in [None, Some(MemoryStore::default())] {
        let builder = Engine::builder().max_sessions_per_owner(1, OwnerLimit::Refuse);
        let engine = match store {
            Some(store) => builder.open(store).unwrap(),
            None => builder.in_memory().unwrap(),
        };
        let (first, second, third) = (begin(&engine, None), begin(&engine, None), begin(&engine, None));
        block_on(first.login("u")).unwrap();
        block_on(second.login("u")).unwrap();
        third.set_owner(Some("u")).unwrap();
        let token = issued(&second);
        for late in [first, third] {
            assert_eq!(block_on(late.commit()).unwrap_err().kind(), ErrorKind::OwnerLimit);
        }
        assert_eq!(of(&engine, "u"), ids(&[&token]));
        assert_eq!(block_on(engine.stats()).cached, 1);
    }
}

#[test]
fn the_oldest_login_makes_room() {
    let clock = ManualClock::new(START_MS);
    let store = MemoryStore::default();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let engine = timed(&clock)
        .max_sessions_per_owner(2, OwnerLimit::DropOldest)
        .observer(move |e: &Event| {
            if let Event::Revoked { id, by } = e {
                log.lock().unwrap().push((*id, *by));
            }
        })
        .open(store.clone())
        .unwrap();
    let login_later = || {
        clock.advance(Duration::from_secs(1));
        login(&engine, "u")
    };
    let (a, b) = (login_later(), login_later());
    // `a` logs in again, so `b` is the oldest now.
    clock.advance(Duration::from_secs(1));
    let session = begin(&engine, Some(&a));
    block_on(session.login("u")).unwrap();
    let a = issued(&session);
    let held = begin(&engine, Some(&b));
    let c = login_later();
    assert!(held.is_revoked());
    assert_eq!(of(&engine, "u"), ids(&[&a, &c]));
    assert_eq!(store.len(), 2, "the end is durable when the login's response leaves");
    assert_eq!(*events.lock().unwrap(), [(b.id(), RevokedBy::OwnerLimit)]);

    // An existing session that logs in counts at once.
    let session = begin(&engine, None);
    session.put("k", &1).unwrap();
    let d = issued(&session);
    let session = begin(&engine, Some(&d));
    block_on(session.login("u")).unwrap();
    assert_eq!(of(&engine, "u"), ids(&[&c, &d]));
    let d = issued(&session);
    block_on(engine.close()).unwrap();

    // A limit that is introduced later is reached with the next login.
    let engine = timed(&clock).max_sessions_per_owner(1, OwnerLimit::DropOldest).open(store.clone()).unwrap();
    assert_eq!(of(&engine, "u"), ids(&[&c, &d]));
    let e = login(&engine, "u");
    assert_eq!(of(&engine, "u"), ids(&[&e]));
    assert_eq!(store.len(), 1);
}

#[test]
fn a_limit_must_make_sense() {
    let builder = Engine::builder().max_sessions_per_owner(0, OwnerLimit::Refuse);
    assert_eq!(builder.in_memory().unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn racing_logins_on_threads_never_exceed_the_limit() {
    for policy in [OwnerLimit::Refuse, OwnerLimit::DropOldest] {
        let engine =
            Engine::builder().max_sessions_per_owner(3, policy).open(MemoryStore::default()).unwrap();
        let barrier = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (engine, barrier) = (engine.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    for _ in 0..20 {
                        let session = begin(&engine, None);
                        if block_on(session.login("u")).is_ok() {
                            let _ = block_on(session.commit());
                        }
                        assert!(of(&engine, "u").len() <= 3);
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(of(&engine, "u").len(), 3);
    }
}

#[test]
fn destroy_all_on_threads_catches_sessions_that_are_renewed_without_end() {
    for round in 0..20 {
        let engine = Engine::builder().open(MemoryStore::default()).unwrap();
        let tokens: Vec<_> = (0..4).map(|_| login(&engine, "u")).collect();
        let barrier = Arc::new(Barrier::new(5));
        let threads: Vec<_> = tokens
            .into_iter()
            .map(|mut token| {
                let (engine, barrier) = (engine.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    // Until it is ended: a session that slipped through would go on for ever.
                    while let session = begin(&engine, Some(&token))
                        && session.renew().is_ok()
                        && let Ok(Delivery::Issue(issue)) = block_on(session.commit())
                    {
                        token = issue.token;
                    }
                })
            })
            .collect();
        barrier.wait();
        assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 4, "round {round}");
        assert_eq!(of(&engine, "u"), []);
        for t in threads {
            t.join().unwrap();
        }
        block_on(engine.flush()).unwrap();
        assert_eq!(block_on(engine.stats()).stored, Some(0), "round {round}");
    }
}

#[cfg(feature = "conformance")]
mod failing {
    use sessile_engine::StoreErrorKind;
    use sessile_engine::store::fault::{FaultOp, FaultStore};

    use super::*;

    #[test]
    fn a_store_that_cannot_list_gives_no_partial_answer() {
        let store = FaultStore::new(MemoryStore::default());
        let faults = store.handle();
        let engine = Engine::builder().max_sessions_per_owner(1, OwnerLimit::DropOldest).open(store).unwrap();
        let token = login(&engine, "u");
        faults.fail_next(FaultOp::List, 2, StoreErrorKind::Unavailable);
        assert_eq!(block_on(engine.sessions_of("u")).unwrap_err().kind(), ErrorKind::Store);
        let session = begin(&engine, Some(&token));
        assert_eq!(block_on(session.login("v")).unwrap_err().kind(), ErrorKind::Store);
        assert_eq!((session.owner().as_deref(), session.status()), (Some("u"), Status::Unmodified));
        assert_eq!(of(&engine, "u"), ids(&[&token]));
        faults.fail_next(FaultOp::List, 1, StoreErrorKind::Unavailable);
        assert_eq!(block_on(engine.destroy_all("u", None)).unwrap_err().kind(), ErrorKind::Store);
        assert!(session.is_revoked(), "what memory knows of is dead all the same");
    }

    #[test]
    fn deletions_that_cannot_be_written_are_told_and_made_up_for() {
        let rows = MemoryStore::default();
        let store = FaultStore::new(rows.clone());
        let faults = store.handle();
        let engine = Engine::builder().open(store).unwrap();
        let (a, b) = (login(&engine, "u"), login(&engine, "u"));
        block_on(engine.flush()).unwrap();
        faults.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        assert_eq!(block_on(engine.destroy_all("u", None)).unwrap_err().kind(), ErrorKind::Store);
        assert!(!alive(&engine, &a) && !alive(&engine, &b));
        assert_eq!(of(&engine, "u"), [], "the tombstones hide the rows");
        assert_eq!(block_on(engine.destroy_all("u", None)).unwrap(), 0);
        assert_eq!(rows.len(), 0);
    }
}
