//! Moves all rows from one store to another. It reads with `list` and writes with `commit` only, so it works between
//! any two stores; it knows nothing of how either keeps its rows, and it never changes the source.
//!
//! # Moving a server to another store
//! A store belongs to one engine, so a move ends with a restart. What can be long, the copying, happens before it, while
//! the old engine serves:
//!
//! 1. Open the engine over a shared handle: `let old = Arc::new(RedbStore::open(path)?)`, then
//!    `Engine::builder().open(Arc::clone(&old))`.
//! 2. While it serves, [`copy`] from `&*old` to the new store. Rows that change behind the copy are caught later.
//! 3. Close the engine. From here on nobody is served.
//! 4. Open the old store again and [`copy`] once more with [`CopyOptions::mirror`]: it reads both stores, writes only
//!    what differs, and deletes what is gone. After it the target holds exactly the rows of the source.
//! 5. Open the engine on the new store.
//!
//! Without step 2 the same calls make a plain offline move. Steps 2 and 4 can be cancelled and repeated at any point;
//! only the step of the row under way is done again. The old store stays as it was.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sessile_engine::Engine;
//! use sessile_engine::store::MemoryStore;
//! use sessile_engine::store::convert::{CopyOptions, copy};
//!
//! # pollster::block_on(async {
//! // In place of two stores that keep something.
//! let (old, new) = (Arc::new(MemoryStore::new()), MemoryStore::new());
//! let rows = MemoryStore::clone(&old);
//! let engine = Engine::builder().open(Arc::clone(&old))?;
//! let session = engine.session(None).await?;
//! session.put("user", "ann")?;
//! session.commit().await?;
//! engine.flush().await?;
//!
//! copy(&*old, &new, CopyOptions::new()).await?;
//! engine.close().await?;
//! let done = copy(&rows, &new, CopyOptions::new().mirror()).await?;
//! assert_eq!((done.rows, done.written, done.damaged), (1, 0, 0));
//! let engine = Engine::builder().open(new)?;
//! # engine.close().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

use std::collections::VecDeque;

use super::{Change, DynStore, Listed, Outcome, StoreError, StoreErrorKind};
use crate::token::SessionId;

/// How [`copy`] goes about it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct CopyOptions {
    batch: usize,
    mirror: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { batch: 1024, mirror: false }
    }
}

impl CopyOptions {
    /// 1,024 rows at a time; rows that only the target has stay.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows are read and committed at a time. Default: 1,024; 0 counts as 1. Two batches are in memory.
    pub fn batch(mut self, rows: usize) -> Self {
        self.batch = rows.max(1);
        self
    }

    /// Also deletes the rows that only the target has, so that it equals the source. Nobody may change the source
    /// meanwhile. Default: they stay.
    pub fn mirror(mut self) -> Self {
        self.mirror = true;
        self
    }
}

/// What a [`copy`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Copied {
    /// Rows of the source that the target now has.
    pub rows: u64,
    /// Those of them that were written, and read back; the others were equal already.
    pub written: u64,
    /// Rows deleted from the target, because the source does not have them.
    pub deleted: u64,
    /// Rows that the source counts and does not list, because they are damaged. They are left out. 0 if the source
    /// cannot count. A source that is in use while it is copied may count new rows as damaged ones.
    pub damaged: u64,
}

/// The rows of a store in order of their ids, a page at a time.
struct Walk<'s, S: ?Sized> {
    store: &'s S,
    limit: usize,
    page: VecDeque<Listed>,
    last: Option<SessionId>,
    ended: bool,
}

impl<'s, S: DynStore + ?Sized> Walk<'s, S> {
    fn new(store: &'s S, limit: usize) -> Self {
        Self { store, limit, page: VecDeque::new(), last: None, ended: false }
    }

    /// The id of the next row; none at the end.
    async fn peek(&mut self) -> Result<Option<SessionId>, StoreError> {
        if self.page.is_empty() && !self.ended {
            let page = self.store.list(self.last, self.limit).await?;
            if let (Some(last), Some(first)) = (self.last, page.first())
                && first.id <= last
            {
                return Err(error(
                    StoreErrorKind::Corrupt,
                    self.store.name(),
                    "a listing does not go on behind the row it was told",
                ));
            }
            self.ended = page.is_empty();
            self.last = page.last().map(|row| row.id).or(self.last);
            self.page = page.into();
        }
        Ok(self.page.front().map(|row| row.id))
    }

    fn take(&mut self) -> Option<Listed> {
        self.page.pop_front()
    }
}

fn error(kind: StoreErrorKind, store: &'static str, what: &'static str) -> StoreError {
    StoreError::new(kind, store, what)
}

/// Copies all rows of `from` to `to`, with version, expiry, owner and bytes, and the high-water mark.
///
/// Rows that `to` has already are not written again, whatever the reason they are there; so a copy that was cut short
/// goes on where it ended when it is called again, at the price of reading. Rows that differ are replaced. Every written
/// row is read back and compared.
///
/// # Errors
/// [`Unsupported`](StoreErrorKind::Unsupported) if one of the stores cannot list;
/// [`Config`](StoreErrorKind::Config) if `to` is not [exclusive](super::Capabilities::exclusive);
/// [`Corrupt`](StoreErrorKind::Corrupt) if a row read back differs, or after a mirror if the target counts rows that it
/// neither lists nor should have (damaged ones); and whatever the stores fail with. What was committed before stays.
///
/// # Cancel safety
/// Safe to drop, like an error: the rows committed so far stay.
///
/// # Durability
/// When it returns, the rows are as durable as `to` makes a commit.
///
/// # Complexity
/// Reads all rows of both stores once, and once more what it writes.
pub async fn copy<F, T>(from: &F, to: &T, options: CopyOptions) -> Result<Copied, StoreError>
where
    F: DynStore + ?Sized,
    T: DynStore + ?Sized,
{
    for (can, store) in [(from.capabilities().list, from.name()), (to.capabilities().list, to.name())] {
        if !can {
            return Err(error(
                StoreErrorKind::Unsupported,
                store,
                "a store that cannot list cannot be converted",
            ));
        }
    }
    if !to.capabilities().exclusive {
        return Err(error(
            StoreErrorKind::Config,
            to.name(),
            "rows are copied only into a store that nobody else writes to",
        ));
    }
    let high_water = from.high_water().await?;
    let mut copied = Copied::default();
    let mut source = Walk::new(from, options.batch);
    let mut target = Walk::new(to, options.batch);
    let (mut differing, mut gone) = (Vec::new(), Vec::new());
    loop {
        if differing.len() + gone.len() >= options.batch {
            write(to, high_water, &mut differing, &mut gone, &mut copied).await?;
        }
        let (new, old) = (source.peek().await?, target.peek().await?);
        // Both are in order of ids, so what one has before the other, the other does not have.
        match (new, old) {
            (None, None) => break,
            (None, Some(old)) => {
                target.take();
                gone.extend(options.mirror.then_some(old));
            }
            (Some(new), Some(old)) if old < new => {
                target.take();
                gone.extend(options.mirror.then_some(old));
            }
            (Some(new), old) => {
                let there = if old == Some(new) { target.take() } else { None };
                let Some(row) = source.take() else { continue };
                copied.rows += 1;
                if there.as_ref() != Some(&row) {
                    differing.push(row);
                }
            }
        }
        if new.is_none() && !options.mirror {
            target.ended = true;
            target.page.clear();
        }
    }
    write(to, high_water, &mut differing, &mut gone, &mut copied).await?;
    // Also when no row was written.
    let _none = to.commit(high_water, &[]).await?;
    if let Some(counted) = from.count().await? {
        copied.damaged = counted.saturating_sub(copied.rows);
    }
    if options.mirror
        && let Some(counted) = to.count().await?
        && counted != copied.rows
    {
        return Err(error(
            StoreErrorKind::Corrupt,
            to.name(),
            "the target does not count the rows that it was given: it holds damaged ones of its own",
        ));
    }
    Ok(copied)
}

/// Commits, reads back and forgets one batch.
async fn write<T: DynStore + ?Sized>(
    to: &T,
    high_water: u64,
    rows: &mut Vec<Listed>,
    gone: &mut Vec<SessionId>,
    copied: &mut Copied,
) -> Result<(), StoreError> {
    let puts = rows.iter().map(|new| Change::Put { id: new.id, row: new.row.clone() });
    let changes: Vec<Change> = puts.chain(gone.iter().map(|id| Change::Delete { id: *id })).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let outcomes = to.commit(high_water, &changes).await?;
    if outcomes.len() != changes.len() || outcomes.iter().any(|outcome| *outcome != Outcome::Done) {
        return Err(error(StoreErrorKind::Corrupt, to.name(), "the target did not take a row"));
    }
    for new in rows.drain(..) {
        if to.load(&new.id).await?.as_ref() != Some(&new.row) {
            return Err(error(StoreErrorKind::Corrupt, to.name(), "a row was read back as another"));
        }
        copied.written += 1;
    }
    for id in gone.drain(..) {
        if to.load(&id).await?.is_some() {
            return Err(error(StoreErrorKind::Corrupt, to.name(), "a deleted row was read back"));
        }
        copied.deleted += 1;
    }
    Ok(())
}
