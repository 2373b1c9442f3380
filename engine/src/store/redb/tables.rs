//! What a commit and an expiry run do to the tables, inside a write transaction that others begin and end.
//!
//! The expiry index is lazy. Its one invariant: *every live row has an entry whose time is no later than the
//! row's own `expires_at`.* An update that moves the expiry later leaves the index alone, one that moves it
//! earlier adds an entry, a removal leaves its entry behind. The expiry run meets each entry when it is due
//! and drops it, re-files it at the row's real time, or removes the row.
//!
//! A row that fails its checksum is *damaged*: nothing in it is believed. It counts as present for an insert
//! and as missing for an update or as the source of a rekey; it can be put over, deleted and quarantined; an expiry run
//! that meets it quarantines it. So it never blocks another row, and nothing it says is acted on.

use std::collections::{BTreeMap, HashSet};

use redb::{ReadableTable, Table, WriteTransaction};

use super::format::{EXPIRY, Key, OWNERS, QUARANTINE, SESSIONS};
use crate::store::row::{self, Damaged};
use crate::store::{Change, Expired, Outcome, Row};

type Result<T> = std::result::Result<T, redb::Error>;

/// What is believed of a row that is about to be replaced.
struct Old {
    version: u64,
    expires_at: u64,
    owner: Option<Box<str>>,
}

/// A run of changes, with the index changes it leads to.
struct Batch<'tx> {
    sessions: Table<'tx, &'static Key, &'static [u8]>,
    quarantine: Option<Table<'tx, &'static Key, &'static [u8]>>,
    tx: &'tx WriteTransaction,
    /// Entries to add to the expiry index.
    due: Vec<(u64, Key)>,
    /// Owner entries to add (true) or remove (false).
    owners: BTreeMap<(Box<str>, Key), bool>,
    buffer: Vec<u8>,
}

/// Applies `changes` and returns their outcomes.
pub(super) fn apply(tx: &WriteTransaction, changes: &[Change]) -> Result<Vec<Outcome>> {
    let mut batch = Batch::begin(tx)?;
    let mut outcomes = vec![Outcome::Done; changes.len()];
    for index in order(changes) {
        if let (Some(change), Some(outcome)) = (changes.get(index), outcomes.get_mut(index)) {
            *outcome = batch.apply(change)?;
        }
    }
    batch.finish()?;
    Ok(outcomes)
}

/// The ids a change touches.
fn ids(change: &Change) -> (&Key, Option<&Key>) {
    match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => (id.as_bytes(), None),
        Change::Rekey { from, to, .. } => (from.as_bytes(), Some(to.as_bytes())),
    }
}

/// The order to work in: by id, so that rows of one page are written together, as long as nobody can tell.
/// Changes of one id keep their order; a rekey ties two ids together, so it may move only if no other change
/// touches either.
fn order(changes: &[Change]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..changes.len()).collect();
    let rekeys = changes.iter().any(|c| ids(c).1.is_some());
    let mut seen = HashSet::new();
    let movable =
        !rekeys || changes.iter().map(ids).all(|(a, b)| seen.insert(a) && b.is_none_or(|b| seen.insert(b)));
    if movable {
        order.sort_by_key(|&i| changes.get(i).map(|c| ids(c).0));
    }
    order
}

impl<'tx> Batch<'tx> {
    fn begin(tx: &'tx WriteTransaction) -> Result<Self> {
        Ok(Self {
            sessions: tx.open_table(SESSIONS)?,
            quarantine: None,
            tx,
            due: Vec::new(),
            owners: BTreeMap::new(),
            buffer: Vec::new(),
        })
    }

    fn apply(&mut self, change: &Change) -> Result<Outcome> {
        match change {
            Change::Insert { id, row } => {
                if self.sessions.get(id.as_bytes())?.is_some() {
                    return Ok(Outcome::Exists);
                }
                self.put(id.as_bytes(), row, None)?;
            }
            Change::Update { id, expected, row } => match self.look(id.as_bytes())? {
                Some(Ok(old)) if old.version == *expected => self.put(id.as_bytes(), row, Some(old))?,
                Some(Ok(old)) => return Ok(Outcome::Conflict { found: old.version }),
                Some(Err(Damaged)) | None => return Ok(Outcome::Missing),
            },
            Change::Put { id, row } => {
                let old = self.look(id.as_bytes())?.and_then(std::result::Result::ok);
                self.put(id.as_bytes(), row, old)?;
            }
            Change::Delete { id } => {
                self.remove(id.as_bytes(), false)?;
            }
            Change::Rekey { from, expected, to, row } => {
                if self.sessions.get(to.as_bytes())?.is_some() {
                    return Ok(Outcome::Exists);
                }
                match self.look(from.as_bytes())? {
                    Some(Ok(old)) if expected.is_some_and(|v| v != old.version) => {
                        return Ok(Outcome::Conflict { found: old.version });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(Damaged)) | None => return Ok(Outcome::Missing),
                }
                self.remove(from.as_bytes(), false)?;
                self.put(to.as_bytes(), row, None)?;
            }
            Change::Quarantine { id } => {
                self.remove(id.as_bytes(), true)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn look(&self, id: &Key) -> Result<Option<std::result::Result<Old, Damaged>>> {
        Ok(self.sessions.get(id)?.map(|raw| believed(id, raw.value())))
    }

    fn put(&mut self, id: &Key, row: &Row, old: Option<Old>) -> Result<()> {
        row::encode(id, row, &mut self.buffer);
        self.sessions.insert(id, &*self.buffer)?;
        if old.as_ref().is_none_or(|old| row.expires_at < old.expires_at) {
            self.due.push((row.expires_at, *id));
        }
        let before = old.and_then(|old| old.owner);
        if before != row.owner {
            self.owned(before, id, false);
            self.owned(row.owner.clone(), id, true);
        }
        Ok(())
    }

    fn remove(&mut self, id: &Key, keep_bytes: bool) -> Result<()> {
        let Some(raw) = self.sessions.remove(id)? else { return Ok(()) };
        let old = believed(id, raw.value());
        if keep_bytes {
            let quarantine = match &mut self.quarantine {
                Some(table) => table,
                none => none.insert(self.tx.open_table(QUARANTINE)?),
            };
            quarantine.insert(id, raw.value())?;
        }
        drop(raw);
        self.owned(old.ok().and_then(|old| old.owner), id, false);
        Ok(())
    }

    fn owned(&mut self, owner: Option<Box<str>>, id: &Key, add: bool) {
        if let Some(owner) = owner {
            self.owners.insert((owner, *id), add);
        }
    }

    /// Brings the indexes up to date, each in its own order.
    fn finish(mut self) -> Result<()> {
        if !self.due.is_empty() {
            self.due.sort_unstable();
            let mut expiry = self.tx.open_table(EXPIRY)?;
            for (at, id) in &self.due {
                expiry.insert((*at, id), ())?;
            }
        }
        if !self.owners.is_empty() {
            let mut owners = self.tx.open_table(OWNERS)?;
            for ((owner, id), add) in &self.owners {
                if *add {
                    owners.insert((&**owner, id), ())?;
                } else {
                    owners.remove((&**owner, id))?;
                }
            }
        }
        Ok(())
    }
}

fn believed(id: &Key, raw: &[u8]) -> std::result::Result<Old, Damaged> {
    row::decode(id, raw).map(|r| Old {
        version: r.version,
        expires_at: r.expires_at,
        owner: r.owner.map(Into::into),
    })
}

/// Works off up to `limit` due entries of the expiry index, the longest due first.
pub(super) fn expire(tx: &WriteTransaction, now: u64, limit: usize) -> Result<Expired> {
    let mut expired = Expired::default();
    let mut due: Vec<(u64, Key)> = Vec::new();
    {
        let expiry = tx.open_table(EXPIRY)?;
        for entry in expiry.range(..=(now, &[0xFF; 32]))? {
            let (at, id) = {
                let (key, ()) = {
                    let (k, v) = entry?;
                    (k, v.value())
                };
                let (at, id) = key.value();
                (at, *id)
            };
            if due.len() == limit {
                expired.more = true;
                break;
            }
            due.push((at, id));
        }
    }
    if due.is_empty() {
        return Ok(expired);
    }
    {
        let mut expiry = tx.open_table(EXPIRY)?;
        for (at, id) in &due {
            expiry.remove((*at, id))?;
        }
    }
    due.sort_unstable_by_key(|(_, id)| *id);
    due.dedup_by_key(|(_, id)| *id);
    let mut batch = Batch::begin(tx)?;
    for (_, id) in &due {
        match batch.look(id)? {
            None => {}
            Some(Ok(old)) if old.expires_at > now => batch.due.push((old.expires_at, *id)),
            Some(Ok(_)) => {
                batch.remove(id, false)?;
                expired.removed += 1;
            }
            Some(Err(Damaged)) => batch.remove(id, true)?,
        }
    }
    batch.finish()?;
    Ok(expired)
}
