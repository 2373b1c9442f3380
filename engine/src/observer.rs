//! Lifecycle events, told to whoever wants to audit or count them. It never sees a token or a value, and
//! nothing it does can stop what it is told of.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::ErrorKind;
use crate::token::SessionId;

/// Which of a session's two ends an [`Event::Expired`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExpiredBy {
    /// Its absolute deadline.
    Deadline,
    /// Its idle timeout.
    Idle,
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A new session was published.
    Created {
        /// Its id.
        id: SessionId,
    },
    /// A session got a new token.
    Renewed {
        /// The id that is dead now.
        from: SessionId,
        /// The id it lives on under.
        to: SessionId,
    },
    /// A session was destroyed by its user.
    Destroyed {
        /// Its id.
        id: SessionId,
    },
    /// A session was ended by somebody else than its user.
    Revoked {
        /// Its id.
        id: SessionId,
        /// By whom.
        by: RevokedBy,
    },
    /// A cached session's deadline or idle timeout passed. Sessions that are only on disk are removed in
    /// batches and counted in [`Stats::expired_rows`](crate::Stats::expired_rows).
    Expired {
        /// Its id.
        id: SessionId,
        /// Which of its two ends came.
        by: ExpiredBy,
    },
    /// A token was presented that opens no session: never issued, or its session has ended since.
    Unknown {
        /// The id that the token would have.
        id: SessionId,
    },
    /// A write was refused because it would exceed a limit of the record or the memory budget.
    LimitHit {
        /// The session's id, where the refusal knows it.
        id: Option<SessionId>,
        /// [`ErrorKind::Limit`] or [`ErrorKind::OutOfMemoryBudget`].
        kind: ErrorKind,
    },
    /// A clean session left the cache; it will be read back when it is asked for.
    Evicted {
        /// Its id.
        id: SessionId,
    },
    /// A stored record failed its integrity check and was taken out of service.
    Quarantined {
        /// Its id.
        id: SessionId,
        /// What was wrong with it.
        reason: String,
    },
    /// A stored record failed its integrity check while its session was in memory. It is written anew; nothing is lost.
    Mended {
        /// Its id.
        id: SessionId,
        /// What was wrong with it.
        reason: String,
    },
    /// At the start, the journal had gaps where changes had been durable. What could be read is in service; the
    /// damaged segments are kept beside the others as `*.damaged`.
    JournalDamaged {
        /// How many gaps. Each is the loss of an unknown number of changes.
        gaps: usize,
    },
    /// The store failed after having worked.
    StoreDown {
        /// The store's error.
        error: String,
    },
    /// The store works again.
    StoreUp,
}

/// Who revoked a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokedBy {
    /// [`Engine::destroy_session`](crate::Engine::destroy_session).
    Id,
    /// [`Engine::destroy_all`](crate::Engine::destroy_all).
    Owner,
    /// A login beyond the limit of sessions per owner, which dropped the oldest.
    OwnerLimit,
    /// Another engine over the same store, in whatever way, or its sweep of expired rows.
    Elsewhere,
    /// The engine: the session was new, and the response that carried its token was dropped or failed.
    Undelivered,
}

/// Is told of every [`Event`], from the thread it happened on and outside of all locks.
///
/// Return quickly: hand anything slow to another thread. A panic is caught and traced; the event stands.
pub trait Observer: Send + Sync + 'static {
    /// Called once per event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Calls `observer`, whatever it does.
pub(crate) fn notify(observer: Option<&dyn Observer>, event: impl FnOnce() -> Event) {
    let Some(observer) = observer else { return };
    let event = event();
    if catch_unwind(AssertUnwindSafe(|| observer.on_event(&event))).is_err() {
        tracing::error!(target: "sessile", "the observer panicked; the event stands");
    }
}
