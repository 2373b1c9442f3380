//! Going through all sessions in pages, and opening one by its id: for administration. It uses no session and
//! delivers nothing to any client.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use crate::cache::{Cache, Phase};
use crate::core::Core;
use crate::engine::Engine;
use crate::error::Result;
use crate::owner::{Seen, SessionInfo, TRIES};
use crate::session::{Session, Snapshot};
use crate::token::SessionId;
use crate::writer::closed;

/// Sessions that [`Engine::for_each`] asks for at a time.
const PAGE: usize = 256;

/// Some of an engine's sessions.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page {
    /// The sessions. There may be fewer than were asked for, or none, although more follow.
    pub sessions: Vec<(SessionInfo, Snapshot)>,
    /// Where to go on: pass it to the next call. `None` when all have been seen.
    pub next: Option<SessionId>,
}

impl Core {
    async fn page(&self, after: Option<SessionId>, limit: usize) -> Result<Page> {
        let limit = limit.max(1);
        let Some(store) = &self.store else { return Ok(self.page_of_cache(after, limit)) };
        if after.is_none() {
            // From here on everything that exists has a row. What is published later need not be listed.
            self.queue.flush().await?;
        }
        for _ in 0..TRIES {
            let undone = self.moving.undone();
            let removals = self.cache.all_removals();
            let rows = store.list(after, limit).await?;
            let next = if rows.len() < limit { None } else { rows.last().map(|row| row.id) };
            let mut found = BTreeMap::new();
            for listed in &rows {
                // A row that belongs to a renewal under way stands for another id, which has its own place.
                if let Some(seen) = self.settle(listed, removals.of(&listed.id)).await?
                    && seen.id == listed.id
                {
                    found.insert(seen.id, shown(seen));
                }
            }
            for old in self.moving.olds(after.as_ref(), next.as_ref()) {
                if let Some(seen) = self.seen(&old) {
                    found.insert(seen.id, shown(seen));
                }
            }
            if self.moving.undone() == undone {
                return Ok(Page { sessions: found.into_values().collect(), next });
            }
        }
        Err(self.keeps_changing())
    }

    /// A page of an engine without a store: by shard, then by id.
    fn page_of_cache(&self, after: Option<SessionId>, limit: usize) -> Page {
        let mut shard = after.as_ref().map_or(0, Cache::shard_of);
        let mut after = after;
        let mut sessions = Vec::new();
        loop {
            let wanted = limit - sessions.len();
            let Some(entries) = self.cache.in_order(shard, after.as_ref(), wanted) else { break };
            after = entries.last().map(|e| *e.id());
            sessions.extend(entries.iter().filter_map(|e| self.seen(e)).map(shown));
            // A full page: `after` is the last id looked at, in this shard.
            if sessions.len() == limit {
                return Page { sessions, next: after };
            }
            if entries.len() < wanted {
                (shard, after) = (shard + 1, None);
            }
        }
        Page { sessions, next: None }
    }
}

fn shown(seen: Seen) -> (SessionInfo, Snapshot) {
    (SessionInfo::of(&seen), Snapshot::new(seen.record))
}

impl Engine {
    /// Up to `limit` of all sessions (at least one is looked at), those behind `after` in an order of the engine's
    /// own. Start with `None` and go on with [`Page::next`]. (SCS: `Iterate`, which loads everything at once.)
    ///
    /// A session that exists under one id from the first call to the last is listed exactly once, whatever
    /// happens meanwhile: it may be changed, evicted or loaded, and others may be destroyed, by the caller too.
    /// One that is renewed meanwhile gets another id, and may be listed under either, both or neither.
    /// Looking at a session is no use of it, and brings nothing into the cache.
    ///
    /// # Errors
    /// The store's error; the first call also waits until what was written before is stored, and fails if it
    /// cannot be.
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// # Complexity
    /// O(`limit`) with a store; in memory O(`limit` + a 64th of all sessions).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # session.put("k", &1)?;
    /// # session.commit().await?;
    /// let (mut after, mut n) = (None, 0);
    /// loop {
    ///     let page = engine.iterate(after, 100).await?;
    ///     n += page.sessions.len();
    ///     after = page.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(n, 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    #[doc(alias = "all")]
    pub async fn iterate(&self, after: Option<SessionId>, limit: usize) -> Result<Page> {
        if self.core().is_closed() {
            return Err(closed());
        }
        self.core().page(after, limit).await
    }

    /// A handle on the session with this id, for administration: it can be read, changed and destroyed, but
    /// [`commit`](Session::commit) delivers nothing, and it cannot be renewed, since there is no client to take a
    /// token. Opening a session is no use of it. `None` if there is none.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    ///
    /// # Durability
    /// That of [`Durability::Eventual`](crate::Durability::Eventual) at every level, as no response waits; call
    /// [`Session::sync`] or [`flush`](Self::flush) to wait.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # session.put("k", &1)?;
    /// # session.commit().await?;
    /// # let Some(id) = session.id() else { return Ok(()) };
    /// if let Some(admin) = engine.open(&id).await? {
    ///     admin.put("notice", "maintenance at noon")?;
    ///     admin.sync().await?;
    /// }
    /// assert!(session.exists("notice"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn open(&self, id: &SessionId) -> Result<Option<Session>> {
        let core = self.core();
        if core.is_closed() {
            return Err(closed());
        }
        let entry = match core.cache.peek(id) {
            Some(entry) => Some(entry),
            None if core.is_elsewhere(id) => core.fetch(id, false).await?,
            None => None,
        };
        let Some(entry) = entry else { return Ok(None) };
        if core.seen(&entry).is_none() || entry.phase() == Phase::Unpublished {
            return Ok(None);
        }
        Ok(Some(Session::of_nobody(Arc::clone(self.lane()), entry)))
    }

    /// Calls `f` with a handle on each session, one after another, as [`open`](Self::open) gives it. `f` may change
    /// and destroy them. What [`iterate`](Self::iterate) says about concurrent changes holds. (SCS: `Iterate`.)
    ///
    /// # Errors
    /// What `f` returns first, and as [`iterate`](Self::iterate).
    ///
    /// # Cancel safety
    /// Dropping the future stops between two calls, or within one.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// engine
    ///     .for_each(|session| async move {
    ///         if session.exists("trial") { session.destroy() } else { Ok(()) }
    ///     })
    ///     .await?;
    /// engine.flush().await?;
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn for_each<F, Fut>(&self, mut f: F) -> Result<()>
    where
        F: FnMut(Session) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let mut after = None;
        loop {
            let page = self.iterate(after, PAGE).await?;
            for (info, _) in &page.sessions {
                if let Some(session) = self.open(&info.id).await? {
                    f(session).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
