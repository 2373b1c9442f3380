//! What a request gets when its session cannot be loaded: policies, and when they apply. The stand-in itself is
//! the engine's.

use sessile_engine::{Error, ErrorKind, Session};

use crate::layer::Shared;

/// What [`SessionLayer::on_store_down`](crate::SessionLayer::on_store_down) does for a request whose session
/// cannot be read from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StoreDown {
    /// The handler gets no session: the extractor answers 503. The default.
    #[default]
    Fail,
    /// The handler gets an empty session that refuses writes with
    /// [`ErrorKind::NotLoaded`]; see [`Engine::stand_in`](sessile_engine::Engine::stand_in). No cookie is set
    /// or removed, so the client is back in its session when the store is.
    ///
    /// The handler serves a user who is logged in as one who is not: choose this for layers of public pages.
    ServeEmpty,
}

/// What [`SessionLayer::on_corrupt`](crate::SessionLayer::on_corrupt) does for a request whose stored session
/// failed its integrity check. In either case the row is quarantined and the event traced and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Corrupt {
    /// The user begins anew with an empty session. The default.
    #[default]
    Fresh,
    /// The extractor answers 500. Once the row is out of service, which takes one commit of the store, the same
    /// token is an unknown one and its user begins anew.
    Fail,
}

impl Shared {
    /// The session that a request gets for what the engine has loaded, or failed to.
    pub(crate) fn admit(&self, loaded: Result<Session, Error>) -> Result<Session, Error> {
        match loaded {
            Ok(session) => {
                if self.on_corrupt == Corrupt::Fail {
                    session.check_intact()?;
                }
                Ok(session)
            }
            Err(error)
                if self.on_store_down == StoreDown::ServeEmpty
                    && matches!(error.kind(), ErrorKind::Store | ErrorKind::ReadOnly) =>
            {
                tracing::warn!(target: "sessile::rejection", %error, "serving a request without its session");
                Ok(self.engine.stand_in())
            }
            Err(error) => Err(error),
        }
    }
}
