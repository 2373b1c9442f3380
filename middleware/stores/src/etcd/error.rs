//! What an error of the client means for the engine: whether trying again may help. It repeats what a server said, and
//! never credentials.

use std::error::Error as _;
use std::io;

use etcd_client::Error;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

// Codes of gRPC.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// An error without a cause in the client.
pub(super) fn own(kind: StoreErrorKind, what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(kind, NAME, what)
}

pub(super) fn closed() -> StoreError {
    own(StoreErrorKind::Closed, "the store was closed")
}

/// An answer that does not belong to the question.
pub(super) fn unexpected(what: &'static str) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("{what}: the server's answer has an unexpected form"))
}

/// What the client reports.
pub(super) fn of(what: &'static str, e: Error) -> StoreError {
    own(kind(&e), what).with_source(e)
}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::GRpcStatus(status) => kind_of(i32::from(status.code()), status.message()),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            StoreErrorKind::Config
        }
        _ => StoreErrorKind::Unavailable,
    }
}

fn kind_of(code: i32, says: &str) -> StoreErrorKind {
    match code {
        RESOURCE_EXHAUSTED if says.contains("database space exceeded") => StoreErrorKind::Full,
        INVALID_ARGUMENT if says.contains("request is too large") => StoreErrorKind::TooLarge,
        // An old token, or one of a server that has started again: the next call has a new one.
        UNAUTHENTICATED if says.contains("invalid auth token") => StoreErrorKind::Unavailable,
        INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED | UNIMPLEMENTED | NOT_FOUND => {
            StoreErrorKind::Config
        }
        // Too many requests, no leader, a server that is not there.
        _ => StoreErrorKind::Unavailable,
    }
}

/// Whether nobody took the request: it was applied nowhere, and may be sent to another server.
pub(super) fn was_not_sent(e: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match e {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(e) => e.source(),
        _ => None,
    };
    while let Some(e) = source {
        if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = e.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, Full, TooLarge, Unavailable};
        for (code, says, wanted) in [
            (14, "etcdserver: leader changed", Unavailable),
            (14, "etcdserver: request timed out", Unavailable),
            (4, "deadline exceeded", Unavailable),
            (8, "etcdserver: mvcc: database space exceeded", Full),
            (8, "etcdserver: too many requests", Unavailable),
            (3, "etcdserver: request is too large", TooLarge),
            (3, "etcdserver: too many operations in txn request", Config),
            (3, "etcdserver: authentication failed, invalid user ID or password", Config),
            (7, "etcdserver: permission denied", Config),
            (16, "etcdserver: invalid auth token", Unavailable),
            (12, "unknown service", Config),
            (2, "what a later server says", Unavailable),
        ] {
            assert_eq!(kind_of(code, says), wanted, "{says}");
        }
    }
}
