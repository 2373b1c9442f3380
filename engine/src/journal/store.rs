//! The journal as a [`Store`]: answering from the generations or the store behind, and commits that check what is there.
//! It appends and syncs by the log alone, and decides nothing about checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::frame;
use super::index::{Generation, Place, State, owner_hash, shard_of};
use super::log::{Generations, Seen};
use super::{Journaled, NAME, read};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::memory::check_rows;
use crate::store::{Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store};
use crate::sync::Ordering;
use crate::token::SessionId;

/// Where the newest state of a session is.
enum Found {
    Row(Place, Arc<Generation>),
    Gone,
    /// In the store, if anywhere.
    Unknown,
}

impl Journaled {
    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::new(StoreErrorKind::Closed, NAME, "the store was closed"));
        }
        Ok(())
    }

    fn find(&self, generations: &Generations, id: &SessionId) -> Found {
        let in_frozen = || generations.frozen.as_ref().and_then(|g| Some((g.get(id)?, g)));
        match generations.current.get(id).map(|s| (s, &generations.current)).or_else(in_frozen) {
            Some((State::Row(place), generation)) => Found::Row(place, Arc::clone(generation)),
            Some((State::Deleted | State::Quarantined, _)) => Found::Gone,
            None => Found::Unknown,
        }
    }

    /// The row of `id` in the journal. `Ok(None)` if only the store knows.
    fn look(&self, generations: &Generations, id: &SessionId) -> Result<Option<Option<Row>>, StoreError> {
        match self.find(generations, id) {
            Found::Row(place, generation) => read(&generation, id, place).map(|row| Some(Some(row))),
            Found::Gone => Ok(Some(None)),
            Found::Unknown => Ok(None),
        }
    }

    /// Ids and states of the journal behind `after`, in order, at least `limit` of them if there are that many.
    fn ids_after(&self, generations: &Generations, after: Option<SessionId>, limit: usize) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> = Vec::new();
        let mut shard = after.as_ref().map_or(0, shard_of);
        while ids.len() < limit {
            let Some(mut items) = generations.current.shard_in_order(shard) else { break };
            if let Some(frozen) = &generations.frozen {
                items.extend(frozen.shard_in_order(shard).unwrap_or_default());
                items.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
                items.dedup_by(|a, b| a.0 == b.0);
            }
            ids.extend(
                items
                    .into_iter()
                    .map(|(id, _)| id)
                    .filter(|id| after.is_none_or(|after| id.as_bytes() > after.as_bytes())),
            );
            shard += 1;
        }
        ids
    }

    /// What becomes of each change, given the rows that are there and the changes before it.
    pub(super) async fn outcomes(&self, changes: &[Change]) -> Result<Checked, StoreError> {
        let generations = self.log.generations();
        let mut versions: HashMap<SessionId, Option<u64>> = HashMap::new();
        let mut seen = Seen { current: Arc::clone(&generations.current), states: Vec::new() };
        for change in changes {
            for id in ids_of(change) {
                if versions.contains_key(&id) {
                    continue;
                }
                // First, so that a change between the two is noticed.
                seen.states.push((id, generations.current.get(&id)));
                let row = match self.look(&generations, &id) {
                    Ok(Some(row)) => Ok(row),
                    Ok(None) => self.inner.load(&id).await,
                    Err(e) => Err(e),
                };
                let version = match row {
                    Ok(row) => row.map(|r| r.version),
                    // Present for an insert, missing for an update, as in every store: no version is this one.
                    Err(e) if e.kind() == StoreErrorKind::Corrupt => Some(u64::MAX),
                    Err(e) => return Err(e),
                };
                versions.insert(id, version);
            }
        }
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut accepted = Vec::with_capacity(changes.len());
        for change in changes {
            let at = |id: &SessionId| versions.get(id).copied().flatten();
            let outcome = match change {
                Change::Insert { id, .. } if at(id).is_some() => Outcome::Exists,
                Change::Update { id, expected, .. } => match at(id) {
                    None | Some(u64::MAX) => Outcome::Missing,
                    Some(found) if found != *expected => Outcome::Conflict { found },
                    Some(_) => Outcome::Done,
                },
                Change::Rekey { to, .. } if at(to).is_some() => Outcome::Exists,
                Change::Rekey { from, expected, .. } => match (at(from), expected) {
                    (None | Some(u64::MAX), _) => Outcome::Missing,
                    (Some(found), Some(wanted)) if found != *wanted => Outcome::Conflict { found },
                    _ => Outcome::Done,
                },
                _ => Outcome::Done,
            };
            if outcome == Outcome::Done {
                match change {
                    Change::Insert { id, row } | Change::Update { id, row, .. } | Change::Put { id, row } => {
                        versions.insert(*id, Some(row.version));
                    }
                    Change::Delete { id } | Change::Quarantine { id } => {
                        versions.insert(*id, None);
                    }
                    Change::Rekey { from, to, row, .. } => {
                        versions.insert(*from, None);
                        versions.insert(*to, Some(row.version));
                    }
                }
                accepted.push(change.clone());
            }
            outcomes.push(outcome);
        }
        Ok(Checked { outcomes, accepted, seen })
    }
}

/// What becomes of changes, given what was seen.
pub(super) struct Checked {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) accepted: Vec<Change>,
    pub(super) seen: Seen,
}

fn ids_of(change: &Change) -> impl Iterator<Item = SessionId> {
    let (a, b) = match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => (*id, None),
        Change::Rekey { from, to, .. } => (*from, Some(*to)),
    };
    std::iter::once(a).chain(b)
}

impl Store for Journaled {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        Capabilities {
            durable: true,
            atomic_rekey: true,
            max_row_bytes: inner.max_row_bytes.min(frame::MAX_ROW - 512),
            ..inner
        }
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.check_open()?;
        Ok(self.inner.high_water().await?.max(self.log.now()))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.check_open()?;
        match self.look(&self.log.generations(), id)? {
            Some(row) => Ok(row),
            None => self.inner.load(id).await,
        }
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.check_open()?;
        check_rows(NAME, Store::capabilities(self).max_row_bytes, changes)?;
        self.log.note_time(now);
        self.checkpoints.wait_for_room()?;
        // Who does not check may write meanwhile; then what was found is out of date.
        let outcomes = loop {
            let checked = self.outcomes(changes).await?;
            if self.log.append_if(&checked.accepted, Some(&checked.seen))? {
                break checked.outcomes;
            }
        };
        let synced = self.log.sync();
        self.checkpoints.look();
        synced.map(|()| outcomes)
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.check_open()?;
        self.log.note_time(high_water);
        // The store's own index of times decides, so it must know the newest rows.
        self.checkpoint()?;
        self.inner.expire(now, high_water, limit).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.check_open()?;
        let mut rows: Vec<Listed> = Vec::new();
        let mut after = after;
        loop {
            let generations = self.log.generations();
            let wanted = limit - rows.len();
            let stored = self.inner.list(after, wanted).await?;
            // Up to where both are known.
            let to = if stored.len() < wanted { None } else { stored.last().map(|l| l.id) };
            let within = |id: &SessionId| to.is_none_or(|to| id.as_bytes() <= to.as_bytes());
            // What the store says first, so that a change meanwhile is found in the journal and overrules it.
            let mut page: BTreeMap<[u8; 32], Row> =
                stored.into_iter().map(|l| (*l.id.as_bytes(), l.row)).collect();
            let ids = self.ids_after(&generations, after, wanted);
            let known = ids.last().copied().filter(|_| ids.len() >= wanted);
            for id in ids.iter().filter(|id| within(id)) {
                match self.look(&generations, id) {
                    Ok(Some(Some(row))) => drop(page.insert(*id.as_bytes(), row)),
                    Ok(Some(None)) => drop(page.remove(id.as_bytes())),
                    Ok(None) => {}
                    Err(e) if e.kind() == StoreErrorKind::Corrupt => drop(page.remove(id.as_bytes())),
                    Err(e) => return Err(e),
                }
            }
            page.retain(|id, _| known.is_none_or(|known| id <= known.as_bytes()));
            let page = page.into_iter().map(|(id, row)| Listed { id: SessionId::from_bytes(id), row });
            rows.extend(page.take(wanted));
            // Where the next round begins: everything up to there has been looked at.
            let next = match (to, known) {
                (None, None) => return Ok(rows),
                (Some(a), Some(b)) => {
                    if a.as_bytes() < b.as_bytes() {
                        a
                    } else {
                        b
                    }
                }
                (Some(a), None) | (None, Some(a)) => a,
            };
            if rows.len() >= limit {
                return Ok(rows);
            }
            after = Some(next);
        }
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.check_open()?;
        let generations = self.log.generations();
        let stored = self.inner.scan(after, limit).await?;
        // What is damaged has no row. A damaged row that the next checkpoint replaces or removes is not missed.
        let mut page: BTreeMap<[u8; 32], Option<Row>> =
            stored.rows.into_iter().map(|l| (*l.id.as_bytes(), Some(l.row))).collect();
        page.extend(stored.damaged.into_iter().map(|id| (*id.as_bytes(), None)));
        let ids = self.ids_after(&generations, after, limit);
        // Up to where both are known.
        let known = ids.last().copied().filter(|_| ids.len() >= limit);
        let ends = [stored.last, known].into_iter().flatten();
        let mut last = ends.min_by_key(|id| *id.as_bytes());
        for id in ids {
            match self.look(&generations, &id) {
                Ok(Some(Some(row))) => drop(page.insert(*id.as_bytes(), Some(row))),
                Ok(Some(None)) => drop(page.remove(id.as_bytes())),
                Ok(None) => {}
                Err(e) if e.kind() == StoreErrorKind::Corrupt => drop(page.insert(*id.as_bytes(), None)),
                Err(e) => return Err(e),
            }
        }
        page.retain(|id, _| last.is_none_or(|last| id <= last.as_bytes()));
        if page.len() > limit
            && let Some(end) = limit.checked_sub(1).and_then(|n| page.keys().nth(n)).copied()
        {
            page.retain(|id, _| *id <= end);
            last = Some(SessionId::from_bytes(end));
        }
        let mut found = Scanned { last, ..Scanned::default() };
        for (id, row) in page {
            let id = SessionId::from_bytes(id);
            match row {
                Some(row) => found.rows.push(Listed { id, row }),
                None => found.damaged.push(id),
            }
        }
        Ok(found)
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.check_open()?;
        let generations = self.log.generations();
        let mut rows: BTreeMap<[u8; 32], Row> =
            self.inner.list_owner(owner).await?.into_iter().map(|l| (*l.id.as_bytes(), l.row)).collect();
        // Rows that the journal overrules, under whatever owner.
        rows.retain(|id, _| matches!(self.find(&generations, &SessionId::from_bytes(*id)), Found::Unknown));
        let hash = owner_hash(Some(owner));
        let mut ids = generations.current.of_owner(hash);
        ids.extend(generations.frozen.iter().flat_map(|g| g.of_owner(hash)));
        for id in ids {
            match self.look(&generations, &id) {
                Ok(Some(Some(row))) if row.owner.as_deref() == Some(owner) => {
                    rows.insert(*id.as_bytes(), row);
                }
                Ok(Some(_)) => drop(rows.remove(id.as_bytes())),
                Ok(None) => {}
                Err(e) if e.kind() == StoreErrorKind::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rows.into_iter().map(|(id, row)| Listed { id: SessionId::from_bytes(id), row }).collect())
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.check_open()?;
        let generations = self.log.generations();
        if generations.current.is_empty() && generations.frozen.as_ref().is_none_or(|g| g.is_empty()) {
            return self.inner.count().await;
        }
        // Whether the store has a row of each id in the journal is not known without asking it for every one.
        Ok(None)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if self.log.process.is_fork() {
            // All of it is the other process's.
            self.log.stop();
            return self.inner.close().await;
        }
        self.join();
        // What cannot be handed on now is handed on by the next start.
        let handed_on = match self.log.broken() {
            None => self.checkpoint(),
            Some(_) => Ok(()),
        };
        let ended = match &handed_on {
            Ok(()) => self.log.end(),
            Err(_) => self.log.sync(),
        };
        self.log.stop();
        if let Err(error) = &handed_on {
            tracing::warn!(target: "sessile", %error, "sessions stay in the journal until the next start");
        }
        let closed = self.inner.close().await;
        self.log.release();
        ended.and(closed)
    }
}
