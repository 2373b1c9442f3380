//! What a shared store tells of changes that others made: the seam that keeps the caches of several engines honest. It
//! carries ids, never rows, and decides nothing.

use super::{BoxFuture, StoreError};
use crate::token::SessionId;

/// What a [`Watch`] has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// These rows were changed, moved or removed, by anybody.
    Changed(Vec<SessionId>),
    /// Something may have been missed (a reconnect, a failover, an overflow): nothing cached before may be trusted.
    Lost,
    /// Nothing happened, and would have been told: the channel has just been seen to work.
    Alive,
}

/// A stream of the changes to a shared store, from [`Store::watch`](super::Store::watch).
///
/// # Contract
/// - Whatever is committed after `watch` returned is told, or [`Notice::Lost`] is.
/// - A notice comes at least once a second; [`Notice::Alive`] if there is nothing else. The engine stops trusting its
///   cache when none came for two seconds.
/// - An error is final: the engine drops the watch, trusts nothing, and opens another.
pub trait Watch: Send + 'static {
    /// Waits for the next notice.
    ///
    /// # Errors
    /// The channel is lost.
    ///
    /// # Cancel safety
    /// The engine does not drop the future half way, except with the watch itself.
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>>;
}
