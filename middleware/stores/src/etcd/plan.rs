//! The transaction that makes a plan so if nobody was faster. It never talks to a server.

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use sessile_engine::SessionId;

use super::row::{self, Keys};
pub(super) use crate::keyed::plan::Step;
use crate::keyed::plan::{self, Fate, Index, Limits};

/// A server refuses more operations in one transaction (`--max-txn-ops`, by default).
const MOST_OPERATIONS: usize = 128;
/// Operations beside those of the rows: the mark and the tick.
const OTHERS: usize = 2;
/// Bytes of rows in one transaction, so that with its keys it stays under 1.5 MiB (`--max-request-bytes`, by default).
const MOST_BYTES: usize = 1 << 20;

pub(super) type Plan<'a> = plan::Plan<'a, Keys>;

pub(super) fn new(keys: &Keys) -> Plan<'_> {
    Plan::new(keys, Limits { operations: MOST_OPERATIONS - OTHERS, removal: 1, bytes: MOST_BYTES })
}

impl Index for Keys {
    type Key = Vec<u8>;

    fn due(&self, at: u64, id: &SessionId) -> Vec<u8> {
        Self::due(self, at, id)
    }

    fn owned(&self, owner: &str, id: &SessionId) -> Vec<u8> {
        Self::owned(self, owner, id)
    }
}

/// The transaction: everything if the rows are still as they were read, else nothing. Without a change to make it
/// raises the mark only, and cannot fail: what was read was true at one time. Rows that are put aside get `lease`.
pub(super) fn txn(keys: &Keys, plan: &Plan<'_>, mark: u64, lease: i64) -> Txn {
    let mut ops = vec![raise(keys, mark)];
    if !plan.writes() {
        return Txn::new().and_then(ops);
    }
    let mut compares = Vec::new();
    for (id, revision, fate) in plan.rows() {
        let key = keys.row(&id);
        compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, revision.cast_signed()));
        match fate {
            Fate::Stays => {}
            Fate::Becomes(row) => ops.push(TxnOp::put(key, row::encode(row), None)),
            Fate::Goes => ops.push(TxnOp::delete(key, None)),
        }
    }
    let (gone, added) = plan.keys();
    ops.extend(gone.into_iter().map(|key| TxnOp::delete(key, None)));
    ops.extend(added.into_iter().map(|key| TxnOp::put(key, Vec::new(), None)));
    for (id, raw) in plan.aside() {
        let options = PutOptions::new().with_lease(lease);
        ops.push(TxnOp::put(keys.quarantined(&id), raw, Some(options)));
    }
    ops.push(TxnOp::put(keys.tick(), Vec::new(), None));
    Txn::new().when(compares).and_then(ops)
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
    let ids = plan::ids_of(steps, MOST_OPERATIONS);
    let gets: Vec<_> = ids.iter().map(|id| get(keys.row(id))).collect();
    (ids, Txn::new().and_then(gets))
}

pub(super) fn get(key: Vec<u8>) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new()))
}
