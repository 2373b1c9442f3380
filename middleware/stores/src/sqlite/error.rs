//! What SQLite's errors mean. The file is ours, as a server's is not: an I/O error leaves it in doubt.

use rusqlite::{Error, ErrorCode};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

pub(super) fn store_error(what: &'static str, e: Error) -> StoreError {
    StoreError::new(kind(&e), NAME, what).with_source(e)
}

fn kind(e: &Error) -> StoreErrorKind {
    let Some(code) = e.sqlite_error_code() else {
        // A column of another type: the tables are of another make.
        return StoreErrorKind::Corrupt;
    };
    match code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OperationInterrupted
        | ErrorCode::OutOfMemory => StoreErrorKind::Unavailable,
        ErrorCode::DiskFull => StoreErrorKind::Full,
        ErrorCode::SystemIoFailure => StoreErrorKind::Io,
        ErrorCode::DatabaseCorrupt => StoreErrorKind::Corrupt,
        ErrorCode::NotADatabase => StoreErrorKind::Foreign,
        ErrorCode::TooBig => StoreErrorKind::TooLarge,
        _ => StoreErrorKind::Config,
    }
}

/// Somebody has the file for himself.
pub(super) fn is_busy(e: &Error) -> bool {
    matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
