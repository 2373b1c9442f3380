//! Going through all sessions, and opening one by its id.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::{Delivery, Engine, ErrorKind, Session, SessionId, Token};

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

fn fresh(engine: &Engine, n: i64) -> Token {
    let session = begin(engine, None);
    session.put("n", &n).unwrap();
    issued(&session)
}

/// All ids in pages of `limit`; `between` runs after each page.
fn all(engine: &Engine, limit: usize, mut between: impl FnMut()) -> Vec<SessionId> {
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let page = block_on(engine.iterate(after, limit)).unwrap();
        assert!(page.sessions.len() <= limit.max(1));
        for (info, snapshot) in &page.sessions {
            assert!(snapshot.i64("n").unwrap().is_some());
            ids.push(info.id);
        }
        between();
        after = page.next;
        if after.is_none() {
            return ids;
        }
    }
}

fn engines() -> [Engine; 3] {
    let small = Engine::builder().max_record_bytes(1024).memory_limit(16 << 10);
    [
        Engine::builder().in_memory().unwrap(),
        Engine::builder().open(MemoryStore::default()).unwrap(),
        small.open(MemoryStore::default()).unwrap(),
    ]
}

#[test]
fn every_session_is_listed_once_whatever_the_page() {
    for engine in engines() {
        assert_eq!(all(&engine, 10, || {}), []);
        let tokens: Vec<_> = (0..500).map(|n| fresh(&engine, n)).collect();
        let expected: BTreeSet<_> = tokens.iter().map(Token::id).collect();
        for limit in [0, 1, 7, 499, 500, 501, 10_000] {
            let ids = all(&engine, limit, || {});
            assert_eq!(ids.len(), 500, "pages of {limit}: none twice");
            assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected, "pages of {limit}: none missed");
        }
    }
}

#[test]
fn what_is_there_throughout_is_listed_once_while_others_come_and_go() {
    for engine in engines() {
        let stay: Vec<_> = (0..200).map(|n| fresh(&engine, n)).collect();
        let mut go: Vec<_> = (0..100).map(|n| fresh(&engine, n)).collect();
        let mut round = 0;
        let ids = all(&engine, 13, || {
            round += 1;
            // Written and not: both count as they are.
            begin(&engine, Some(&stay[round * 7 % 200])).put("n", &-1).unwrap();
            if let Some(token) = go.pop() {
                begin(&engine, Some(&token)).destroy().unwrap();
            }
            fresh(&engine, 1000);
        });
        let unique: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(unique.len(), ids.len(), "none twice");
        assert!(stay.iter().all(|t| unique.contains(&t.id())), "none missed");
    }
}

#[test]
fn memory_is_the_truth_and_expired_sessions_are_left_out() {
    let clock = ManualClock::new(START_MS);
    let store = MemoryStore::default();
    let engine =
        Engine::builder().clock(clock.clone()).lifetime(Duration::from_secs(60)).open(store.clone()).unwrap();
    let (a, b) = (fresh(&engine, 1), fresh(&engine, 2));
    block_on(engine.flush()).unwrap();
    begin(&engine, Some(&a)).put("n", &5).unwrap();
    begin(&engine, Some(&b)).destroy().unwrap();
    let page = block_on(engine.iterate(None, 10)).unwrap();
    assert_eq!(page.sessions.len(), 1);
    assert_eq!(page.sessions[0].0.id, a.id());
    assert_eq!(page.sessions[0].1.i64("n").unwrap(), Some(5));
    block_on(engine.close()).unwrap();
    assert_eq!(block_on(engine.iterate(None, 10)).unwrap_err().kind(), ErrorKind::Closed);

    let engine = Engine::builder().clock(clock.clone()).open(store).unwrap();
    assert_eq!(all(&engine, 10, || {}), [a.id()]);
    assert_eq!(block_on(engine.stats()).cached, 0, "looking brings nothing in");
    clock.advance(Duration::from_secs(60));
    assert_eq!(all(&engine, 10, || {}), []);
}

#[test]
fn a_handle_for_administration_delivers_nothing() {
    let clock = ManualClock::new(START_MS);
    for engine in [
        Engine::builder().clock(clock.clone()).idle_timeout(Duration::from_secs(60)).in_memory().unwrap(),
        Engine::builder()
            .clock(clock.clone())
            .idle_timeout(Duration::from_secs(60))
            .open(MemoryStore::default())
            .unwrap(),
    ] {
        let token = fresh(&engine, 1);
        let id = token.id();
        clock.advance(Duration::from_secs(59));
        let admin = block_on(engine.open(&id)).unwrap().unwrap();
        assert_eq!(admin.id(), Some(id));
        admin.put("n", &2).unwrap();
        assert_eq!(admin.renew().unwrap_err().kind(), ErrorKind::HeadSent);
        assert!(matches!(block_on(admin.commit()).unwrap(), Delivery::Nothing));
        block_on(admin.sync()).unwrap();
        clock.advance(Duration::from_secs(1));
        assert!(admin.is_revoked(), "an administrator's look keeps no session alive");
        assert!(block_on(engine.open(&id)).unwrap().is_none());

        let token = fresh(&engine, 3);
        let admin = block_on(engine.open(&token.id())).unwrap().unwrap();
        admin.destroy().unwrap();
        assert_eq!(begin(&engine, Some(&token)).id(), None);
        assert!(matches!(block_on(admin.commit()).unwrap(), Delivery::Nothing));
        assert_eq!(admin.put("n", &1).unwrap_err().kind(), ErrorKind::HeadSent, "nothing new begins");
        assert!(block_on(engine.open(&token.id())).unwrap().is_none());
        assert!(block_on(engine.open(&SessionId::from_bytes([9; 32]))).unwrap().is_none());
    }
}

/// SCS's README revokes a user's sessions inside `Iterate`; with hashed tokens it does nothing there.
#[test]
fn for_each_may_change_and_destroy() {
    for engine in engines() {
        let tokens: Vec<_> = (0..600).map(|n| fresh(&engine, n)).collect();
        let mut n = 0;
        block_on(engine.for_each(|session| {
            n += 1;
            async move {
                match session.get::<i64>("n")? {
                    Some(n) if n % 2 == 0 => session.destroy(),
                    _ => session.put("seen", &true),
                }
            }
        }))
        .unwrap();
        assert_eq!(n, 600);
        block_on(engine.flush()).unwrap();
        for (n, token) in tokens.iter().enumerate() {
            let session = begin(&engine, Some(token));
            assert_eq!((session.id().is_some(), session.exists("seen")), (n % 2 == 1, n % 2 == 1), "{n}");
        }
        let failed = block_on(engine.for_each(|session| async move { session.rotate() }));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::HeadSent, "the first error ends it");
    }
}
