//! Changes made to what is stored, not to what this engine remembers: for counters and single-use values among several
//! engines over one store. It commits by itself, in the call, and leaves the entry as the store then is.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Session, Transaction};
use crate::cache::{Answer, EntryRef, Phase, revoked};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::record::Record;
use crate::shared::{MOST_CONFLICTS, Shared};
use crate::store::{Change, DynStore, Outcome};

/// How a compare-and-set went.
enum Swap {
    Done,
    Lost,
    Gone,
}

impl Session {
    /// As [`transact`](Self::transact), on the session as it is *stored*: `f` sees what every engine over the store has
    /// committed before, and its changes are committed when this returns, or nothing is. Transactions of several
    /// engines on one session therefore happen one after another; a counter loses nothing and a value is taken once.
    /// `transact` is that strict within one engine only.
    ///
    /// `f` runs again when another engine came first. Over a store of its own an engine is alone, and this is
    /// `transact`: use it for what may run on several machines one day.
    ///
    /// # Errors
    /// What `f` returns, and as [`put`](Self::put); the store's error. After
    /// [`StoreErrorKind::Unavailable`] from a lost connection nobody knows whether the changes were made.
    ///
    /// # Cancel safety
    /// If the future is dropped, the changes are made or not.
    ///
    /// # Durability
    /// What the store promises for a commit. A session that is new is stored with its response, as ever, and so is every
    /// change over a store of its own.
    ///
    /// # Complexity
    /// Two round trips to the store, and two more for each time that others came first.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("tickets", &3)?;
    /// let left = session
    ///     .transact_stored(|tx| {
    ///         let left = tx.get::<u32>("tickets")?.unwrap_or(0).saturating_sub(1);
    ///         tx.put("tickets", &left)?;
    ///         Ok(left)
    ///     })
    ///     .await?;
    /// assert_eq!(left, 2);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn transact_stored<R>(&self, mut f: impl FnMut(&mut Transaction) -> Result<R>) -> Result<R> {
        let core = self.core().clone();
        let (Some(shared), Some(store)) = (&core.shared, &core.store) else {
            return self.transact(f);
        };
        core.check_writable()?;
        for _ in 0..MOST_CONFLICTS {
            let Some(entry) = self.entry_among_others(&core)? else {
                // Nobody else knows of it.
                return self.transact(f);
            };
            // What was changed here, and what this request has written, comes before.
            core.queue.flush().await?;
            let Some(stored) = core.stored_state(shared, store.as_ref(), &entry).await? else {
                return Err(revoked());
            };
            let mut tx = Transaction::new(stored.clone(), core.config.limits);
            let result = f(&mut tx)?;
            let Some(work) = tx.into_changed(&stored) else { return Ok(result) };
            let mut meta = stored.meta();
            meta.version += 1;
            meta.last_seen = meta.last_seen.max(entry.last_seen());
            let work = work.with_meta(&meta);
            // Before the commit: what others do after it is told after it.
            let (asked_at, notices) = (core.clock.now_ms(), shared.near.notices(entry.id()));
            match core.swap(store.as_ref(), &entry, &stored, &work).await? {
                Swap::Done => {
                    core.adopt(shared, &entry, Answer { stored: &work, asked_at, notices }).await?;
                    self.unit().slot.lock().modified = true;
                    return Ok(result);
                }
                Swap::Lost => shared.near.doubt(entry.id()),
                Swap::Gone => {
                    core.ended_elsewhere(&entry);
                    return Err(revoked());
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            store.name(),
            format!("other engines came first {MOST_CONFLICTS} times in a row"),
        )
        .into())
    }

    /// As [`update`](Self::update), on the value as it is stored; see [`transact_stored`](Self::transact_stored).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// let visits = session.update_stored("visits", |n: Option<u64>| n.unwrap_or(0) + 1).await?;
    /// assert_eq!(visits, 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn update_stored<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        mut f: impl FnMut(Option<T>) -> T,
    ) -> Result<T> {
        self.transact_stored(|tx| {
            let new = f(tx.get(key)?);
            tx.put(key, &new)?;
            Ok(new)
        })
        .await
    }

    /// As [`pop`](Self::pop), of the value as it is stored: whichever engine asks, one request gets it. See
    /// [`transact_stored`](Self::transact_stored).
    ///
    /// # Errors
    /// As there, and as [`get`](Self::get).
    ///
    /// # Cancel safety
    /// If the future is dropped, the value may be gone.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("coupon", "A17")?;
    /// assert_eq!(session.pop_stored::<String>("coupon").await?.as_deref(), Some("A17"));
    /// assert_eq!(session.pop_stored::<String>("coupon").await?, None);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn pop_stored<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        if self.unit().slot.lock().entry.is_none() {
            return Ok(None);
        }
        self.transact_stored(|tx| tx.pop(key)).await
    }

    /// The entry in service that this handle stands for; `None` if its session is new, or yet to begin.
    fn entry_among_others(&self, core: &Core) -> Result<Option<EntryRef>> {
        let slot = self.unit().slot.lock();
        slot.check_loaded()?;
        let Some(entry) = slot.entry.clone() else { return Ok(None) };
        if entry.phase() == Phase::Unpublished {
            return Ok(None);
        }
        drop(slot);
        core.in_service_quietly(entry, core.clock.now_ms()).map(Some).ok_or_else(revoked)
    }
}

impl Core {
    /// What is stored of `entry`, now. `None` if it has ended.
    async fn stored_state(
        &self,
        shared: &Shared,
        store: &dyn DynStore,
        entry: &EntryRef,
    ) -> Result<Option<Record>> {
        shared.check_reachable(store.name(), self.clock.now_ms())?;
        // By itself it would not be asked for what is not in doubt.
        shared.near.doubt(entry.id());
        if !self.read_again(entry).await? {
            return Ok(None);
        }
        match shared.near.base(entry.id()) {
            Some(stored) => Ok(Some(stored)),
            None => Err(Error::new(ErrorKind::Store, "the session is not stored yet")),
        }
    }

    /// Stores `work` in place of `stored`.
    async fn swap(
        &self,
        store: &dyn DynStore,
        entry: &EntryRef,
        stored: &Record,
        work: &Record,
    ) -> Result<Swap> {
        let id = *entry.id();
        let row = self.row(&id, work)?;
        let bytes = row.bytes.clone();
        let change = [Change::Update { id, expected: stored.version(), row }];
        match store.commit(self.clock.now_ms(), &change).await {
            Ok(outcomes) => Ok(match outcomes.first() {
                Some(Outcome::Done) => Swap::Done,
                Some(Outcome::Missing) => Swap::Gone,
                _ => Swap::Lost,
            }),
            // It may have been made all the same.
            Err(error) => match store.load(&id).await {
                Ok(Some(found)) if found.bytes == bytes => Ok(Swap::Done),
                // Not applied, unless it is still on its way.
                _ => Err(error.into()),
            },
        }
    }

    /// Takes over what has just been stored.
    async fn adopt(&self, shared: &Shared, entry: &EntryRef, work: Answer<'_>) -> Result<()> {
        if !self.take_over(shared, entry, &work)? {
            // The writer is at work on it, and will lose: then it reads what is stored.
            self.queue.flush().await?;
            self.take_over(shared, entry, &work)?;
        }
        Ok(())
    }
}
