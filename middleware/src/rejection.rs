//! Why a handler got no session: typed, with a status and a text that tells the client nothing it should
//! not know. Each rejection is traced once, at the target `sessile::rejection`.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;
use sessile_engine::Error;

use crate::fail;

/// Why a [`Session`](crate::Session) could not be extracted.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionRejection {
    /// No layer of the wanted marker is around the handler.
    MissingLayer(MissingLayer),
    /// The engine could not load the session.
    LoadFailed(LoadFailed),
    /// [`Session::from_token`](crate::Session::from_token) came after the request's session had been loaded, for
    /// another token.
    AlreadyLoaded,
}

/// No [`SessionLayer`](crate::SessionLayer) of the wanted marker is around the code that asked.
#[derive(Debug)]
pub struct MissingLayer(&'static str);

/// The engine could not load the session.
#[derive(Debug)]
pub struct LoadFailed(Error);

impl SessionRejection {
    pub(crate) fn missing_layer<M>() -> Self {
        let marker = std::any::type_name::<M>();
        tracing::error!(target: "sessile::rejection", marker, "{}", MISSING);
        Self::MissingLayer(MissingLayer(marker))
    }

    pub(crate) fn already_loaded() -> Self {
        tracing::error!(target: "sessile::rejection", "a token came after the request's session had been loaded");
        Self::AlreadyLoaded
    }

    pub(crate) fn load_failed(error: Error) -> Self {
        tracing::error!(target: "sessile::rejection", %error, "the session could not be loaded");
        Self::LoadFailed(LoadFailed(error))
    }

    /// The status of the response: 503 if the store is the reason or trying again may help, else 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingLayer(_) | Self::AlreadyLoaded => StatusCode::INTERNAL_SERVER_ERROR,
            Self::LoadFailed(LoadFailed(error)) => fail::status_of(error),
        }
    }

    /// The text of the response.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        match self {
            Self::MissingLayer(_) => MISSING,
            Self::LoadFailed(_) => "the session could not be loaded",
            Self::AlreadyLoaded => "the request has another session already",
        }
    }
}

const MISSING: &str = "session layer missing: put a `sessile::SessionLayer` with this marker around the handler, \
     and turn on its `request_extension` if something between them moves the request to another task";

impl MissingLayer {
    /// The type name of the wanted marker.
    #[must_use]
    pub fn marker(&self) -> &'static str {
        self.0
    }
}

impl LoadFailed {
    /// The engine's error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl fmt::Display for SessionRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.body_text())
    }
}

impl StdError for SessionRejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::MissingLayer(_) | Self::AlreadyLoaded => None,
            Self::LoadFailed(LoadFailed(error)) => Some(error),
        }
    }
}

/// An engine [`Error`] on its way out of a handler, so that `?` works on session operations.
///
/// It answers 401 when the session is gone (logged out by another request), 503 when the store is the reason
/// or trying again may help, else 500, and tells the client no more than that.
#[derive(Debug)]
pub struct ErrorResponse(Error);

impl ErrorResponse {
    /// The engine's error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The text of the response.
    #[must_use]
    pub fn body_text(&self) -> &'static str {
        self.0.http_text()
    }
}

impl From<Error> for ErrorResponse {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for ErrorResponse {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for ErrorResponse {
    fn into_response(self) -> axum_core::response::Response {
        tracing::warn!(target: "sessile::rejection", error = %self.0, "a session operation failed");
        (self.status(), self.body_text()).into_response()
    }
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for SessionRejection {
    fn into_response(self) -> axum_core::response::Response {
        (self.status(), self.body_text()).into_response()
    }
}
