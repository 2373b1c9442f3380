//! What each call does with the agent. It runs on the store's thread, and does not care who still waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{Expired, Listed, Outcome, Row, StoreError, StoreErrorKind};
use tokio::sync::watch as signal;
use tokio::time::sleep;

use super::error;
use super::keys::Keys;
use super::link::{Entry, Link, Operation, Tree};
use super::log::{Borrowed, Entries, Lanes};
use super::plan::{self, MOST_OPERATIONS, Step};
use crate::keyed::value;

const LAYOUT: &str = "1";
/// How long a lane stays that nobody writes, in ms.
const LANE_STAYS: u64 = 24 * 3_600_000;

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) keys: Keys,
    lanes: Lanes,
    /// The highest mark that this store has raised.
    raised: AtomicU64,
    /// Ends the watches.
    pub(super) closed: signal::Sender<bool>,
}

/// A page of a listing.
#[derive(Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Listed>,
    pub(super) damaged: Vec<SessionId>,
    name_damaged: bool,
    limit: usize,
}

impl Page {
    fn wanted(&self) -> usize {
        self.limit.saturating_sub(self.rows.len() + self.damaged.len())
    }
}

/// A random name, which nothing else has.
#[expect(clippy::disallowed_methods, reason = "as a name that no other rows have")]
pub(super) fn noise() -> Result<String, StoreError> {
    let mut noise = [0; 16];
    getrandom::fill(&mut noise).map_err(|e| {
        error::own(StoreErrorKind::Unavailable, "the system gives no random numbers").with_source(e)
    })?;
    Ok(format!("{:032x}", u128::from_le_bytes(noise)))
}

/// Before the next look at something that others are changing.
async fn pause(tried: u64) {
    if tried > 3 {
        sleep(Duration::from_millis(tried.min(20))).await;
    }
}

impl Shared {
    pub(super) fn new(link: Link, keys: Keys, name: String) -> Self {
        let closed = signal::Sender::new(false);
        Self { link, keys, lanes: Lanes::new(name), raised: AtomicU64::new(0), closed }
    }

    /// Checks that the rows are ours to read, and gives new ones a name.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let key = self.keys.layout();
        let value = match self.link.get("opening", &key).await? {
            Some(found) => found.value,
            None => {
                let new = format!("{LAYOUT} {}", noise()?).into_bytes();
                self.link.put("opening", &key, Some(0), new).await?;
                self.link.get("opening", &key).await?.map(|found| found.value).unwrap_or_default()
            }
        };
        let text = std::str::from_utf8(&value).unwrap_or_default();
        match text.split_once(' ').map(|(layout, _)| layout) {
            Some(LAYOUT) => Ok(()),
            Some(layout) if layout.parse::<u32>().is_ok() => Err(error::own(
                StoreErrorKind::NewerFormat,
                "the rows were written by a newer version of sessile",
            )),
            _ => Err(error::own(StoreErrorKind::Foreign, "the keys of this prefix are not ours")),
        }
    }

    async fn borrow(&self) -> Result<Borrowed<'_>, StoreError> {
        self.lanes.borrow().await.ok_or_else(error::closed)
    }

    /// Makes `operations` with a lane that tells of `changed`. `false`: a row has changed meanwhile, and nothing was made.
    async fn transact(
        &self,
        mark: u64,
        mut operations: Vec<Operation>,
        changed: Vec<SessionId>,
    ) -> Result<bool, StoreError> {
        let borrowed = self.borrow().await?;
        let next = borrowed.lane.entries.with(mark, changed);
        operations.push(Operation::set(self.keys.lane(&borrowed.lane.name), &next.encode()));
        let is_made = self.link.transact("a commit", &operations).await?.is_some();
        borrowed.give_back(is_made.then_some(next));
        if is_made {
            self.raised.fetch_max(mark, Ordering::AcqRel);
        }
        Ok(is_made)
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one.
    async fn raise(&self, mark: u64) -> Result<(), StoreError> {
        if mark > self.raised.load(Ordering::Acquire) {
            self.transact(mark, Vec::new(), Vec::new()).await?;
        }
        Ok(())
    }

    /// A damaged lane counts as 0: the mark is a floor for clocks that went backward.
    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let Tree { entries, .. } = self.link.tree("the high-water mark", &self.keys.log(), None).await?;
        let lanes = entries.iter().filter(|entry| self.keys.lane_of(&entry.key).is_some());
        Ok(lanes
            .filter_map(|entry| Entries::decode(&entry.value).ok())
            .map(|lane| lane.time)
            .max()
            .unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let Some(found) = self.link.get("loading a row", &self.keys.row(id)).await? else { return Ok(None) };
        value::decode(&found.value).map(Some).map_err(|value::Damaged| {
            error::own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
        })
    }

    /// What stands under these ids, all at one time.
    async fn rows(
        &self,
        what: &'static str,
        ids: &[SessionId],
    ) -> Result<HashMap<[u8; 32], Entry>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let gets: Vec<_> = ids.iter().map(|id| Operation::get(self.keys.row(id))).collect();
        let found = self.link.transact(what, &gets).await?.ok_or_else(|| error::unexpected(what))?;
        let of = |entry: Entry| Some((*self.keys.id_of(&entry.key)?.as_bytes(), entry));
        Ok(found.into_iter().filter_map(of).collect())
    }

    /// Does all steps in order, as many of them in one transaction as fit.
    pub(super) async fn commit(&self, mark: u64, steps: &[Step]) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(steps.len());
        // Fewer at a time where others are at the same rows.
        let (mut width, mut tried) = (usize::MAX, 0_u64);
        while let Some(left) = steps.get(outcomes.len()..).filter(|left| !left.is_empty()) {
            let left = left.get(..width).unwrap_or(left);
            let ids = plan::ids_of(left, MOST_OPERATIONS);
            let found = self.rows("a commit", &ids).await?;
            let mut plan = plan::new(&self.keys);
            for id in &ids {
                let row = found.get(id.as_bytes());
                plan.found(id, row.map(|entry| (entry.revision, entry.value.as_slice())));
            }
            let taken: Vec<_> = left.iter().map_while(|step| plan.take(step)).collect();
            if taken.is_empty() {
                return Err(error::unexpected("a commit"));
            }
            // Not in the transaction: a damaged value may be larger than one takes. If it fails, a copy too many is left.
            for (id, raw) in plan.aside() {
                self.link.put("a quarantine", &self.keys.quarantined(&id), None, raw.to_vec()).await?;
            }
            let is_made = if plan.writes() {
                let (operations, changed) = plan::operations(&self.keys, &plan);
                self.transact(mark, operations, changed).await?
            } else {
                true
            };
            if is_made {
                outcomes.extend(taken);
                (width, tried) = (usize::MAX, 0);
            } else {
                (width, tried) = (taken.len().div_ceil(2), tried + 1);
                pause(tried).await;
            }
        }
        self.raise(mark).await?;
        Ok(outcomes)
    }

    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.raise(high_water).await?;
        self.forget_old_lanes(high_water).await?;
        let mut removed = 0;
        let buckets = self.link.keys("expiry", &self.keys.buckets(), true).await?;
        for bucket in buckets.iter().take_while(|bucket| self.keys.is_due(bucket, now)) {
            let keys = self.link.keys("expiry", bucket, false).await?;
            let due = keys.iter().filter_map(|key| self.keys.due_of(key));
            let due: Vec<_> = due.filter(|(at, _)| *at <= now).collect();
            let mut due = due.as_slice();
            while !due.is_empty() {
                let wanted = limit.saturating_sub(removed).min(due.len());
                if wanted == 0 {
                    return Ok(Expired { removed: removed as u64, more: true });
                }
                let (some, rest) = due.split_at(wanted);
                due = rest;
                let steps: Vec<_> = some.iter().map(|(at, id)| Step::Expire { id: *id, at: *at }).collect();
                let outcomes = self.commit(high_water, &steps).await?;
                removed += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
            }
        }
        Ok(Expired { removed: removed as u64, more: false })
    }

    /// Removes lanes of stores that are gone. A watch that sees one go forgets all, and one that is in use comes back.
    async fn forget_old_lanes(&self, mark: u64) -> Result<(), StoreError> {
        let Tree { entries, .. } = self.link.tree("expiry", &self.keys.log(), None).await?;
        for entry in entries.iter().filter(|entry| self.keys.lane_of(&entry.key).is_some()) {
            let time = Entries::decode(&entry.value).map_or(0, |lane| lane.time);
            if time.saturating_add(LANE_STAYS) < mark {
                self.link.delete("expiry", &entry.key, entry.revision).await?;
            }
        }
        Ok(())
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<Page, StoreError> {
        let mut page = Page { name_damaged, limit, ..Page::default() };
        let first = after.as_ref().map(|after| self.keys.shard(after));
        let mut shards = first.clone().map_or(Vec::new(), |shard| vec![shard]);
        // Looking for shards is a walk over all keys, and mostly the one where the last page ended will do.
        let (mut has_looked, mut ids) = (false, Vec::new());
        loop {
            for shard in shards {
                if page.wanted() == 0 {
                    return Ok(page);
                }
                let keys = self.link.keys("a listing", &shard, false).await?;
                let found = keys.iter().filter_map(|key| self.keys.id_of(key));
                ids.extend(found.filter(|id| after.is_none_or(|after| *id > after)));
                while ids.len() >= page.wanted().clamp(1, MOST_OPERATIONS) {
                    self.fill(&mut page, &mut ids).await?;
                }
            }
            while !ids.is_empty() {
                self.fill(&mut page, &mut ids).await?;
            }
            if has_looked || page.wanted() == 0 {
                return Ok(page);
            }
            has_looked = true;
            shards = self.link.keys("a listing", &self.keys.rows(), true).await?;
            shards.retain(|shard| first.as_ref().is_none_or(|first| shard > first));
        }
    }

    /// Reads the first of `ids` into the page; all of them if it is full.
    async fn fill(&self, page: &mut Page, ids: &mut Vec<SessionId>) -> Result<(), StoreError> {
        let count = page.wanted().min(MOST_OPERATIONS).min(ids.len());
        if count == 0 {
            ids.clear();
            return Ok(());
        }
        let some: Vec<_> = ids.drain(..count).collect();
        let found = self.rows("a listing", &some).await?;
        for id in some {
            let Some(entry) = found.get(id.as_bytes()) else { continue };
            match value::decode(&entry.value) {
                Ok(row) => page.rows.push(Listed { id, row }),
                Err(value::Damaged) if page.name_damaged => page.damaged.push(id),
                Err(value::Damaged) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let what = "an owner's rows";
        let keys = self.link.keys(what, &self.keys.owned_by(owner), false).await?;
        let ids: Vec<_> = keys.iter().filter_map(|key| self.keys.owned_of(owner, key)).collect();
        let mut rows = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MOST_OPERATIONS) {
            let mut found = self.rows(what, ids).await?;
            for id in ids {
                // The row decides; a damaged one is found by whoever loads it.
                let row = found.remove(id.as_bytes()).and_then(|entry| value::decode(&entry.value).ok());
                if let Some(row) = row.filter(|row| row.owner.as_deref() == Some(owner)) {
                    rows.push(Listed { id: *id, row });
                }
            }
        }
        Ok(rows)
    }
}
