//! How a session gets another id. The servers change one item in one step, not two, and the two may be on different
//! servers. So a renewal of `A` to `B` is made of steps of one item each, of which one decides:
//!
//! 1. `B` is written, *pending*: it names `A`.
//! 2. `A` is turned into a *signpost* to `B`, and is no row any more. It is changed only if it still is what the sender has
//!    seen. **This is the renewal.**
//! 3. `B` is written anew, as a row that counts by itself.
//! 4. `A` is turned into a tombstone.
//!
//! These hold at any time, and whatever breaks off:
//!
//! - *One of two.* A pending `B` counts if `A` leads to it, and only then. Before step 2 there is `A`, behind it `B`; never
//!   both.
//! - *Found by all.* Who meets a pending row or a signpost does steps 3 and 4 for whoever did not come to them.
//! - *Decided for good.* A signpost is ended only when `B` is no longer pending. So if `A` is no signpost and `B`, read after
//!   it, is still pending, the renewal has not happened.
//! - *No return.* No change but an insert writes where nothing is, and updates match neither signposts nor pending rows.
//!
//! An item that the server evicts in between costs the session, as at any other time: a row that is evicted has ended, a
//! pending row whose signpost is evicted counts no more. Nothing that is evicted makes another item count.

use sessile_engine::SessionId;
use sessile_engine::store::{Outcome, Row, StoreError};

use super::NAME;
use super::item::State;
use super::shared::{Shared, pause};

impl Shared {
    /// Steps 3 and 4 of a renewal that has happened.
    pub(super) async fn settle(&self, from: &SessionId, to: &SessionId) -> Result<(), StoreError> {
        self.confirm(to, from).await?;
        // If somebody was faster, it is ended.
        if let Some(found) = self.look(from).await?
            && found.state == State::Moved(*to)
        {
            self.write_tombstone(from, Some(&found)).await?;
        }
        Ok(())
    }

    /// Whether something else than a pending row stands under `id` by now: the row, if it counts. If not, nothing is there.
    pub(super) async fn counts_now(&self, id: &SessionId, from: &SessionId) -> Result<bool, StoreError> {
        if self.look(from).await?.is_some_and(|found| found.state == State::Moved(*id)) {
            self.settle(from, id).await?;
            return Ok(true);
        }
        // In this order: the signpost goes when the row is confirmed, not before.
        let found = self.look(id).await?;
        Ok(!matches!(found.map(|found| found.state), Some(State::Pending(origin, _)) if origin == *from))
    }

    pub(super) async fn rekey(
        &self,
        from: &SessionId,
        expected: Option<u64>,
        to: &SessionId,
        row: &Row,
    ) -> Result<Outcome, StoreError> {
        if from == to {
            return Ok(if self.load(from).await?.is_some() { Outcome::Exists } else { Outcome::Missing });
        }
        if !self.prepare(from, to, row).await? {
            return Ok(Outcome::Exists);
        }
        let outcome = self.move_on(from, expected, to, row).await?;
        let ended = match outcome {
            Outcome::Done => self.settle(from, to).await,
            _ => self.withdraw(from, to).await,
        };
        if let Err(e) = ended {
            // It is decided all the same; whoever meets it does the rest.
            tracing::debug!(store = NAME, error = %e, "a renewal was left to others to end");
        }
        Ok(outcome)
    }

    /// Step 1; `false` if the id is in use.
    async fn prepare(&self, from: &SessionId, to: &SessionId, row: &Row) -> Result<bool, StoreError> {
        for tried in 0.. {
            let found = self.look(to).await?;
            match found.as_ref().map(|found| &found.state) {
                None | Some(State::Tombstone) => {
                    if self.write_pending(to, found.as_ref(), from, row).await? {
                        return Ok(true);
                    }
                }
                Some(State::Moved(elsewhere)) => self.settle(to, elsewhere).await?,
                Some(State::Pending(origin, _)) if origin == from => {
                    if self.counts_now(to, from).await? {
                        return Ok(false);
                    }
                    // Of an attempt that was given up: should it arrive now, it brings what this one wants.
                    if self.write_pending(to, found.as_ref(), from, row).await? {
                        return Ok(true);
                    }
                }
                Some(State::Row(_) | State::Pending(..) | State::Damaged) => return Ok(false),
            }
            pause(tried).await;
        }
        Ok(false)
    }

    /// Step 2. The signpost is kept as long as `row`.
    async fn move_on(
        &self,
        from: &SessionId,
        expected: Option<u64>,
        to: &SessionId,
        row: &Row,
    ) -> Result<Outcome, StoreError> {
        for tried in 0.. {
            let Some(found) = self.look(from).await? else { return Ok(Outcome::Missing) };
            match &found.state {
                State::Row(Row { version, .. }) if expected.is_some_and(|expected| expected != *version) => {
                    return Ok(Outcome::Conflict { found: *version });
                }
                State::Row(_) => {
                    if self.write_moved(from, &found, to, row).await? {
                        return Ok(Outcome::Done);
                    }
                }
                // An attempt of the same renewal that was given up has arrived.
                State::Moved(there) if there == to => return Ok(Outcome::Done),
                State::Pending(origin, _) => {
                    if !self.counts_now(from, origin).await? {
                        return Ok(Outcome::Missing);
                    }
                }
                State::Moved(_) | State::Tombstone | State::Damaged => return Ok(Outcome::Missing),
            }
            pause(tried).await;
        }
        Ok(Outcome::Missing)
    }

    /// Takes step 1 back. `from` has another version for good, or none.
    async fn withdraw(&self, from: &SessionId, to: &SessionId) -> Result<(), StoreError> {
        if let Some(found) = self.look(to).await?
            && matches!(&found.state, State::Pending(origin, _) if origin == from)
        {
            self.remove(to, &found).await?;
        }
        Ok(())
    }
}
