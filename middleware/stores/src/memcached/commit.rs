//! How a commit is made: of changes of one session each, several at a time. What becomes of each, `shared` and `renew` say.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, StoreError, StoreErrorKind};
use tokio::task::JoinSet;

use super::error;
use super::shared::Shared;

/// Changes of one commit at the same time.
const WIDTH: usize = 8;

/// Makes `changes`: those of one id in their order. If it fails, each of them is made or not.
pub(super) async fn commit(
    shared: Arc<Shared>,
    now: u64,
    changes: Vec<Change>,
) -> Result<Vec<Outcome>, StoreError> {
    shared.heard(now);
    // On a server that is asked anyway.
    let first = changes.first().and_then(|change| ids(change)[0]).map_or(0, |id| shared.link.place(id));
    let (raised, made) = tokio::join!(shared.raise(first, now), make(&shared, changes.into()));
    raised?;
    made
}

async fn make(shared: &Arc<Shared>, changes: Arc<[Change]>) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes = vec![None; changes.len()];
    let mut rest = 0..changes.len();
    while !rest.is_empty() {
        let mut waiting = wave(&changes, rest.clone());
        rest.start = waiting.end;
        let mut running = JoinSet::new();
        loop {
            while running.len() < WIDTH
                && let Some(n) = waiting.next()
            {
                let (shared, changes) = (Arc::clone(shared), Arc::clone(&changes));
                running.spawn(async move { (n, one(&shared, &changes, n).await) });
            }
            let Some(done) = running.join_next().await else { break };
            let (n, outcome) = done.map_err(|e| {
                error::own(StoreErrorKind::Unavailable, "a part of a commit has ended").with_source(e)
            })?;
            if let Some(slot) = outcomes.get_mut(n) {
                *slot = Some(outcome?);
            }
        }
    }
    let missing = || error::own(StoreErrorKind::Unavailable, "a change has no outcome");
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(missing)).collect()
}

async fn one(shared: &Shared, changes: &[Change], n: usize) -> Result<Outcome, StoreError> {
    match changes.get(n) {
        Some(Change::Insert { id, row }) => shared.insert(id, row).await,
        Some(Change::Update { id, expected, row }) => shared.update(id, *expected, row).await,
        Some(Change::Put { id, row }) => shared.put(id, row).await,
        Some(Change::Delete { id }) => shared.delete(id).await,
        Some(Change::Rekey { from, expected, to, row }) => shared.rekey(from, *expected, to, row).await,
        Some(Change::Quarantine { id }) => shared.quarantine(id).await,
        None => Err(error::own(StoreErrorKind::Unavailable, "a change has no outcome")),
    }
}

/// The id of a change, and that which it moves to.
fn ids(change: &Change) -> [Option<&SessionId>; 2] {
    match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => [Some(id), None],
        Change::Rekey { from, to, .. } => [Some(from), Some(to)],
    }
}

/// The first changes of `rest` that can be made at once: up to one that has an id in common with another.
fn wave(changes: &[Change], rest: Range<usize>) -> Range<usize> {
    let mut seen: HashSet<&[u8; 32]> = HashSet::new();
    let mut end = rest.start;
    for change in changes.get(rest.clone()).unwrap_or_default() {
        if ids(change).into_iter().flatten().any(|id| seen.contains(id.as_bytes())) {
            break;
        }
        seen.extend(ids(change).into_iter().flatten().map(SessionId::as_bytes));
        end += 1;
    }
    rest.start..end
}

#[cfg(test)]
mod tests {
    use sessile_engine::store::Row;

    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn row() -> Row {
        Row { version: 1, expires_at: 1, owner: None, bytes: Vec::new() }
    }

    fn put(n: u8) -> Change {
        Change::Put { id: id(n), row: row() }
    }

    fn rekey(from: u8, to: u8) -> Change {
        Change::Rekey { from: id(from), expected: None, to: id(to), row: row() }
    }

    #[test]
    fn changes_of_one_id_are_not_made_at_once() {
        for (changes, first) in [
            (vec![put(1), put(2), rekey(3, 4), rekey(5, 6)], 4),
            (vec![put(1), put(1)], 1),
            (vec![put(2), rekey(1, 2)], 1),
            (vec![rekey(1, 2), rekey(2, 3)], 1),
            (vec![rekey(1, 2), put(3), Change::Delete { id: id(1) }], 2),
            (vec![rekey(1, 1), put(2)], 2),
            (vec![], 0),
        ] {
            assert_eq!(wave(&changes, 0..changes.len()), 0..first, "{changes:?}");
        }
        assert_eq!(wave(&[rekey(1, 2), rekey(2, 3), put(4)], 1..3), 1..3);
    }
}
