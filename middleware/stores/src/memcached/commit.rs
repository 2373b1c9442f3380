//! How a commit is made: of changes of one session each, several at a time. What becomes of each, `shared` and `renew` say.

use std::sync::Arc;

use sessile_engine::store::{Change, Outcome, StoreError, StoreErrorKind};

use super::error;
use super::shared::Shared;
use crate::keyed::wave::{each, ids, wave};

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
    let mut outcomes = Vec::with_capacity(changes.len());
    while outcomes.len() < changes.len() {
        let wave = wave(&changes, outcomes.len()..changes.len());
        let made = each(super::NAME, WIDTH, wave, |n| {
            let (shared, changes) = (Arc::clone(shared), Arc::clone(&changes));
            async move { one(&shared, &changes, n).await }
        });
        outcomes.extend(made.await?);
    }
    Ok(outcomes)
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
