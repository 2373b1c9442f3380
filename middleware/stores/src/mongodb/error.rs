//! What an error of the driver means for the engine: whether trying again may help. It repeats what a server said, and
//! never credentials.

use mongodb::error::{Error, ErrorKind, WriteFailure};
use sessile_engine::SessionId;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

// Codes of the server.
const DUPLICATE_KEY: i32 = 11000;
const NOT_A_REPLICA_SET: i32 = 123;

/// An error without a cause in the driver.
pub(super) fn own(kind: StoreErrorKind, what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(kind, NAME, what)
}

pub(super) fn closed() -> StoreError {
    own(StoreErrorKind::Closed, "the store was closed")
}

pub(super) fn damaged(id: &SessionId) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
}

/// Turns what the driver reports into an error of the store.
pub(super) fn of(what: &'static str) -> impl FnOnce(Error) -> StoreError {
    move |e| own(kind(&e), what).with_source(e)
}

fn kind(e: &Error) -> StoreErrorKind {
    match &*e.kind {
        ErrorKind::Command(e) => kind_of(e.code, &e.message),
        ErrorKind::Write(WriteFailure::WriteError(e)) => kind_of(e.code, &e.message),
        // It was applied where it was sent to, and may or may not last.
        ErrorKind::Write(WriteFailure::WriteConcernError(_)) => StoreErrorKind::Unavailable,
        ErrorKind::InsertMany(many) => {
            match many.write_errors.iter().flatten().find(|e| !is_duplicate(e.code)) {
                Some(e) => kind_of(e.code, &e.message),
                None => StoreErrorKind::Unavailable,
            }
        }
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => StoreErrorKind::Config,
        ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => StoreErrorKind::Corrupt,
        ErrorKind::Shutdown => StoreErrorKind::Closed,
        _ => StoreErrorKind::Unavailable,
    }
}

fn kind_of(code: i32, says: &str) -> StoreErrorKind {
    match code {
        10334 | 17419 | 17420 => StoreErrorKind::TooLarge,
        14031 => StoreErrorKind::Full,
        // Of the hosted service, for many reasons.
        8000 if says.contains("space quota") => StoreErrorKind::Full,
        // Not authorized, a failed authentication, an unknown command or option, other indexes of the same name, a
        // namespace that is a view, a validator's refusal, a write concern that cannot be had.
        2 | 9 | 13 | 18 | 59 | 72 | 73 | 79 | 85 | 86 | 100 | 121 | 166 | 8000 | NOT_A_REPLICA_SET => {
            StoreErrorKind::Config
        }
        // No primary, an interrupted operation, an exceeded time limit, and what later servers say.
        _ => StoreErrorKind::Unavailable,
    }
}

pub(super) fn is_duplicate(code: i32) -> bool {
    code == DUPLICATE_KEY
}

/// Whether a write failed because its key is taken, and for no other reason.
pub(super) fn has_taken_key(e: &Error) -> bool {
    match &*e.kind {
        ErrorKind::Write(WriteFailure::WriteError(e)) => is_duplicate(e.code),
        ErrorKind::Command(e) => is_duplicate(e.code),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, Full, TooLarge, Unavailable};
        for (code, says, wanted) in [
            (10107, "not primary", Unavailable),
            (91, "shutdown in progress", Unavailable),
            (50, "operation exceeded time limit", Unavailable),
            (64, "waiting for replication timed out", Unavailable),
            (11600, "interrupted at shutdown", Unavailable),
            (13, "not authorized on x", Config),
            (18, "Authentication failed.", Config),
            (59, "no such command: 'x'", Config),
            (10334, "BSONObj size is invalid", TooLarge),
            (14031, "out of disk space", Full),
            (8000, "you are over your space quota", Full),
            (8000, "user is not allowed to do action", Config),
            (99_999, "what a later server says", Unavailable),
        ] {
            assert_eq!(kind_of(code, says), wanted, "{says}");
        }
    }
}
