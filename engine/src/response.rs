//! [`Error`](crate::Error) as an axum response, so that a handler can return the engine's `Result`. It tells the
//! client nothing but the status and one fixed line.

use axum_core::response::{IntoResponse, Response};

use crate::error::Error;

/// The status is [`Error::http_status`], the body [`Error::http_text`]; the error itself is traced.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        tracing::warn!(target: "sessile::rejection", error = %self, "a session operation failed");
        let mut response = self.http_text().into_response();
        if let Ok(status) = self.http_status().try_into() {
            *response.status_mut() = status;
        }
        response
    }
}
