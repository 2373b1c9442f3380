//! Failing I/O: for every operation of a workload, it fails once or for good, in each way. Nothing panics, errors have
//! their type, and what was acknowledged is there after a crash; of a call that failed for lack of space nothing is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::ErrorKind;

use super::crash_tests::{self, Behind, Oracle, changes, crash, id, row};
use super::sim::{Call, Fault, Machine, Rng};
use super::*;

const SIZES: Sizes = Sizes { segment_bytes: 700, bytes: 6000, items: 14, chunk: 1000 };

/// Runs the workload with the fault. Returns whether it was met.
fn run(fault: Fault, seed: u64) -> bool {
    let mut rng = Rng(seed);
    let machine = Machine::new();
    let mut oracle = Oracle::new();
    let mut poisoned = false;
    machine.set_fault(Some(fault));
    let store = match crash_tests::open(&machine, Behind::Model, SIZES) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(error.kind(), kind(fault));
            machine.set_fault(None);
            crash_tests::open(&machine, Behind::Model, SIZES)
                .expect("it can be opened when the fault is gone")
        }
    };
    for _ in 0..30 {
        let before = machine.ops();
        let choice = rng.below(10);
        let (result, state) = match choice {
            0..=5 => {
                let count = 1 + rng.below(4);
                let (changes, state) = changes(&mut rng, &mut oracle, count);
                (store.write(1, &changes), state)
            }
            6 | 7 => {
                let n = rng.below(crash_tests::IDS);
                oracle.version += 1;
                let mut state = *oracle.newest();
                state[n] = oracle.version;
                match store.put_now(1, &id(n), &row(n, oracle.version)) {
                    Ok(true) => (Ok(()), state),
                    other => (other.map(drop), *oracle.newest()),
                }
            }
            _ => (store.checkpoint(), *oracle.newest()),
        };
        match result {
            Ok(()) => {
                if poisoned {
                    // There was nothing to do.
                    assert!(choice > 7 && machine.ops() == before, "nothing is acknowledged after poison");
                } else {
                    oracle.begin(&machine, state);
                    oracle.acknowledge(&machine, !matches!(choice, 6 | 7));
                }
            }
            Err(error) => {
                if poisoned {
                    assert_eq!(machine.ops(), before, "nothing is written after poison");
                }
                if error.kind() == StoreErrorKind::Full {
                    assert_eq!(
                        crash_tests::state(&store),
                        *oracle.newest(),
                        "a call that failed leaves nothing"
                    );
                } else if !poisoned {
                    assert_eq!(error.kind(), StoreErrorKind::Io);
                    // It may have been done.
                    oracle.begin(&machine, state);
                }
            }
        }
        poisoned = store.log.broken().is_some();
    }
    let failed = machine.world().failed > 0;
    let ops = machine.ops();
    machine.set_fault(None);
    crash(store);
    for killed in [true, false, false, false] {
        let after = if killed { machine.kill(ops, &mut rng) } else { machine.lose_power(ops, &mut rng) };
        let store = crash_tests::open(&after, Behind::Model, SIZES).unwrap();
        let found = crash_tests::state(&store);
        assert!(
            oracle.allows(ops, killed, &found),
            "killed {killed}: found {found:?}, {:?}",
            oracle.differences(ops, killed, &found)
        );
        assert_eq!(store.recovery().damaged, 0);
        crash(store);
    }
    failed
}

fn kind(fault: Fault) -> StoreErrorKind {
    if fault.error == ErrorKind::StorageFull { StoreErrorKind::Full } else { StoreErrorKind::Io }
}

fn every(call: Call, error: ErrorKind, written: usize) {
    for for_good in [false, true] {
        for after in 0.. {
            let fault = Fault { call: Some(call), after, error, written, for_good };
            let result = std::panic::catch_unwind(|| run(fault, 11));
            if !result.unwrap_or_else(|_| panic!("{fault:?} failed")) {
                assert!(after > 0, "{call:?} was never called");
                break;
            }
        }
    }
}

#[test]
fn every_write_may_fail() {
    for written in [0, 30, 99] {
        every(Call::Write, ErrorKind::StorageFull, written);
        every(Call::Write, ErrorKind::Other, written);
    }
}

#[test]
fn every_other_call_may_fail() {
    for call in [Call::Sync, Call::Create, Call::Remove, Call::SyncNames] {
        every(call, ErrorKind::StorageFull, 0);
        every(call, ErrorKind::Other, 0);
    }
}
