//! Sessions by id, for adapters that put another library's session API in front of the engine and so bring ids
//! of their own. It edits, publishes and ends entries as the live handle does; it knows no request, no token and
//! no response head, and gives out no live handle.
//!
//! An application uses [`Engine::session`] and [`Session`](crate::Session) instead: with this module nothing is
//! tied to the delivery of a response.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cache::{Edited, Entry, EntryRef, Read};
use crate::clock::{from_ms_saturating, to_ms};
use crate::config::Release;
use crate::core::{Core, Published};
use crate::ending::{Ending, Orphan};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Limits, Record};
use crate::session::Snapshot;
use crate::token::SessionId;
use crate::value::{Encoded, ValueRef};
use crate::writer::{Lifetime, Renewal, RenewalWait, closed};

/// Derives the [`SessionId`] that stands for another library's session secret: SHA-256 over a tag, the
/// adapter's `domain` and the secret, each with its length. No store, log or listing sees the secret.
///
/// The cache uses the first bytes of an id as its hash. That stays safe against chosen collisions as long as
/// `secret` was drawn at random by this process (at least 128 bits) before it is given to [`ById::create`] or
/// [`ById::rename`]: a client can look up any id, but cannot choose one that is put into the table. An adapter
/// must therefore never create a session under a secret that a client presented.
///
/// ```
/// use sessile_engine::by_id::derive_id;
///
/// assert_ne!(derive_id("library a", &[7; 16]), derive_id("library b", &[7; 16]));
/// ```
#[must_use]
pub fn derive_id(domain: &str, secret: &[u8]) -> SessionId {
    let mut hash = Sha256::new();
    hash.update(b"sessile derived id 1");
    for part in [domain.as_bytes(), secret] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    SessionId::from_bytes(hash.finalize().into())
}

/// Access to an engine's sessions by id: see [`Engine::by_id`].
#[derive(Clone, Copy)]
pub struct ById<'a> {
    core: &'a std::sync::Arc<Core>,
}

/// A session found by [`ById::load`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// What it holds.
    pub snapshot: Snapshot,
    /// Its absolute deadline, by the wall clock of this moment.
    pub deadline: SystemTime,
}

impl Engine {
    /// The engine's sessions by id, for adapters of other session libraries.
    #[must_use]
    pub fn by_id(&self) -> ById<'_> {
        ById { core: self.core() }
    }
}

impl ById<'_> {
    /// The session with this id, and notes that it was used. `None` if it is unknown, has ended or has expired.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store cannot tell, [`ErrorKind::Closed`] after the engine was closed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn load(&self, id: &SessionId) -> Result<Option<Loaded>> {
        let Some(entry) = self.find(id).await? else { return Ok(None) };
        let now = self.core.clock.now_ms();
        let Read::Live(record) = entry.read(now) else { return Ok(None) };
        let left = record.deadline().saturating_sub(now);
        let deadline = from_ms_saturating(self.core.clock.wall_ms().saturating_add(left));
        Ok(Some(Loaded { snapshot: Snapshot::new(record), deadline }))
    }

    /// Creates a session under `id`, filled by `fill`, with the engine's lifetime and idle timeout unless `fill`
    /// sets another deadline. Returns `false` and touches nothing if there is a session with this id, or one
    /// that has ended a moment ago.
    ///
    /// # Errors
    /// What `fill` returns; [`ErrorKind::OutOfMemoryBudget`], [`ErrorKind::ReadOnly`], [`ErrorKind::Closed`];
    /// [`ErrorKind::Store`] if the store cannot tell whether the id is taken, or did not take the session where
    /// [`Durability::PowerLoss`](crate::Durability::PowerLoss) asks for it. There is no session then.
    ///
    /// # Cancel safety
    /// If the future is dropped there is no session.
    ///
    /// # Durability
    /// As the engine's [`Durability`](crate::Durability): at `PowerLoss` the session is on the disk when this returns.
    pub async fn create(
        &self,
        id: SessionId,
        fill: impl FnOnce(&mut Draft<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.core.check_writable()?;
        if self.find(&id).await?.is_some() {
            return Ok(false);
        }
        let now = self.core.clock.now_ms();
        let mut meta = self.core.config.fresh_meta(now);
        let mut draft = Draft::new(self.core, Record::empty(&meta));
        fill(&mut draft)?;
        self.core.config.assign(&mut meta, draft.work.has_owner());
        meta.deadline = draft.deadline.unwrap_or(meta.deadline);
        let entry = Entry::unpublished(id, draft.work.with_meta(&meta));
        self.core.make_room(entry.is_owned()).await?;
        match self.core.publish(&entry) {
            Published::InService => {}
            Published::Taken => return Ok(false),
            Published::Over => return Err(crate::cache::revoked()),
        }
        self.core.announce(&entry);
        let orphan = Orphan::new(self.core, entry.clone());
        self.wait_if_asked(&entry).await?;
        orphan.keep();
        Ok(true)
    }

    /// Edits a session in one step: all of what `edit` does to the [`Draft`] takes effect, or nothing if it returns
    /// an error. Returns `None` if there is no such session: an edit never brings one (back) into being.
    ///
    /// `edit` runs without any lock, and runs again if somebody else changed the session meanwhile.
    ///
    /// # Errors
    /// What `edit` returns; [`ErrorKind::ReadOnly`], [`ErrorKind::Closed`]; [`ErrorKind::Store`] if the store
    /// cannot tell whether there is such a session, or did not take the change where [`Durability::PowerLoss`](crate::Durability::PowerLoss)
    /// asks for it. The change stays in memory then and is written when the store works again.
    ///
    /// # Cancel safety
    /// The edit has happened, or it has not.
    ///
    /// # Durability
    /// As the engine's [`Durability`](crate::Durability).
    pub async fn update<R>(
        &self,
        id: &SessionId,
        mut edit: impl FnMut(&mut Draft<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.core.check_writable()?;
        let Some(entry) = self.find(id).await? else { return Ok(None) };
        let (result, changed) = loop {
            let now = self.core.clock.now_ms();
            let Read::Live(base) = entry.read(now) else { return Ok(None) };
            let mut draft = Draft::new(self.core, base.clone());
            let result = edit(&mut draft)?;
            let deadline = draft.deadline.unwrap_or(base.deadline());
            if draft.work.ptr_eq(&base) && deadline == base.deadline() {
                break (result, false);
            }
            let replaced = entry.edit(self.core.follow(), now, Some(&base), |_, mut meta| {
                meta.deadline = deadline;
                if !draft.work.same_owner(&base) {
                    self.core.config.assign(&mut meta, draft.work.has_owner());
                }
                Ok((Some(draft.work.with_meta(&meta)), ()))
            });
            match replaced {
                Ok(Edited::Conflict) => {}
                Ok(Edited::Kept(())) => break (result, false),
                Ok(Edited::Replaced { grown, .. }) => {
                    self.core.cache.resize(grown);
                    self.core.watches.wake(&entry);
                    // The wheel must not look later than the session ends.
                    if deadline < base.deadline()
                        && let Some(at) = entry.expires_at()
                    {
                        self.core.arm(&entry, at);
                    }
                    break (result, true);
                }
                Err(error) if error.is_revoked() => {
                    self.core.expire(&entry, now);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        };
        if changed {
            self.wait_if_asked(&entry).await?;
        }
        Ok(Some(result))
    }

    /// Ends a session for good. Every handle on it sees that before anything is waited for, and no later edit brings
    /// it back. Returns whether this call ended it.
    ///
    /// # Errors
    /// The store's error. The session is dead all the same while the process lives, and its row is deleted as
    /// soon as the store works again.
    ///
    /// # Cancel safety
    /// A session that is in memory ends when this is first polled. Dropping the future later stops the waiting
    /// only; dropped while the session is being read, it has not ended.
    ///
    /// # Durability
    /// The deletion is durable when this returns, at every level; so is one that somebody else began.
    pub async fn destroy(&self, id: &SessionId, ended: impl FnOnce(bool)) -> Result<bool> {
        if self.core.is_closed() {
            return Err(closed());
        }
        let found = self.find(id).await;
        let destroyed = match &found {
            Ok(Some(entry)) => self.core.end(entry, Ending::Destroyed),
            Ok(None) => false,
            // The store cannot tell, so there may be a row.
            Err(_) => {
                self.core.revoke(id);
                false
            }
        };
        ended(destroyed);
        // Without an entry there is no row, and no deletion that could be under way.
        if (destroyed || self.core.cache.get(id).is_some())
            && let Some(queue) = self.core.dirty_queue()
        {
            queue.flush().await?;
        }
        found.map(|_| destroyed)
    }

    /// Moves a session to another id, as a renewal does: there is always a valid row, in one transaction of the
    /// store the old one goes and the new one comes, and everyone who still knows the old id finds nothing there.
    /// The deadline stays. Returns `false` if there is no such session, or if it ended meanwhile.
    ///
    /// # Errors
    /// The store's error. The session goes on under its old id.
    ///
    /// # Cancel safety
    /// If the future is dropped, the session goes on under its old id.
    ///
    /// # Durability
    /// Durable when this returns, at every level.
    pub async fn rename(&self, id: &SessionId, new: SessionId) -> Result<bool> {
        self.core.check_writable()?;
        let Some(old) = self.find(id).await? else { return Ok(false) };
        let renewal = Renewal::new(old, new, Lifetime::Keep);
        let moved = if self.core.store.is_some() {
            RenewalWait::start(self.core.clone(), renewal).await
        } else {
            renewal.run_in_memory(self.core)
        };
        match moved {
            Ok(_) => Ok(true),
            Err(error) if error.is_revoked() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn find(&self, id: &SessionId) -> Result<Option<EntryRef>> {
        if self.core.is_closed() {
            return Err(closed());
        }
        match self.core.find_cached(id, self.core.clock.now_ms()) {
            Some(found) => Ok(found.map(|(entry, _)| entry)),
            None => self.core.load(id, true).await,
        }
    }

    /// Waits for what an answer that reports a change of `entry` must wait for.
    async fn wait_if_asked(&self, entry: &EntryRef) -> Result<()> {
        let done = match self.core.release {
            Release::AtOnce => true,
            Release::Written => self.core.write_now(entry)?,
            Release::Durable => false,
        };
        if done { Ok(()) } else { self.core.queue.flush().await }
    }
}

impl fmt::Debug for ById<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ById")
    }
}

/// The private copy that [`ById::create`] and [`ById::update`] hand to their closure.
pub struct Draft<'a> {
    work: Record,
    deadline: Option<u64>,
    core: &'a Core,
    limits: Limits,
}

impl<'a> Draft<'a> {
    fn new(core: &'a Core, work: Record) -> Self {
        Self { work, deadline: None, core, limits: core.config.limits }
    }

    /// The value under `key`, read in place.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<ValueRef<'_>> {
        self.work.get(key)
    }

    /// All keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ValueRef<'_>)> {
        self.work.iter()
    }

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], [`ErrorKind::Limit`] and [`ErrorKind::Serialize`], as
    /// [`Session::put`](crate::Session::put).
    pub fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        let value = Encoded::of(value).map_err(|e| e.with_key(key))?;
        self.work = self.work.put(&self.work.meta(), key, &value, &self.limits)?;
        Ok(())
    }

    /// Removes `key`. Returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        match self.work.remove(&self.work.meta(), key) {
            Some(new) => {
                self.work = new;
                true
            }
            None => false,
        }
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        if !self.work.is_empty() {
            self.work = self.work.cleared(&self.work.meta());
        }
    }

    /// Assigns the session to an owner, or to nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] for an owner of more than 255 bytes, [`ErrorKind::InvalidKey`] for an empty one.
    pub fn set_owner(&mut self, owner: Option<&str>) -> Result<()> {
        if self.work.owner() != owner {
            self.work = self.work.with_owner(&self.work.meta(), owner, &self.limits)?;
        }
        Ok(())
    }

    /// Sets the absolute deadline, given by the wall clock of this moment. A session whose deadline has passed
    /// is expired. If the wall clock was stepped since the engine was opened, the time that is left counts.
    pub fn set_deadline(&mut self, at: SystemTime) {
        let (wall, now) = (self.core.clock.wall_ms(), self.core.clock.now_ms());
        let at = to_ms(at);
        self.deadline =
            Some(if at >= wall { now.saturating_add(at - wall) } else { now.saturating_sub(wall - at) });
    }
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Draft").field(&self.work).finish()
    }
}

/// An error for a closure that only tries its edit, to be returned at its end: nothing takes effect.
#[must_use]
pub fn not_now() -> Error {
    Error::new(ErrorKind::Serialize, "the edit was only tried")
}
