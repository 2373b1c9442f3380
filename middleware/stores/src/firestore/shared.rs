//! What each call does with the service. It runs on the store's thread, and does not care who still waits.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Expired, Listed, Outcome, Row, StoreError, StoreErrorKind};
use tokio::time::sleep;

use super::doc::{self, Document, MARKS, Names};
use super::error;
use super::link::{Committed, Link};
use super::plan::{self, MOST_READS};

const LAYOUT: i64 = 1;
/// Most rows of one answer, which may be of 1 MiB each.
const MOST_PAGE: usize = 100;
/// Most rows that one commit of a sweep removes.
const MOST_DUE: usize = 300;
/// How often a commit is sent that the service aborts.
const MOST_ABORTED: u32 = 8;

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    names: Names,
    /// The highest mark that this store has raised.
    raised: AtomicU64,
    slot: AtomicUsize,
}

/// A page of a listing.
#[derive(Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Listed>,
    pub(super) damaged: Vec<SessionId>,
}

/// How often a commit was not made, and what follows for the next attempt.
struct Attempts {
    /// Most changes of one commit: fewer where others are at the same rows.
    width: usize,
    stale: u64,
    aborted: u32,
}

impl Attempts {
    fn new() -> Self {
        Self { width: usize::MAX, stale: 0, aborted: 0 }
    }

    /// Whether it was made. If not, it is to be looked at and sent again, after a pause.
    async fn has_made(
        &mut self,
        committed: Committed,
        count: usize,
        slot: usize,
    ) -> Result<bool, StoreError> {
        match committed {
            Committed::Done => {
                *self = Self::new();
                return Ok(true);
            }
            Committed::Stale => {
                self.stale += 1;
                // Somebody else was faster, so somebody has made progress.
                if self.stale > 3 {
                    sleep(Duration::from_millis(self.stale.min(20))).await;
                }
            }
            Committed::Contended(e) => {
                self.aborted += 1;
                if self.aborted >= MOST_ABORTED {
                    return Err(e);
                }
                // Not in step with who is in our way.
                let uneven = 5 + slot as u64 % 7;
                sleep(Duration::from_millis(uneven << self.aborted.min(6))).await;
            }
            Committed::TooLarge(e) if count <= 1 => return Err(e),
            Committed::TooLarge(_) => {}
        }
        self.width = count.div_ceil(2).max(1);
        Ok(false)
    }
}

impl Shared {
    pub(super) fn new(link: Link, names: Names) -> Self {
        // Engines begin with different marks.
        let slot = RandomState::new().build_hasher().finish() as usize;
        Self { link, names, raised: AtomicU64::new(0), slot: AtomicUsize::new(slot) }
    }

    fn slot(&self) -> usize {
        self.slot.fetch_add(1, Ordering::Relaxed)
    }

    /// Says what version of the layout the documents have, unless that is said already.
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let what = "making the layout";
        let fields = [("version".to_owned(), doc::integer(LAYOUT))].into_iter().collect();
        let layout = [doc::create(self.names.layout(), fields)];
        let mut attempts = Attempts::new();
        loop {
            let committed = self.link.commit(what, &layout).await?;
            if matches!(committed, Committed::Stale) {
                // It is there; or nothing is, in which case the database is missing, and reading says so.
                return self.link.get(what, &[self.names.layout()]).await.map(drop);
            }
            if attempts.has_made(committed, 1, self.slot()).await? {
                return Ok(());
            }
        }
    }

    /// Checks that the rows are ours to read.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let found = self.link.get("opening", &[self.names.layout()]).await?;
        let Some(layout) = found.first() else {
            return Err(error::own(StoreErrorKind::Config, "its documents are not there; see `migrate`"));
        };
        match doc::integer_of(layout.fields.get("version")) {
            Some(LAYOUT) => Ok(()),
            Some(newer) if newer > LAYOUT => Err(error::own(
                StoreErrorKind::NewerFormat,
                format!("its documents are of version {newer}; this release knows {LAYOUT}"),
            )),
            _ => Err(error::own(StoreErrorKind::Foreign, "its documents are not those of sessile")),
        }
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one.
    async fn raise(&self, mark: u64) -> Result<(), StoreError> {
        let mut attempts = Attempts::new();
        while mark > self.raised.load(Ordering::Acquire) {
            let slot = self.slot();
            let committed = self.link.commit("the high-water mark", &[self.names.raise(slot, mark)]).await?;
            if attempts.has_made(committed, 1, slot).await? {
                self.raised.fetch_max(mark, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let marks: Vec<_> = (0..MARKS).map(|slot| self.names.mark(slot)).collect();
        let found = self.link.get("the high-water mark", &marks).await?;
        Ok(found.iter().map(|mark| doc::mark_of(&mark.fields)).max().unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let found = self.link.get("loading a row", &[self.names.row(id)]).await?;
        let row = found.first().map(|document| doc::row(&document.fields)).transpose();
        row.map_err(|doc::Damaged| error::damaged(id))
    }

    /// The documents of these ids.
    async fn rows(&self, ids: &[SessionId]) -> Result<HashMap<[u8; 32], Document>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let names: Vec<_> = ids.iter().map(|id| self.names.row(id)).collect();
        let found = self.link.get("a commit", &names).await?;
        let of = |document: Document| Some((*self.names.id_of(&document.name)?.as_bytes(), document));
        Ok(found.into_iter().filter_map(of).collect())
    }

    /// Does all changes in order, as many of them in one commit of the service as fit.
    pub(super) async fn commit(&self, mark: u64, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        let steps: Vec<_> = changes.into_iter().map(plan::Step::Change).collect();
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut attempts = Attempts::new();
        // Who adds rows knows that there are none; if there are, the service says so, and they are looked at.
        let mut is_trusted = true;
        while let Some(left) = steps.get(outcomes.len()..).filter(|left| !left.is_empty()) {
            let left = left.get(..attempts.width).unwrap_or(left);
            let ids = plan::ids_of(left, MOST_READS);
            let new: HashSet<_> = if is_trusted { plan::new_ids(left) } else { HashSet::new() };
            let looked_at: Vec<_> = ids.iter().filter(|id| !new.contains(id.as_bytes())).copied().collect();
            let found = self.rows(&looked_at).await?;
            let mut plan = plan::new();
            for id in &ids {
                plan::found(&mut plan, id, found.get(id.as_bytes()));
            }
            let taken: Vec<_> = left.iter().map_while(|step| plan.take(step)).collect();
            if taken.is_empty() {
                return Err(error::unexpected("a commit"));
            }
            let slot = self.slot();
            let mut writes = plan::writes(&self.names, mark, &plan, &found);
            if mark > self.raised.load(Ordering::Acquire) {
                writes.push(self.names.raise(slot, mark));
            }
            if !writes.is_empty() {
                let committed = self.link.commit("a commit", &writes).await?;
                is_trusted &= !matches!(committed, Committed::Stale);
                if !attempts.has_made(committed, taken.len(), slot).await? {
                    continue;
                }
                self.raised.fetch_max(mark, Ordering::AcqRel);
            }
            outcomes.extend(taken);
            is_trusted = true;
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
        let (mut removed, mut attempts) = (0, Attempts::new());
        loop {
            let wanted = limit.saturating_sub(removed).min(MOST_DUE).min(attempts.width);
            // One more: is there any behind?
            let mut found = self.link.query("expiry", &self.names.due_by(now, wanted + 1)).await?;
            let more = found.len() > wanted;
            found.truncate(wanted);
            if found.is_empty() {
                return Ok(Expired { removed: removed as u64, more });
            }
            // Those that have got another time meanwhile stay.
            let writes: Vec<_> =
                found.iter().map(|document| doc::remove(&document.name, &document.update_time)).collect();
            let committed = self.link.commit("expiry", &writes).await?;
            if attempts.has_made(committed, found.len(), self.slot()).await? {
                removed += found.len();
                if !more {
                    return Ok(Expired { removed: removed as u64, more });
                }
            }
        }
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut after = after.map(|id| self.names.row(&id));
        loop {
            let wanted = limit.saturating_sub(page.rows.len() + page.damaged.len()).min(MOST_PAGE);
            if wanted == 0 {
                return Ok(page);
            }
            let query = self.names.page(None, after.as_deref(), wanted);
            let found = self.link.query("a listing", &query).await?;
            let is_last = found.len() < wanted;
            for document in found {
                if let Some(id) = self.names.id_of(&document.name) {
                    match doc::row(&document.fields) {
                        Ok(row) => page.rows.push(Listed { id, row }),
                        Err(doc::Damaged) if name_damaged => page.damaged.push(id),
                        Err(doc::Damaged) => {}
                    }
                }
                after = Some(document.name);
            }
            if is_last {
                return Ok(page);
            }
        }
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let query = self.names.page(Some(owner), after.as_deref(), MOST_PAGE);
            let found = self.link.query("an owner's rows", &query).await?;
            let is_last = found.len() < MOST_PAGE;
            for document in found {
                // A damaged one is found by whoever loads it.
                let row = doc::row(&document.fields).ok().filter(|row| row.owner.as_deref() == Some(owner));
                let listed = self.names.id_of(&document.name).zip(row);
                rows.extend(listed.map(|(id, row)| Listed { id, row }));
                after = Some(document.name);
            }
            if is_last {
                return Ok(rows);
            }
        }
    }

    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        self.link.count("a count", &self.names.count()).await
    }
}
