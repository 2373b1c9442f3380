//! What an answer of the service means for the engine: whether trying again may help. It repeats what the service said, and
//! never a token.

use http::StatusCode;
use sessile_engine::SessionId;
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

/// Of what a service says, so many characters are repeated.
const MOST_SAID: usize = 200;

/// An error as Google's services tell it: an HTTP status, the name of a code, and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// `ABORTED` and the like; empty if somebody else has answered.
    pub(super) code: String,
    pub(super) message: String,
}

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

/// An answer that does not belong to the question. Whoever gave it, the rows are not damaged by that.
pub(super) fn unexpected(what: &'static str) -> StoreError {
    own(StoreErrorKind::Unavailable, format!("{what}: the answer has an unexpected form"))
}

/// There was no answer, or not all of it.
pub(super) fn unanswered(
    what: &'static str,
    e: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    own(StoreErrorKind::Unavailable, format!("{what}: Firestore does not answer")).with_source(e)
}

impl Refusal {
    pub(super) fn into_error(self, what: &'static str) -> StoreError {
        let kind = self.kind();
        let said: String = self.message.trim().chars().take(MOST_SAID).collect();
        own(kind, format!("{what}: Firestore says {} {}: {said}", self.status.as_u16(), self.code))
    }

    /// Whether a commit was refused because a document is not as it was when it was read.
    pub(super) fn is_stale(&self) -> bool {
        matches!(&*self.code, "FAILED_PRECONDITION" | "ALREADY_EXISTS" | "NOT_FOUND")
    }

    /// Whether a commit was undone because others are at the same documents.
    pub(super) fn is_contention(&self) -> bool {
        self.code == "ABORTED"
    }

    fn kind(&self) -> StoreErrorKind {
        match &*self.code {
            "ABORTED" | "CANCELLED" | "DATA_LOSS" | "DEADLINE_EXCEEDED" | "INTERNAL"
            | "RESOURCE_EXHAUSTED" | "UNAVAILABLE" | "UNKNOWN" => return StoreErrorKind::Unavailable,
            "INVALID_ARGUMENT" if is_about_size(&self.message) => return StoreErrorKind::TooLarge,
            _ => {}
        }
        match self.status.as_u16() {
            413 => StoreErrorKind::TooLarge,
            408 | 409 | 429 | 500..=599 => StoreErrorKind::Unavailable,
            // Credentials, rights, a database that is not there or of the other mode, a question that is not understood.
            _ => StoreErrorKind::Config,
        }
    }
}

/// There is no code of its own for a document or a request that is too large.
fn is_about_size(message: &str) -> bool {
    ["maximum entity size", "maximum allowed size", "is longer than", "payload size exceeds", "too big"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: &str, message: &str) -> Refusal {
        let status = StatusCode::from_u16(status).unwrap();
        Refusal { status, code: code.into(), message: message.into() }
    }

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, TooLarge, Unavailable};
        for (status, code, message, wanted) in [
            (409, "ABORTED", "Too much contention on these documents.", Unavailable),
            (429, "RESOURCE_EXHAUSTED", "Quota exceeded.", Unavailable),
            (500, "INTERNAL", "", Unavailable),
            (503, "UNAVAILABLE", "The service is currently unavailable.", Unavailable),
            (504, "DEADLINE_EXCEEDED", "", Unavailable),
            (502, "", "<html>Bad Gateway</html>", Unavailable),
            (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", Config),
            (403, "PERMISSION_DENIED", "Missing or insufficient permissions.", Config),
            (404, "NOT_FOUND", "The database (default) does not exist for project p", Config),
            (400, "FAILED_PRECONDITION", "The query requires an index.", Config),
            (400, "INVALID_ARGUMENT", "Invalid JSON payload received.", Config),
            (400, "INVALID_ARGUMENT", "maximum entity size is 1048576 bytes", TooLarge),
            (400, "INVALID_ARGUMENT", "The value of property \"b\" is longer than 1048487 bytes.", TooLarge),
            (
                400,
                "INVALID_ARGUMENT",
                "Document 'x' cannot be written because its size (1,048,800 bytes) exceeds the maximum allowed size of 1,048,576 bytes.",
                TooLarge,
            ),
            (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 11534336 bytes.", TooLarge),
            (413, "", "", TooLarge),
            (301, "", "", Config),
        ] {
            assert_eq!(refusal(status, code, message).kind(), wanted, "{status} {code} {message}");
        }
    }

    #[test]
    fn a_long_answer_is_not_repeated_whole() {
        assert!(refusal(400, "X", &"é".repeat(100_000)).into_error("x").to_string().len() < 600);
    }
}
