//! What can go wrong in a handler, as an answer: one line of plain text and the status. It never shows a token.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sessile::ErrorKind;

pub(crate) type Result<T, E = AppError> = std::result::Result<T, E>;

pub(crate) enum AppError {
    /// The session refused.
    Session(sessile::Error),
    /// The playground did.
    Refused(StatusCode, String),
}

impl AppError {
    /// What the client asked for makes no sense.
    pub(crate) fn bad(what: impl ToString) -> Self {
        Self::Refused(StatusCode::BAD_REQUEST, what.to_string())
    }

    /// What the client asked for is not for it.
    pub(crate) fn forbidden(what: &str) -> Self {
        Self::Refused(StatusCode::FORBIDDEN, what.to_owned())
    }
}

impl From<sessile::Error> for AppError {
    fn from(e: sessile::Error) -> Self {
        Self::Session(e)
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Session(e) => (status_of(&e), e.to_string()),
            Self::Refused(status, text) => (status, text),
        };
        (status, format!("{text}\n")).into_response()
    }
}

fn status_of(e: &sessile::Error) -> StatusCode {
    match e.kind() {
        ErrorKind::InvalidKey | ErrorKind::InvalidTime => StatusCode::BAD_REQUEST,
        ErrorKind::TypeMismatch => StatusCode::CONFLICT,
        ErrorKind::Limit => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::OwnerLimit => StatusCode::FORBIDDEN,
        // Another request has logged this user out meanwhile; an application sends them to its login.
        ErrorKind::Revoked => StatusCode::GONE,
        ErrorKind::Store | ErrorKind::ReadOnly | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ if e.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
