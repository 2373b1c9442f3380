//! What becomes of changes, in order, over rows that were read; and the transaction that makes it so if nobody was
//! faster. It never talks to a server.

use std::collections::{BTreeSet, HashMap};

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, Row};

use super::row::{self, Keys};

/// A server refuses more operations in one transaction (`--max-txn-ops`, by default).
const MOST_OPERATIONS: usize = 128;
/// Operations beside those of the rows: the mark and the tick.
const OTHERS: usize = 2;
/// Most operations of one step: a row that moves has a key and two index keys under each id, and one that is stale.
const MOST_OF_STEP: usize = 8;
/// Bytes of rows in one transaction, so that with its keys it stays under 1.5 MiB (`--max-request-bytes`, by default).
const MOST_BYTES: usize = 1 << 20;

/// One thing to do with one row, or two.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Change(Change),
    /// Removes a row that the index by time has as due at `at`.
    Expire {
        id: SessionId,
        at: u64,
    },
}

impl Step {
    pub(super) fn ids(&self) -> impl Iterator<Item = &SessionId> {
        let (one, other) = match self {
            Self::Change(Change::Rekey { from, to, .. }) => (from, Some(to)),
            Self::Change(
                Change::Insert { id, .. }
                | Change::Update { id, .. }
                | Change::Put { id, .. }
                | Change::Delete { id }
                | Change::Quarantine { id },
            )
            | Self::Expire { id, .. } => (id, None),
        };
        std::iter::once(one).chain(other)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Change(
                Change::Insert { row, .. }
                | Change::Update { row, .. }
                | Change::Put { row, .. }
                | Change::Rekey { row, .. },
            ) => row.bytes.len(),
            _ => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Missing,
    Damaged(Vec<u8>),
    Row(Row),
}

/// A row's key: what was read, and what it is to be.
struct Cell {
    /// Revision of its last change, 0 if it does not exist.
    revision: i64,
    was: State,
    now: State,
    touched: bool,
}

pub(super) struct Plan<'a> {
    keys: &'a Keys,
    cells: HashMap<[u8; 32], Cell>,
    /// Index keys that no row stands behind.
    stale: BTreeSet<Vec<u8>>,
    /// Rows that are put aside.
    aside: HashMap<[u8; 32], Vec<u8>>,
    bytes: usize,
    any: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(keys: &'a Keys) -> Self {
        let (cells, stale, aside) = Default::default();
        Self { keys, cells, stale, aside, bytes: 0, any: false }
    }

    /// What was read of a row's key: its revision and value, if it exists.
    pub(super) fn found(&mut self, id: &SessionId, found: Option<(i64, &[u8])>) {
        let (revision, was) = match found {
            None => (0, State::Missing),
            Some((revision, raw)) => {
                let state = row::decode(raw).map_or_else(|_| State::Damaged(raw.to_vec()), State::Row);
                (revision, state)
            }
        };
        self.cells.insert(*id.as_bytes(), Cell { revision, now: was.clone(), was, touched: false });
    }

    /// Does one step more; `None` if it has to wait for the next transaction, or if its rows were not read.
    pub(super) fn take(&mut self, step: &Step) -> Option<Outcome> {
        if step.ids().any(|id| !self.cells.contains_key(id.as_bytes())) {
            return None;
        }
        let full = self.operations() + MOST_OF_STEP + OTHERS > MOST_OPERATIONS
            || self.bytes.saturating_add(step.bytes()) > MOST_BYTES;
        if full && self.any {
            return None;
        }
        self.any = true;
        for id in step.ids() {
            if let Some(cell) = self.cells.get_mut(id.as_bytes()) {
                cell.touched = true;
            }
        }
        let outcome = match step {
            Step::Change(change) => self.apply(change),
            Step::Expire { id, at } => self.expire(id, *at),
        };
        if outcome == Outcome::Done {
            self.bytes += step.bytes();
        }
        Some(outcome)
    }

    fn state(&self, id: &SessionId) -> &State {
        self.cells.get(id.as_bytes()).map_or(&State::Missing, |cell| &cell.now)
    }

    fn set(&mut self, id: &SessionId, state: State) {
        if let Some(cell) = self.cells.get_mut(id.as_bytes()) {
            cell.now = state;
        }
    }

    fn apply(&mut self, change: &Change) -> Outcome {
        match change {
            Change::Insert { id, row } => {
                if *self.state(id) != State::Missing {
                    return Outcome::Exists;
                }
                self.set(id, State::Row(row.clone()));
            }
            Change::Update { id, expected, row } => match self.state(id) {
                State::Row(old) if old.version == *expected => self.set(id, State::Row(row.clone())),
                State::Row(old) => return Outcome::Conflict { found: old.version },
                State::Missing | State::Damaged(_) => return Outcome::Missing,
            },
            Change::Put { id, row } => self.set(id, State::Row(row.clone())),
            Change::Delete { id } => self.set(id, State::Missing),
            Change::Rekey { from, expected, to, row } => {
                if *self.state(to) != State::Missing {
                    return Outcome::Exists;
                }
                match self.state(from) {
                    State::Row(old) if expected.is_some_and(|version| version != old.version) => {
                        return Outcome::Conflict { found: old.version };
                    }
                    State::Row(_) => {}
                    State::Missing | State::Damaged(_) => return Outcome::Missing,
                }
                self.set(from, State::Missing);
                self.set(to, State::Row(row.clone()));
            }
            Change::Quarantine { id } => self.put_aside(id),
        }
        Outcome::Done
    }

    fn put_aside(&mut self, id: &SessionId) {
        let raw = match self.state(id) {
            State::Missing => return,
            State::Damaged(raw) => raw.clone(),
            State::Row(row) => row::encode(row),
        };
        self.aside.insert(*id.as_bytes(), raw);
        self.set(id, State::Missing);
    }

    fn expire(&mut self, id: &SessionId, at: u64) -> Outcome {
        match self.state(id) {
            State::Row(row) if row.expires_at == at => {
                self.set(id, State::Missing);
                return Outcome::Done;
            }
            State::Damaged(_) => self.put_aside(id),
            // It was removed by hand, or moved to another time while we looked.
            State::Row(_) | State::Missing => {}
        }
        self.stale.insert(self.keys.due(at, id));
        Outcome::Missing
    }

    fn index(&self, id: &SessionId, state: &State) -> [Option<Vec<u8>>; 2] {
        let State::Row(row) = state else { return [None, None] };
        let owned = row.owner.as_ref().map(|owner| self.keys.owned(owner, id));
        [Some(self.keys.due(row.expires_at, id)), owned]
    }

    /// An upper bound of the operations on rows so far.
    fn operations(&self) -> usize {
        let of = |cell: &Cell| match (&cell.was, &cell.now) {
            _ if !cell.touched => 0,
            (State::Row(was), State::Row(now)) => {
                let due = usize::from(was.expires_at != now.expires_at) * 2;
                let owned = if was.owner == now.owner {
                    0
                } else {
                    usize::from(was.owner.is_some()) + usize::from(now.owner.is_some())
                };
                1 + due + owned
            }
            (State::Row(row), _) | (_, State::Row(row)) => 2 + usize::from(row.owner.is_some()),
            // Compared all the same.
            _ => 1,
        };
        self.cells.values().map(of).sum::<usize>() + self.stale.len() + self.aside.len()
    }

    /// Whether a lease is needed, for rows that are put aside.
    pub(super) fn puts_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The transaction: everything if the rows are still as they were read, else nothing. Without a change to make it
    /// raises the mark only, and cannot fail: what was read was true at one time.
    pub(super) fn txn(&self, mark: u64, lease: i64) -> Txn {
        let (mut compares, mut ops) = (Vec::new(), vec![raise(self.keys, mark)]);
        let touched = self.cells.iter().filter(|(_, cell)| cell.touched);
        let mut written = false;
        for (id, cell) in touched {
            let id = SessionId::from_bytes(*id);
            let key = self.keys.row(&id);
            compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, cell.revision));
            match &cell.now {
                now if *now == cell.was => continue,
                State::Row(row) => ops.push(TxnOp::put(key, row::encode(row), None)),
                State::Missing | State::Damaged(_) => ops.push(TxnOp::delete(key, None)),
            }
            written = true;
            let (was, now) = (self.index(&id, &cell.was), self.index(&id, &cell.now));
            for (was, now) in was.into_iter().zip(now) {
                if was == now {
                    continue;
                }
                ops.extend(was.map(|key| TxnOp::delete(key, None)));
                ops.extend(now.map(|key| TxnOp::put(key, Vec::new(), None)));
            }
        }
        // A row that was put back at that time has written the key, or has it.
        let in_use: BTreeSet<_> = self
            .cells
            .iter()
            .flat_map(|(id, cell)| {
                let id = SessionId::from_bytes(*id);
                [self.index(&id, &cell.was), self.index(&id, &cell.now)]
            })
            .flatten()
            .flatten()
            .collect();
        for key in self.stale.difference(&in_use) {
            ops.push(TxnOp::delete(key.clone(), None));
            written = true;
        }
        for (id, raw) in &self.aside {
            let key = self.keys.quarantined(&SessionId::from_bytes(*id));
            ops.push(TxnOp::put(key, raw.clone(), Some(PutOptions::new().with_lease(lease))));
        }
        if !written {
            return Txn::new().and_then(ops);
        }
        ops.push(TxnOp::put(self.keys.tick(), Vec::new(), None));
        Txn::new().when(compares).and_then(ops)
    }
}

/// Raises the high-water mark to `mark`, or leaves a higher one.
pub(super) fn raise(keys: &Keys, mark: u64) -> TxnOp {
    let (key, mark) = (keys.mark(), row::ordered(mark));
    let put = TxnOp::put(key.clone(), mark, None);
    // The value of a key that does not exist is neither less nor greater.
    let first =
        Txn::new().when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)]).and_then([put.clone()]);
    TxnOp::txn(
        Txn::new()
            .when([Compare::value(key, CompareOp::Less, mark)])
            .and_then([put])
            .or_else([TxnOp::txn(first)]),
    )
}

/// Reads the rows of as many steps as fit, in the order of the ids given back.
pub(super) fn read(keys: &Keys, steps: &[Step]) -> (Vec<SessionId>, Txn) {
    let mut ids: Vec<SessionId> = Vec::new();
    for step in steps {
        if ids.len() + 2 > MOST_OPERATIONS {
            break;
        }
        for id in step.ids() {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    let gets: Vec<_> = ids.iter().map(|id| get(keys.row(id))).collect();
    (ids, Txn::new().and_then(gets))
}

pub(super) fn get(key: Vec<u8>) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new()))
}
