//! [`SessionLayer`]: what all requests of one layer share, and how it is configured. It serves no request.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use http::Response;
use sessile_engine::{Engine, Error};
use tower_layer::Layer;

use crate::cookie::attributes::CookieAttributes;
use crate::cookie::policy::{ConfigError, CookiePolicy};
use crate::fail::{self, OnError};
use crate::headers::CacheControl;
use crate::lane::Lanes;
use crate::outage::{Corrupt, StoreDown};
use crate::service::SessionService;
use crate::transport::header::HeaderTransport;
use crate::transport::{Carrier, RequestHead, Transport};

/// The cookie of one request: what its hook made of the layer's.
pub(crate) type RequestCookie = Result<CookiePolicy, ConfigError>;

/// The marker of a layer that was given no other one.
#[derive(Debug, Clone, Copy)]
pub enum Main {}

/// Gives the handlers behind it a [`Session`](crate::Session).
///
/// The layer itself does next to nothing: a request whose handler asks for no session passes through
/// untouched, its cookies unread. A handler that asks makes the engine load the session, and when it has
/// produced its response head the layer commits what changed and adds the headers this takes.
///
/// # Several layers
/// Layers with different [markers](Self::marker) live side by side on one request, each with its own cookie
/// and, if wanted, its own engine; `Session<Admin>` is the one of the layer marked `Admin`. Give them
/// different cookie names.
///
/// The same layer around a service twice is harmless: both serve one session, which whichever of them was
/// asked first commits. They know each other by the token the request brings. So a handler that calls the
/// service in process, with a request of its own that brings no token, lends it its session if its own request
/// brought none either; where that is not wanted, make the call from a task of its own.
///
/// # Where to put it
/// Around everything that uses the session, and inside everything that must see the final response head:
///
/// ```text
/// Trace → CatchPanic → Timeout → Compression → SessionLayer → routes
/// ```
///
/// With `ServiceBuilder`, whose first layer is the outermost:
/// ```text
/// ServiceBuilder::new().layer(trace).layer(catch_panic).layer(timeout).layer(compression).layer(session)
/// ```
/// With axum's `Router::layer`, whose last one is, the other way round.
///
/// A request that is dropped (a timeout outside, a client that went away) or whose handler panics commits
/// no renewal and publishes no new session; operations on a session that existed before happened when they
/// were called. A layer between this one and the handler that moves the request to another task
/// (`tower::buffer`, `tokio::spawn`) needs [`request_extension`](Self::request_extension).
///
/// # Examples
/// ```
/// use sessile::{CacheControl, CookiePolicy, Engine, SessionLayer};
///
/// let engine = Engine::builder().in_memory()?;
/// let layer = SessionLayer::new(engine)
///     .cookie(CookiePolicy::builder().name("__Host-id").build()?)
///     .cache_control(CacheControl::NoStore);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SessionLayer<M = Main> {
    shared: Arc<Shared>,
    /// Made with the first service, and kept for the next: a router asks for one a route.
    lanes: Arc<OnceLock<Lanes>>,
    marker: PhantomData<fn() -> M>,
}

/// Changes the cookie's attributes for one request.
pub(crate) type CookieHook = Arc<dyn Fn(RequestHead<'_>, &mut CookieAttributes) + Send + Sync>;

/// One configuration, shared by the requests of a lane. On lines of its own, so that its count shares none with another
/// lane's.
#[derive(Clone)]
#[repr(align(128))]
pub(crate) struct Shared {
    pub(crate) marker: TypeId,
    pub(crate) engine: Engine,
    pub(crate) cookie: CookiePolicy,
    pub(crate) carrier: Carrier,
    pub(crate) cookie_for_request: Option<CookieHook>,
    pub(crate) cache_control: CacheControl,
    pub(crate) on_error: OnError,
    pub(crate) on_store_down: StoreDown,
    pub(crate) on_corrupt: Corrupt,
    pub(crate) request_extension: bool,
}

impl Shared {
    /// Whether both hand out the same sessions in the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.engine.is_same(&other.engine)
            && self.cookie.name() == other.cookie.name()
            && self.carrier.is_same(&other.carrier)
    }

    /// The cookie policy for `request` alone, if the layer has a hook for it. `Err` if the hook broke a rule.
    pub(crate) fn cookie_for(&self, request: RequestHead<'_>) -> Option<Box<RequestCookie>> {
        let hook = self.cookie_for_request.as_ref()?;
        Some(Box::new(self.cookie.changed(|attributes| hook(request, attributes))))
    }
}

impl SessionLayer {
    /// A layer over `engine` with the default cookie.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let shared = Shared {
            marker: TypeId::of::<Main>(),
            engine,
            cookie: CookiePolicy::default(),
            carrier: Carrier::Cookie,
            cookie_for_request: None,
            cache_control: CacheControl::default(),
            on_error: fail::default_policy(),
            on_store_down: StoreDown::default(),
            on_corrupt: Corrupt::default(),
            request_extension: false,
        };
        Self::over(Arc::new(shared))
    }
}

impl<M> SessionLayer<M> {
    fn over(shared: Arc<Shared>) -> Self {
        Self { shared, lanes: Arc::default(), marker: PhantomData }
    }

    /// The same layer under another marker: a type of the application, used for its name only.
    ///
    /// # Examples
    /// ```
    /// use sessile::{CookiePolicy, Engine, Session, SessionLayer};
    ///
    /// enum Admin {}
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let layer = SessionLayer::new(engine)
    ///     .cookie(CookiePolicy::builder().name("admin").path("/admin").build()?)
    ///     .marker::<Admin>();
    ///
    /// async fn handler(session: Session<Admin>) {}
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn marker<N: 'static>(self) -> SessionLayer<N> {
        let shared = self.with(|shared| shared.marker = TypeId::of::<N>()).shared;
        SessionLayer::over(shared)
    }

    /// Carries the token in a cookie, this one. The default, with the default [`CookiePolicy`].
    ///
    /// # Examples
    /// ```
    /// use sessile::{CookiePolicy, Engine, SameSite, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let cookie = CookiePolicy::builder().name("__Host-id").same_site(SameSite::Strict).build()?;
    /// let layer = SessionLayer::new(engine).cookie(cookie);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cookie(self, policy: CookiePolicy) -> Self {
        self.with(|shared| {
            shared.cookie = policy;
            shared.carrier = Carrier::Cookie;
        })
    }

    /// Carries the token in headers.
    ///
    /// # Examples
    /// ```
    /// use sessile::{Engine, HeaderTransport, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let layer = SessionLayer::new(engine).header(HeaderTransport::default());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn header(self, header: HeaderTransport) -> Self {
        self.with(|shared| shared.carrier = Carrier::Header(header))
    }

    /// Carries the token in a way of the application's own.
    ///
    /// # Examples
    /// ```
    /// use sessile::{Engine, InBody, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// // Handlers use `Session::from_token` and `Session::issue`.
    /// let layer = SessionLayer::new(engine).transport(InBody);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn transport(self, transport: impl Transport) -> Self {
        self.with(|shared| shared.carrier = Carrier::Custom(Arc::new(transport)))
    }

    /// Changes the cookie's attributes request by request: `Domain` per tenant, `SameSite=None` for a page that
    /// others embed, no `Secure` on a developer's host.
    ///
    /// The hook runs when a request reaches the layer, whether or not it will need a cookie. If what it leaves
    /// breaks a rule of [`CookiePolicyBuilder::build`](crate::CookiePolicyBuilder::build), the reason is traced
    /// and a request that uses its session is answered with 500; its new session is not published and its
    /// renewal does not happen.
    ///
    /// A browser knows a cookie by name, domain and path. Give the same client the same `Domain` and `Path`
    /// every time, or it ends up with several cookies, of which a logout removes one.
    ///
    /// # Examples
    /// ```
    /// use sessile::{Engine, SameSite, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let layer = SessionLayer::new(engine).cookie_for_request(|request, cookie| {
    ///     match request.host() {
    ///         Some("localhost") => cookie.insecure_http(),
    ///         _ if request.uri().path().starts_with("/widget") => {
    ///             cookie.same_site(SameSite::None).partitioned(true)
    ///         }
    ///         _ => cookie,
    ///     };
    /// });
    /// # Ok::<(), sessile::Error>(())
    /// ```
    #[must_use]
    pub fn cookie_for_request(
        self,
        change: impl Fn(RequestHead<'_>, &mut CookieAttributes) + Send + Sync + 'static,
    ) -> Self {
        self.with(|shared| shared.cookie_for_request = Some(Arc::new(change)))
    }

    /// What responses that set or remove the cookie tell caches.
    #[must_use]
    pub fn cache_control(self, policy: CacheControl) -> Self {
        self.with(|shared| shared.cache_control = policy)
    }

    /// Makes the response for a session that could not be committed. By default it is 403 for a user who has too
    /// many sessions, 503 when trying again may help and 500 otherwise, with one line of text.
    ///
    /// The handler's response is dropped whole, so that the client cannot take it for done. The text reaches
    /// the client if the service's body is axum's, a `String` or a `Vec<u8>`; any other body is left empty.
    ///
    /// # Examples
    /// ```
    /// use http::{Response, StatusCode};
    /// use sessile::{Engine, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let layer = SessionLayer::new(engine).on_error(|error| {
    ///     let mut response = Response::new("Please try again.".to_owned());
    ///     let status = StatusCode::from_u16(error.http_status());
    ///     *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ///     response
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_error(self, respond: impl Fn(&Error) -> Response<String> + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.on_error = Arc::new(respond))
    }

    /// What a request gets whose session the store cannot load. [`StoreDown::Fail`] by default.
    ///
    /// # Examples
    /// ```
    /// use sessile::{Corrupt, Engine, SessionLayer, StoreDown};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// let layer = SessionLayer::new(engine).on_store_down(StoreDown::ServeEmpty).on_corrupt(Corrupt::Fail);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_store_down(self, policy: StoreDown) -> Self {
        self.with(|shared| shared.on_store_down = policy)
    }

    /// What a request gets whose stored session is damaged. [`Corrupt::Fresh`] by default.
    #[must_use]
    pub fn on_corrupt(self, policy: Corrupt) -> Self {
        self.with(|shared| shared.on_corrupt = policy)
    }

    /// Also puts a handle into the extensions of each request, for services that move the request to another
    /// task before the session is asked for. Off by default: it costs two allocations a request.
    ///
    /// # Examples
    /// ```
    /// use sessile::{Engine, SessionLayer};
    ///
    /// # let engine = Engine::builder().in_memory()?;
    /// // `tower::buffer` inside the layer serves requests on a task of its own.
    /// let layer = SessionLayer::new(engine).request_extension(true);
    /// # Ok::<(), sessile::Error>(())
    /// ```
    #[must_use]
    pub fn request_extension(self, on: bool) -> Self {
        self.with(|shared| shared.request_extension = on)
    }

    #[cfg(test)]
    pub(crate) fn into_shared(self) -> Arc<Shared> {
        self.shared
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        Self::over(self.shared)
    }
}

impl<M, S> Layer<S> for SessionLayer<M> {
    type Service = SessionService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, self.lanes.get_or_init(|| Lanes::of(&self.shared)).clone())
    }
}

impl<M> Clone for SessionLayer<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), lanes: Arc::clone(&self.lanes), marker: PhantomData }
    }
}

impl<M> fmt::Debug for SessionLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("marker", &std::any::type_name::<M>())
            .field("transport", &self.shared.carrier.describe())
            .field("cookie", &self.shared.cookie)
            .field("on_store_down", &self.shared.on_store_down)
            .field("on_corrupt", &self.shared.on_corrupt)
            .field("cache_control", &self.shared.cache_control)
            .field("request_extension", &self.shared.request_extension)
            .finish_non_exhaustive()
    }
}
