//! For how long a cached session is believed.

use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::{Engine, ErrorKind};

use crate::support::{Silent, begin, fresh, get, put, soon};

#[test]
fn what_a_silent_store_said_is_believed_for_as_long_as_is_allowed_and_no_longer() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(1_800_000_000_000);
    let open = || {
        let builder = Engine::builder().clock(clock.clone()).max_staleness(Duration::from_millis(500));
        builder.open(Silent(rows.clone())).unwrap()
    };
    let (a, b) = (open(), open());
    let token = fresh(&a);
    assert_eq!(get(&b, &token, "k"), Some(0));
    put(&a, &token, "k", 1);
    clock.advance(Duration::from_millis(499));
    assert_eq!(get(&b, &token, "k"), Some(0), "that old it may be");
    clock.advance(Duration::from_millis(1));
    assert_eq!(get(&b, &token, "k"), Some(1));
    block_on(a.destroy_session(&token.id())).unwrap();
    clock.advance(Duration::from_millis(501));
    assert_eq!(get(&b, &token, "k"), None);
}

#[test]
fn a_store_that_tells_is_not_asked_while_it_does() {
    let rows = MemoryStore::shared();
    let counted = FaultStore::new(rows.clone());
    let loads = counted.handle();
    let a = Engine::builder().open(rows.clone()).unwrap();
    let b = Engine::builder().open(counted).unwrap();
    let token = fresh(&a);
    soon("it is believed", || {
        let before = loads.calls(FaultOp::Load);
        get(&b, &token, "k");
        loads.calls(FaultOp::Load) == before
    });
    let before = loads.calls(FaultOp::Load);
    for _ in 0..100 {
        assert_eq!(get(&b, &token, "k"), Some(0));
    }
    assert!(loads.calls(FaultOp::Load) < before + 5, "served from memory");
    put(&a, &token, "k", 1);
    soon("the notice came", || get(&b, &token, "k") == Some(1));
}

#[test]
fn nothing_is_believed_while_the_channel_is_down() {
    let rows = MemoryStore::shared();
    let (a, store) = (Engine::builder().open(rows.clone()).unwrap(), FaultStore::new(rows.clone()));
    let orders = store.handle();
    let b = Engine::builder().open(store).unwrap();
    let token = fresh(&a);
    soon("it is believed", || {
        let before = orders.calls(FaultOp::Load);
        get(&b, &token, "k");
        orders.calls(FaultOp::Load) == before
    });
    // The next watch cannot be opened.
    orders.fail_from(FaultOp::Watch, 0, sessile_engine::store::StoreErrorKind::Unavailable);
    rows.cut_watches();
    soon("the cut is noticed", || {
        let before = orders.calls(FaultOp::Load);
        get(&b, &token, "k");
        orders.calls(FaultOp::Load) > before
    });
    for n in 1..50 {
        put(&a, &token, "k", n);
        assert_eq!(get(&b, &token, "k"), Some(n), "read through");
    }
    block_on(a.destroy_session(&token.id())).unwrap();
    assert_eq!(get(&b, &token, "k"), None);
    orders.heal();
    let token = fresh(&a);
    soon("it is believed again", || {
        let before = orders.calls(FaultOp::Load);
        get(&b, &token, "k");
        orders.calls(FaultOp::Load) == before
    });
}

#[test]
fn a_store_that_is_down_is_not_asked_by_every_request() {
    let rows = MemoryStore::new();
    let store = FaultStore::new(Silent(rows.clone()));
    let orders = store.handle();
    let clock = ManualClock::new(1_800_000_000_000);
    let engine = crate::support::strict().clock(clock.clone()).open(store).unwrap();
    let token = fresh(&engine);
    orders.fail_from(FaultOp::Load, 0, sessile_engine::store::StoreErrorKind::Unavailable);
    let asked = |times: u64| {
        let before = orders.calls(FaultOp::Load);
        for _ in 0..times {
            let error = block_on(engine.session(Some(&token))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Store, "never an empty session");
            assert!(error.is_temporary());
        }
        orders.calls(FaultOp::Load) - before
    };
    assert_eq!(asked(5), 5);
    assert_eq!(asked(50), 0);
    clock.advance(Duration::from_millis(500));
    assert_eq!(asked(50), 1, "one tries");
    orders.heal();
    clock.advance(Duration::from_millis(500));
    assert!(begin(&engine, &token).exists("k"));
    assert!(begin(&engine, &token).exists("k"));
}

#[test]
fn what_makes_no_sense_among_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let builders = [
        Engine::builder().journal(dir.path().join("j")),
        Engine::builder().integrity_scan(hour),
        Engine::builder().rotate_every(hour),
    ];
    for builder in builders {
        let error = builder.open(MemoryStore::shared()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("memory store is shared"), "{error}");
    }
}
