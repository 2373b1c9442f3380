//! The writes that make a plan so if nobody was faster. It never talks to a server.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sessile_engine::SessionId;
use sessile_engine::store::Change;

use super::doc::{self, Document, Names};
use crate::keyed::plan::{self, Fate, Index, Limits};
pub(super) use crate::keyed::plan::{Step, ids_of};
use crate::keyed::value;

/// Most documents that a commit reads: all of the largest rows fit into an answer.
pub(super) const MOST_READS: usize = 120;
/// The service takes as many writes as fit into a request; a commit of fewer is in fewer others' way.
const MOST_OPERATIONS: usize = 490;
/// Bytes of records in one commit. As base64 they are below the 10 MiB that a request may have.
const MOST_BYTES: usize = 5 << 20;

/// The service indexes fields by itself: nothing has to be written for that.
pub(super) struct NoKeys;

impl Index for NoKeys {
    type Key = ();

    fn due(&self, _: u64, _: &SessionId) {}

    fn owned(&self, _: &str, _: &SessionId) {}
}

pub(super) type Plan = plan::Plan<'static, NoKeys>;

pub(super) fn new() -> Plan {
    Plan::new(&NoKeys, Limits { operations: MOST_OPERATIONS, removal: 1, bytes: MOST_BYTES })
}

/// What was read of an id. A document that holds no row is kept as it is: nothing that begins like it is a row's value.
pub(super) fn found(plan: &mut Plan, id: &SessionId, document: Option<&Document>) {
    let raw = document.map(|document| match doc::row(&document.fields) {
        Ok(row) => value::encode(&row),
        Err(doc::Damaged) => serde_json::to_vec(&document.fields).unwrap_or_default(),
    });
    plan.found(id, raw.as_deref().map(|raw| (1, raw)));
}

/// The ids under which `steps` do nothing but to add one row.
pub(super) fn new_ids(steps: &[Step]) -> HashSet<[u8; 32]> {
    let (mut new, mut seen) = (HashSet::new(), HashSet::new());
    for step in steps {
        for id in step.ids() {
            if !seen.insert(*id.as_bytes()) {
                new.remove(id.as_bytes());
            } else if matches!(step, Step::Change(Change::Insert { .. })) {
                new.insert(*id.as_bytes());
            }
        }
    }
    new
}

/// Every write is compared with what was read: a row that was changed, or came or went since, undoes them all.
pub(super) fn writes(
    names: &Names,
    now: u64,
    plan: &Plan,
    found: &HashMap<[u8; 32], Document>,
) -> Vec<Value> {
    let mut writes = Vec::new();
    for (id, _, fate) in plan.rows() {
        let at = found.get(id.as_bytes()).map(|document| &*document.update_time);
        match (fate, at) {
            (Fate::Becomes(row), None) => writes.push(doc::create(names.row(&id), doc::fields(row))),
            (Fate::Becomes(row), Some(at)) => writes.push(doc::replace(names.row(&id), doc::fields(row), at)),
            (Fate::Goes, Some(at)) => writes.push(doc::remove(&names.row(&id), at)),
            // What is not written needs no comparison: it was true at one time.
            (Fate::Stays, _) | (Fate::Goes, None) => {}
        }
    }
    for (id, raw) in plan.aside() {
        let fields = match value::decode(raw) {
            Ok(row) => doc::fields(&row),
            Err(value::Damaged) => serde_json::from_slice(raw).unwrap_or_default(),
        };
        writes.push(doc::put_aside(names, &id, fields, now));
    }
    writes
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sessile_engine::store::{Outcome, Row};

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn row(version: u64) -> Row {
        Row { version, expires_at: 5, owner: None, bytes: vec![1] }
    }

    fn document(n: u8, fields: doc::Fields) -> Document {
        let name = Names::new("p", "d", "c").row(&id(n));
        Document { name, fields, update_time: format!("at {n}") }
    }

    fn made(found: &[(u8, doc::Fields)], changes: &[Change]) -> (Vec<Outcome>, Vec<Value>) {
        let found: HashMap<_, _> =
            found.iter().map(|(n, fields)| ([*n; 32], document(*n, fields.clone()))).collect();
        let steps: Vec<_> = changes.iter().cloned().map(Step::Change).collect();
        let mut plan = new();
        for id in ids_of(&steps, MOST_READS) {
            super::found(&mut plan, &id, found.get(id.as_bytes()));
        }
        let outcomes = steps.iter().map_while(|step| plan.take(step)).collect();
        (outcomes, writes(&Names::new("p", "d", "c"), 9, &plan, &found))
    }

    #[test]
    fn a_renewal_is_two_writes_that_are_compared() {
        let renewal = Change::Rekey { from: id(1), expected: Some(1), to: id(2), row: row(2) };
        let (outcomes, mut writes) = made(&[(1, doc::fields(&row(1)))], &[renewal]);
        assert_eq!(outcomes, [Outcome::Done]);
        writes.sort_by_key(Value::to_string);
        let names = Names::new("p", "d", "c");
        let wanted = [
            doc::create(names.row(&id(2)), doc::fields(&row(2))),
            json!({"delete": names.row(&id(1)), "currentDocument": {"updateTime": "at 1"}}),
        ];
        assert_eq!(writes, wanted);
    }

    #[test]
    fn what_is_refused_writes_nothing() {
        let changes = [
            Change::Insert { id: id(1), row: row(7) },
            Change::Update { id: id(1), expected: 2, row: row(3) },
            Change::Update { id: id(2), expected: 2, row: row(3) },
            Change::Delete { id: id(2) },
        ];
        let (outcomes, writes) = made(&[(1, doc::fields(&row(1)))], &changes);
        let wanted = [Outcome::Exists, Outcome::Conflict { found: 1 }, Outcome::Missing, Outcome::Done];
        assert_eq!((&outcomes[..], &writes[..]), (&wanted[..], &[][..]));
    }

    #[test]
    fn a_damaged_document_is_put_aside_as_it_is() {
        let odd = json!({"version": {"stringValue": "?"}, "else": {"nullValue": null}});
        let odd = odd.as_object().unwrap().clone();
        let (outcomes, writes) =
            made(&[(1, odd.clone())], &[Change::Update { id: id(1), expected: 1, row: row(2) }]);
        assert_eq!((&outcomes[..], writes.len()), (&[Outcome::Missing][..], 0));
        let (_, writes) = made(&[(1, odd.clone())], &[Change::Quarantine { id: id(1) }]);
        let names = Names::new("p", "d", "c");
        let wanted = [doc::remove(&names.row(&id(1)), "at 1"), doc::put_aside(&names, &id(1), odd, 9)];
        assert_eq!(writes, wanted);
    }

    #[test]
    fn only_an_id_that_is_added_once_need_not_be_looked_at() {
        let insert = |n| Step::Change(Change::Insert { id: id(n), row: row(1) });
        let delete = |n| Step::Change(Change::Delete { id: id(n) });
        for (steps, wanted) in [
            (vec![insert(1), insert(2)], vec![1, 2]),
            (vec![insert(1), delete(1), insert(2)], vec![2]),
            (vec![delete(1), insert(1)], vec![]),
            (vec![insert(1), delete(1), insert(1)], vec![]),
        ] {
            let wanted: HashSet<_> = wanted.into_iter().map(|n: u8| [n; 32]).collect();
            assert_eq!(new_ids(&steps), wanted, "{steps:?}");
        }
    }
}
