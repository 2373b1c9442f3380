//! [`HeaderTransport`]: tokens in headers, for clients that are no browsers. It sets no cookie and reads none.

use http::header::{self, HeaderName, HeaderValue};
use http::response::Parts;
use sessile_engine::Issue;

use super::{Presented, RequestHead, Transport};
use crate::cookie::policy::{ConfigError, ConfigErrorKind};

/// Lines looked at per header. A client sends one.
const MAX_LINES: usize = 8;

const DEFAULT: HeaderName = HeaderName::from_static("x-session-token");

/// Carries the token in headers: in as `Authorization: Bearer <token>` or `X-Session-Token: <token>`, out as
/// `X-Session-Token`.
///
/// A response with that header holds what the client is to send from now on. It is there when a session is new
/// or renewed. When the session is over the header is there with an *empty value*: a client that keeps the
/// value as it is then has no token, and if something on the way drops the empty header, it keeps a dead one.
///
/// Nothing tells the client how long to keep a token: the server ends sessions, and answers a token of an
/// ended one as if there were none. Responses that carry a token say `Cache-Control: no-store`, unless the layer
/// has [`CacheControl::Keep`](crate::CacheControl::Keep). For scripts of other origins the application's CORS
/// layer must expose the header.
///
/// A browser sends no such header by itself, so forged cross-site requests carry no session. In exchange,
/// scripts of the page hold the token: prefer the cookie for browsers.
///
/// # Examples
/// ```
/// use sessile::{Engine, HeaderTransport, SessionLayer};
///
/// let engine = Engine::builder().in_memory()?;
/// let layer = SessionLayer::new(engine.clone()).header(HeaderTransport::default());
/// let other = SessionLayer::new(engine).header(HeaderTransport::named("x-api-session")?.bearer(false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTransport {
    name: HeaderName,
    /// What requests are read: `name`, and perhaps `Authorization`.
    read: Vec<HeaderName>,
}

impl HeaderTransport {
    /// Uses the header called `name` instead of `X-Session-Token`, in both directions.
    ///
    /// # Errors
    /// [`ConfigErrorKind::Header`] if that is no header name, or one with another meaning, such as `Cookie`.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        let refuse = |why| Err(ConfigError(ConfigErrorKind::Header, why));
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            return refuse("a header name has letters, digits and !#$%&'*+-.^_`|~ only");
        };
        let taken = [
            header::AUTHORIZATION,
            header::COOKIE,
            header::SET_COOKIE,
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::VARY,
            header::CACHE_CONTROL,
        ];
        if taken.contains(&name) {
            return refuse("this header has another meaning");
        }
        Ok(Self { read: vec![name.clone(), header::AUTHORIZATION], name })
    }

    /// Whether tokens in `Authorization: Bearer` count too. True by default; turn it off where that header
    /// belongs to somebody else.
    #[must_use]
    pub fn bearer(mut self, on: bool) -> Self {
        self.read = vec![self.name.clone()];
        if on {
            self.read.push(header::AUTHORIZATION);
        }
        self
    }
}

impl Default for HeaderTransport {
    fn default() -> Self {
        Self { name: DEFAULT, read: vec![DEFAULT, header::AUTHORIZATION] }
    }
}

impl Transport for HeaderTransport {
    fn find(&self, request: RequestHead<'_>, found: &mut Presented) {
        for name in &self.read {
            for line in request.headers().get_all(name).iter().take(MAX_LINES) {
                let value = line.as_bytes().trim_ascii();
                if *name != header::AUTHORIZATION {
                    found.offer(value);
                } else if let Some(credentials) = bearer(value)
                    // Other bearer tokens are no malformed ones of ours.
                    && sessile_engine::Token::parse(credentials).is_some()
                {
                    found.offer(credentials);
                }
            }
        }
    }

    fn issue(&self, issue: &Issue, response: &mut Parts) {
        let token = issue.token.encode();
        let mut value = HeaderValue::from_str(token.as_str()).expect("base64url is visible ASCII");
        value.set_sensitive(true);
        response.headers.insert(self.name.clone(), value);
    }

    fn remove(&self, response: &mut Parts) {
        response.headers.insert(self.name.clone(), HeaderValue::from_static(""));
    }

    fn vary(&self) -> &[HeaderName] {
        &self.read
    }
}

/// The credentials of a `Bearer` line. The scheme counts in any case (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|&b| b == b' ')?;
    let (scheme, rest) = value.split_at(at);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| rest.trim_ascii())
}
