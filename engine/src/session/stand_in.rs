//! Handles on sessions that could not be loaded: empty ones that refuse everything, and how a handle tells that
//! the session it should have been was damaged. Neither ever reaches the client as a token or a removal.

use std::sync::Arc;

use super::{Session, Slot};
use crate::engine::{Engine, Lane};
use crate::error::{Error, ErrorKind, Result};

impl Engine {
    /// A session that stands in for one which could not be loaded, so that a request can be served without
    /// it. It reads as empty; whatever would change it, [`destroy`](Session::destroy) included, fails with
    /// [`ErrorKind::NotLoaded`], and its commit has nothing to deliver: the client keeps its token.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// use sessile_engine::ErrorKind;
    ///
    /// let session = engine.stand_in();
    /// assert_eq!(session.get::<String>("user")?, None);
    /// assert_eq!(session.put("user", "ann").unwrap_err().kind(), ErrorKind::NotLoaded);
    /// assert_eq!(session.destroy().unwrap_err().kind(), ErrorKind::NotLoaded);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn stand_in(&self) -> Session {
        let session = Session::begin(Arc::clone(self.lane()), None, None);
        session.unit().slot.close();
        session.unit().slot.lock().not_loaded = true;
        session
    }
}

impl Session {
    pub(crate) fn begin_damaged(lane: Arc<Lane>) -> Self {
        let session = Self::begin(lane, None, None);
        session.unit().slot.lock().damaged = true;
        session
    }

    /// Whether this is an empty [stand-in](Engine::stand_in) for a session that could not be loaded.
    pub fn is_stand_in(&self) -> bool {
        self.unit().slot.lock().not_loaded
    }

    /// Whether the stored record of the presented token passed its checks. If it did not, it was quarantined
    /// and the session began empty.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn check_intact(&self) -> Result<()> {
        if self.unit().slot.lock().damaged { Err(damaged()) } else { Ok(()) }
    }
}

impl Slot {
    pub(super) fn check_loaded(&self) -> Result<()> {
        if self.not_loaded {
            return Err(Error::new(
                ErrorKind::NotLoaded,
                "the session could not be loaded, and the empty one in its place accepts nothing",
            ));
        }
        Ok(())
    }
}

pub(crate) fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the stored session failed its check and was quarantined")
}
