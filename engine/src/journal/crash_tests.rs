//! Crashes: random work on a simulated machine, cut at any operation by a kill or a loss of power, recovered, worked on
//! and cut again, also during the recovery. What is found must be the state after one of the calls that an oracle allows:
//! no older than what was acknowledged, no newer than what was begun, and of every call all or nothing.
//!
//! `SESSILE_CRASH_IMAGES` sets the number of crashes (default 20,000). A failure prints the seed of its workload.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pollster::block_on;

use super::sim::{Machine, Rng};
use super::*;
use crate::store::Listed;
use crate::store::Store;

pub(super) const IDS: usize = 30;
/// The version of every row; 0 for none.
pub(super) type State = [u64; IDS];

pub(super) fn images() -> usize {
    std::env::var("SESSILE_CRASH_IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

pub(super) fn id(n: usize) -> SessionId {
    let mut bytes = [n as u8; 32];
    // Several of them in one shard of the index.
    bytes[0] = (n % 7) as u8 * 40;
    SessionId::from_bytes(bytes)
}

/// The only row that was ever written under `n` with this version.
pub(super) fn row(n: usize, version: u64) -> Row {
    let len = match version % 11 {
        0 => 1500,
        other => other as usize * 23,
    };
    let bytes = (0..len).map(|i| (version as usize * 31 + n * 7 + i) as u8).collect();
    let owner = (!version.is_multiple_of(3)).then(|| format!("owner {}", version % 4).into());
    Row { version, expires_at: 1_000_000 + version, owner, bytes }
}

/// What a store holds. Every row is one that was written.
pub(super) fn state(store: &Journaled) -> State {
    let mut state = [0; IDS];
    for (n, version) in state.iter_mut().enumerate() {
        if let Some(found) = block_on(Store::load(store, &id(n))).expect("a row can be read") {
            assert_eq!(found, row(n, found.version), "a row that was never written");
            *version = found.version;
        }
    }
    state
}

/// Listings say the same as looking up each id.
fn listings_agree(store: &Journaled, state: &State) {
    let mut wanted: Vec<_> =
        (0..IDS).filter(|n| state[*n] > 0).map(|n| Listed { id: id(n), row: row(n, state[n]) }).collect();
    wanted.sort_by_key(|listed| *listed.id.as_bytes());
    assert_eq!(block_on(Store::list(store, None, 100)).unwrap(), wanted);
    let mut listed = block_on(Store::list_owner(store, "owner 1")).unwrap();
    listed.sort_by_key(|listed| *listed.id.as_bytes());
    wanted.retain(|listed| listed.row.owner.as_deref() == Some("owner 1"));
    assert_eq!(listed, wanted);
}

/// Which store is behind the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Model,
    #[cfg(feature = "redb")]
    Redb,
}

pub(super) fn open(machine: &Machine, behind: Behind, sizes: Sizes) -> Result<Journaled, StoreError> {
    let inner: Arc<dyn DynStore> = match behind {
        Behind::Model => Arc::new(machine.model_store()),
        #[cfg(feature = "redb")]
        Behind::Redb => {
            Arc::new(crate::store::RedbStore::on_backend(machine.backend(), Path::new("sim"), 1 << 20)?)
        }
    };
    Journaled::on_disk(machine.disk(), inner, sizes)
}

/// Ends it as a crash does: nothing is written any more.
pub(super) fn crash(store: Journaled) {
    store.log.stop();
    store.closed.store(true, crate::sync::Ordering::Release);
}

pub(super) fn sizes(rng: &mut Rng) -> Sizes {
    Sizes {
        segment_bytes: [200, 600, 2500, 1 << 20][rng.below(4)],
        bytes: [4000, 20_000, u64::MAX / 4][rng.below(3)],
        items: [5, 12, usize::MAX / 4][rng.below(3)],
        chunk: [1, 2000, usize::MAX][rng.below(3)],
    }
}

/// What a crash at a moment may leave.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// Operations of the machine before this moment.
    ops: usize,
    /// The oldest state that a loss of power may leave.
    power: usize,
    /// The same of a kill.
    kill: usize,
}

/// What was asked for and what was acknowledged.
#[derive(Clone)]
pub(super) struct Oracle {
    /// The state after each call.
    states: Vec<State>,
    /// Operations of the machine before each call.
    begun: Vec<usize>,
    floors: Vec<Floor>,
    pub(super) version: u64,
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self {
            states: vec![[0; IDS]],
            begun: vec![0],
            floors: vec![Floor { ops: 0, power: 0, kill: 0 }],
            version: 0,
        }
    }

    pub(super) fn newest(&self) -> &State {
        self.states.last().unwrap()
    }

    /// A call that leads to `state` begins.
    pub(super) fn begin(&mut self, machine: &Machine, state: State) {
        self.states.push(state);
        self.begun.push(machine.ops());
    }

    /// The newest state survives a kill, and with `power` a loss of power.
    pub(super) fn acknowledge(&mut self, machine: &Machine, power: bool) {
        let newest = self.states.len() - 1;
        let before = self.floors.last().unwrap().power;
        let power = if power { newest } else { before };
        self.floors.push(Floor { ops: machine.ops(), power, kill: newest });
    }

    /// The states that a crash after `ops` operations may leave.
    fn allowed(&self, ops: usize, killed: bool) -> std::ops::RangeInclusive<usize> {
        let floor = self.floors.iter().rfind(|floor| floor.ops <= ops).unwrap();
        let newest = self.begun.iter().rposition(|begun| *begun <= ops).unwrap();
        (if killed { floor.kill } else { floor.power })..=newest
    }

    pub(super) fn allows(&self, ops: usize, killed: bool, found: &State) -> bool {
        self.allowed(ops, killed).any(|n| self.states[n] == *found)
    }

    /// For each allowed state the ids at which it is not `found`, with the version it has there.
    pub(super) fn differences(&self, ops: usize, killed: bool, found: &State) -> Vec<Vec<(usize, u64)>> {
        let states = &self.states[self.allowed(ops, killed)];
        let differ =
            |state: &State| (0..IDS).filter(|n| state[*n] != found[*n]).map(|n| (n, state[n])).collect();
        states.iter().map(differ).collect()
    }

    /// What to expect of the machine that a crash after `ops` operations left.
    fn after(&self, ops: usize, killed: bool) -> Self {
        let floor = *self.floors.iter().rfind(|floor| floor.ops <= ops).unwrap();
        let newest = *self.allowed(ops, killed).end();
        let states = self.states[floor.power..=newest].to_vec();
        let kill = if killed { floor.kill - floor.power } else { 0 };
        Self {
            begun: vec![0; states.len()],
            states,
            floors: vec![Floor { ops: 0, power: 0, kill }],
            version: self.version,
        }
    }
}

/// Random changes of one call, and the state after them.
pub(super) fn changes(rng: &mut Rng, oracle: &mut Oracle, count: usize) -> (Vec<Change>, State) {
    let mut state = *oracle.newest();
    let mut changes = Vec::new();
    for _ in 0..count {
        let n = rng.below(IDS);
        let version = oracle.version + 1;
        match rng.below(8) {
            0 => {
                changes.push(Change::Delete { id: id(n) });
                state[n] = 0;
            }
            1 => {
                changes.push(Change::Quarantine { id: id(n) });
                state[n] = 0;
            }
            2 => {
                let to = (n + 1 + rng.below(IDS - 1)) % IDS;
                oracle.version = version;
                changes.push(Change::Rekey {
                    from: id(n),
                    expected: None,
                    to: id(to),
                    row: row(to, version),
                });
                state[n] = 0;
                state[to] = version;
            }
            _ => {
                oracle.version = version;
                changes.push(Change::Put { id: id(n), row: row(n, version) });
                state[n] = version;
            }
        }
    }
    (changes, state)
}

/// `steps` random calls. The store may be closed and opened again.
fn work(
    machine: &Machine,
    behind: Behind,
    mut store: Journaled,
    oracle: &mut Oracle,
    rng: &mut Rng,
    steps: usize,
) -> Journaled {
    for _ in 0..steps {
        match rng.below(40) {
            0..=15 => {
                let count = 1 + rng.below(4);
                let (changes, state) = changes(rng, oracle, count);
                oracle.begin(machine, state);
                store.write(1, &changes).unwrap();
                oracle.acknowledge(machine, true);
            }
            16..=33 => {
                let n = rng.below(IDS);
                oracle.version += 1;
                let mut state = *oracle.newest();
                state[n] = oracle.version;
                oracle.begin(machine, state);
                if store.put_row_now(1, &id(n), &row(n, oracle.version)).unwrap() {
                    oracle.acknowledge(machine, false);
                } else {
                    oracle.states.pop();
                    oracle.begun.pop();
                }
            }
            34 | 35 => {
                store.write(1, &[]).unwrap();
                oracle.acknowledge(machine, true);
            }
            36..=38 => {
                store.checkpoint().unwrap();
                oracle.acknowledge(machine, true);
            }
            _ => {
                block_on(Store::close(&store)).unwrap();
                drop(store);
                oracle.acknowledge(machine, true);
                store = open(machine, behind, sizes(rng)).unwrap();
            }
        }
    }
    store
}

/// Crashes `machine` at a random moment, recovers, works, and crashes again, `depth` times.
fn crashes(
    (machine, oracle): (&Machine, &Oracle),
    behind: Behind,
    from: usize,
    rng: &mut Rng,
    depth: usize,
) -> usize {
    let ops = from + rng.below(machine.ops() + 1 - from);
    let killed = rng.one_in(2);
    let after = if killed { machine.kill(ops, rng) } else { machine.lose_power(ops, rng) };
    let mut expected = oracle.after(ops, killed);
    let begun = after.ops();
    let store = open(&after, behind, sizes(rng)).expect("what a crash left can be opened");
    assert_eq!(store.recovery().damaged, 0, "a crash is no damage");
    let found = state(&store);
    assert!(
        oracle.allows(ops, killed, &found),
        "killed: {killed}, after {ops} operations: found {found:?}; (id, allowed) where the allowed states differ: {:?}",
        oracle.differences(ops, killed, &found)
    );
    if rng.one_in(4) {
        listings_agree(&store, &found);
    }
    if depth == 0 {
        crash(store);
        return 1;
    }
    expected.begin(&after, found);
    expected.acknowledge(&after, !killed);
    let steps = rng.below(6);
    crash(work(&after, behind, store, &mut expected, rng, steps));
    // Before that it would be an earlier crash.
    1 + crashes((&after, &expected), behind, if killed { begun } else { 0 }, rng, depth - 1)
}

/// One workload, and many crashes of it. Returns how many.
fn workload(seed: u64, behind: Behind, chains: usize) -> usize {
    let mut rng = Rng(seed);
    let machine = Machine::new();
    let mut oracle = Oracle::new();
    let store = open(&machine, behind, sizes(&mut rng)).unwrap();
    let steps = 10 + rng.below(60);
    crash(work(&machine, behind, store, &mut oracle, &mut rng, steps));
    (0..chains).map(|_| crashes((&machine, &oracle), behind, 0, &mut rng, 2)).sum()
}

fn many(behind: Behind, images: usize, chains: usize) {
    let first = std::env::var("SESSILE_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut seed, mut done) = (first.unwrap_or(1), 0);
    while done < images {
        let run = std::panic::catch_unwind(|| workload(seed, behind, chains));
        done +=
            run.unwrap_or_else(|_| panic!("{behind:?}: the workload of SESSILE_CRASH_SEED={seed} failed"));
        seed += 1;
    }
    let mut err = std::io::stderr().lock();
    let _ = std::io::Write::write_fmt(&mut err, format_args!("{behind:?}: {done} crashes\n"));
}

/// Two starts of a new journal that are killed at any moment, and a loss of power in the third.
#[test]
fn crashes_of_starts_leave_nothing_that_cannot_be_opened() {
    let mut rng = Rng(1);
    let start = |machine: &Machine, rng: &mut Rng| {
        crash(open(machine, Behind::Model, sizes(rng)).expect("what crashes of starts left can be opened"));
    };
    let first = Machine::new();
    start(&first, &mut rng);
    for a in 0..=first.ops() {
        let second = first.kill(a, &mut rng);
        start(&second, &mut rng);
        for b in a..=second.ops() {
            let third = second.kill(b, &mut rng);
            start(&third, &mut rng);
            for c in b..=third.ops() {
                for _ in 0..20 {
                    start(&third.lose_power(c, &mut rng), &mut rng);
                }
            }
        }
    }
}

#[test]
fn no_crash_loses_what_was_acknowledged() {
    many(Behind::Model, images() * 9 / 10, 40);
}

#[cfg(feature = "redb")]
#[test]
fn no_crash_of_journal_and_redb_loses_what_was_acknowledged() {
    many(Behind::Redb, images() / 10, 20);
}
