//! What an error of the service means for the engine: whether it is certain that nothing was done, and whether trying again
//! may help. It repeats what the service said, and never credentials.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use sessile_engine::SessionId;
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

pub(super) fn damaged(id: &SessionId) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
}

/// Somebody else was at the same item for as long as we tried.
pub(super) fn contended(what: &'static str) -> StoreError {
    own(StoreErrorKind::Unavailable, format!("{what}: others are changing the same session"))
}

/// Turns what the client reports into an error of the store.
pub(super) fn of<E>(what: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    move |e| match e {
        SdkError::ServiceError(e) => {
            let status = e.raw().status().as_u16();
            if e.raw().status().is_success() {
                return unreadable(what).with_source(e.into_err());
            }
            let e = e.into_err();
            said(what, e.code().unwrap_or("an error"), e.message().unwrap_or_default(), status).with_source(e)
        }
        SdkError::ConstructionFailure(_) => {
            own(StoreErrorKind::Config, format!("{what}: the request could not be made")).with_source(e)
        }
        // Something else than the service has answered, with what is no error of it.
        SdkError::ResponseError(ref answer) if answer.raw().status().is_success() => {
            unreadable(what).with_source(e)
        }
        e => own(StoreErrorKind::Unavailable, format!("{what}: the service does not answer")).with_source(e),
    }
}

fn unreadable(what: &'static str) -> StoreError {
    own(StoreErrorKind::Corrupt, format!("{what}: the answer has an unexpected form"))
}

/// What the service says of a request that it refuses.
pub(super) fn said(what: &'static str, code: &str, said: &str, status: u16) -> StoreError {
    let short: String = said.chars().take(MOST_SAID).collect();
    let message = format!("{what}: the service says {code}: {short}");
    own(kind(code, said, status), message.trim_end_matches([':', ' ']).to_owned())
}

fn kind(code: &str, said: &str, status: u16) -> StoreErrorKind {
    match code {
        "ValidationException" | "ValidationError"
            if said.contains("size has exceeded") || said.contains("maximum allowed size") =>
        {
            StoreErrorKind::TooLarge
        }
        // A provider may bring new credentials.
        "ExpiredTokenException" | "ExpiredToken" => StoreErrorKind::Unavailable,
        code if code.starts_with("ItemCollectionSizeLimitExceeded") => StoreErrorKind::Full,
        code if is_throttled(code) || is_contended(code) => StoreErrorKind::Unavailable,
        _ if status >= 500 => StoreErrorKind::Unavailable,
        // No such table, no permission, a signature that is not accepted, a table with other keys.
        _ => StoreErrorKind::Config,
    }
}

/// Too much was asked: this was not done.
pub(super) fn is_throttled(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "ProvisionedThroughputExceeded"
            | "ThrottlingException"
            | "ThrottlingError"
            | "Throttling"
            | "RequestLimitExceeded"
            | "LimitExceededException"
    )
}

/// A transaction was at the same item: this was not done.
pub(super) fn is_contended(code: &str) -> bool {
    matches!(
        code,
        "TransactionConflictException"
            | "TransactionConflict"
            | "TransactionInProgressException"
            | "ReplicatedWriteConflictException"
    )
}

/// Whether nobody knows what became of a request. Whoever only asks may ask again.
pub(super) fn is_unanswered<E: ProvideErrorMetadata>(e: &SdkError<E, HttpResponse>) -> bool {
    match e {
        SdkError::ServiceError(e) => e.raw().status().as_u16() >= 500,
        SdkError::ConstructionFailure(_) => false,
        SdkError::ResponseError(e) => !e.raw().status().is_success(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_say_whether_trying_again_may_help() {
        use StoreErrorKind::{Config, Full, TooLarge, Unavailable};
        for (code, said, status, wanted) in [
            ("ProvisionedThroughputExceededException", "The level of …", 400, Unavailable),
            ("ThrottlingException", "Throughput exceeds the current capacity", 400, Unavailable),
            ("RequestLimitExceeded", "", 400, Unavailable),
            ("TransactionConflictException", "", 400, Unavailable),
            ("InternalServerError", "", 500, Unavailable),
            ("ServiceUnavailable", "", 503, Unavailable),
            ("what a later service says", "", 502, Unavailable),
            ("ExpiredTokenException", "", 400, Unavailable),
            ("ItemCollectionSizeLimitExceededException", "", 400, Full),
            ("ResourceNotFoundException", "Requested resource not found", 400, Config),
            ("AccessDeniedException", "", 400, Config),
            ("UnrecognizedClientException", "The security token … is invalid.", 400, Config),
            ("InvalidSignatureException", "", 400, Config),
            ("ValidationException", "The provided key element does not match the schema", 400, Config),
            ("ValidationException", "Item size has exceeded the maximum allowed size", 400, TooLarge),
        ] {
            assert_eq!(kind(code, said, status), wanted, "{code} {said}");
        }
    }
}
