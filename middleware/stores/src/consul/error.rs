//! What an answer of the server means for the engine: whether trying again may help. It repeats what a server said, and
//! never the token.

use http::StatusCode;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

/// Of what a server says, so much is repeated.
const MOST_SAID: usize = 200;

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

/// There was no answer, or not all of it.
pub(super) fn unanswered(
    what: &'static str,
    e: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    own(StoreErrorKind::Unavailable, format!("{what}: the server does not answer")).with_source(e)
}

/// An answer that is none of those that the question may have.
pub(super) fn refused(what: &'static str, status: StatusCode, said: &[u8]) -> StoreError {
    let said = String::from_utf8_lossy(said.get(..MOST_SAID).unwrap_or(said)).into_owned();
    own(kind(status, &said), format!("{what}: the server says {}: {}", status.as_u16(), said.trim()))
}

/// Whether a transaction was refused for good, and not because somebody else was faster.
pub(super) fn is_for_good(said: &str) -> bool {
    said.contains("Permission denied") || said.contains("ACL not found")
}

fn kind(status: StatusCode, said: &str) -> StoreErrorKind {
    match status.as_u16() {
        413 => StoreErrorKind::TooLarge,
        500 if is_for_good(said) => StoreErrorKind::Config,
        // No leader, a leader that is overloaded, one that has just gone.
        429 | 500..=599 => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, TooLarge, Unavailable};
        for (status, said, wanted) in [
            (500, "No cluster leader", Unavailable),
            (500, "rpc error making call: leadership lost while committing log", Unavailable),
            (500, "rpc error making call: Permission denied", Config),
            (503, "", Unavailable),
            (429, "Your IP is issuing too many concurrent connections", Unavailable),
            (413, "Request body(524289 bytes) too large, max size: 524288 bytes.", TooLarge),
            (403, "Permission denied", Config),
            (403, "ACL not found", Config),
            (400, "Missing key name", Config),
            (404, "", Config),
            (301, "", Config),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind(status, said), wanted, "{status} {said}");
        }
    }

    #[test]
    fn a_long_answer_is_not_repeated_whole() {
        let e = refused("x", StatusCode::BAD_REQUEST, &vec![b'y'; 100_000]);
        assert!(e.to_string().len() < 400);
        assert!(
            refused("x", StatusCode::BAD_REQUEST, "é".repeat(100_000).as_bytes()).to_string().len() < 500
        );
    }
}
