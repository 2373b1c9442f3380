//! When a session ends by itself: deadlines, idle timeouts, clocks that step.

use super::*;

#[test]
fn a_session_that_expires_before_its_head_leaves_nothing_and_upsets_no_count() {
    for ask_before_commit in [true, false] {
        let clock = ManualClock::new(START_MS);
        let engine = timed(&clock).in_memory().unwrap();
        let session = begin(&engine, None);
        session.put("k", "v").unwrap();
        clock.advance(Duration::from_secs(100));
        if ask_before_commit {
            assert_eq!(session.get::<String>("k").unwrap(), None);
        }
        assert!(matches!(deliver(&session), Delivery::Nothing));
        drop(session);
        // Whatever was published is swept when it is next looked at; the byte count is as before either way.
        if ask_before_commit {
            let stats = block_on(engine.stats());
            assert_eq!(
                (stats.memory_bytes, stats.cached, stats.created, stats.expired),
                (0, 0, 0, 0),
                "{stats:?}"
            );
        }
        // A count below zero would refuse this one for want of memory.
        fresh(&engine);
    }
}

#[test]
fn p8_expired_iff_now_is_at_the_deadline() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).in_memory().unwrap();
    let token = fresh(&engine);
    clock.advance(Duration::from_millis(99_999));
    let held = begin(&engine, Some(&token));
    assert_eq!(held.get::<String>("k").unwrap().as_deref(), Some("v"));
    clock.advance(Duration::from_millis(1));
    assert_eq!(held.get::<String>("k").unwrap(), None, "a handle sees it too");
    assert_eq!(kind(held.put("k", "x")), ErrorKind::Revoked);
    assert_eq!(begin(&engine, Some(&token)).id(), None);
    assert_eq!(block_on(engine.stats()).expired, 1);
}

#[test]
fn p8_use_keeps_an_idle_session_alive_until_its_deadline() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).idle_timeout(Duration::from_secs(30)).in_memory().unwrap();
    let token = fresh(&engine);
    for _ in 0..3 {
        clock.advance(Duration::from_millis(29_999));
        assert!(begin(&engine, Some(&token)).id().is_some());
    }
    clock.advance(Duration::from_millis(10_003));
    assert_eq!(begin(&engine, Some(&token)).id(), None, "however much it is used");

    let token = fresh(&engine);
    clock.advance(Duration::from_secs(30));
    assert_eq!(begin(&engine, Some(&token)).id(), None, "unused for the whole timeout");
}

#[test]
fn p8_wall_clock_steps_neither_expire_nor_revive() {
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).in_memory().unwrap();
    let token = fresh(&engine);
    clock.step_wall_to(START_MS + 10 * 365 * 86_400_000);
    assert!(begin(&engine, Some(&token)).id().is_some());
    clock.advance(Duration::from_secs(100));
    assert_eq!(begin(&engine, Some(&token)).id(), None);
    clock.step_wall_to(START_MS);
    assert_eq!(begin(&engine, Some(&token)).id(), None);
}

#[test]
fn p8_a_restart_with_an_earlier_clock_revives_nothing() {
    let store = MemoryStore::default();
    let clock = ManualClock::new(START_MS);
    let engine = timed(&clock).open(store.clone()).unwrap();
    let token = fresh(&engine);
    clock.advance(Duration::from_secs(200));
    fresh(&engine);
    block_on(engine.flush()).unwrap();
    drop(engine);
    let engine = timed(&ManualClock::new(START_MS)).open(store).unwrap();
    assert_eq!(begin(&engine, Some(&token)).id(), None);
}

#[test]
fn idle_uses_survive_a_restart() {
    let store = MemoryStore::default();
    let clock = ManualClock::new(START_MS);
    let build = |clock: &ManualClock| {
        Engine::builder()
            .clock(clock.clone())
            .idle_timeout(Duration::from_secs(100))
            .open(store.clone())
            .unwrap()
    };
    let engine = build(&clock);
    let token = fresh(&engine);
    block_on(engine.flush()).unwrap();
    clock.advance(Duration::from_secs(90));
    assert!(begin(&engine, Some(&token)).id().is_some());
    drop(engine);
    clock.advance(Duration::from_secs(90));
    let engine = build(&clock);
    assert!(begin(&engine, Some(&token)).id().is_some(), "the use 90 s ago had been written down");
    drop(engine);
    clock.advance(Duration::from_secs(106));
    assert_eq!(begin(&build(&clock), Some(&token)).id(), None);
}
