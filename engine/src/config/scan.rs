//! How often stored sessions are checked in the background. The pass itself is the writer's.

use std::time::Duration;

use super::Builder;

impl Builder {
    /// Has the writer read all stored sessions once per `every`, and check their seals: damage of the disk is then found
    /// and told ([`Event::Quarantined`](crate::Event::Quarantined), [`Event::Mended`](crate::Event::Mended)) while there
    /// is a backup from before, and not when its user comes back. Default: `None`. The first pass begins `every` after the
    /// start; each goes at a bounded pace, at most about 500 rows and 4 MiB a second.
    ///
    /// [`Engine::scan`](crate::Engine::scan) is one pass on demand. [`Stats`](crate::Stats) has the figures. Over a
    /// store that cannot list there is no pass.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile_engine::{Engine, store::MemoryStore};
    ///
    /// let week = Duration::from_secs(7 * 24 * 60 * 60);
    /// let engine = Engine::builder().integrity_scan(week).open(MemoryStore::default())?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn integrity_scan(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.scan_every = every.into();
        self
    }
}
