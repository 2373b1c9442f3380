//! Merging another session into this one: for a redirect that arrives without the cookie, so that its user has
//! two. It takes the other's data once, and gives it back if this request comes to nothing.
//!
//! Order, so that no crash loses the data of both: the other's row is up to date before its data is taken; this
//! session's row is stored before the other's is deleted.

use std::sync::Arc;
use std::task::Poll;

use super::Session;
use crate::cache::{Claimed, EntryRef, Phase, Read};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::token::Token;

/// Which value is kept of a key that both sessions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflicts {
    /// The other session's (as SCS).
    #[default]
    Theirs,
    /// This session's.
    Ours,
}

/// What [`Session::merge`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub enum Merged {
    /// The other session had this many keys. They are here now, and it is gone.
    Done {
        /// Its number of keys.
        keys: usize,
    },
    /// There is no such session: the token is unknown, its session has ended, or somebody else merged it.
    /// Nothing changed.
    Absent,
    /// It is this very session. Nothing changed.
    Same,
}

/// Attempts to take a session that is being written or renewed.
const TRIES: usize = 64;

impl Session {
    /// Moves the data of the session of `token` into this one, and ends that one: for a redirect (OAuth, a
    /// payment) that arrives without the cookie, because it is `SameSite=Strict`, and so finds another session
    /// than the one it began in. Creates this session if it is empty. (SCS: `MergeSession`.)
    ///
    /// Of a key that both have, the other session's value is kept; [`merge_with`](Self::merge_with) chooses.
    /// The deadline becomes the later of the two, and the client keeps the token if either session said
    /// so. The other session's owner, idle timeout and authentication are not taken over.
    ///
    /// Of racing merges of one token exactly one gets the data; every handle on the other session sees it gone
    /// when this returns. If this session is new and its response never leaves, or its commit fails, the other
    /// one is alive again, under its token, as if nothing had happened.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] if this session would exceed a limit, [`ErrorKind::Store`] if the other cannot be
    /// read or written, otherwise as [`put`](Self::put). Nothing is changed then.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready changes nothing.
    ///
    /// # Durability
    /// The commit at the response head waits until this session is stored and the other's row is deleted, in this
    /// order, at every level; after the head, this future does.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # use sessile_engine::{Delivery, Engine, Merged};
    /// # let engine = Engine::builder().in_memory()?;
    /// # let before = engine.session(None).await?;
    /// # before.put("cart", &7)?;
    /// # let Delivery::Issue(issue) = before.commit().await? else { panic!() };
    /// # let token = issue.token;
    /// // The redirect came without a cookie, but its state parameter leads to the token.
    /// let session = engine.session(None).await?;
    /// assert_eq!(session.merge(&token).await?, Merged::Done { keys: 1 });
    /// assert_eq!(session.get::<u32>("cart")?, Some(7));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn merge(&self, token: &Token) -> Result<Merged> {
        self.merge_with(token, Conflicts::Theirs).await
    }

    /// As [`merge`](Self::merge), with a choice of what is kept of a key that both sessions have.
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
    /// # use sessile_engine::Delivery;
    /// # let session = engine.session(None).await?;
    /// # session.put("user", "ann")?;
    /// # let Delivery::Issue(issue) = session.commit().await? else { panic!() };
    /// # let old = issue.token;
    /// use sessile_engine::Conflicts;
    ///
    /// let session = engine.session(None).await?;
    /// session.put("user", "bob")?;
    /// let _ = session.merge_with(&old, Conflicts::Ours).await?;
    /// assert_eq!(session.get::<String>("user")?.as_deref(), Some("bob"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn merge_with(&self, token: &Token, conflicts: Conflicts) -> Result<Merged> {
        let core = self.core().clone();
        let id = token.id();
        for attempt in 0..TRIES {
            core.check_writable()?;
            let now = core.clock.now_ms();
            let Some(other) = core.find_untouched(&id, now).await? else { return Ok(Merged::Absent) };
            if self.current(now).is_some_and(|own| own.is(&other)) {
                return Ok(Merged::Same);
            }
            let Read::Live(theirs) = other.read(now) else { continue };
            // What cannot be is refused before anything is taken.
            if let Some(ours) = self.record() {
                ours.merged(&ours.meta(), &theirs, conflicts == Conflicts::Ours, &core.config.limits)?;
            }
            let dirty_is_fine = core.store.is_none() || attempt + 1 == TRIES;
            match other.claim(now, dirty_is_fine) {
                Claimed::Taken(record) => {
                    let claim = Claim::new(core.clone(), other, record);
                    return self.take_over(&core, claim, conflicts).await;
                }
                Claimed::Busy => {
                    core.queue.flush().await?;
                    // Nothing of it is left to be written, but another request's renewal may have to be polled.
                    yield_once().await;
                }
                Claimed::Gone => {}
            }
        }
        Err(Error::new(ErrorKind::Store, "the other session keeps changing while it is merged"))
    }

    /// Puts the claimed data into this session.
    async fn take_over(&self, core: &Arc<Core>, mut claim: Claim, conflicts: Conflicts) -> Result<Merged> {
        let Some(theirs) = claim.record.clone() else { return Ok(Merged::Absent) };
        let limits = core.config.limits;
        let other = theirs.meta();
        let reissue = self.edit(true, None, |record, mut meta| {
            let before = record.meta();
            meta.deadline = meta.deadline.max(other.deadline);
            meta.persistent |= other.persistent;
            let merged = record.merged(&meta, &theirs, conflicts == Conflicts::Ours, &limits)?;
            let reissue = meta.deadline > before.deadline || meta.persistent != before.persistent;
            Ok((Some(merged), reissue))
        })?;
        let late = {
            let mut slot = self.unit().slot.lock();
            slot.reissue |= reissue == Some(true);
            slot.must_wait = true;
            let unpublished = slot.entry.as_ref().is_some_and(|e| e.phase() == Phase::Unpublished);
            // What is in service already keeps what it was given, whatever becomes of this request.
            claim.give_back = unpublished;
            if slot.head_sent {
                Some(claim)
            } else {
                slot.claims.push(claim);
                None
            }
        };
        if let Some(claim) = late {
            if let Some(queue) = core.dirty_queue() {
                queue.flush().await?;
            }
            drop(claim);
            if let Some(queue) = core.dirty_queue() {
                queue.flush().await?;
            }
        }
        Ok(Merged::Done { keys: theirs.len() })
    }
}

/// Lets other tasks of this thread run.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Data taken out of another session, until its new place is stored. Dropped before, it goes back.
pub(super) struct Claim {
    core: Arc<Core>,
    entry: EntryRef,
    /// Present until it is settled or given back.
    record: Option<Record>,
    give_back: bool,
}

impl Claim {
    fn new(core: Arc<Core>, entry: EntryRef, record: Record) -> Self {
        core.cache.freed(&entry, record.byte_len());
        Self { core, entry, record: Some(record), give_back: true }
    }

    /// Has the row of the other session deleted. Its data can still be given back.
    pub(super) fn bury(&self) {
        self.entry.bury_claim(self.core.dirty_queue());
    }

    /// Ends the other session for good.
    pub(super) fn settle(mut self) {
        self.give_back = false;
    }

    /// The other is over. While it was claimed it stayed in the index of owners, so that who ends all sessions of
    /// its owner ends it too.
    fn forget(&self, record: &Record) {
        if let Some(owner) = record.owner() {
            self.core.cache.owners.remove(owner, self.entry.id());
        }
        self.core.watches.wake(&self.entry);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let queue = self.core.dirty_queue();
        if self.give_back {
            if let Some(entry) = self.entry.give_claim_back(&self.core.cache, queue, record.clone()) {
                if let Some(at) = entry.expires_at() {
                    self.core.arm(&entry, at);
                }
                self.core.watches.wake(&self.entry);
                return;
            }
        } else if let Some(has_row) = self.entry.settle_claim(queue) {
            self.core.claim_settled(&self.entry, has_row);
            self.forget(&record);
            return;
        }
        // Somebody ended it meanwhile.
        self.core.forget_claimed(&self.entry);
        self.forget(&record);
    }
}
