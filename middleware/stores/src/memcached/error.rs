//! What an error of the client means for the engine: whether trying again may help. It repeats what a server said.

use async_memcached::{Error, ErrorKind, Status};
use sessile_engine::SessionId;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

/// An error without a cause in the client.
pub(super) fn own(kind: StoreErrorKind, what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(kind, NAME, what)
}

pub(super) fn closed() -> StoreError {
    own(StoreErrorKind::Closed, "the store was closed")
}

pub(super) fn damaged(id: &SessionId) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
}

/// Turns what the client reports into an error of the store.
pub(super) fn of(what: &'static str, e: Error) -> StoreError {
    own(kind(&e), what).with_source(e)
}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::Protocol(Status::Error(ErrorKind::Server(says))) => kind_of(says),
        // A command or a flag that an older server, or a proxy, does not know.
        Error::Protocol(Status::Error(ErrorKind::NonexistentCommand | ErrorKind::Client(_))) => {
            StoreErrorKind::Config
        }
        _ => StoreErrorKind::Unavailable,
    }
}

fn kind_of(says: &str) -> StoreErrorKind {
    if says.contains("too large") {
        StoreErrorKind::TooLarge
    } else if says.contains("out of memory") {
        StoreErrorKind::Full
    } else {
        StoreErrorKind::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        let server = |says: &str| Error::Protocol(Status::Error(ErrorKind::Server(says.into())));
        for (e, wanted) in [
            (server("object too large for cache"), StoreErrorKind::TooLarge),
            (server("out of memory storing object"), StoreErrorKind::Full),
            (server("what a later server says"), StoreErrorKind::Unavailable),
            (Error::Protocol(Status::Error(ErrorKind::NonexistentCommand)), StoreErrorKind::Config),
            (Error::Protocol(Status::Error(ErrorKind::Protocol(None))), StoreErrorKind::Unavailable),
            (Error::ConnectionClosed, StoreErrorKind::Unavailable),
        ] {
            assert_eq!(kind(&e), wanted, "{e}");
        }
    }
}
