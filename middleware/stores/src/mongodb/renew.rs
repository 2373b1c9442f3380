//! How a session gets another id without a transaction, which a single server does not have.
//!
//! A document's `_id` cannot be changed, and the server changes one document in one step, not two. So a renewal of `A` to
//! `B` is made of steps of one document each, of which one decides:
//!
//! 1. `B` is inserted, *pending*: with a field `from` that names `A`.
//! 2. `A` is turned into a *signpost*: a field `to` that names `B`, and no row any more. It is changed only if it still has
//!    the version that the sender has seen. **This is the renewal.**
//! 3. `from` is taken off `B`.
//! 4. `A` is removed.
//!
//! These hold at any time, and whatever breaks off:
//!
//! - *One of two.* A pending `B` counts if `A` leads to it, and only then. Before step 2 there is `A`, behind it `B`; never
//!   both, never none.
//! - *Found by all.* Who meets a pending row or a signpost does steps 3 and 4 for whoever did not come to them.
//! - *Decided for good.* A signpost goes only when `B` is no longer pending. So if `A` is not there and `B`, read after it,
//!   is still pending, the renewal has not happened and cannot happen any more.
//! - *No return.* No change but an insert makes a document, and updates match neither signposts nor pending rows.
//!
//! A pending row whose renewal never came is nobody's session. It goes when it is due. Until then its id counts as existing
//! for others than the renewal that made it; ids are random, so nobody meets it.

use mongodb::bson::doc;
use sessile_engine::SessionId;
use sessile_engine::store::{Outcome, Row, StoreError};

use super::doc::{self, Head};
use super::error;
use super::shared::{Shared, pause};

impl Shared {
    /// Steps 3 and 4 of a renewal that has happened.
    pub(super) async fn settle(&self, from: &SessionId, to: &SessionId) -> Result<(), StoreError> {
        let pending = doc! { "_id": doc::key(to), "from": doc::key(from) };
        let confirm = doc! { "$unset": { "from": "" } };
        self.rows.update_one(pending, confirm).await.map_err(error::of("a renewal could not be ended"))?;
        let signpost = doc! { "_id": doc::key(from), "to": doc::key(to) };
        self.rows.delete_one(signpost).await.map_err(error::of("a renewal could not be ended"))?;
        Ok(())
    }

    /// Whether something else than a pending row stands under `id` by now: the row, if it counts. If not, nothing is there.
    pub(super) async fn counts_now(&self, id: &SessionId, from: &SessionId) -> Result<bool, StoreError> {
        let has = async |only| {
            let found = self.rows.find_one(only).projection(doc! { "_id": 1 }).max_time(self.deadline);
            Ok(found.await.map_err(error::of("a renewal could not be followed"))?.is_some())
        };
        if has(doc! { "_id": doc::key(from), "to": doc::key(id) }).await? {
            self.settle(from, id).await?;
            return Ok(true);
        }
        // In this order: the origin goes when the row is confirmed, not before.
        Ok(!has(doc! { "_id": doc::key(id), "from": doc::key(from) }).await?)
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
        let outcome = self.move_on(from, expected, to).await?;
        let ended = match outcome {
            Outcome::Done => self.settle(from, to).await,
            _ => self.withdraw(from, to).await,
        };
        if let Err(e) = ended {
            // It is decided all the same; whoever meets it does the rest.
            tracing::debug!(store = super::NAME, error = %e, "a renewal was left to others to end");
        }
        Ok(outcome)
    }

    /// Step 1; `false` if the id is in use.
    async fn prepare(&self, from: &SessionId, to: &SessionId, row: &Row) -> Result<bool, StoreError> {
        let pending = doc::encode(to, row, Some(from));
        for tried in 0.. {
            match self.rows.insert_one(&pending).await {
                Ok(_) => return Ok(true),
                Err(e) if error::has_taken_key(&e) => {}
                Err(e) => return Err(error::of("a session could not be renewed")(e)),
            }
            match self.head(to).await? {
                None => {}
                Some(Head { to: Some(elsewhere), .. }) => self.settle(to, &elsewhere).await?,
                Some(Head { from: Some(origin), .. }) if origin == *from => {
                    if self.counts_now(to, from).await? {
                        return Ok(false);
                    }
                    // Of an attempt that was given up: should it arrive now, it brings what this one wants.
                    let own = doc! { "_id": doc::key(to), "from": doc::key(from) };
                    let replaced = self.rows.replace_one(own, &pending).await;
                    if replaced.map_err(error::of("a session could not be renewed"))?.matched_count > 0 {
                        return Ok(true);
                    }
                }
                Some(_) => return Ok(false),
            }
            pause(tried).await;
        }
        Ok(false)
    }

    /// Step 2.
    async fn move_on(
        &self,
        from: &SessionId,
        expected: Option<u64>,
        to: &SessionId,
    ) -> Result<Outcome, StoreError> {
        let mut only = doc::settled(from);
        if let Some(version) = expected {
            only.insert("version", version.cast_signed());
        }
        // Due at once: the next sweep ends what nobody else has ended.
        let signpost = doc! {
            "$set": { "to": doc::key(to), "due": 0_i64 },
            "$unset": { "version": "", "owner": "", "record": "" },
        };
        for tried in 0.. {
            let moved = self.rows.update_one(only.clone(), signpost.clone()).await;
            if moved.map_err(error::of("a session could not be renewed"))?.matched_count > 0 {
                return Ok(Outcome::Done);
            }
            match self.head(from).await? {
                // An attempt of the same renewal that was given up has arrived.
                Some(Head { to: Some(there), .. }) if there == *to => return Ok(Outcome::Done),
                None | Some(Head { to: Some(_), .. }) => return Ok(Outcome::Missing),
                Some(Head { from: Some(origin), .. }) => {
                    if !self.counts_now(from, &origin).await? {
                        return Ok(Outcome::Missing);
                    }
                }
                Some(Head { version: Some(found), .. })
                    if expected.is_some_and(|version| version != found) =>
                {
                    return Ok(Outcome::Conflict { found });
                }
                Some(Head { version: None, .. }) => return Ok(Outcome::Missing),
                Some(_) => {}
            }
            pause(tried).await;
        }
        Ok(Outcome::Missing)
    }

    /// Takes step 1 back. `from` has another version for good, or none.
    async fn withdraw(&self, from: &SessionId, to: &SessionId) -> Result<(), StoreError> {
        let pending = doc! { "_id": doc::key(to), "from": doc::key(from) };
        self.rows.delete_one(pending).await.map_err(error::of("a renewal could not be taken back"))?;
        Ok(())
    }
}
