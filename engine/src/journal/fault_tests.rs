//! Failing I/O: for every operation of a workload, it fails once, for a while or for good, in each way. Nothing panics,
//! errors have their type, and what was acknowledged is there after a crash; of a call that failed for lack of space
//! nothing is, and the next one works when there is space again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::ErrorKind;

use super::crash_tests::{self, Behind, Oracle, changes, crash, id, row};
use super::sim::{Call, Fault, Machine, Rng};
use super::*;
use crate::store::Store;

const SIZES: Sizes = Sizes { segment_bytes: 700, bytes: 6000, items: 14, chunk: 1000 };

/// Steps of a workload, and the one before which what fails for a while works again.
const STEPS: usize = 30;
const HEALED: usize = 20;

/// Runs the workload with the faults, all of the same error. Returns whether any of them was met. With `heals` they
/// are over after a while.
fn run(faults: &[Fault], heals: bool, seed: u64) -> bool {
    let fault = faults[0];
    let mut rng = Rng(seed);
    let machine = Machine::new();
    let mut oracle = Oracle::new();
    let mut poisoned = false;
    machine.set_faults(faults.to_vec());
    let store = match crash_tests::open(&machine, Behind::Model, SIZES) {
        Ok(store) => store,
        Err(error) => {
            assert_eq!(error.kind(), kind(fault));
            machine.set_fault(None);
            crash_tests::open(&machine, Behind::Model, SIZES)
                .expect("it can be opened when the fault is gone")
        }
    };
    for step in 0..STEPS {
        if heals && step == HEALED {
            machine.set_fault(None);
        }
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
                match store.put_row_now(1, &id(n), &row(n, oracle.version)) {
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
                assert!(poisoned || !heals || step < HEALED, "it goes on failing: {error}");
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
    for (for_good, heals) in [(false, false), (true, false), (true, true)] {
        for after in 0.. {
            let fault = Fault { call: Some(call), after, error, written, for_good };
            let result = std::panic::catch_unwind(|| run(&[fault], heals, 11));
            if !result.unwrap_or_else(|_| panic!("{fault:?} failed; heals {heals}")) {
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
    for call in [Call::Sync, Call::Create, Call::Remove, Call::SyncNames, Call::Open] {
        every(call, ErrorKind::StorageFull, 0);
        every(call, ErrorKind::Other, 0);
    }
}

/// A segment is cut only where a write has failed half way: two faults in a row.
#[test]
fn every_cut_may_fail() {
    for error in [ErrorKind::StorageFull, ErrorKind::Other] {
        for for_good in [false, true] {
            for after in 0.. {
                let full = ErrorKind::StorageFull;
                let write =
                    Fault { call: Some(Call::Write), after, error: full, written: 50, for_good: false };
                let cut = Fault { call: Some(Call::SetLen), after: 0, error, written: 0, for_good };
                let met = std::panic::catch_unwind(|| run_cut(write, cut));
                if !met.unwrap_or_else(|_| panic!("{write:?}, then {cut:?} failed")) {
                    assert!(after > 5, "writes were hardly made");
                    break;
                }
            }
        }
    }
}

/// A write fails half way and leaves a part, which cannot be cut off: nothing of it may come back, and nothing may be
/// appended behind it.
fn run_cut(write: Fault, cut: Fault) -> bool {
    let machine = Machine::new();
    let mut rng = Rng(5);
    let mut oracle = Oracle::new();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    machine.set_faults(vec![write, cut]);
    let mut poisoned = false;
    for _ in 0..STEPS {
        let count = 1 + rng.below(3);
        let (changes, state) = changes(&mut rng, &mut oracle, count);
        match store.write(1, &changes) {
            Ok(()) => {
                assert!(!poisoned);
                oracle.begin(&machine, state);
                oracle.acknowledge(&machine, true);
            }
            Err(error) => {
                poisoned = store.log.broken().is_some();
                let wanted = if poisoned { StoreErrorKind::Io } else { StoreErrorKind::Full };
                assert_eq!(error.kind(), wanted);
                assert_eq!(crash_tests::state(&store), *oracle.newest(), "a call that failed leaves nothing");
            }
        }
    }
    let failed = machine.world().failed;
    let ops = machine.ops();
    crash(store);
    for killed in [true, false, false] {
        let after = if killed { machine.kill(ops, &mut rng) } else { machine.lose_power(ops, &mut rng) };
        let store = crash_tests::open(&after, Behind::Model, SIZES).unwrap();
        let found = crash_tests::state(&store);
        assert!(
            oracle.allows(ops, killed, &found),
            "killed {killed}: {:?}",
            oracle.differences(ops, killed, &found)
        );
        crash(store);
    }
    failed > 0
}

/// What a crash left in the journal, with what it must be.
fn left_behind() -> (Machine, crash_tests::State) {
    let machine = Machine::new();
    let mut rng = Rng(7);
    let mut oracle = Oracle::new();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    for step in 0..20 {
        let (changes, state) = changes(&mut rng, &mut oracle, 2);
        if step == 8 {
            store.checkpoint().unwrap();
        }
        store.log.append(&changes).unwrap();
        store.log.sync().unwrap();
        oracle.begin(&machine, state);
    }
    let ops = machine.ops();
    crash(store);
    (machine.kill(ops, &mut Rng(1)), *oracle.newest())
}

/// Each call of a start that finds something, and of the checkpoint after it, fails once.
#[test]
fn every_call_of_a_recovery_may_fail() {
    for call in [Call::Open, Call::Read, Call::Create, Call::Write, Call::Sync, Call::SyncNames, Call::Remove]
    {
        for error in [ErrorKind::StorageFull, ErrorKind::Other] {
            for after in 0.. {
                let (machine, wanted) = left_behind();
                let fault = Fault { call: Some(call), after, error, written: 50, for_good: false };
                machine.set_fault(Some(fault));
                let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap_or_else(|e| {
                    assert_eq!(e.kind(), kind(fault), "{fault:?}: {e}");
                    crash_tests::open(&machine, Behind::Model, SIZES).expect("the fault is gone")
                });
                let handed_on = store.checkpoint();
                let met = machine.world().failed > 0;
                machine.set_fault(None);
                assert_eq!(crash_tests::state(&store), wanted, "{fault:?}");
                if store.log.broken().is_none() {
                    // The next one works, whatever failed.
                    store.checkpoint().unwrap_or_else(|e| panic!("{fault:?}: {e}"));
                    assert_eq!(crash_tests::state(&store), wanted, "{fault:?}");
                } else {
                    assert_eq!(handed_on.unwrap_err().kind(), StoreErrorKind::Io, "{fault:?}");
                    assert!(
                        !matches!(call, Call::Open | Call::Read | Call::Remove),
                        "reading poisons nothing"
                    );
                }
                let ops = machine.ops();
                crash(store);
                for killed in [true, false] {
                    let mut rng = Rng(after + 1);
                    let after =
                        if killed { machine.kill(ops, &mut rng) } else { machine.lose_power(ops, &mut rng) };
                    let store = crash_tests::open(&after, Behind::Model, SIZES).unwrap();
                    assert_eq!(crash_tests::state(&store), wanted, "{fault:?}, killed {killed}");
                    crash(store);
                }
                if !met {
                    assert!(after > 0, "{call:?} was never called");
                    break;
                }
            }
        }
    }
}

/// A row that cannot be read is an error of that call, for as long as it cannot.
#[test]
fn every_read_may_fail() {
    let (machine, wanted) = left_behind();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    for (n, version) in wanted.iter().enumerate() {
        let fault =
            Fault { call: Some(Call::Read), after: 0, error: ErrorKind::Other, written: 0, for_good: true };
        machine.set_fault(Some(fault));
        match pollster::block_on(Store::load(&store, &id(n))) {
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Io),
            // Not in the journal.
            Ok(found) => assert_eq!(found.map_or(0, |row| row.version), *version),
        }
        let held = store.checkpoint().unwrap_err();
        assert_eq!(held.kind(), StoreErrorKind::Unavailable, "it will be tried again");
        machine.set_fault(None);
    }
    assert_eq!(crash_tests::state(&store), wanted);
    assert!(store.log.broken().is_none());
    store.checkpoint().unwrap();
    assert_eq!(crash_tests::state(&store), wanted);
    crash(store);
}

/// Setting a damaged segment aside fails: its bytes are kept all the same, and by the next start under another name.
#[test]
fn every_renaming_may_fail() {
    for error in [ErrorKind::StorageFull, ErrorKind::Other] {
        let (machine, _) = left_behind();
        let first = *machine.world().live.segments().first().unwrap();
        let segment = machine.world().live.segment(first).len() / 2;
        machine.world().live.segment(first)[segment] ^= 0x10;
        let fault = Fault { call: Some(Call::Rename), after: 0, error, written: 0, for_good: true };
        machine.set_fault(Some(fault));
        let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
        assert!(store.recovery().damaged > 0);
        let before = crash_tests::state(&store);
        store.checkpoint().unwrap();
        assert!(machine.world().failed > 0, "it was to be set aside");
        assert!(machine.world().live.segments().contains(&first), "its bytes are kept");
        machine.set_fault(None);
        crash(store);
        let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
        assert_eq!(crash_tests::state(&store), before);
        store.checkpoint().unwrap();
        assert!(!machine.world().live.segments().contains(&first));
        assert!(
            machine.world().live.names.contains_key(&super::sim::Name::Aside(first)),
            "kept for the operator"
        );
        crash(store);
    }
}

/// A fork shares the segments and the lock with the process that opened them. It writes nothing, and closing it there
/// takes nothing away.
#[test]
fn a_fork_writes_nothing_and_lets_go_of_nothing() {
    let (machine, wanted) = left_behind();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    store.run_in_background().unwrap();
    store.checkpoint().unwrap();
    // A put asks once a millisecond who it is: this one has asked in the millisecond before.
    assert!(store.put_row_now(1, &id(0), &row(0, 900)).unwrap());
    store.write(1, &[]).unwrap();
    let before = machine.ops();
    store.log.process.pretend_to_fork();
    let put = Change::Put { id: id(1), row: row(1, 901) };
    for error in [
        store.put_row_now(2, &id(1), &row(1, 901)).unwrap_err(),
        store.write(2, std::slice::from_ref(&put)).unwrap_err(),
        store.checkpoint().unwrap_err(),
        store.try_writing(1).unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Locked);
    }
    pollster::block_on(Store::close(&store)).unwrap();
    assert_eq!(machine.ops(), before);
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    let mut wanted = wanted;
    wanted[0] = 900;
    assert_eq!(crash_tests::state(&store), wanted);
    crash(store);
}

/// A segment that has lost its name would be lost with the process: noticed, and nothing is written any more.
#[test]
fn a_segment_that_is_gone_ends_all_writing() {
    let (machine, _) = left_behind();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    store.check_place().unwrap();
    store.checkpoint().unwrap();
    store.check_place().unwrap();
    machine.world().live.names.clear();
    assert_eq!(store.check_place().unwrap_err().kind(), StoreErrorKind::Moved);
    let put = Change::Put { id: id(1), row: row(1, 901) };
    assert_eq!(store.write(1, &[put]).unwrap_err().kind(), StoreErrorKind::Moved);
    crash(store);
}

/// A scan sees the newest state of every session, wherever it is, and names what is damaged in the journal.
#[test]
fn a_scan_reads_the_journal_and_the_store_as_one() {
    let (machine, wanted) = left_behind();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    let scan = |limit: usize| {
        let (mut rows, mut damaged, mut after) = (0, Vec::new(), None);
        loop {
            let page = pollster::block_on(Store::scan(&store, after, limit)).unwrap();
            assert!(page.rows.len() + page.damaged.len() <= limit);
            for listed in &page.rows {
                let n = (0..crash_tests::IDS).find(|n| id(*n) == listed.id).unwrap();
                assert_eq!(listed.row.version, wanted[n]);
            }
            rows += page.rows.len();
            damaged.extend(page.damaged);
            after = page.last;
            if after.is_none() {
                return (rows, damaged);
            }
        }
    };
    let all = wanted.iter().filter(|version| **version > 0).count();
    for limit in [1, 2, 5, 29, 100] {
        assert_eq!(scan(limit), (all, Vec::new()), "{limit} a page");
    }
    // The row of somebody who is in the journal.
    let n = (0..crash_tests::IDS)
        .find(|n| matches!(store.log.generations().frozen.unwrap().get(&id(*n)), Some(index::State::Row(_))))
        .unwrap();
    let Some(index::State::Row(place)) = store.log.generations().frozen.unwrap().get(&id(n)) else {
        panic!()
    };
    machine.world().live.segment(place.segment)[place.at as usize + 9] ^= 1;
    for limit in [1, 5, 100] {
        assert_eq!(scan(limit), (all - 1, vec![id(n)]), "{limit} a page");
    }
    crash(store);
}
