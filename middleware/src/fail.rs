//! The response that takes the place of one whose session could not be committed. It is made once, as a
//! whole; nothing of the handler's response is mixed in.

use std::any::Any;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use sessile_engine::Error;

use crate::cookie::policy::ConfigError;

#[cfg(test)]
mod tests;

pub(crate) type OnError = Arc<dyn Fn(&Error) -> Response<String> + Send + Sync>;

/// [`Error::http_status`] as a status.
pub(crate) fn status_of(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The policy of a layer that was given none. It tells the client nothing about the cause.
pub(crate) fn default_policy() -> OnError {
    Arc::new(|error| {
        let status = status_of(error);
        let text = if status == StatusCode::FORBIDDEN {
            error.http_text()
        } else {
            "the session could not be saved"
        };
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    })
}

/// The policy's response, with a body of the type that the inner service uses.
///
/// A service's body type is kept as it is, because wrapping it would make axum box the body of every
/// response. The price is paid here: a body type we do not know can only be empty.
pub(crate) fn replacement<B: Default + 'static>(on_error: &OnError, error: &Error) -> Response<B> {
    tracing::error!(target: "sessile::commit", %error, "the session could not be committed");
    let (mut head, text) = on_error(error).into_parts();
    let mut body = B::default();
    if !fill(&mut body, text) {
        head.headers.remove(CONTENT_LENGTH);
    }
    Response::from_parts(head, body)
}

/// The response to a request for which the cookie hook broke a rule.
pub(crate) fn misconfigured<B: Default + 'static>(error: &ConfigError) -> Response<B> {
    tracing::error!(target: "sessile::commit", %error, "the cookie hook broke a rule; the session was not committed");
    let mut body = B::default();
    fill(&mut body, "the session cookie is misconfigured\n".to_owned());
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Writes `text` into `body` if its type is known.
fn fill(body: &mut dyn Any, text: String) -> bool {
    #[cfg(feature = "axum")]
    if let Some(body) = body.downcast_mut::<axum_core::body::Body>() {
        *body = text.into();
        return true;
    }
    if let Some(body) = body.downcast_mut::<String>() {
        *body = text;
    } else if let Some(body) = body.downcast_mut::<Vec<u8>>() {
        *body = text.into_bytes();
    } else {
        return false;
    }
    true
}
