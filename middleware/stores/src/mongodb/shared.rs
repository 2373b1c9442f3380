//! What the calls that read, sweep and list do with the server. They run on the store's thread, and do not care who still
//! waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection, Cursor};
use sessile_engine::SessionId;
use sessile_engine::store::{Expired, Listed, Row, StoreError};
use tokio::sync::watch as signal;
use tokio::time::sleep;

use super::doc::{self, Head, Page, State};
use super::error;

/// Most rows of one answer, which may be of 15 MiB each.
const MOST_PAGE: usize = 64;
/// Most rows that one request removes.
const MOST_DUE: usize = 512;
/// Commits at the same time raise different marks.
const MARKS: usize = 16;

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) owns_client: bool,
    pub(super) rows: Collection<Document>,
    /// The same rows, read as one that is loaded must be.
    pub(super) exact: Collection<Document>,
    /// Where damaged rows are put aside.
    pub(super) aside: Collection<Document>,
    pub(super) meta: Collection<Document>,
    /// Whether the server tells of changes.
    pub(super) tells: bool,
    pub(super) deadline: Duration,
    /// Ends the watches.
    pub(super) closed: signal::Sender<bool>,
    /// The latest engine time that was heard here.
    pub(super) time: AtomicU64,
    /// The highest mark that this store has raised.
    raised: AtomicU64,
    slot: AtomicUsize,
}

/// Before the next look at something that others are changing.
pub(super) async fn pause(tried: u64) {
    if tried > 0 {
        sleep(Duration::from_millis(tried.min(20))).await;
    }
}

async fn all(cursor: mongodb::error::Result<Cursor<Document>>) -> mongodb::error::Result<Vec<Document>> {
    let (mut cursor, mut docs) = (cursor?, Vec::new());
    while cursor.advance().await? {
        docs.push(cursor.deserialize_current()?);
    }
    Ok(docs)
}

/// A limit is never 0, which would be none.
fn limit_of(n: usize) -> i64 {
    i64::try_from(n.max(1)).unwrap_or(i64::MAX)
}

impl Shared {
    pub(super) fn new(
        client: Client,
        owns_client: bool,
        collections: [Collection<Document>; 4],
        tells: bool,
        deadline: Duration,
    ) -> Self {
        let [rows, exact, aside, meta] = collections;
        let (time, raised, slot) = Default::default();
        let closed = signal::Sender::new(false);
        Self { client, owns_client, rows, exact, aside, meta, tells, deadline, closed, time, raised, slot }
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one.
    pub(super) async fn raise(&self, mark: u64) -> Result<(), StoreError> {
        self.time.fetch_max(mark, Ordering::Relaxed);
        if mark <= self.raised.load(Ordering::Acquire) {
            return Ok(());
        }
        let slot = self.slot.fetch_add(1, Ordering::Relaxed) % MARKS;
        let only = doc! { "_id": format!("mark/{slot:02}") };
        let raise = doc! { "$max": { "time": doc::mark(mark) } };
        for tried in 0.. {
            match self.meta.update_one(only.clone(), raise.clone()).upsert(true).await {
                Ok(_) => break,
                // Somebody else has made it.
                Err(e) if error::has_taken_key(&e) => pause(tried).await,
                Err(e) => return Err(error::of("the high-water mark could not be raised")(e)),
            }
        }
        self.raised.fetch_max(mark, Ordering::AcqRel);
        Ok(())
    }

    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let marks = doc! { "_id": { "$gte": "mark/", "$lt": "mark0" } };
        let marks = all(self.meta.find(marks).max_time(self.deadline).await).await;
        let marks = marks.map_err(error::of("the high-water mark could not be read"))?;
        // A damaged one counts as 0: it is a floor for clocks that went backward.
        let time = |doc: &Document| doc.get_str("time").ok().and_then(|time| time.parse().ok());
        Ok(marks.iter().filter_map(time).max().unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        for tried in 0.. {
            let found = self.exact.find_one(doc! { "_id": doc::key(id) }).max_time(self.deadline).await;
            match found.map_err(error::of("a session could not be loaded"))?.map(doc::state) {
                None | Some(State::Moved(_)) => return Ok(None),
                Some(State::Row(row)) => return Ok(Some(row)),
                Some(State::Damaged) => return Err(error::damaged(id)),
                Some(State::Pending(from)) => {
                    if !self.counts_now(id, &from).await? {
                        return Ok(None);
                    }
                }
            }
            pause(tried).await;
        }
        Ok(None)
    }

    /// What stands under an id, without the row.
    pub(super) async fn head(&self, id: &SessionId) -> Result<Option<Head>, StoreError> {
        let found = self.rows.find_one(doc! { "_id": doc::key(id) }).projection(doc::head_fields());
        let found = found.max_time(self.deadline).await;
        Ok(found.map_err(error::of("a session could not be looked at"))?.as_ref().and_then(doc::head))
    }

    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.raise(high_water).await?;
        self.time.fetch_max(now, Ordering::Relaxed);
        let failed = || error::of("expired sessions could not be removed");
        let mut removed = 0;
        for due in doc::due_by(now) {
            let ticks = doc! { "_id": { "$gte": doc::TICKS.0, "$lt": doc::TICKS.1 }, "due": due.clone() };
            self.rows.delete_many(ticks).await.map_err(failed())?;
            for tried in 0.. {
                let wanted = limit.saturating_sub(removed).min(MOST_DUE);
                let only = doc! { "due": due.clone(), "_id": doc::ids(None) };
                let found = self.rows.find(only).sort(doc! { "due": 1 }).projection(doc::head_fields());
                let found = all(found.limit(limit_of(wanted)).max_time(self.deadline).await).await;
                let found: Vec<_> = found.map_err(failed())?.iter().filter_map(doc::head).collect();
                if found.is_empty() {
                    break;
                }
                if wanted == 0 {
                    return Ok(Expired { removed: removed as u64, more: true });
                }
                let mut gone = Vec::new();
                for head in found {
                    match head {
                        Head { id, to: Some(to), .. } => self.settle(&id, &to).await?,
                        Head { id, from: Some(from), .. } => {
                            // A row that counts is met again at once.
                            if !self.counts_now(&id, &from).await? {
                                let only = doc! { "_id": doc::key(&id), "from": doc::key(&from), "due": due.clone() };
                                self.rows.delete_one(only).await.map_err(failed())?;
                            }
                        }
                        Head { id, .. } => gone.push(doc::key(&id)),
                    }
                }
                let mut rest = tried;
                if !gone.is_empty() {
                    // Those that have got another time meanwhile stay.
                    let mut only = doc! { "_id": { "$in": gone }, "due": due.clone() };
                    only.extend([("to".to_owned(), Bson::Null), ("from".to_owned(), Bson::Null)]);
                    let deleted = self.rows.delete_many(only).await.map_err(failed())?.deleted_count;
                    removed += usize::try_from(deleted).unwrap_or(usize::MAX);
                    rest = if deleted > 0 { 0 } else { tried };
                }
                pause(rest).await;
            }
        }
        Ok(Expired { removed: removed as u64, more: false })
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        mut after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        loop {
            let wanted = limit.saturating_sub(page.rows.len() + page.damaged.len()).min(MOST_PAGE);
            if wanted == 0 {
                return Ok(page);
            }
            let only = doc! { "_id": doc::ids(after.as_ref()), "to": Bson::Null };
            let found = self.rows.find(only).sort(doc! { "_id": 1 }).limit(limit_of(wanted));
            let found = all(found.max_time(self.deadline).await).await;
            let found = found.map_err(error::of("sessions could not be listed"))?;
            let is_last = found.len() < wanted;
            for doc in found {
                let Some(id) = doc.get("_id").and_then(doc::id_of) else { continue };
                after = Some(id);
                match self.row_of(&id, doc).await {
                    Ok(Some(row)) => page.rows.push(Listed { id, row }),
                    Ok(None) => {}
                    Err(e) if e.kind() != sessile_engine::store::StoreErrorKind::Corrupt => return Err(e),
                    Err(_) if name_damaged => page.damaged.push(id),
                    Err(_) => {}
                }
            }
            if is_last {
                return Ok(page);
            }
        }
    }

    async fn row_of(&self, id: &SessionId, doc: Document) -> Result<Option<Row>, StoreError> {
        match doc::state(doc) {
            State::Row(row) => Ok(Some(row)),
            State::Moved(_) => Ok(None),
            State::Damaged => Err(error::damaged(id)),
            State::Pending(_) => self.load(id).await,
        }
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owned = self.rows.find(doc! { "owner": owner }).max_time(self.deadline).await;
        let owned = all(owned).await.map_err(error::of("an owner's sessions could not be listed"))?;
        let mut rows = Vec::with_capacity(owned.len());
        for doc in owned {
            let Some(id) = doc.get("_id").and_then(doc::id_of) else { continue };
            match self.row_of(&id, doc).await {
                Ok(row) => rows.extend(
                    row.filter(|row| row.owner.as_deref() == Some(owner)).map(|row| Listed { id, row }),
                ),
                // Whoever loads it finds it.
                Err(e) if e.kind() == sessile_engine::store::StoreErrorKind::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rows)
    }

    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        let only = doc! { "_id": doc::ids(None), "to": Bson::Null, "from": Bson::Null };
        let count = self.rows.count_documents(only).max_time(self.deadline).await;
        count.map_err(error::of("sessions could not be counted"))
    }

    /// Of these ids those that are signposts, and where they lead.
    pub(super) async fn signposts(&self, ids: Vec<Bson>) -> Result<Vec<(SessionId, SessionId)>, StoreError> {
        let only = doc! { "_id": { "$in": ids }, "to": { "$exists": true } };
        let found = self.rows.find(only).projection(doc::head_fields()).max_time(self.deadline).await;
        let found = all(found).await.map_err(error::of("a session could not be looked at"))?;
        Ok(found.iter().filter_map(doc::head).filter_map(|head| Some((head.id, head.to?))).collect())
    }
}
