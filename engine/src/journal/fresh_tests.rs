//! A generation whose states are partly filed: the newest state of every session is found, whoever files meanwhile.
//! The table is small in tests, so that it is full most of the time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use super::index::{Generation, Place, State};
use crate::token::SessionId;

fn id(n: u8) -> SessionId {
    // Some in the same shard, all with their own hash.
    let mut bytes = [n; 32];
    bytes[0] = n % 2;
    SessionId::from_bytes(bytes)
}

fn row(at: u32) -> State {
    State::Row(Place { segment: 1, at, len: 8 })
}

#[cfg(not(feature = "shuttle"))]
mod one_thread {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::index::{Item, owner_hash};
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Note(u8, Option<u8>),
        Delete(u8),
        Settle,
        Look,
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u8..8, proptest::option::of(0_u8..3)).prop_map(|(n, owner)| Step::Note(n, owner)),
            2 => (0_u8..8).prop_map(Step::Delete),
            1 => Just(Step::Settle),
            1 => Just(Step::Look),
        ]
    }

    fn owner(n: Option<u8>) -> u64 {
        owner_hash(n.map(|n| format!("owner {n}")).as_deref())
    }

    proptest! {
        #[test]
        fn the_newest_state_is_found_filed_or_not(steps in proptest::collection::vec(steps(), 0..60)) {
            let generation = Generation::new();
            generation.set(Item { id: id(0), owner: owner(Some(0)), state: row(1) });
            let mut expected = BTreeMap::from([(id(0), (owner(Some(0)), row(1)))]);
            for (n, step) in steps.into_iter().enumerate() {
                let (of, its, state) = match step {
                    Step::Note(of, its) => (of, owner(its), row(n as u32 + 2)),
                    Step::Delete(of) => (of, 0, State::Deleted),
                    Step::Settle => {
                        generation.settle();
                        prop_assert_eq!(generation.len(), expected.len());
                        continue;
                    }
                    Step::Look => {
                        let found: Vec<_> =
                            (0..256).flat_map(|shard| generation.shard_in_order(shard).unwrap()).collect();
                        let wanted: Vec<_> = expected.iter().map(|(id, (_, state))| (*id, *state)).collect();
                        prop_assert_eq!(found, wanted);
                        continue;
                    }
                };
                generation.note(&id(of), its, state);
                expected.insert(id(of), (its, state));
                prop_assert!(generation.len() >= expected.len(), "a state is not counted");
                for (id, (_, state)) in &expected {
                    prop_assert_eq!(generation.get(id), Some(*state));
                }
            }
            for (id, (owner, _)) in expected.iter().filter(|(_, (owner, _))| *owner != 0) {
                prop_assert!(generation.of_owner(*owner).contains(id), "an owner's session is not found by it");
            }
        }
    }
}

/// Two who note (one session each, and one that the table has no room for), one who files, and one who looks: what was
/// noted is found, and no older state follows a newer one.
#[cfg(feature = "shuttle")]
#[test]
fn shuttle_no_older_state_is_found_after_a_newer_one() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use shuttle::thread;

    let at = |state: State| match state {
        State::Row(place) => place.at,
        State::Deleted | State::Quarantined => 0,
    };
    crate::shuttle_tests::check(move || {
        let generation = Arc::new(Generation::new());
        let noted: Arc<[AtomicU32; 3]> = Arc::default();
        let note = |sessions: &'static [u8]| {
            let (generation, noted) = (generation.clone(), noted.clone());
            thread::spawn(move || {
                for state in 1..=3 {
                    for n in sessions {
                        generation.note(&id(*n), 0, row(state));
                        noted[usize::from(*n)].store(state, Ordering::SeqCst);
                    }
                }
            })
        };
        let filing = {
            let generation = generation.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    generation.settle();
                }
            })
        };
        let others = [note(&[0, 2]), note(&[1]), filing];
        let mut before = [0; 3];
        for _ in 0..3 {
            for n in 0..3 {
                let known = noted[n].load(Ordering::SeqCst).max(before[n]);
                let found = generation.get(&id(n as u8)).map_or(0, at);
                assert!(found >= known, "session {n}: {found} was found after {known}");
                before[n] = found;
            }
        }
        for other in others {
            other.join().expect("ends");
        }
        for n in 0..3 {
            assert_eq!(generation.get(&id(n)).map(at), Some(3));
        }
        let filed: Vec<_> = (0..2).flat_map(|shard| generation.shard_in_order(shard).unwrap()).collect();
        assert_eq!(filed, [(id(0), row(3)), (id(2), row(3)), (id(1), row(3))]);
        assert_eq!(generation.len(), 3);
    });
}
