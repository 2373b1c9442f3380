//! The live handle of a session: what a request sees. It owns the state of one request (a session not yet
//! published, a renewal not yet delivered) and turns calls into edits of the shared entry; it takes no shard
//! lock, and runs nothing of the caller's under any lock.
//!
//! Lock order: the handle's slot, then the entry, then the queue.

mod commit;
mod current;
mod fields;
mod flash;
mod handover;
mod key;
mod life;
mod lifetime;
mod login;
mod merge;
mod pool;
mod rotate;
mod slot;
mod snapshot;
mod stand_in;
mod stored;
mod transaction;
mod typed;
mod view;
mod watch;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::commit::{Commit, Delivery, Issue};
pub use self::flash::{Flash, Level, ParseLevelError};
pub use self::key::{Namespace, SessionKey, View};
use self::merge::Claim;
pub use self::merge::{Conflicts, Merged};
use self::slot::{Slot, SlotCell};
pub use self::snapshot::Snapshot;
pub(crate) use self::stand_in::damaged;
pub use self::transaction::Transaction;
pub use self::watch::{Changed, Ended, Revoked};
use crate::cache::{Edited, Entry, EntryRef, Read, Seen};
use crate::core::Core;
use crate::engine::Lane;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Look, Meta, Record};
use crate::token::Token;
use crate::value::{Encoded, ValueRef, decode};

/// What a request has done to its session so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing that needs to be stored or told to the client.
    Unmodified,
    /// Something was written, or a renewal was asked for.
    Modified,
    /// The session was destroyed.
    Destroyed,
}

/// A live session handle.
///
/// One is made per request by [`Engine::session`](crate::Engine::session); clones share it, and may be used from
/// other tasks and threads, also after the response head is out. Operations happen when they are called,
/// linearizably with those of every other handle on the same session. Reads and writes are synchronous
/// and never wait for the store.
///
/// When the session ends (destroyed, renewed or revoked by somebody else, expired), reads give nothing
/// and writes give [`ErrorKind::Revoked`], at once and for ever.
#[derive(Clone)]
pub struct Session {
    /// Present until the handle is dropped.
    unit: Option<triomphe::Arc<Unit>>,
}

/// The state of one request.
struct Unit {
    /// Present while in use; the pool keeps units without one.
    lane: Option<Arc<Lane>>,
    slot: SlotCell,
}

/// What was found under a key.
enum Found {
    Absent,
    Scalar(ValueRef<'static>),
    At(Record, usize),
}

/// What an edit makes of a record: the new one, if it changed anything, and the caller's result.
type Change<R> = Result<(Option<Record>, R)>;

impl Session {
    pub(crate) fn begin(lane: Arc<Lane>, entry: Option<EntryRef>, token: Option<Token>) -> Self {
        Self { unit: Some(pool::take(lane, entry, None, token)) }
    }

    /// A handle for `entry`, of which `seen` has just been seen.
    #[inline]
    pub(crate) fn begin_seen(lane: Arc<Lane>, entry: EntryRef, seen: Seen, token: Token) -> Self {
        Self { unit: Some(pool::take(lane, Some(entry), Some(seen), Some(token))) }
    }

    /// An empty handle for a client whose session has ended, with the store perhaps not told yet.
    pub(crate) fn begin_after_end(lane: Arc<Lane>) -> Self {
        let session = Self::begin(lane, None, None);
        session.unit().slot.lock().ending = true;
        session
    }

    /// A handle for administration: there is no client to deliver anything to.
    pub(crate) fn of_nobody(lane: Arc<Lane>, entry: EntryRef) -> Self {
        let session = Self::begin(lane, Some(entry), None);
        session.unit().slot.close();
        session
    }

    #[expect(clippy::expect_used, reason = "only `drop` takes it")]
    fn unit(&self) -> &Unit {
        self.unit.as_deref().expect("present until the handle is dropped")
    }

    #[expect(clippy::expect_used, reason = "only the pool's units have none")]
    fn core(&self) -> &Arc<Core> {
        self.unit().lane.as_ref().expect("present while in use").core()
    }

    /// The current record, if the session is in service.
    fn record(&self) -> Option<Record> {
        self.peek(Record::clone)
    }

    /// What `look` sees of the current record. It may run under the entry's lock, so it is engine code.
    #[inline]
    fn peek<R>(&self, look: impl Fn(&Record) -> R) -> Option<R> {
        let now = self.core().clock.now_ms();
        if let Some(record) = self.unit().slot.current(now) {
            return Some(look(record));
        }
        self.peek_locked(now, look)
    }

    /// The same under the entry's lock.
    fn peek_locked<R>(&self, now: u64, look: impl Fn(&Record) -> R) -> Option<R> {
        let entry;
        if let Some(first) = self.unit().slot.unmoved() {
            match first?.peek(now, &look) {
                Read::Live(seen) => return Some(seen),
                Read::Gone | Read::Due => entry = first?.clone(),
            }
        } else {
            entry = self.unit().slot.lock().entry.clone()?;
            if let Read::Live(seen) = entry.peek(now, &look) {
                return Some(seen);
            }
        }
        self.core().record_elsewhere(&entry, now).as_ref().map(look)
    }

    /// The entry to write to, created if there is none.
    fn entry_for_write(&self, slot: &mut Slot, now: u64) -> Result<EntryRef> {
        if let Some(entry) = &slot.entry {
            return Ok(entry.clone());
        }
        if slot.head_sent {
            slot.check_loaded()?;
            return Err(Error::new(
                ErrorKind::HeadSent,
                "the first write to a session must come before the response head, which carries its token",
            ));
        }
        let core = self.core();
        let token = Token::generate()?;
        let entry = Entry::unpublished(token.id(), Record::empty(&core.config.fresh_meta(now)));
        slot.token = Some(token);
        slot.entry = Some(entry.clone());
        Ok(entry)
    }

    /// Applies `edit` to the session's record under its lock. With `create`, an empty session comes into being.
    /// `None` if there is no session, or if the record is no longer `expected`.
    fn edit<R>(
        &self,
        create: bool,
        expected: Option<&Record>,
        edit: impl FnOnce(&Record, Meta) -> Change<R>,
    ) -> Result<Option<R>> {
        self.edit_entry(create, expected, |_, record, meta| edit(record, meta))
    }

    /// As [`edit`](Self::edit), for edits that depend on the entry's phase.
    fn edit_entry<R>(
        &self,
        create: bool,
        expected: Option<&Record>,
        edit: impl FnOnce(&EntryRef, &Record, Meta) -> Change<R>,
    ) -> Result<Option<R>> {
        let core = self.core();
        core.check_writable()?;
        let now = core.clock.now_ms();
        if let Some(Some(entry)) = self.unit().slot.unmoved() {
            let done = core.edit_wherever(entry, now, expected, edit);
            if matches!(done, Ok((Edited::Replaced { .. }, _))) {
                self.unit().slot.note_modified();
            }
            return self.edited(entry, true, done);
        }
        let mut slot = self.unit().slot.lock();
        let had_entry = slot.entry.is_some();
        if !had_entry && !create {
            slot.check_loaded()?;
            return Ok(None);
        }
        let entry = self.entry_for_write(&mut slot, now)?;
        let done = core.edit_wherever(&entry, now, expected, edit);
        if matches!(done, Ok((Edited::Replaced { .. }, _))) {
            slot.modified = true;
        } else if !had_entry {
            // Nothing was written, so nothing has begun: the session stays as empty as it was.
            slot.entry = None;
            slot.token = None;
        }
        drop(slot);
        self.edited(&entry, had_entry, done)
    }

    /// What follows from an edit of `entry`, under no lock. `existed` says that the handle stood for it before.
    fn edited<R>(
        &self,
        entry: &EntryRef,
        existed: bool,
        done: Result<(Edited<R>, Option<EntryRef>)>,
    ) -> Result<Option<R>> {
        let core = self.core();
        match done {
            Ok((Edited::Kept(value), _)) => Ok(Some(value)),
            Ok((Edited::Replaced { value, grown, _old }, next)) => {
                core.cache.resize(grown);
                core.watches.wake(next.as_ref().unwrap_or(entry));
                Ok(Some(value))
            }
            Ok((Edited::Conflict, _)) => Ok(None),
            Err(error) => {
                if existed && error.is_revoked() {
                    core.expire(entry, core.clock.now_ms());
                } else {
                    core.note_limit(&error, existed.then(|| entry.id()));
                }
                Err(error)
            }
        }
    }

    // ---- data ----

    /// The value under `key`, or `None` if there is none or the session is gone.
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`], naming key, wanted and found type, if the value is not a `T`.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("visits", &3)?;
    /// assert_eq!(session.get::<u32>("visits")?, Some(3));
    /// assert_eq!(session.get::<u32>("nothing")?, None);
    /// assert!(session.get::<String>("visits").is_err());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        // Decoding is the caller's code, so it runs without the lock. From the record that the handle came with, in
        // place; else a scalar is copied out, and for anything else the record is held on to.
        let now = self.core().clock.now_ms();
        if let Some(record) = self.unit().slot.current(now) {
            return record.get(key).map(decode).transpose().map_err(|e| e.with_key(key));
        }
        match self.find(key, now) {
            None | Some(Found::Absent) => Ok(None),
            Some(Found::Scalar(value)) => decode(value).map(Some),
            Some(Found::At(record, index)) => record.value_at(index).map(decode).transpose(),
        }
        .map_err(|e| e.with_key(key))
    }

    /// The value under `key`, past what the handle came with. `None` if there is no session.
    #[inline(never)]
    fn find(&self, key: &str, now: u64) -> Option<Found> {
        self.peek_locked(now, |record| match record.look(key) {
            Look::Absent => Found::Absent,
            Look::Scalar(scalar) => Found::Scalar(scalar),
            Look::At(index) => Found::At(record.clone(), index),
        })
    }

    /// Stores `value` under `key`, replacing what was there. The first write to an empty session creates it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], [`ErrorKind::Limit`] and [`ErrorKind::Serialize`] for what cannot be stored,
    /// [`ErrorKind::Revoked`] if the session is gone, [`ErrorKind::HeadSent`] if a session would be created too
    /// late, [`ErrorKind::ReadOnly`] and [`ErrorKind::Closed`]. Nothing is changed on any of them.
    ///
    /// # Durability
    /// Visible to every handle when it returns; written to the store as the engine's
    /// [`Durability`](crate::Durability) says.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// session.put("cart", &vec![7, 12])?;
    /// assert_eq!(session.keys(), ["cart", "user"]);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn put<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        let value = Encoded::of(value).map_err(|e| e.with_key(key))?;
        let limits = self.core().config.limits;
        self.edit(true, None, |record, meta| Ok((Some(record.put(&meta, key, &value, &limits)?), ())))?;
        Ok(())
    }

    /// Takes the value under `key` out: of all concurrent callers exactly one gets it (promise P2).
    ///
    /// # Errors
    /// [`ErrorKind::TypeMismatch`] if the value is not a `T`; it stays where it is. Otherwise as
    /// [`remove`](Self::remove).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("code", &4711)?;
    /// assert!(session.pop::<String>("code").is_err());
    /// assert_eq!(session.pop::<u32>("code")?, Some(4711));
    /// assert_eq!(session.pop::<u32>("code")?, None);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn pop<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        loop {
            let Some(record) = self.record() else { return Ok(None) };
            let Some(value) = record.get(key) else { return Ok(None) };
            let value = decode(value).map_err(|e| e.with_key(key))?;
            // Decoding ran without the lock, so the removal counts only if the record is still the decoded one.
            let removed =
                self.edit(false, Some(&record), |record, meta| Ok((record.remove(&meta, key), ())))?;
            if removed.is_some() {
                return Ok(Some(value));
            }
        }
    }

    /// Removes `key`. Returns whether it was there.
    ///
    /// # Errors
    /// [`ErrorKind::Revoked`], [`ErrorKind::ReadOnly`] or [`ErrorKind::Closed`].
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// assert!(session.remove("user")?);
    /// assert!(!session.remove("user")?);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn remove(&self, key: &str) -> Result<bool> {
        let removed = self.edit(false, None, |record, meta| {
            let new = record.remove(&meta, key);
            let removed = new.is_some();
            Ok((new, removed))
        })?;
        Ok(removed.unwrap_or(false))
    }

    /// Whether there is a value under `key`.
    pub fn exists(&self, key: &str) -> bool {
        self.peek(|record| record.get(key).is_some()).unwrap_or(false)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.record().map(|r| r.keys().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Removes all keys. Token, lifetime and owner stay.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.set_owner(Some("user:42"))?;
    /// session.put("cart", &7)?;
    /// session.clear()?;
    /// assert!(session.keys().is_empty());
    /// assert_eq!(session.owner().as_deref(), Some("user:42"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn clear(&self) -> Result<()> {
        self.edit(false, None, |record, meta| {
            Ok((if record.is_empty() { None } else { Some(record.cleared(&meta)) }, ()))
        })?;
        Ok(())
    }

    /// The session as it is now: an immutable view that borrows nothing and reads values in place. `None` if
    /// there is no session.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// let before = session.snapshot().expect("there is a session");
    /// session.put("user", "bob")?;
    /// assert_eq!(before.get::<String>("user")?.as_deref(), Some("ann"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.record().map(Snapshot::new)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(unit) = self.unit.take() {
            pool::give_back(unit);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
