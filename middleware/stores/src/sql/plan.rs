//! What a commit has to do. Given the versions of the rows that are there, locked, it works out each change's outcome and
//! what must be written in the end: each row once, in the order of the ids, whatever order the changes came in. It runs
//! no statement.

use std::collections::BTreeMap;

use sessile_engine::store::{Change, Outcome, Row};

pub(crate) type Key = [u8; 32];

/// The rows that `changes` are about, in order.
pub(crate) fn keys(changes: &[Change]) -> Vec<Key> {
    let mut keys = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Insert { id, .. }
            | Change::Update { id, .. }
            | Change::Put { id, .. }
            | Change::Delete { id }
            | Change::Quarantine { id } => keys.push(*id.as_bytes()),
            Change::Rekey { from, to, .. } => keys.extend([*from.as_bytes(), *to.as_bytes()]),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What is to be written. Every list is in the order of the ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan<'a> {
    /// One for each change.
    pub(crate) outcomes: Vec<Outcome>,
    /// Rows of the table to copy into the quarantine, before anything else.
    pub(crate) quarantine: Vec<Key>,
    /// Rows of these changes that end in the quarantine without having been in the table.
    pub(crate) quarantine_new: Vec<(Key, &'a Row)>,
    /// Rows of the table to remove.
    pub(crate) delete: Vec<Key>,
    /// Rows of the table to replace.
    pub(crate) update: Vec<(Key, &'a Row)>,
    /// Rows that are not in the table.
    pub(crate) insert: Vec<(Key, &'a Row)>,
}

impl Plan<'_> {
    /// The rows that will be other than they were.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Key> {
        self.delete.iter().chain(self.update.iter().chain(&self.insert).map(|(id, _)| id))
    }
}

#[derive(Clone, Copy)]
enum Now<'a> {
    Stored(u64),
    Written(&'a Row),
}

impl Now<'_> {
    fn version(self) -> u64 {
        match self {
            Self::Stored(version) => version,
            Self::Written(row) => row.version,
        }
    }
}

struct State<'a> {
    rows: BTreeMap<Key, Now<'a>>,
    quarantine: BTreeMap<Key, Now<'a>>,
}

impl<'a> State<'a> {
    fn apply(&mut self, change: &'a Change) -> Outcome {
        match change {
            Change::Insert { id, row } => {
                if self.rows.contains_key(id.as_bytes()) {
                    return Outcome::Exists;
                }
                self.rows.insert(*id.as_bytes(), Now::Written(row));
            }
            Change::Update { id, expected, row } => match self.rows.get_mut(id.as_bytes()) {
                None => return Outcome::Missing,
                Some(now) if now.version() != *expected => {
                    return Outcome::Conflict { found: now.version() };
                }
                Some(now) => *now = Now::Written(row),
            },
            Change::Put { id, row } => {
                self.rows.insert(*id.as_bytes(), Now::Written(row));
            }
            Change::Delete { id } => {
                self.rows.remove(id.as_bytes());
            }
            Change::Rekey { from, expected, to, row } => {
                if self.rows.contains_key(to.as_bytes()) {
                    return Outcome::Exists;
                }
                match self.rows.get(from.as_bytes()) {
                    None => return Outcome::Missing,
                    Some(now) if expected.is_some_and(|v| v != now.version()) => {
                        return Outcome::Conflict { found: now.version() };
                    }
                    Some(_) => {}
                }
                self.rows.remove(from.as_bytes());
                self.rows.insert(*to.as_bytes(), Now::Written(row));
            }
            Change::Quarantine { id } => {
                if let Some(now) = self.rows.remove(id.as_bytes()) {
                    self.quarantine.insert(*id.as_bytes(), now);
                }
            }
        }
        Outcome::Done
    }
}

/// Plans `changes` on a table in which the rows of their [`keys`] that exist have the versions `stored`.
pub(crate) fn plan<'a>(stored: &BTreeMap<Key, u64>, changes: &'a [Change]) -> Plan<'a> {
    let rows = stored.iter().map(|(id, version)| (*id, Now::Stored(*version))).collect();
    let mut state = State { rows, quarantine: BTreeMap::new() };
    let mut plan =
        Plan { outcomes: changes.iter().map(|change| state.apply(change)).collect(), ..Plan::default() };
    for (id, now) in state.quarantine {
        match now {
            Now::Stored(_) => plan.quarantine.push(id),
            Now::Written(row) => plan.quarantine_new.push((id, row)),
        }
    }
    plan.delete = stored.keys().filter(|id| !state.rows.contains_key(*id)).copied().collect();
    for (id, now) in state.rows {
        let Now::Written(row) = now else { continue };
        if stored.contains_key(&id) { plan.update.push((id, row)) } else { plan.insert.push((id, row)) }
    }
    plan
}

/// Cuts rows into pieces that one statement can carry.
pub(crate) fn pieces<'a, 'r>(
    mut rows: &'a [(Key, &'r Row)],
    most_rows: usize,
    most_bytes: usize,
) -> Vec<&'a [(Key, &'r Row)]> {
    let mut pieces = Vec::new();
    while !rows.is_empty() {
        let mut bytes = 0_usize;
        let fit = rows.iter().take(most_rows).take_while(|(_, row)| {
            bytes = bytes.saturating_add(row.bytes.len());
            bytes <= most_bytes
        });
        // One row goes alone if it must.
        let (piece, rest) = rows.split_at(fit.count().max(1));
        pieces.push(piece);
        rows = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use pollster::block_on;
    use proptest::prelude::*;
    use sessile_engine::SessionId;
    use sessile_engine::store::{MemoryStore, Store as _};

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn any_row() -> impl Strategy<Value = Row> {
        (1_u64..4, any::<u8>()).prop_map(|(version, byte)| Row {
            version,
            expires_at: 9,
            owner: None,
            bytes: vec![byte],
        })
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let (a, b) = (0_u8..4, 0_u8..4);
        (0..6, a, b, 1_u64..4, any::<bool>(), any_row()).prop_map(|(kind, a, b, expected, any, row)| {
            match kind {
                0 => Change::Insert { id: id(a), row },
                1 => Change::Update { id: id(a), expected, row },
                2 => Change::Put { id: id(a), row },
                3 => Change::Delete { id: id(a) },
                4 => Change::Rekey { from: id(a), expected: (!any).then_some(expected), to: id(b), row },
                _ => Change::Quarantine { id: id(a) },
            }
        })
    }

    fn rows(store: &MemoryStore) -> BTreeMap<Key, Row> {
        let listed = block_on(store.list(None, 100)).unwrap();
        listed.into_iter().map(|l| (*l.id.as_bytes(), l.row)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The plan, carried out, is what the store in memory does one by one.
        #[test]
        fn a_plan_does_what_its_changes_say(
            before in proptest::collection::vec(any_change(), 0..6),
            changes in proptest::collection::vec(any_change(), 0..12),
        ) {
            let store = MemoryStore::new();
            let _ = block_on(store.commit(1, &before)).unwrap();
            let mut table = rows(&store);
            let wanted = keys(&changes);
            let stored = table.iter().filter(|(id, _)| wanted.contains(id)).map(|(id, row)| (*id, row.version));
            let plan = plan(&stored.collect(), &changes);
            prop_assert_eq!(&plan.outcomes, &block_on(store.commit(1, &changes)).unwrap());
            for id in &plan.quarantine {
                prop_assert!(table.contains_key(id));
            }
            for id in &plan.delete {
                prop_assert!(table.remove(id).is_some());
            }
            for (id, row) in &plan.update {
                prop_assert!(table.insert(*id, (*row).clone()).is_some());
            }
            for (id, row) in &plan.insert {
                prop_assert!(table.insert(*id, (*row).clone()).is_none());
            }
            prop_assert_eq!(table, rows(&store));
            for list in [&plan.update, &plan.insert, &plan.quarantine_new] {
                prop_assert!(list.is_sorted_by_key(|(id, _)| *id));
            }
            prop_assert!(plan.delete.is_sorted() && plan.quarantine.is_sorted());
        }

        #[test]
        fn pieces_keep_all_rows_in_order(lens in proptest::collection::vec(0_usize..50, 0..40), most_rows in 1_usize..9, most_bytes in 0_usize..100) {
            let rows: Vec<Row> =
                lens.iter().map(|len| Row { version: 1, expires_at: 1, owner: None, bytes: vec![0; *len] }).collect();
            let all: Vec<(Key, &Row)> = (0..).zip(&rows).map(|(n, row)| ([n; 32], row)).collect();
            let pieces = pieces(&all, most_rows, most_bytes);
            prop_assert_eq!(&pieces.concat(), &all);
            for piece in pieces {
                prop_assert!(piece.len() <= most_rows);
                let bytes: usize = piece.iter().map(|(_, row)| row.bytes.len()).sum();
                prop_assert!(piece.len() == 1 || bytes <= most_bytes);
            }
        }
    }
}
