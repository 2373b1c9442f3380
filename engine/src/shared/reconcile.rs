//! What an engine does about what others did: reads a session again and takes it over, settles commits that lost, and ends
//! what others have ended. It decides no belief and starts nothing by itself.

use std::future::poll_fn;
use std::task::Poll;

use super::{MOST_CONFLICTS, Shared};
use crate::cache::{Amend, Answer, EntryRef, Phase, Rebased};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::observer::{Event, RevokedBy};
use crate::owner::Follow;
use crate::store::{BoxFuture, DynStore, Row};
use crate::token::SessionId;

/// What was known of a session before the store was asked about it.
struct Asked {
    at: u64,
    notices: u32,
    /// Of the base.
    version: Option<u64>,
}

impl Asked {
    fn now(core: &Core, shared: &Shared, id: &SessionId) -> Self {
        let version = shared.near.base(id).map(|base| base.version());
        Self { at: core.clock.now_ms(), notices: shared.near.notices(id), version }
    }
}

impl Core {
    /// Whether `entry` must be read again before a request may use it.
    #[inline]
    pub(crate) fn is_stale(&self, entry: &EntryRef, now: u64) -> bool {
        match &self.shared {
            None => false,
            Some(shared) => shared.is_stale(entry, now),
        }
    }

    /// Reads the row of `id`, unless the store is taken to be down.
    pub(crate) async fn ask(&self, store: &dyn DynStore, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let Some(shared) = &self.shared else { return store.load(id).await };
        shared.check_reachable(store.name(), self.clock.now_ms())?;
        let answer = store.load(id).await;
        // A damaged row is an answer too.
        let worked = answer.as_ref().err().is_none_or(|error| !error.kind().is_temporary());
        shared.note_read(worked, self.clock.now_ms());
        answer
    }

    /// Reads the session of `entry` again. `false` if it has ended.
    pub(crate) async fn read_again(&self, entry: &EntryRef) -> Result<bool> {
        let (Some(shared), Some(store)) = (&self.shared, &self.store) else { return Ok(true) };
        let id = entry.id();
        let asked = Asked::now(self, shared, id);
        if !entry.is_stored() {
            return Ok(!entry.phase().is_gone());
        }
        let row = match self.ask(store.as_ref(), id).await {
            Ok(row) => row,
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                return Err(self.quarantine(id, &error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        self.take_answer(shared, entry, row, asked)?;
        Ok(!entry.phase().is_gone())
    }

    fn take_answer(
        &self,
        shared: &Shared,
        entry: &EntryRef,
        row: Option<Row>,
        Asked { at: asked_at, notices, version }: Asked,
    ) -> Result<()> {
        let id = entry.id();
        let Some(row) = row else {
            // A renewal that is under way, or came to nothing, has the row under another id for a moment. If it has come
            // home since the store was asked, it came with another version.
            let unchanged = shared.near.base(id).map(|base| base.version()) == version;
            if unchanged && !entry.is_renewing() && shared.near.where_strayed(id).is_none() {
                self.ended_elsewhere(entry);
            }
            return Ok(());
        };
        let record = self.open_row(id, &row)?;
        self.take_over(shared, entry, &Answer { stored: &record, asked_at, notices }).map(drop)
    }

    /// Takes over what is stored. `false` if the writer is at work on the entry.
    pub(crate) fn take_over(&self, shared: &Shared, entry: &EntryRef, answer: &Answer<'_>) -> Result<bool> {
        let before = entry.expires_at();
        match entry.rebase(self.follow(), &shared.near, answer)? {
            Rebased::Changed { grown, _old } => {
                self.cache.resize(grown);
                // The wheel must not look later than the session ends.
                if let Some(at) = entry.expires_at().filter(|at| before.is_some_and(|before| *at < before)) {
                    self.arm(entry, at);
                }
                self.watches.wake(entry);
            }
            Rebased::Busy => return Ok(false),
            Rebased::Gone | Rebased::Same => {}
        }
        Ok(true)
    }

    /// Takes over a row that was listed: newer than what is cached, perhaps, but of an unknown moment.
    pub(crate) fn take_listed(&self, entry: &EntryRef, row: &Row) {
        let Some(shared) = &self.shared else { return };
        let notices = shared.near.notices(entry.id());
        if let Ok(record) = self.try_open(entry.id(), row) {
            let _ = self.take_over(shared, entry, &Answer { stored: &record, asked_at: 0, notices });
        }
    }

    /// Others have ended the session, or its row was swept: it ends here too, and leaves nothing to delete.
    pub(crate) fn ended_elsewhere(&self, entry: &EntryRef) {
        let follow = Follow { queue: None, owners: &self.cache.owners };
        if let Some(bytes) = entry.revoke(follow, Phase::Revoked, |_| true) {
            self.cache.freed(entry, bytes);
            tracing::debug!(target: "sessile", "a session was ended by another engine");
            self.revoked(entry.id(), RevokedBy::Elsewhere);
        }
        self.cache.remove(entry);
        self.watches.wake(entry);
    }

    /// Whether others may have used the session meanwhile, so that the store must be asked before it has expired. That is
    /// under way then, and wakes who waits.
    pub(crate) fn asks_before_expiry(&self, entry: &EntryRef) -> bool {
        let Some(shared) = self.shared.as_ref().filter(|_| entry.is_stored()) else { return false };
        shared.look_after(*entry.id());
        true
    }

    /// A session is over by everybody's clock. Its row is left to the sweep, which comes later than anybody's last use
    /// can be written down.
    pub(crate) fn expired_among_others(&self, entry: &EntryRef, now: u64) {
        let follow = Follow { queue: None, owners: &self.cache.owners };
        if let Some((bytes, by)) = entry.expire(follow, now) {
            self.cache.freed(entry, bytes);
            self.cache.remove(entry);
            self.counters.expired.add(1);
            self.notify(|| Event::Expired { id: *entry.id(), by });
            self.watches.wake(entry);
        }
    }

    /// Settles commits that lost to others: `entries` take over what is stored, to be committed again. Returns those that
    /// must be queued.
    pub(crate) fn settle_conflicts(
        &self,
        store: &dyn DynStore,
        entries: Vec<EntryRef>,
    ) -> (Vec<EntryRef>, Option<StoreError>) {
        let (mut again, mut failure) = (Vec::new(), None);
        let Some(shared) = &self.shared else { return (again, failure) };
        let asked: Vec<_> = entries.iter().map(|entry| Asked::now(self, shared, entry.id())).collect();
        let answers = pollster::block_on(all(entries.iter().map(|entry| store.load(entry.id())).collect()));
        for ((entry, asked), answer) in entries.into_iter().zip(asked).zip(answers) {
            // First, as nothing is taken over by one that is being written.
            let queue = entry.not_written(Amend::Nothing);
            let settled = match answer {
                Ok(row) => self.take_answer(shared, &entry, row, asked),
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    Err(self.quarantine(entry.id(), &error.to_string()))
                }
                Err(error) => Err(error.into()),
            };
            match settled {
                Ok(()) if shared.near.lost(entry.id()) >= MOST_CONFLICTS => {
                    failure = Some(StoreError::new(
                        StoreErrorKind::Unavailable,
                        store.name(),
                        format!("a session lost {MOST_CONFLICTS} commits in a row to other engines"),
                    ));
                }
                Ok(()) => {}
                Err(error) => failure = Some(told(store, &error)),
            }
            if queue {
                again.push(entry);
            }
        }
        (again, failure)
    }
}

/// The store's error behind `error`.
fn told(store: &dyn DynStore, error: &Error) -> StoreError {
    match error.store_error() {
        Some(error) => error.clone(),
        None if error.kind() == ErrorKind::Corrupt => {
            StoreError::new(StoreErrorKind::Unavailable, store.name(), "the session was quarantined")
        }
        None => StoreError::new(StoreErrorKind::Unavailable, store.name(), error.to_string()),
    }
}

/// Waits for all of them at once.
async fn all<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|cx| {
        let mut waiting = false;
        for (future, out) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(value) => {
                        *out = Some(value);
                        *future = None;
                    }
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    slots.into_iter().filter_map(|(_, out)| out).collect()
}
