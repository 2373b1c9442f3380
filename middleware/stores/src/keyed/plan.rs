//! What becomes of changes, in order, over rows that were read, where a row is one value under one key and others point
//! to it by time and by owner. It never talks to a server: how a plan is made true, if nobody was faster, each store says.

use std::collections::{BTreeSet, HashMap};

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, Row};

use super::value;

/// Most operations of one step: a row that moves has a key and two index keys under each id, one that is stale, and one
/// operation more where it takes two to remove a key.
const MOST_OF_STEP: usize = 8;

/// One thing to do with one row, or two.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Change(Change),
    /// Removes a row that the index by time has as due at `at`.
    Expire {
        id: SessionId,
        at: u64,
    },
}

impl Step {
    pub(crate) fn ids(&self) -> impl Iterator<Item = &SessionId> {
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

/// The ids of as many steps as fit into `most` reads, each once.
pub(crate) fn ids_of(steps: &[Step], most: usize) -> Vec<SessionId> {
    let mut ids: Vec<SessionId> = Vec::new();
    for step in steps {
        if ids.len() + 2 > most {
            break;
        }
        for id in step.ids() {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    ids
}

/// How a store calls the keys that point to rows. No key is that of two rows.
pub(crate) trait Index {
    type Key: Ord + Clone;

    fn due(&self, at: u64, id: &SessionId) -> Self::Key;
    fn owned(&self, owner: &str, id: &SessionId) -> Self::Key;
}

/// How much a transaction holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Operations, without those that every transaction has.
    pub(crate) operations: usize,
    /// Operations that remove the key of a row.
    pub(crate) removal: usize,
    /// Bytes of records; one alone may have more.
    pub(crate) bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Missing,
    Damaged(Vec<u8>),
    Row(Row),
}

/// A row's key: what was read, and what it is to be.
struct Cell {
    /// Number of its last change, 0 if it does not exist.
    revision: u64,
    was: State,
    now: State,
    touched: bool,
}

/// What is to become of a row's key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate<'a> {
    Stays,
    Becomes(&'a Row),
    Goes,
}

pub(crate) struct Plan<'a, I: Index> {
    index: &'a I,
    limits: Limits,
    cells: HashMap<[u8; 32], Cell>,
    /// Index keys that no row stands behind.
    stale: BTreeSet<I::Key>,
    /// Rows that are put aside.
    aside: HashMap<[u8; 32], Vec<u8>>,
    bytes: usize,
    any: bool,
}

impl<'a, I: Index> Plan<'a, I> {
    pub(crate) fn new(index: &'a I, limits: Limits) -> Self {
        let (cells, aside) = Default::default();
        Self { index, limits, cells, stale: BTreeSet::new(), aside, bytes: 0, any: false }
    }

    /// What was read of a row's key: its revision and value, if it exists.
    pub(crate) fn found(&mut self, id: &SessionId, found: Option<(u64, &[u8])>) {
        let (revision, was) = match found {
            None => (0, State::Missing),
            Some((revision, raw)) => {
                let state = value::decode(raw).map_or_else(|_| State::Damaged(raw.to_vec()), State::Row);
                (revision, state)
            }
        };
        self.cells.insert(*id.as_bytes(), Cell { revision, now: was.clone(), was, touched: false });
    }

    /// Does one step more; `None` if it has to wait for the next transaction, or if its rows were not read.
    pub(crate) fn take(&mut self, step: &Step) -> Option<Outcome> {
        if step.ids().any(|id| !self.cells.contains_key(id.as_bytes())) {
            return None;
        }
        let full = self.operations() + MOST_OF_STEP > self.limits.operations
            || self.bytes.saturating_add(step.bytes()) > self.limits.bytes;
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
            State::Row(row) => value::encode(row),
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
        self.stale.insert(self.index.due(at, id));
        Outcome::Missing
    }

    fn pointers(&self, id: &SessionId, state: &State) -> [Option<I::Key>; 2] {
        let State::Row(row) = state else { return [None, None] };
        let owned = row.owner.as_ref().map(|owner| self.index.owned(owner, id));
        [Some(self.index.due(row.expires_at, id)), owned]
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
            (State::Row(row), _) => self.limits.removal + 1 + usize::from(row.owner.is_some()),
            (_, State::Row(row)) => 2 + usize::from(row.owner.is_some()),
            (State::Damaged(_), State::Missing) => self.limits.removal,
            // Compared all the same.
            _ => 1,
        };
        self.cells.values().map(of).sum::<usize>() + self.stale.len() + self.aside.len()
    }

    /// Whether anything is to be written. If not, what was read was true at one time, and nothing need be compared.
    pub(crate) fn writes(&self) -> bool {
        self.rows().any(|(_, _, fate)| fate != Fate::Stays) || !self.keys().0.is_empty()
    }

    /// The rows that the outcomes were decided on, each with the revision that it must still have.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (SessionId, u64, Fate<'_>)> {
        self.cells.iter().filter(|(_, cell)| cell.touched).map(|(id, cell)| {
            let fate = match &cell.now {
                now if *now == cell.was => Fate::Stays,
                State::Row(row) => Fate::Becomes(row),
                State::Missing | State::Damaged(_) => Fate::Goes,
            };
            (SessionId::from_bytes(*id), cell.revision, fate)
        })
    }

    /// The index keys that go, and those that are added. No key is among both.
    pub(crate) fn keys(&self) -> (Vec<I::Key>, Vec<I::Key>) {
        let (mut gone, mut added) = (Vec::new(), Vec::new());
        // A row that was put back at the time of a stale key has written the key, or has it.
        let mut in_use = BTreeSet::new();
        for (id, cell) in &self.cells {
            let id = SessionId::from_bytes(*id);
            let (was, now) = (self.pointers(&id, &cell.was), self.pointers(&id, &cell.now));
            in_use.extend(was.iter().chain(&now).flatten().cloned());
            for (was, now) in was.into_iter().zip(now) {
                if was != now {
                    gone.extend(was);
                    added.extend(now);
                }
            }
        }
        gone.extend(self.stale.difference(&in_use).cloned());
        (gone, added)
    }

    /// The values of the rows that are put aside.
    pub(crate) fn aside(&self) -> impl Iterator<Item = (SessionId, &[u8])> {
        self.aside.iter().map(|(id, raw)| (SessionId::from_bytes(*id), raw.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    impl Index for Plain {
        type Key = (u64, String, [u8; 32]);

        fn due(&self, at: u64, id: &SessionId) -> Self::Key {
            (at, String::new(), *id.as_bytes())
        }

        fn owned(&self, owner: &str, id: &SessionId) -> Self::Key {
            (0, owner.into(), *id.as_bytes())
        }
    }

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn row(version: u64, at: u64, owner: Option<&str>) -> Row {
        Row { version, expires_at: at, owner: owner.map(Into::into), bytes: vec![1; 10] }
    }

    fn plan_of(limits: Limits, rows: &[(u8, Option<Row>)]) -> Plan<'static, Plain> {
        let mut plan = Plan::new(&Plain, limits);
        for (n, row) in rows {
            let raw = row.as_ref().map(value::encode);
            plan.found(&id(*n), raw.as_deref().map(|raw| (u64::from(*n), raw)));
        }
        plan
    }

    const WIDE: Limits = Limits { operations: 100, removal: 1, bytes: 1000 };

    #[test]
    fn a_row_that_moves_takes_its_pointers_along() {
        let mut plan = plan_of(WIDE, &[(1, Some(row(1, 5, Some("a")))), (2, None)]);
        let step = Step::Change(Change::Rekey {
            from: id(1),
            expected: Some(1),
            to: id(2),
            row: row(2, 6, Some("b")),
        });
        assert_eq!(plan.take(&step), Some(Outcome::Done));
        let mut fates: Vec<_> =
            plan.rows().map(|(id, revision, fate)| (id.as_bytes()[0], revision, fate)).collect();
        fates.sort_by_key(|fate| fate.0);
        assert_eq!(fates, [(1, 1, Fate::Goes), (2, 0, Fate::Becomes(&row(2, 6, Some("b"))))]);
        let (gone, added) = plan.keys();
        assert_eq!(gone, [Plain.due(5, &id(1)), Plain.owned("a", &id(1))]);
        assert_eq!(added, [Plain.due(6, &id(2)), Plain.owned("b", &id(2))]);
    }

    #[test]
    fn a_plan_that_refuses_writes_nothing() {
        let mut plan = plan_of(WIDE, &[(1, Some(row(1, 5, None))), (2, None)]);
        for (change, outcome) in [
            (Change::Insert { id: id(1), row: row(9, 9, None) }, Outcome::Exists),
            (Change::Update { id: id(1), expected: 2, row: row(3, 9, None) }, Outcome::Conflict { found: 1 }),
            (Change::Update { id: id(2), expected: 2, row: row(3, 9, None) }, Outcome::Missing),
            (Change::Delete { id: id(2) }, Outcome::Done),
        ] {
            assert_eq!(plan.take(&Step::Change(change)), Some(outcome));
        }
        assert!(!plan.writes());
    }

    #[test]
    fn a_stale_pointer_goes_alone_and_one_in_use_stays() {
        let mut plan = plan_of(WIDE, &[(1, Some(row(1, 5, None))), (2, None)]);
        assert_eq!(plan.take(&Step::Expire { id: id(1), at: 4 }), Some(Outcome::Missing));
        assert_eq!(plan.take(&Step::Expire { id: id(2), at: 4 }), Some(Outcome::Missing));
        assert!(plan.writes());
        assert_eq!(plan.keys(), (vec![Plain.due(4, &id(1)), Plain.due(4, &id(2))], vec![]));
        let back = Change::Insert { id: id(2), row: row(1, 4, None) };
        assert_eq!(plan.take(&Step::Change(back)), Some(Outcome::Done));
        assert_eq!(plan.keys(), (vec![Plain.due(4, &id(1))], vec![Plain.due(4, &id(2))]));
    }

    #[test]
    fn a_transaction_holds_what_it_may_and_at_least_one_step() {
        let put = |n| Step::Change(Change::Put { id: id(n), row: row(1, 1, None) });
        let rows: Vec<_> = (0..30).map(|n| (n, None)).collect();
        let mut few = plan_of(Limits { operations: 20, removal: 1, bytes: 1000 }, &rows);
        assert_eq!((0..30).map_while(|n| few.take(&put(n))).count(), 7);
        let mut light = plan_of(Limits { operations: 1000, removal: 1, bytes: 25 }, &rows);
        assert_eq!((0..30).map_while(|n| light.take(&put(n))).count(), 2);
        let mut one = plan_of(Limits { operations: 1, removal: 1, bytes: 1 }, &rows);
        assert_eq!((0..30).map_while(|n| one.take(&put(n))).count(), 1);
        assert_eq!(one.take(&put(99)), None, "it was not read");
    }
}
