//! Counters and health of an engine, as numbers anybody may see.

use std::fmt;

use crate::sync::{AtomicU64, Ordering};

/// Numbers of an engine at one moment. They are read one after another, not atomically together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions in the cache, including those that have just ended and await the deletion of their row.
    pub cached: u64,
    /// Bytes they use.
    pub memory_bytes: u64,
    /// Bytes of these that sessions without owner use.
    pub anonymous_bytes: u64,
    /// Rows in the store, if it can tell cheaply. Lags behind the cache by up to one window.
    pub stored: Option<u64>,
    /// Sessions waiting for the writer.
    pub dirty: u64,
    /// Lookups answered from the cache.
    pub hits: u64,
    /// Lookups that went to the store.
    pub misses: u64,
    /// Sessions published.
    pub created: u64,
    /// Sessions renewed.
    pub renewed: u64,
    /// Sessions destroyed by their users.
    pub destroyed: u64,
    /// Sessions revoked by id.
    pub revoked: u64,
    /// Cached sessions that expired.
    pub expired: u64,
    /// Rows of expired sessions removed from the store.
    pub expired_rows: u64,
    /// Sessions evicted from the cache.
    pub evicted: u64,
    /// Records taken out of service because they failed their integrity check.
    pub quarantined: u64,
    /// Loads of records that no key of the engine opens. They were refused, and the records left as they are.
    pub unopened: u64,
    /// Batches committed.
    pub commits: u64,
    /// Changes in them.
    pub committed_changes: u64,
    /// Commits that failed.
    pub commit_failures: u64,
    /// Integrity scans that went over all stored sessions; see [`Engine::scan`](crate::Engine::scan).
    pub scans: u64,
    /// Rows that they have looked at, those of a pass under way included.
    pub scanned: u64,
    /// Damaged rows that they had written anew from memory. The others are in `quarantined`.
    pub mended: u64,
    /// Turns of scans in the background that failed as a whole, and are repeated.
    pub scan_failures: u64,
}

/// Whether the store works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It does.
    Ok,
    /// The latest commit failed and is being retried; nothing is lost while the process lives.
    Degraded {
        /// The store's latest error.
        error: String,
    },
    /// No space is left for the journal or the store's file. Sessions are served; what is written is kept in memory
    /// or refused, as [`Builder::when_full`](crate::Builder::when_full) says, and is written out when there is space
    /// again, which the engine finds by itself. While only the store's file finds no space, the journal in front of it
    /// takes writes as before.
    Full {
        /// The store's latest error.
        error: String,
    },
    /// The store's file is in an unknown state, or is no longer where it was: sessions are served from memory and
    /// writes are refused until the engine is opened anew.
    ReadOnly {
        /// The store's error.
        error: String,
    },
    /// The engine was closed.
    Closed,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Degraded { error } => write!(f, "degraded: {error}"),
            Self::Full { error } => write!(f, "full: {error}"),
            Self::ReadOnly { error } => write!(f, "read-only: {error}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// The live counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) misses: Counter,
    pub(crate) created: Counter,
    pub(crate) renewed: Counter,
    pub(crate) destroyed: Counter,
    pub(crate) revoked: Counter,
    pub(crate) expired: Counter,
    pub(crate) expired_rows: Counter,
    pub(crate) evicted: Counter,
    pub(crate) quarantined: Counter,
    pub(crate) unopened: Counter,
    pub(crate) commits: Counter,
    pub(crate) committed_changes: Counter,
    pub(crate) commit_failures: Counter,
    pub(crate) scans: Counter,
    pub(crate) scanned: Counter,
    pub(crate) mended: Counter,
    pub(crate) scan_failures: Counter,
}

/// A relaxed counter.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
