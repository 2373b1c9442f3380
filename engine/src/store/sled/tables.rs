//! What a commit and an expiry run do to the tree: they read it, work out one batch and leave applying it to
//! others.
//!
//! The expiry index is lazy. Its one invariant: *every live row has an entry whose time is no later than the
//! row's own `expires_at`.* An update that moves the expiry later leaves the index alone, one that moves it
//! earlier adds an entry, a removal leaves its entry behind. The expiry run meets each entry when it is due
//! and drops it, re-files it at the row's real time, or removes the row.
//!
//! A row that fails its checksum is *damaged*: nothing in it is believed. It counts as present for an insert
//! and as missing for an update or as the source of a rekey; it can be put over, deleted and quarantined; an expiry run
//! that meets it quarantines it. So it never blocks another row, and nothing it says is acted on.

use std::collections::{HashMap, HashSet};

use sled::{Batch, Tree};

use super::format::{self, Key, PIECE, STATE_KEY, State};
use crate::store::row::{self, Damaged};
use crate::store::{Change, Expired, Outcome, Row};

type Result<T> = std::result::Result<T, sled::Error>;

/// What is believed of a row that is about to be replaced.
struct Old {
    version: u64,
    expires_at: u64,
    owner: Option<Box<str>>,
}

/// Changes worked out, and not applied yet. Later changes see the earlier ones.
pub(super) struct Plan<'t> {
    tree: &'t Tree,
    batch: Batch,
    /// Whether there is anything in `batch`.
    writes: bool,
    /// The rows that differ from the tree's: their bytes, or none.
    rows: HashMap<Key, Option<Vec<u8>>>,
    before: State,
    added: u64,
    removed: u64,
}

impl<'t> Plan<'t> {
    pub(super) fn begin(tree: &'t Tree) -> Result<Self> {
        Ok(Self {
            tree,
            batch: Batch::default(),
            writes: false,
            rows: HashMap::new(),
            before: State::read(tree.get(STATE_KEY)?.as_deref()),
            added: 0,
            removed: 0,
        })
    }

    /// The batch to apply; none if nothing changes. Also raises the high-water mark to `high_water`.
    pub(super) fn finish(mut self, high_water: u64) -> Option<Batch> {
        let after = State {
            high_water: self.before.high_water.max(high_water),
            rows: self.before.rows.map(|n| n.saturating_add(self.added).saturating_sub(self.removed)),
        };
        if after != self.before {
            self.insert(STATE_KEY, after.bytes());
        }
        self.writes.then_some(self.batch)
    }

    fn insert(&mut self, key: &[u8], value: Vec<u8>) {
        self.batch.insert(key, value);
        self.writes = true;
    }

    fn delete(&mut self, key: &[u8]) {
        self.batch.remove(key);
        self.writes = true;
    }

    /// Applies `changes` and returns their outcomes.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<Vec<Outcome>> {
        changes.iter().map(|change| self.apply_one(change)).collect()
    }

    fn apply_one(&mut self, change: &Change) -> Result<Outcome> {
        match change {
            Change::Insert { id, row } => {
                if self.raw(id.as_bytes())?.is_some() {
                    return Ok(Outcome::Exists);
                }
                self.put(id.as_bytes(), row, None)?;
            }
            Change::Update { id, expected, row } => {
                let old = self.raw(id.as_bytes())?;
                match old.as_deref().map(|raw| believed(id.as_bytes(), raw)) {
                    Some(Ok(found)) if found.version == *expected => self.put(id.as_bytes(), row, old)?,
                    Some(Ok(found)) => return Ok(Outcome::Conflict { found: found.version }),
                    Some(Err(Damaged)) | None => return Ok(Outcome::Missing),
                }
            }
            Change::Put { id, row } => {
                let old = self.raw(id.as_bytes())?;
                self.put(id.as_bytes(), row, old)?;
            }
            Change::Delete { id } => {
                self.remove(id.as_bytes(), false)?;
            }
            Change::Rekey { from, expected, to, row } => {
                if self.raw(to.as_bytes())?.is_some() {
                    return Ok(Outcome::Exists);
                }
                let old = self.raw(from.as_bytes())?;
                match old.as_deref().map(|raw| believed(from.as_bytes(), raw)) {
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

    /// A row's bytes as they are after the changes so far.
    fn raw(&self, id: &Key) -> Result<Option<Vec<u8>>> {
        match self.rows.get(id) {
            Some(raw) => Ok(raw.clone()),
            None => raw(self.tree, id),
        }
    }

    fn put(&mut self, id: &Key, row: &Row, old: Option<Vec<u8>>) -> Result<()> {
        let mut bytes = Vec::new();
        row::encode(id, row, &mut bytes);
        let found = old.as_deref().map(|raw| believed(id, raw));
        for piece in pieces(bytes.len())..self.behind(id, old.as_deref(), &found)? {
            self.delete(&format::row_key(id, piece));
        }
        self.store(&bytes, |piece| format::row_key(id, piece));
        self.rows.insert(*id, Some(bytes));
        self.added += u64::from(old.is_none());
        let found = found.and_then(std::result::Result::ok);
        if found.as_ref().is_none_or(|old| row.expires_at < old.expires_at) {
            self.due(row.expires_at, id);
        }
        let before = found.and_then(|old| old.owner);
        if before != row.owner {
            if let Some(owner) = before {
                self.delete(&format::owner_key(&owner, id));
            }
            if let Some(owner) = &row.owner {
                self.insert(&format::owner_key(owner, id), Vec::new());
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: &Key, keep_bytes: bool) -> Result<()> {
        let Some(raw) = self.raw(id)? else { return Ok(()) };
        let found = Some(believed(id, &raw));
        for piece in 0..self.behind(id, Some(&raw), &found)? {
            self.delete(&format::row_key(id, piece));
        }
        if keep_bytes {
            // What an earlier quarantine of this id left must not lengthen this one.
            for entry in self.tree.scan_prefix(&format::quarantine_key(id, 0)[..33]) {
                self.delete(&entry?.0);
            }
            self.store(&raw, |piece| format::quarantine_key(id, piece));
        }
        self.rows.insert(*id, None);
        self.removed += 1;
        if let Some(Ok(Old { owner: Some(owner), .. })) = found {
            self.delete(&format::owner_key(&owner, id));
        }
        Ok(())
    }

    fn store(&mut self, bytes: &[u8], key: impl Fn(u16) -> [u8; 35]) {
        for piece in 0..pieces(bytes.len()) {
            let from = usize::from(piece) * PIECE;
            let part = bytes.get(from..bytes.len().min(from + PIECE)).unwrap_or_default();
            self.insert(&key(piece), part.to_vec());
        }
    }

    /// The number behind the last piece that may be stored for `id`. The pieces of a damaged row may not
    /// follow on one another.
    fn behind(
        &self,
        id: &Key,
        raw: Option<&[u8]>,
        found: &Option<std::result::Result<Old, Damaged>>,
    ) -> Result<u16> {
        let known = raw.map_or(0, |raw| pieces(raw.len()));
        if !matches!(found, Some(Err(Damaged))) {
            return Ok(known);
        }
        let last = self.tree.scan_prefix(&format::row_key(id, 0)[..33]).next_back().transpose()?;
        let last = last.and_then(|(key, _)| format::read_row_key(&key)).map_or(0, |(_, piece)| piece);
        Ok(known.max(last.saturating_add(1)))
    }

    fn due(&mut self, at: u64, id: &Key) {
        self.insert(&format::expiry_key(at, id), Vec::new());
    }

    /// Works off up to `limit` due entries of the expiry index, the longest due first.
    pub(super) fn expire(&mut self, now: u64, limit: usize) -> Result<Expired> {
        let mut expired = Expired::default();
        let mut due = Vec::new();
        let range = format::expiry_key(0, &[0; 32])..=format::expiry_key(now, &[0xFF; 32]);
        for entry in self.tree.range(range) {
            if due.len() == limit {
                expired.more = true;
                break;
            }
            due.push(entry?.0);
        }
        let mut seen = HashSet::new();
        for key in due {
            self.delete(&key);
            let Some((_, id)) = format::read_expiry_key(&key) else { continue };
            if !seen.insert(id) {
                continue;
            }
            match self.raw(&id)?.map(|raw| believed(&id, &raw)) {
                None => {}
                Some(Ok(old)) if old.expires_at > now => self.due(old.expires_at, &id),
                Some(Ok(_)) => {
                    self.remove(&id, false)?;
                    expired.removed += 1;
                }
                Some(Err(Damaged)) => self.remove(&id, true)?,
            }
        }
        Ok(expired)
    }
}

/// How many pieces a row of `len` bytes has: the last one is never full, so that a reader knows it.
fn pieces(len: usize) -> u16 {
    u16::try_from(len / PIECE + 1).unwrap_or(u16::MAX)
}

fn believed(id: &Key, raw: &[u8]) -> std::result::Result<Old, Damaged> {
    row::decode(id, raw).map(|r| Old {
        version: r.version,
        expires_at: r.expires_at,
        owner: r.owner.map(Into::into),
    })
}

/// The bytes of a row, as far as its pieces follow on one another.
pub(super) fn raw(tree: &Tree, id: &Key) -> Result<Option<Vec<u8>>> {
    let Some(first) = tree.get(format::row_key(id, 0))? else { return Ok(None) };
    let mut raw = first.to_vec();
    let (mut full, mut piece) = (first.len() == PIECE, 0_u16);
    while full {
        piece = piece.saturating_add(1);
        let Some(next) = tree.get(format::row_key(id, piece))? else { break };
        raw.extend_from_slice(&next);
        full = next.len() == PIECE && piece < u16::MAX;
    }
    Ok(Some(raw))
}
