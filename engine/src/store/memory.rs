//! A store in memory, without files: for tests, for examples and for servers whose sessions may end with the
//! process. It owns the rows and their indexes and nothing else; it never looks into a record.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use self::watch::Listeners;
use super::{Capabilities, Change, Expired, Listed, Outcome, Row, Store, StoreError, StoreErrorKind, Watch};
use crate::sync::{AtomicBool, Ordering, RwLock};
use crate::token::SessionId;

const NAME: &str = "memory";
const MAX_OWNER: usize = 255;

type Key = [u8; 32];

/// A store that keeps its rows in memory.
///
/// A clone is another handle to the same rows. Closing one handle leaves its clones open, so an engine can
/// be closed and another one opened on the same rows. Two engines must not be open on them at once, unless the store is
/// [`shared`](Self::shared).
///
/// # Durability
/// None: the rows live as long as the last handle.
#[derive(Default)]
pub struct MemoryStore {
    tables: Arc<RwLock<Tables>>,
    closed: AtomicBool,
    /// Who is told of changes, if the store is shared.
    listeners: Option<Arc<Listeners>>,
}

#[derive(Default)]
struct Tables {
    rows: BTreeMap<Key, Row>,
    /// One entry a row, at exactly its `expires_at`.
    expiry: BTreeSet<(u64, Key)>,
    owners: BTreeSet<(Box<str>, Key)>,
    quarantine: BTreeMap<Key, Row>,
    high_water: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that several engines may be open on at once, each with a clone, as if they were several machines: for
    /// tests of an app that is to run on more than one.
    #[must_use]
    pub fn shared() -> Self {
        Self { listeners: Some(Arc::default()), ..Self::default() }
    }

    /// Ends all watches, as a lost connection would.
    #[cfg(any(test, feature = "conformance"))]
    pub fn cut_watches(&self) {
        if let Some(listeners) = &self.listeners {
            listeners.cut();
        }
    }

    /// Number of rows, whether or not this handle was closed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.read().rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open(&self) -> Result<&RwLock<Tables>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::new(StoreErrorKind::Closed, NAME, "the store was closed"));
        }
        Ok(&self.tables)
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self {
            tables: Arc::clone(&self.tables),
            closed: AtomicBool::new(false),
            listeners: self.listeners.clone(),
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("rows", &self.tables.read().rows.len()).finish_non_exhaustive()
    }
}

impl Tables {
    fn put(&mut self, id: Key, row: &Row) {
        self.take(&id);
        self.expiry.insert((row.expires_at, id));
        if let Some(owner) = &row.owner {
            self.owners.insert((owner.clone(), id));
        }
        self.rows.insert(id, row.clone());
    }

    fn take(&mut self, id: &Key) -> Option<Row> {
        let row = self.rows.remove(id)?;
        self.expiry.remove(&(row.expires_at, *id));
        if let Some(owner) = &row.owner {
            self.owners.remove(&(owner.clone(), *id));
        }
        Some(row)
    }

    fn apply(&mut self, change: &Change) -> Outcome {
        match change {
            Change::Insert { id, row } => {
                if self.rows.contains_key(id.as_bytes()) {
                    return Outcome::Exists;
                }
                self.put(*id.as_bytes(), row);
            }
            Change::Update { id, expected, row } => match self.rows.get(id.as_bytes()) {
                None => return Outcome::Missing,
                Some(old) if old.version != *expected => return Outcome::Conflict { found: old.version },
                Some(_) => self.put(*id.as_bytes(), row),
            },
            Change::Put { id, row } => self.put(*id.as_bytes(), row),
            Change::Delete { id } => {
                self.take(id.as_bytes());
            }
            Change::Rekey { from, expected, to, row } => {
                if self.rows.contains_key(to.as_bytes()) {
                    return Outcome::Exists;
                }
                match self.rows.get(from.as_bytes()) {
                    None => return Outcome::Missing,
                    Some(old) if expected.is_some_and(|v| v != old.version) => {
                        return Outcome::Conflict { found: old.version };
                    }
                    Some(_) => {}
                }
                self.take(from.as_bytes());
                self.put(*to.as_bytes(), row);
            }
            Change::Quarantine { id } => {
                if let Some(row) = self.take(id.as_bytes()) {
                    self.quarantine.insert(*id.as_bytes(), row);
                }
            }
        }
        Outcome::Done
    }
}

/// Refuses rows that the contract does not allow, before anything is applied.
pub(crate) fn check_rows(
    store: &'static str,
    max_row_bytes: usize,
    changes: &[Change],
) -> Result<(), StoreError> {
    for change in changes {
        let (Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. }) = change
        else {
            continue;
        };
        if row.owner.as_ref().is_some_and(|o| o.len() > MAX_OWNER) {
            return Err(StoreError::new(
                StoreErrorKind::TooLarge,
                store,
                "an owner is longer than 255 bytes",
            ));
        }
        if row.bytes.len() > max_row_bytes {
            return Err(StoreError::new(
                StoreErrorKind::TooLarge,
                store,
                format!("a row of {} bytes is larger than {max_row_bytes}", row.bytes.len()),
            ));
        }
    }
    Ok(())
}

fn listed((id, row): (&Key, &Row)) -> Listed {
    Listed { id: SessionId::from_bytes(*id), row: row.clone() }
}

impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let shared = self.listeners.is_some();
        Capabilities { durable: false, exclusive: !shared, watch: shared, ..Capabilities::full() }
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        Ok(self.open()?.read().high_water)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        Ok(self.open()?.read().rows.get(id.as_bytes()).cloned())
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        check_rows(NAME, usize::MAX, changes)?;
        let mut tables = self.open()?.write();
        tables.high_water = tables.high_water.max(now);
        let outcomes = changes.iter().map(|c| tables.apply(c)).collect();
        if let Some(listeners) = &self.listeners {
            listeners.tell(changes);
        }
        Ok(outcomes)
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        let mut tables = self.open()?.write();
        tables.high_water = tables.high_water.max(high_water);
        let mut expired = Expired::default();
        while let Some(&(at, id)) = tables.expiry.first() {
            if at > now {
                break;
            }
            if expired.removed == limit as u64 {
                expired.more = true;
                break;
            }
            tables.take(&id);
            expired.removed += 1;
        }
        Ok(expired)
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(*id.as_bytes()));
        let tables = self.open()?.read();
        Ok(tables.rows.range((from, Bound::Unbounded)).take(limit).map(listed).collect())
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let tables = self.open()?.read();
        let ids = tables.owners.range((owner.into(), [0; 32])..).take_while(|(o, _)| &**o == owner);
        Ok(ids.filter_map(|(_, id)| tables.rows.get_key_value(id).map(listed)).collect())
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        self.open()?;
        match &self.listeners {
            Some(listeners) => Ok(listeners.add()),
            None => Err(StoreError::new(StoreErrorKind::Unsupported, NAME, "it is not shared")),
        }
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.open()?.read().rows.len() as u64))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
