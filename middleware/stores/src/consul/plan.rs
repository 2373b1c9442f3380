//! The transaction that makes a plan so if nobody was faster. It never talks to a server.

use sessile_engine::SessionId;

use super::keys::Keys;
use super::link::Operation;
use crate::keyed::plan::{self, Fate, Limits};
pub(super) use crate::keyed::plan::{Step, ids_of};
use crate::keyed::value;

/// A server refuses more operations in one transaction.
pub(super) const MOST_OPERATIONS: usize = 64;
/// Operations beside those of the rows: the lane.
const OTHERS: usize = 1;
/// Bytes of records in one transaction. As base64, with the keys and the lane, they are below the 512 KiB that a server
/// takes.
pub(super) const MOST_BYTES: usize = 320 << 10;

pub(super) type Plan<'a> = plan::Plan<'a, Keys>;

pub(super) fn new(keys: &Keys) -> Plan<'_> {
    Plan::new(keys, Limits { operations: MOST_OPERATIONS - OTHERS, removal: 2, bytes: MOST_BYTES })
}

/// The operations on rows and on what points to them, and the rows that change by them.
pub(super) fn operations(keys: &Keys, plan: &Plan<'_>) -> (Vec<Operation>, Vec<SessionId>) {
    let (mut operations, mut changed) = (Vec::new(), Vec::new());
    for (id, revision, fate) in plan.rows() {
        let key = keys.row(&id);
        operations.push(match fate {
            Fate::Becomes(row) => Operation::set_at(key.clone(), revision, &value::encode(row)),
            // Not `delete-cas`: it is content with a key that somebody else has removed.
            Fate::Stays | Fate::Goes => Operation::check(key.clone(), revision),
        });
        if fate == Fate::Goes {
            operations.push(Operation::delete(key));
        }
        if fate != Fate::Stays {
            changed.push(id);
        }
    }
    let (gone, added) = plan.keys();
    operations.extend(gone.into_iter().map(Operation::delete));
    operations.extend(added.into_iter().map(|key| Operation::set(key, &[])));
    (operations, changed)
}

#[cfg(test)]
mod tests {
    use sessile_engine::store::{Change, Row};

    use super::super::log::Entries;
    use super::*;

    /// Of all that a commit can be made of, what is longest: the server must take it.
    #[test]
    fn no_transaction_is_larger_than_a_server_takes() {
        let keys = Keys::new(&"p".repeat(64));
        let id = |n: u32| SessionId::from_bytes([n as u8; 32]);
        let owner: String = "x".repeat(255);
        for (count, bytes) in [(62_u32, MOST_BYTES / 62), (1, MOST_BYTES), (62, 0), (62, MOST_BYTES / 7)] {
            let row = |at, owner: &str| Row {
                version: u64::MAX,
                expires_at: at,
                owner: Some(owner.into()),
                bytes: vec![0; bytes],
            };
            let mut plan = new(&keys);
            for n in 0..2 * count {
                let old = value::encode(&row(1, &owner));
                plan.found(&id(n), (n % 2 == 0).then_some((u64::MAX, &old)));
            }
            let steps = (0..count).map(|n| {
                let to = if n % 2 == 0 { id(2 * n + 1) } else { id(2 * n) };
                let row = row(u64::MAX, &owner.replace('x', "y"));
                Step::Change(match n % 3 {
                    0 => Change::Rekey { from: id(2 * n), expected: None, to, row },
                    _ => Change::Put { id: id(2 * n), row },
                })
            });
            let taken = steps.map_while(|step| plan.take(&step)).count();
            assert!(taken > 0);
            let (mut operations, changed) = operations(&keys, &plan);
            let lane = (0..20).fold(Entries::default(), |lane, _| lane.with(1, changed.clone()));
            operations.push(Operation::set(keys.lane(&"n".repeat(64)), &lane.encode()));
            assert!(operations.len() <= MOST_OPERATIONS, "{}", operations.len());
            assert!(serde_json::to_vec(&operations).unwrap().len() <= 512 << 10, "{count} of {bytes}");
        }
    }
}
