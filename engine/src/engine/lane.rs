//! [`Lane`]: what the sessions begun through one [`Engine`] value count themselves with. It owns the core with all other
//! lanes, and keeps no engine open.

use std::sync::Arc;

use super::Engine;
use crate::core::Core;

/// A count of its own on a line of its own: two threads that begin sessions through different lanes write to
/// nothing that both have.
#[repr(align(128))]
pub(crate) struct Lane {
    core: Arc<Core>,
}

impl Lane {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core })
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Engine {
    #[inline]
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// A clone for the use of one thread, or of few. What begins sessions through it writes to no counter that those
    /// have who do so through others.
    #[doc(hidden)]
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { handle: Arc::clone(&self.handle), lane: Lane::new(Arc::clone(self.core())) }
    }
}
