//! [`SessionLayer`]: what all requests of one layer share, and how it is configured. It serves no request.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use http::Response;
use sessile_engine::{Engine, Error};
use tower_layer::Layer;

use crate::cookie::policy::CookiePolicy;
use crate::fail::{self, OnError};
use crate::headers::CacheControl;
use crate::service::SessionService;

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
/// asked first commits.
///
/// # Where to put it
/// Around everything that uses the session, and inside everything that must see the final response head:
///
/// ```text
/// Trace → CatchPanic → Timeout → Compression → SessionLayer → routes
/// ```
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
    marker: PhantomData<fn() -> M>,
}

/// One configuration, shared by all services and requests of a layer.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) marker: TypeId,
    pub(crate) engine: Engine,
    pub(crate) cookie: CookiePolicy,
    pub(crate) cache_control: CacheControl,
    pub(crate) on_error: OnError,
    pub(crate) request_extension: bool,
}

impl Shared {
    /// Whether both hand out the same sessions in the same cookie.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.engine.is_same(&other.engine) && self.cookie.name() == other.cookie.name()
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
            cache_control: CacheControl::default(),
            on_error: fail::default_policy(),
            request_extension: false,
        };
        Self { shared: Arc::new(shared), marker: PhantomData }
    }
}

impl<M> SessionLayer<M> {
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
        SessionLayer { shared, marker: PhantomData }
    }

    /// Which cookie carries the token.
    #[must_use]
    pub fn cookie(self, policy: CookiePolicy) -> Self {
        self.with(|shared| shared.cookie = policy)
    }

    /// What responses that set or remove the cookie tell caches.
    #[must_use]
    pub fn cache_control(self, policy: CacheControl) -> Self {
        self.with(|shared| shared.cache_control = policy)
    }

    /// Makes the response for a session that could not be committed. By default it is 503 when trying again
    /// may help and 500 otherwise, with one line of text.
    ///
    /// The handler's response is dropped whole, so that the client cannot take it for done. The text reaches
    /// the client if the service's body is axum's, a `String` or a `Vec<u8>`; any other body is left empty.
    #[must_use]
    pub fn on_error(self, respond: impl Fn(&Error) -> Response<String> + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.on_error = Arc::new(respond))
    }

    /// Also puts a handle into the extensions of each request, for services that move the request to another
    /// task before the session is asked for. Off by default: it costs two allocations a request.
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
        self
    }
}

impl<M, S> Layer<S> for SessionLayer<M> {
    type Service = SessionService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, Arc::clone(&self.shared))
    }
}

impl<M> Clone for SessionLayer<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), marker: PhantomData }
    }
}

impl<M> fmt::Debug for SessionLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("marker", &std::any::type_name::<M>())
            .field("cookie", &self.shared.cookie)
            .field("cache_control", &self.shared.cache_control)
            .field("request_extension", &self.shared.request_extension)
            .finish_non_exhaustive()
    }
}
