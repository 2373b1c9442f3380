//! Sessions by owner: listing them and ending them, wherever they are. It owns the order in which memory and
//! store are asked so that none is missed; what is in a session, and when a login may count, is decided elsewhere.
//!
//! # Why nothing is missed
//! The cache is the truth, the store's row of a session that is not cached is its newest state. A session that
//! belongs to the owner throughout a call is, when the call begins,
//! - cached: then the [`Walk`] has it among its members, dirty or not (members are exact, see [`index`]); or
//! - not cached: then its row has the right owner. Rows are read *after* the members, and while the owner
//!   stays the same, the row does not lose it, whatever is loaded, changed, written or evicted meanwhile.
//!
//! If it is evicted between the two, it was clean, and the row is found all the same. What a row says counts only
//! if the session is still not cached and the removal counter of its id has not moved since before the rows were
//! read; else it is looked at again ([`Core::peek`]).
//!
//! A renewal changes the id under way. In the store that happens before it happens in memory: rows under such
//! an id ([`Moving`]) stand for the old entry. In memory it is one step under the old entry's lock, which also tells
//! the walk. A call ends only after a look at the moves that brings nothing new, and starts again if a renewal was
//! undone in the store meanwhile ([`Moving::undone`]).

mod index;
mod info;
mod limit;
mod moving;

use std::collections::BTreeMap;

pub(crate) use self::index::{MEMBER_BYTES, OwnerIndex, Walk};
pub use self::info::SessionInfo;
pub(crate) use self::info::{CLIENT_KEY, Client};
pub(crate) use self::limit::Gates;
pub use self::limit::OwnerLimit;
pub(crate) use self::moving::Moving;
use crate::cache::{EntryRef, Phase, Read};
use crate::core::{Core, stored_idle_end};
use crate::ending::Ending;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::observer::RevokedBy;
use crate::record::Record;
use crate::store::{DynStore, Listed, Row};
use crate::token::SessionId;
use crate::writer::{Queue, closed};

/// What must learn of a change of an entry, under the entry's lock.
#[derive(Clone, Copy)]
pub(crate) struct Follow<'a> {
    /// The queue, if there is a store to write to.
    pub(crate) queue: Option<&'a Queue>,
    pub(crate) owners: &'a OwnerIndex,
}

/// A session found by its owner or id.
pub(crate) struct Seen {
    pub(crate) id: SessionId,
    pub(crate) record: Record,
    pub(crate) last_seen: u64,
    /// Its entry, if it is cached.
    entry: Option<EntryRef>,
}

/// What memory knows of an id.
enum Known {
    /// Its entry, gone or not.
    Here(EntryRef),
    /// Its row belongs to this entry.
    Ghost(EntryRef),
    /// Nothing: the row is the truth, if nothing has left the cache since it was read.
    Elsewhere,
}

/// Tries at a row that keeps changing while it is read.
pub(crate) const TRIES: usize = 64;

impl Core {
    pub(crate) fn follow(&self) -> Follow<'_> {
        Follow { queue: self.dirty_queue(), owners: &self.cache.owners }
    }

    /// What memory knows of `id`. The renewals are asked first: one that ends between the two questions has put
    /// its new entry into the map by then.
    fn know(&self, id: &SessionId) -> Known {
        let moving = self.moving.get(id);
        match (self.cache.peek(id), moving) {
            (Some(entry), _) => Known::Here(entry),
            (None, Some(old)) => Known::Ghost(old),
            (None, None) => Known::Elsewhere,
        }
    }

    /// Whether the row of `id`, if there is one, is a session of its own.
    pub(crate) fn is_elsewhere(&self, id: &SessionId) -> bool {
        matches!(self.know(id), Known::Elsewhere)
    }

    /// `entry` as it is now, if it is in service.
    pub(crate) fn seen(&self, entry: &EntryRef) -> Option<Seen> {
        let Read::Live(record) = entry.read(self.clock.now_ms()) else { return None };
        (entry.phase() != Phase::Unpublished).then(|| Seen {
            id: *entry.id(),
            record,
            last_seen: entry.last_seen(),
            entry: Some(entry.clone()),
        })
    }

    /// The session in `row`, if it has not expired and is not damaged.
    fn seen_row(&self, id: &SessionId, row: &Row) -> Result<Option<Seen>> {
        let record = match self.open_row(id, row) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        };
        let now = self.clock.now_ms();
        let over = now >= record.deadline() || now >= stored_idle_end(&record);
        Ok((!over).then(|| Seen { id: *id, last_seen: record.last_seen(), record, entry: None }))
    }

    /// A row of a listing that began when the removal counter of its id was `seen`.
    pub(crate) async fn settle(&self, listed: &Listed, seen: u32) -> Result<Option<Seen>> {
        match self.know(&listed.id) {
            Known::Here(entry) => {
                self.take_listed(&entry, &listed.row);
                Ok(self.seen(&entry))
            }
            Known::Ghost(old) => Ok(self.seen(&old)),
            Known::Elsewhere if self.cache.removals(&listed.id) == seen => {
                self.seen_row(&listed.id, &listed.row)
            }
            Known::Elsewhere => self.peek(&listed.id).await,
        }
    }

    /// The session under `id`, without using it or bringing it into the cache.
    pub(crate) async fn peek(&self, id: &SessionId) -> Result<Option<Seen>> {
        for _ in 0..TRIES {
            let seen = self.cache.removals(id);
            match self.know(id) {
                Known::Here(entry) => return Ok(self.seen(&entry)),
                Known::Ghost(_) => return Ok(None),
                Known::Elsewhere => {}
            }
            let Some(row) = self.row_of(id).await? else { return Ok(None) };
            if matches!(self.know(id), Known::Elsewhere) && self.cache.removals(id) == seen {
                return self.seen_row(id, &row);
            }
        }
        Err(self.keeps_changing())
    }

    async fn row_of(&self, id: &SessionId) -> Result<Option<Row>> {
        let Some(store) = &self.store else { return Ok(None) };
        match store.load(id).await {
            Ok(row) => Ok(row),
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                self.quarantine(id, &error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn keeps_changing(&self) -> Error {
        let store = self.store.as_ref().map_or("memory", |s| s.name());
        StoreError::new(StoreErrorKind::Unavailable, store, "the row keeps changing while it is read").into()
    }

    /// All sessions of `owner`, sorted by id.
    pub(crate) async fn census(&self, owner: &str) -> Result<Vec<Seen>> {
        for _ in 0..TRIES {
            let undone = self.moving.undone();
            let found = self.census_once(owner).await?;
            if self.moving.undone() == undone {
                return Ok(found);
            }
        }
        Err(self.keeps_changing())
    }

    async fn census_once(&self, owner: &str) -> Result<Vec<Seen>> {
        let belongs = |seen: &Seen| seen.record.owner() == Some(owner);
        let mut walk = self.cache.owners.walk(owner);
        let mut found = BTreeMap::new();
        for &member in &walk.members {
            if let Some(seen) = self.cache.member(member).and_then(|e| self.seen(&e)).filter(belongs) {
                found.insert(seen.id, seen);
            }
        }
        if let Some(store) = &self.store {
            let removals = self.cache.all_removals();
            let rows = rows_of(store.as_ref(), owner).await?;
            if self.shared.is_some() {
                // What is stored here but not there any more was ended by others.
                let listed: std::collections::BTreeSet<_> = rows.iter().map(|listed| listed.id).collect();
                found.retain(|id, seen: &mut Seen| {
                    listed.contains(id) || seen.entry.as_ref().is_none_or(|entry| !entry.is_clean())
                });
            }
            for listed in rows {
                if found.contains_key(&listed.id) {
                    continue;
                }
                if let Some(seen) = self.settle(&listed, removals.of(&listed.id)).await?.filter(belongs) {
                    found.insert(seen.id, seen);
                }
            }
        }
        loop {
            // Asked under the entry's lock, so that whoever has gone by renewal is among the moves.
            found.retain(|_, seen| seen.entry.as_ref().is_none_or(|e| e.expires_at().is_some()));
            let moves = walk.moves();
            if moves.is_empty() {
                return Ok(found.into_values().collect());
            }
            for (from, to) in moves {
                found.remove(&from);
                if let Some(seen) = self.peek(&to).await?.filter(belongs) {
                    found.insert(to, seen);
                }
            }
        }
    }

    /// Ends all sessions of `owner` but `except`, wherever they move meanwhile. Returns how many.
    async fn end_all(&self, owner: &str, except: Option<&SessionId>) -> Result<usize> {
        let mut purge = Purge {
            core: self,
            owner,
            by: RevokedBy::Owner,
            walk: self.cache.owners.walk(owner),
            spared: except.copied().into_iter().collect(),
            moved: Vec::new(),
            ended: 0,
        };
        for member in std::mem::take(&mut purge.walk.members) {
            if let Some(entry) = self.cache.member(member) {
                purge.end(&entry);
            }
        }
        for _ in 0..TRIES {
            let undone = self.moving.undone();
            if let Some(store) = &self.store {
                let removals = self.cache.all_removals();
                let now = self.clock.now_ms();
                for listed in rows_of(store.as_ref(), owner).await? {
                    if now < listed.row.expires_at {
                        purge.end_id(&listed.id, Some(removals.of(&listed.id))).await?;
                    }
                }
            }
            loop {
                purge.absorb();
                if purge.moved.is_empty() {
                    break;
                }
                for to in std::mem::take(&mut purge.moved) {
                    purge.end_id(&to, None).await?;
                }
            }
            if self.moving.undone() == undone {
                return Ok(purge.ended);
            }
        }
        Err(self.keeps_changing())
    }

    /// Ends `seen` if it still belongs to `owner`. A renewal that overtakes this is met by the next census.
    async fn end_seen(&self, seen: &Seen, owner: &str, by: RevokedBy) -> Result<()> {
        let mut purge = Purge {
            core: self,
            owner,
            by,
            walk: self.cache.owners.walk(owner),
            spared: Vec::new(),
            moved: Vec::new(),
            ended: 0,
        };
        purge.end_id(&seen.id, None).await
    }

    /// Whether a login beyond the limit fails.
    pub(crate) fn owner_limit_refuses(&self) -> bool {
        matches!(self.config.owner_limit, Some((_, OwnerLimit::Refuse)))
    }

    /// Makes room for one more session of `owner` beside `own`, if the limit of sessions per owner allows.
    /// Returns whether sessions were ended for it. The caller holds the owner's gate, so that nobody else
    /// comes in between this and what the caller does next.
    pub(crate) async fn admit(&self, owner: &str, own: Option<SessionId>) -> Result<bool> {
        let Some((limit, policy)) = self.config.owner_limit else { return Ok(false) };
        let mut dropped = false;
        loop {
            let mut others = self.census(owner).await?;
            let all = others.len();
            others.retain(|seen| Some(seen.id) != own);
            if others.len() < limit {
                return Ok(dropped);
            }
            match policy {
                // Whoever is in already takes no place from anybody.
                OwnerLimit::Refuse if others.len() < all => return Ok(false),
                OwnerLimit::Refuse => {
                    return Err(Error::new(
                        ErrorKind::OwnerLimit,
                        format!("the owner has {} sessions, the limit is {limit}", others.len()),
                    ));
                }
                OwnerLimit::DropOldest => {
                    let excess = others.len() + 1 - limit;
                    others.sort_by_key(|seen| {
                        let meta = seen.record.meta();
                        (meta.authenticated_at, meta.created_at, seen.id)
                    });
                    for seen in others.iter().take(excess) {
                        self.end_seen(seen, owner, RevokedBy::OwnerLimit).await?;
                    }
                    dropped = true;
                }
            }
        }
    }
}

async fn rows_of(store: &dyn DynStore, owner: &str) -> Result<Vec<Listed>> {
    Ok(store.list_owner(owner).await?)
}

/// The ending of one owner's sessions.
struct Purge<'a> {
    core: &'a Core,
    owner: &'a str,
    by: RevokedBy,
    walk: Walk<'a>,
    /// Ids to leave alone, and what they have moved to.
    spared: Vec<SessionId>,
    /// Ids that sessions have moved to and that have not been looked at.
    moved: Vec<SessionId>,
    ended: usize,
}

impl Purge<'_> {
    /// Takes notice of renewals.
    fn absorb(&mut self) {
        for (from, to) in self.walk.moves() {
            if self.spared.contains(&from) {
                self.spared.push(to);
            } else {
                self.moved.push(to);
            }
        }
    }

    /// Ends `entry` if it belongs to the owner, as its own lock tells. One whose time has come is not ended by this.
    fn end(&mut self, entry: &EntryRef) {
        self.core.expire(entry, self.core.clock.now_ms());
        if !self.spared.contains(entry.id())
            && self.core.end_if(entry, Ending::Revoked(self.by), |r| r.owner() == Some(self.owner))
        {
            self.ended += 1;
        }
    }

    /// Ends the session under `id`. `listed` is the removal counter from before a listing that showed its row as
    /// the owner's.
    async fn end_id(&mut self, id: &SessionId, mut listed: Option<u32>) -> Result<()> {
        for _ in 0..TRIES {
            let known = self.core.know(id);
            // After the question: whatever had moved by then is known to be spared, or to be looked at.
            self.absorb();
            if self.spared.contains(id) {
                return Ok(());
            }
            match known {
                Known::Here(entry) => {
                    self.end(&entry);
                    return Ok(());
                }
                // If it is gone by now it has moved, and the move is, or will be, absorbed.
                Known::Ghost(old) => {
                    self.end(&old);
                    return Ok(());
                }
                Known::Elsewhere => {}
            }
            let seen = match listed.take() {
                Some(seen) => seen,
                None => {
                    let seen = self.core.cache.removals(id);
                    match self.core.row_of(id).await? {
                        Some(row) if row.owner.as_deref() == Some(self.owner) => seen,
                        _ if matches!(self.core.know(id), Known::Elsewhere)
                            && self.core.cache.removals(id) == seen =>
                        {
                            return Ok(());
                        }
                        _ => continue,
                    }
                }
            };
            if self.core.bury(id, Some(seen), self.by) {
                self.ended += 1;
                return Ok(());
            }
        }
        Err(self.core.keeps_changing())
    }
}

impl Engine {
    /// All sessions of `owner`, sorted by id: for a page that shows somebody where they are logged in.
    ///
    /// A session that belongs to the owner throughout the call is listed, once; one that ended, expired or got
    /// another owner before it is not. Sessions that have not been published yet are not listed. Looking at
    /// a session is no use of it, and brings nothing into the cache.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store cannot be asked (never a partial list), [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// # Complexity
    /// O(sessions of that owner).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// let session = engine.session(None).await?;
    /// session.login("user:42").await?;
    /// session.set_client_info(Some("Firefox on Linux"), None)?;
    /// session.commit().await?;
    ///
    /// let sessions = engine.sessions_of("user:42").await?;
    /// assert_eq!(sessions.len(), 1);
    /// assert_eq!(Some(sessions[0].id), session.id());
    /// assert_eq!(sessions[0].user_agent.as_deref(), Some("Firefox on Linux"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn sessions_of(&self, owner: &str) -> Result<Vec<SessionInfo>> {
        let core = self.core();
        if core.is_closed() {
            return Err(closed());
        }
        Ok(core.census(owner).await?.iter().map(SessionInfo::of).collect())
    }

    /// Ends all sessions of `owner`, except one: "log out everywhere (else)".
    ///
    /// A session that belonged to the owner when the call began is dead on every handle when it returns, unless
    /// it was given to another owner meanwhile: also if it was renewed under way, by whomever, since it is followed
    /// to its new id. `except` is followed in the same way. A session that gets the owner, or is published, while the
    /// call is under way may or may not be ended. Returns how many were ended by this call.
    ///
    /// # Errors
    /// The store's error. If it could not be asked for the owner's sessions, those in memory are dead and others
    /// may not be; if the deletions could not be written, all are dead while the process lives, and the rows
    /// are deleted as soon as the store works again. Calling again is right in both cases.
    ///
    /// # Cancel safety
    /// If the future is dropped, some of the sessions may have been ended and others not.
    ///
    /// # Durability
    /// Durable when it returns, at every level.
    ///
    /// # Complexity
    /// O(sessions of that owner).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # session.login("user:42").await?;
    /// # session.commit().await?;
    /// // The user changed the password: all other sessions end.
    /// let ended = engine.destroy_all("user:42", session.id().as_ref()).await?;
    /// assert_eq!(ended, 0);
    /// assert!(!session.is_revoked());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    #[doc(alias = "revoke_all")]
    pub async fn destroy_all(&self, owner: &str, except: Option<&SessionId>) -> Result<usize> {
        let core = self.core();
        if core.is_closed() {
            return Err(closed());
        }
        let ended = core.end_all(owner, except).await?;
        self.flush().await?;
        Ok(ended)
    }
}
