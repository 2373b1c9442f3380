//! How each change is made: by one request that says under which condition, or as one transaction of two items.

use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, Row, StoreError, StoreErrorKind};

use super::item::{self, Only};
use super::link::{Condition, Made, pause};
use super::shared::{Shared, WIDTH};
use super::{NAME, error};
use crate::keyed::wave::{each, wave};

/// How often a refusal is looked into that does not go with what stands there. It takes an item that no condition of ours
/// can tell from the one that is wanted.
const MOST_LOOKS: u32 = 8;

/// Makes `changes`: those of one id in their order. If it fails, each of them is made or not.
pub(super) async fn commit(
    shared: Arc<Shared>,
    now: u64,
    changes: Vec<Change>,
) -> Result<Vec<Outcome>, StoreError> {
    let (raised, made) = tokio::join!(shared.raise(now), make(&shared, now, changes.into()));
    raised?;
    made
}

async fn make(shared: &Arc<Shared>, now: u64, changes: Arc<[Change]>) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes = Vec::with_capacity(changes.len());
    while outcomes.len() < changes.len() {
        let wave = wave(&changes, outcomes.len()..changes.len());
        let made = each(NAME, WIDTH, wave, |n| {
            let (shared, changes) = (Arc::clone(shared), Arc::clone(&changes));
            async move {
                match changes.get(n) {
                    Some(change) => shared.make(now, change).await,
                    None => Err(error::own(StoreErrorKind::Unavailable, "a change has no outcome")),
                }
            }
        });
        outcomes.extend(made.await?);
    }
    Ok(outcomes)
}

impl Shared {
    async fn make(&self, now: u64, change: &Change) -> Result<Outcome, StoreError> {
        match change {
            Change::Insert { id, row } => {
                let made =
                    self.link.put("an insertion", item::encode(id, row), Some(&Only::absent())).await?;
                Ok(match made {
                    Made::Done => Outcome::Done,
                    Made::Refused(_) => Outcome::Exists,
                })
            }
            Change::Update { id, expected, row } => self.update(id, *expected, row).await,
            Change::Put { id, row } => {
                self.link.put("a change", item::encode(id, row), None).await?;
                Ok(Outcome::Done)
            }
            Change::Delete { id } => {
                self.link.delete("a removal", item::key(id), None).await?;
                Ok(Outcome::Done)
            }
            Change::Rekey { from, expected, to, row } => self.rekey(from, *expected, to, row).await,
            Change::Quarantine { id } => self.quarantine(now, id).await,
        }
    }

    async fn update(&self, id: &SessionId, expected: u64, row: &Row) -> Result<Outcome, StoreError> {
        let what = "a change";
        let only = Only::version(Some(expected));
        for tried in 0..MOST_LOOKS {
            let found = match self.link.put(what, item::encode(id, row), Some(&only)).await? {
                Made::Done => return Ok(Outcome::Done),
                Made::Refused(found) => found,
            };
            match found.as_ref().map(item::version) {
                None | Some(None) => return Ok(Outcome::Missing),
                Some(Some(found)) if found != expected => return Ok(Outcome::Conflict { found }),
                Some(Some(_)) => pause(tried).await,
            }
        }
        Err(error::contended(what))
    }

    /// Both items change at one time or neither does.
    async fn rekey(
        &self,
        from: &SessionId,
        expected: Option<u64>,
        to: &SessionId,
        row: &Row,
    ) -> Result<Outcome, StoreError> {
        let what = "a renewal";
        if from == to {
            // No transaction may name an item twice.
            let found = self.link.get(what, &item::key(from)).await?;
            return Ok(if found.is_some() { Outcome::Exists } else { Outcome::Missing });
        }
        for tried in 0..MOST_LOOKS {
            let parts = vec![
                self.link.putting(item::encode(to, row), Some(Only::absent()))?,
                self.link.deleting(item::key(from), Only::version(expected))?,
            ];
            let Some(conditions) = self.link.transact(what, parts).await? else { return Ok(Outcome::Done) };
            match &conditions[..] {
                [Condition::Fails(_), _] => return Ok(Outcome::Exists),
                [Condition::Holds, Condition::Fails(found)] => {
                    let found = found.as_ref().and_then(item::version);
                    match (found, expected) {
                        (None, _) => return Ok(Outcome::Missing),
                        (Some(found), Some(expected)) if found != expected => {
                            return Ok(Outcome::Conflict { found });
                        }
                        _ => pause(tried).await,
                    }
                }
                _ => pause(tried).await,
            }
        }
        Err(error::contended(what))
    }

    /// Moves the item to where no call looks, if it is still what was copied.
    async fn quarantine(&self, now: u64, id: &SessionId) -> Result<Outcome, StoreError> {
        let what = "a quarantine";
        for tried in 0.. {
            let Some(found) = self.link.get(what, &item::key(id)).await? else { break };
            let parts = vec![
                self.link.putting(item::aside(id, &found, now), None)?,
                self.link.deleting(item::key(id), Only::same(&found))?,
            ];
            if self.link.transact(what, parts).await?.is_none() {
                break;
            }
            pause(tried).await;
        }
        Ok(Outcome::Done)
    }
}
