//! Sealing sessions anew over a store that fails on the way.

use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::MemoryStore;
use sessile_engine::store::fault::FaultOp;
use sessile_engine::{Engine, ErrorKind, Health, Key, Keyring, Protection, StoreErrorKind};

use crate::support::*;

fn key(n: u8) -> Key {
    Key::from_bytes(&std::array::from_fn(|i| n.wrapping_mul(31).wrapping_add(i as u8))).unwrap()
}

fn ring(n: u8) -> Keyring {
    Keyring::new(Protection::Encrypt, key(n))
}

/// Waits until `op` has been called `n` times more, while engine time goes on.
fn calls(handle: &sessile_engine::store::fault::FaultHandle, clock: &ManualClock, op: FaultOp, n: u64) {
    let until = handle.calls(op) + n;
    soon("the pass tries again", || {
        clock.advance(Duration::from_secs(1));
        handle.calls(op) >= until
    });
}

#[test]
fn a_pass_goes_on_when_the_store_works_again() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder().clock(clock.clone()).keyring(ring(1)).open(rows.clone()).unwrap();
    let tokens: Vec<_> = (0..200).map(|i| fresh(&engine, i)).collect();
    close(&engine).unwrap();

    for (op, lost) in [(FaultOp::List, false), (FaultOp::Commit, false), (FaultOp::Commit, true)] {
        // To and fro, so that there is something to do each time.
        for (new, old) in [(2, 1), (1, 2)] {
            let clock = clock.clone();
            let builder = Engine::builder().clock(clock.clone()).keyring(ring(new).accept(key(old)).unwrap());
            let (engine, handle, _) = open_over(builder, &rows);
            handle.apply_failing_commits(lost);
            handle.fail_next(op, ALWAYS, StoreErrorKind::Unavailable);
            // What is applied although its answer is lost need not be tried again.
            calls(&handle, &clock, op, if lost { 1 } else { 3 });
            let state = block_on(engine.rekeying()).unwrap();
            assert!(lost || !state.complete, "{state:?}");
            handle.heal();
            soon("the pass ends", || {
                clock.advance(Duration::from_secs(1));
                block_on(engine.rekeying()).unwrap().complete
            });
            assert_eq!(engine.health(), Health::Ok);
            close(&engine).unwrap();
            let engine =
                Engine::builder().clock(clock.clone()).keyring(ring(new)).open(rows.clone()).unwrap();
            for (i, token) in tokens.iter().enumerate() {
                assert_eq!(n(&engine, token), Some(i as i64));
            }
            close(&engine).unwrap();
        }
    }
}

/// An error that leaves the store in an unknown state latches the engine, whoever met it.
#[test]
fn a_fatal_error_in_a_pass_makes_the_engine_read_only() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(START_MS);
    let engine = Engine::builder().clock(clock.clone()).keyring(ring(1)).open(rows.clone()).unwrap();
    let token = fresh(&engine, 7);
    close(&engine).unwrap();

    let store = sessile_engine::store::fault::FaultStore::new(rows.clone());
    let handle = store.handle();
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Io);
    let ring_2 = ring(2).accept(key(1)).unwrap();
    let engine = Engine::builder().clock(clock.clone()).keyring(ring_2).open(store).unwrap();
    soon("the engine latches", || {
        clock.advance(Duration::from_secs(1));
        matches!(engine.health(), Health::ReadOnly { .. })
    });
    assert_eq!(n(&engine, &token), Some(7));
    assert_eq!(begin(&engine, Some(&token)).put("n", &8).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(!block_on(engine.rekeying()).unwrap().complete);
    let _ = close(&engine);
    let engine = Engine::builder().clock(clock).keyring(ring(1)).open(rows).unwrap();
    assert_eq!(n(&engine, &token), Some(7));
}
