//! How tokens travel: [`cookie`] (the default), [`header`], or a [`Transport`] of the application. A transport
//! finds candidate tokens in a request head and writes what the client must be told into a response head. It
//! looks no session up and decides nothing about one.
//!
//! The cookie path is not behind the trait: it borrows from the request, and a layer that uses it pays one
//! branch for the choice.

pub(crate) mod cookie;
mod head;
pub(crate) mod header;

use std::sync::Arc;
use std::vec;

use http::response::Parts;
use http::{HeaderMap, HeaderName, Response};
use sessile_engine::{Delivery, Issue, SessionId, Token};

pub use self::head::RequestHead;
use self::header::HeaderTransport;
use crate::audit;
use crate::cookie::policy::CookiePolicy;
use crate::headers::{self, CacheControl};

/// The most tokens that are tried for one request. The first that opens a session counts.
pub(crate) const MAX_TOKENS: usize = 4;

/// Carries tokens in another way than the built-in transports.
///
/// One value serves all requests of its layers, at the same time. No method may block.
///
/// # Tokens in bodies
/// A transport sees heads only. Where tokens travel in bodies, the application reads its body itself and
/// begins the session with [`Session::from_token`](crate::Session::from_token), and takes the token for the
/// response from [`Session::issue`](sessile_engine::Session::issue); the layer has [`InBody`] as its transport.
///
/// # Examples
/// Tokens in gRPC metadata, which are HTTP headers:
/// ```
/// use http::response::Parts;
/// use http::{HeaderName, HeaderValue};
/// use sessile::engine::Issue;
/// use sessile::{Engine, Presented, RequestHead, SessionLayer, Transport};
///
/// struct Metadata;
///
/// static KEYS: [HeaderName; 1] = [HeaderName::from_static("session-token")];
///
/// impl Transport for Metadata {
///     fn find(&self, request: RequestHead<'_>, found: &mut Presented) {
///         for value in request.headers().get_all(&KEYS[0]) {
///             found.offer(value.as_bytes());
///         }
///     }
///     fn issue(&self, issue: &Issue, response: &mut Parts) {
///         if let Ok(mut value) = HeaderValue::from_str(issue.token.encode().as_str()) {
///             value.set_sensitive(true);
///             response.headers.insert(&KEYS[0], value);
///         }
///     }
///     fn remove(&self, response: &mut Parts) {
///         response.headers.insert(&KEYS[0], HeaderValue::from_static(""));
///     }
///     fn vary(&self) -> &[HeaderName] {
///         &KEYS
///     }
/// }
///
/// let layer = SessionLayer::new(Engine::builder().in_memory()?).transport(Metadata);
/// # Ok::<(), sessile::Error>(())
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Offers every token that the request presents, the most trusted first. Offer what the client sent as it
    /// is: what is no token is refused and reported.
    fn find(&self, request: RequestHead<'_>, found: &mut Presented);

    /// Tells the client to use `issue.token` from now on. Mark header values that hold it as sensitive. The
    /// layer adds `Cache-Control: no-store`.
    fn issue(&self, issue: &Issue, response: &mut Parts);

    /// Tells the client to forget its token: the session is over.
    fn remove(&self, response: &mut Parts);

    /// The request headers that [`find`](Self::find) looks at. Responses that depend on the session name them in
    /// `Vary`; a shared cache could mix up users if one were missing here.
    fn vary(&self) -> &[HeaderName];
}

/// The transport of a layer whose tokens travel in bodies: it finds and delivers none.
///
/// A handler begins its session with [`Session::from_token`](crate::Session::from_token) and puts what
/// [`issue`](sessile_engine::Session::issue) gives into its response.
///
/// # Examples
/// ```
/// use sessile::{Engine, InBody, Session, SessionLayer, SessionRejection, Token};
///
/// // Inside a handler, with the request body read:
/// async fn login(token_in_body: &str) -> Result<String, Box<dyn std::error::Error>> {
///     let token = Token::parse(token_in_body.as_bytes());
///     let session: Session = Session::from_token(token.as_ref()).await?;
///     session.put("user", "ann")?;
///     Ok(match session.issue()? {
///         Some(issue) => issue.token.encode().as_str().to_owned(),
///         None => String::new(),
///     })
/// }
///
/// let layer = SessionLayer::new(Engine::builder().in_memory()?).transport(InBody);
/// # Ok::<(), sessile::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct InBody;

impl Transport for InBody {
    fn find(&self, _: RequestHead<'_>, _: &mut Presented) {}
    fn issue(&self, _: &Issue, _: &mut Parts) {
        tracing::warn!(
            target: "sessile::transport",
            "a token was not delivered: the handler did not take it with `Session::issue`"
        );
    }
    fn remove(&self, _: &mut Parts) {}
    fn vary(&self) -> &[HeaderName] {
        &[]
    }
}

/// The tokens that a request presents, as a [`Transport`] finds them.
#[derive(Debug, Default)]
pub struct Presented {
    tokens: Vec<(SessionId, Token)>,
    malformed: bool,
}

impl Presented {
    /// Takes `value` if it is written as a token is: 43 characters of base64url. At most four different ones
    /// are kept.
    pub fn offer(&mut self, value: &[u8]) {
        let Some(token) = Token::parse(value) else {
            self.malformed |= !value.is_empty();
            return;
        };
        let id = token.id();
        if self.tokens.len() < MAX_TOKENS && self.tokens.iter().all(|(other, _)| *other != id) {
            self.tokens.push((id, token));
        }
    }

    /// How many tokens were taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether none was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// What a request presents, ready to be tried.
pub(crate) struct Candidates {
    pub(crate) first: Option<Token>,
    /// Empty, unless somebody planted tokens.
    pub(crate) rest: vec::IntoIter<Token>,
    /// Of all of them: [`fingerprint`].
    pub(crate) fingerprint: u64,
    malformed: bool,
    over_budget: bool,
}

impl Candidates {
    /// The one token that the application brings itself.
    pub(crate) fn of(token: Option<&Token>) -> Self {
        let mut presented = Presented::default();
        if let Some(token) = token {
            presented.tokens.push((token.id(), token.clone()));
        }
        presented.into()
    }

    /// Tells the audit log what was odd about the request.
    pub(crate) fn report(&self) {
        if self.malformed {
            audit::malformed();
        }
        if self.over_budget {
            audit::over_budget();
        }
        let more = self.rest.as_slice().len();
        if more > 0 {
            audit::ambiguous(1 + more);
        }
    }
}

impl From<Presented> for Candidates {
    fn from(presented: Presented) -> Self {
        let fingerprint = fingerprint(presented.tokens.iter().map(|(id, _)| id));
        let mut tokens = presented.tokens.into_iter().map(|(_, token)| token);
        let first = tokens.next();
        let rest: Vec<Token> = tokens.collect();
        Self {
            first,
            rest: rest.into_iter(),
            fingerprint,
            malformed: presented.malformed,
            over_budget: false,
        }
    }
}

/// A number that differs, for all that a client can bring about, when tokens, their order or their count differ:
/// they are told apart by their hashes.
#[inline]
pub(crate) fn fingerprint<'a>(ids: impl IntoIterator<Item = &'a SessionId>) -> u64 {
    ids.into_iter().fold(0, |print, id| {
        let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
        print.rotate_left(1) ^ u64::from_le_bytes([a, b, c, d, e, f, g, h])
    })
}

/// The transport of a layer.
#[derive(Clone)]
pub(crate) enum Carrier {
    Cookie,
    Header(HeaderTransport),
    Custom(Arc<dyn Transport>),
}

impl Carrier {
    /// The tokens in `request`; `cookie` is the layer's cookie.
    pub(crate) fn find(&self, request: RequestHead<'_>, cookie: &CookiePolicy) -> Candidates {
        let mut presented = Presented::default();
        match self {
            Self::Cookie => return cookie::find(request.headers(), cookie.name()),
            Self::Header(header) => header.find(request, &mut presented),
            Self::Custom(custom) => custom.find(request, &mut presented),
        }
        presented.into()
    }

    /// Names what the response depends on.
    pub(crate) fn vary(&self, headers: &mut HeaderMap) {
        let names = match self {
            Self::Cookie => return headers::vary_on_cookie(headers),
            Self::Header(header) => header.vary(),
            Self::Custom(custom) => custom.vary(),
        };
        for name in names {
            headers::vary_on(headers, name);
        }
    }

    /// Writes `delivery` into the response head.
    pub(crate) fn deliver<B>(
        &self,
        delivery: &Delivery,
        cookie: &CookiePolicy,
        cache_control: CacheControl,
        mut response: Response<B>,
    ) -> Response<B> {
        let transport: &dyn Transport = match self {
            Self::Cookie => {
                cookie::deliver(delivery, cookie, cache_control, response.headers_mut());
                return response;
            }
            Self::Header(header) => header,
            Self::Custom(custom) => &**custom,
        };
        let (mut head, body) = response.into_parts();
        match delivery {
            Delivery::Issue(issue) => transport.issue(issue, &mut head),
            Delivery::Remove => transport.remove(&mut head),
            _ => return Response::from_parts(head, body),
        }
        if cache_control != CacheControl::Keep {
            headers::no_store(&mut head.headers);
        }
        Response::from_parts(head, body)
    }

    /// Whether both read and write the same places, the cookie's name apart.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cookie, Self::Cookie) => true,
            (Self::Header(a), Self::Header(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            Self::Header(_) => "header",
            Self::Custom(_) => "custom",
        }
    }
}
