//! The setting that only an engine among others has, and what such an engine refuses.

use std::time::Duration;

use super::Builder;
use crate::error::{Error, ErrorKind, Result};

/// As a logout is to be honoured everywhere within 3 s.
pub(super) const DEFAULT_STALENESS: Duration = Duration::from_secs(3);

impl Builder {
    /// How old what a request sees of a session may be, over a store that other engines write to as well: also, how long
    /// a logout on another machine may go unnoticed here. Default: 3 s.
    ///
    /// A store that tells of changes ([`Capabilities::watch`](crate::store::Capabilities::watch)) is believed while it
    /// does, and a change is usually seen within milliseconds; with this setting below 2 s, silence of the channel is
    /// borne no longer than that. Any other store is asked again when what is cached is older than this. Zero asks for
    /// each request. Over an embedded file it has no meaning.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile_engine::{Engine, store::MemoryStore};
    ///
    /// // Two engines over the same sessions.
    /// let rows = MemoryStore::shared();
    /// let open = |rows| Engine::builder().max_staleness(Duration::from_secs(1)).open(rows);
    /// let (one, other) = (open(rows.clone())?, open(rows)?);
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn max_staleness(mut self, max: Duration) -> Self {
        self.max_staleness = max;
        self
    }

    /// What makes no sense among others.
    pub(super) fn check_shared(&self, store: &str) -> Result<()> {
        let refuse =
            |what: &str| Err(Error::new(ErrorKind::Config, format!("the {store} store is shared: {what}")));
        if self.journal.is_some() {
            return refuse("a journal would take what this engine remembers for the truth");
        }
        if self.scan_every.is_some() {
            return refuse("a background scan mends rows from memory, which is not the truth");
        }
        if self.life.rotates() {
            return refuse("tokens cannot be rotated by themselves, as no other engine knows of the grace");
        }
        Ok(())
    }
}
