//! The levels of durability, and what a response waits for at each. It waits for nothing itself.

use std::time::Duration;

/// What a crash may cost. Named by what acknowledged writes survive.
///
/// Whatever the level, [`destroy`](crate::Session::destroy), [`renew`](crate::Session::renew) and revocations
/// are durable before their response is released, and [`sync`](crate::Session::sync) makes a single session
/// durable on demand. A clean shutdown loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Writes are committed to the store in one batch per `window`. A crash of the process or of the machine
    /// loses at most the writes of the last window (and of the commit under way).
    Eventual {
        /// How long a write may wait for its batch. 50 ms by default.
        window: Duration,
    },
    /// A response that carries a write is released when the operating system has the write: a crash of the process,
    /// `kill -9` included, loses nothing that was acknowledged. Once per `window` everything is synced, so that a loss
    /// of power loses at most the writes of the last window (and of the sync under way). The default of an engine with
    /// a journal. Without a journal ([`Builder::open`](crate::Builder::open)) there is nothing between memory and the store, and this is
    /// [`PowerLoss`](Self::PowerLoss).
    ///
    /// What is written after the response head, by a streaming body or a WebSocket, has no response to wait for it and
    /// follows within the window.
    ProcessCrash {
        /// How long a write may wait to be synced. 50 ms by default.
        window: Duration,
    },
    /// A response that carries a write is released only when the write is on the disk, in a sync shared by
    /// all requests that wait (group commit).
    PowerLoss,
}

pub(super) const DEFAULT_WINDOW: Duration = Duration::from_millis(50);

impl Durability {
    /// [`Eventual`](Self::Eventual) with a window of 50 ms.
    #[must_use]
    pub const fn eventual() -> Self {
        Self::Eventual { window: DEFAULT_WINDOW }
    }

    /// [`ProcessCrash`](Self::ProcessCrash) with a window of 50 ms.
    #[must_use]
    pub const fn process_crash() -> Self {
        Self::ProcessCrash { window: DEFAULT_WINDOW }
    }
}

/// What a response that carries a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Nothing.
    AtOnce,
    /// The write is in the journal.
    Written,
    /// The write is durable.
    Durable,
}
