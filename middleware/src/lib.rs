//! Durable sessions for tower and axum apps in one binary: the tower layer, the extractor and the cookie in
//! front of [`sessile_engine`]. It keeps no session itself; the engine does.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use sessile::{Engine, Session, SessionLayer};
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! async fn hits(session: Session) -> Result<String, sessile::ErrorResponse> {
//!     let hits = session.update("hits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
//!     Ok(format!("hello for the {hits}. time\n"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let engine = Engine::builder().open_redb("sessions.redb")?;
//!     let app = Router::new().route("/", get(hits)).layer(SessionLayer::new(engine.clone()));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:4000").await?;
//!     axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;
//!     engine.close().await?;
//!     Ok(())
//! }
//!
//! /// Ready when a service manager (SIGTERM) or a terminal (SIGINT) asks for the end.
//! async fn stopped() {
//!     let mut terminate = signal(SignalKind::terminate()).expect("signals can be watched");
//!     tokio::select! {
//!         _ = terminate.recv() => {}
//!         _ = tokio::signal::ctrl_c() => {}
//!     }
//! }
//! ```
//!
//! # What happens to a request
//! A handler that takes a [`Session`] makes the layer read the cookie and the engine find the session; from
//! memory that is a lookup without an await. Operations on the session are synchronous and happen when they
//! are called. When the handler has produced its response head, the layer commits: a new session is
//! published and its cookie set, a renewed one gets its new token, a destroyed one's cookie is removed. A
//! handler that takes no session costs the layer nothing and its response stays as it is.
//!
//! Responses of handlers that took a session get `Vary: Cookie`; those with our cookie also a
//! [`CacheControl`] directive. A handler's own values are kept.
//!
//! # How the token travels
//! In a cookie by default ([`CookiePolicy`]); in headers with [`SessionLayer::header`]; in any other way with a
//! [`Transport`] of the application. Tokens in request and response bodies need the application's help, since
//! the layer reads no body: see [`InBody`].
//!
//! # When something fails
//! | what | default | instead |
//! |---|---|---|
//! | no layer around the handler | 500, traced | |
//! | the store cannot load the session | 503 | [`StoreDown::ServeEmpty`]: an empty session that refuses writes |
//! | the stored session is damaged | a fresh session; the row is quarantined | [`Corrupt::Fail`]: 500, once |
//! | the commit at the head fails | the whole response becomes a 503 or 500 | [`SessionLayer::on_error`] |
//! | the cookie hook breaks a rule | 500, traced, nothing committed | |
//! | an operation on the session fails | the handler's `Error` as a response: 401 for a session that has ended, 403 for a login beyond the owner's limit, 503 where trying again may help, else 500 ([`Error::http_status`]) | |
//!
//! The commit of a session whose owner has too many fails as well: see [`Builder::max_sessions_per_owner`].
//!
//! [`AuditObserver`] writes what happens to sessions to `tracing` and has the tables of events and metrics.
//!
//! # More than one request
//! A session belongs to nobody until [`login`](engine::Session::login). Then [`Engine::sessions_of`] lists the sessions
//! of its owner and [`Engine::destroy_all`] ends them. A stream or a WebSocket keeps its session live, and learns of
//! its end by [`revoked`](engine::Session::revoked) and of changes by [`changed`](engine::Session::changed). What the
//! next page is to show once is a [`flash`](engine::Session::flash). Requests that a page makes by itself extract
//! [`Untouched`].
//!
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | yes | [`Session`] as an axum extractor; [`Error`], [`SessionRejection`] and [`ErrorResponse`] as responses (through axum-core) |
//! | `metrics` | no | counters and histograms through the `metrics` facade; see [`AuditObserver`] |
//! | `redb` | yes | the embedded file store: `Engine::builder().open_redb(path)` |
//! | `tower-sessions-0_14` | no | `adapter::TowerSessionsStore`, the engine as a store of tower-sessions 0.14 and axum-login 0.18 |
//! | `tower-sessions-0_15` | no | the same for tower-sessions 0.15 |
//! | `tower-sessions-store-0_14`, `tower-sessions-store-0_15` | no | the other way round: `stores::tower_sessions::TowerStore`, any store of tower-sessions under the engine, for one node |
//!
//! # From another library
//! `docs/migrate/` has guides for SCS, gorilla/sessions, tower-sessions, axum_session and actix-session.
//!
//! # Deployment caveats
//! - *Cookies are `Secure`.* Browsers make an exception for `localhost`; for plain HTTP elsewhere see
//!   [`CookiePolicyBuilder::insecure_http`].
//! - *Order of layers.* `CatchPanic`, `Timeout`, `Trace` and `Compression` belong outside the session layer: a
//!   panic or a timeout then ends the request before anything is committed. Inside it, they turn the panic or
//!   the timeout into a response like any other, and the session is committed with it.
//! - *Other tasks.* A layer that moves requests to another task between the session layer and the handler
//!   needs [`SessionLayer::request_extension`].
//! - *Streaming bodies.* The commit comes before the body. A session that the client knows already can be
//!   read and written from the body; one that is still empty at the head cannot be started there, because no
//!   cookie can follow, and its writes fail with [`ErrorKind::HeadSent`].
//! - *Interim responses.* A `100 Continue` carries nothing of ours. A WebSocket's `101` is a response head like any
//!   other and carries the cookie; so do `304` and the answers to `HEAD`.
//! - *Errors.* A response with an error status commits like any other. An error of the inner *service* (not of
//!   an axum handler, which makes a response of it) passes through and commits nothing.

#![forbid(unsafe_code)]

#[cfg(feature = "_tower-sessions")]
pub mod adapter;
mod audit;
mod cookie;
mod extract;
mod fail;
mod future;
mod headers;
mod lane;
mod layer;
mod outage;
mod rejection;
mod scope;
mod service;
mod transport;

pub use crate::audit::{AuditObserver, SessionTag};
pub use crate::cookie::attributes::CookieAttributes;
pub use crate::cookie::policy::{ConfigError, ConfigErrorKind, CookiePolicy, CookiePolicyBuilder, SameSite};
pub use crate::extract::{Load, Session, SessionHandle, Untouched};
pub use crate::future::ResponseFuture;
pub use crate::headers::CacheControl;
pub use crate::layer::{Main, SessionLayer};
pub use crate::outage::{Corrupt, StoreDown};
pub use crate::rejection::{ErrorResponse, LoadFailed, MissingLayer, SessionRejection};
pub use crate::service::SessionService;
pub use crate::transport::header::HeaderTransport;
pub use crate::transport::{InBody, Presented, RequestHead, Transport};

/// Remote stores, for sessions that several machines share.
#[cfg(any(
    feature = "redis",
    feature = "postgres",
    feature = "mysql",
    feature = "mssql",
    feature = "sqlite",
    feature = "etcd",
    feature = "consul",
    feature = "mongodb",
    feature = "dynamodb",
    feature = "firestore",
    feature = "memcached",
    feature = "tower-sessions-store-0_14",
    feature = "tower-sessions-store-0_15"
))]
#[cfg_attr(
    docsrs,
    doc(cfg(any(
        feature = "redis",
        feature = "postgres",
        feature = "mysql",
        feature = "mssql",
        feature = "sqlite",
        feature = "etcd",
        feature = "consul",
        feature = "mongodb",
        feature = "dynamodb",
        feature = "firestore",
        feature = "memcached",
        feature = "tower-sessions-store-0_14",
        feature = "tower-sessions-store-0_15"
    )))
)]
pub use sessile_stores as stores;

/// The engine by itself, with everything that is not re-exported here. Its `Session` is what
/// [`Session`] dereferences to.
pub use sessile_engine as engine;
#[doc(inline)]
pub use sessile_engine::{
    Builder, Changed, Conflicts, Delivery, Durability, EncodedKey, Ended, Engine, Error, ErrorKind, Event,
    ExpiredBy, Flash, Health, Issue, Key, Keyring, Level, Merged, Namespace, Observer, OwnerLimit, Page,
    ParseLevelError, Protection, Rekeying, Result, Revoked, RevokedBy, Scan, SessionId, SessionInfo,
    SessionKey, Snapshot, Stats, Status, StoreError, StoreErrorKind, Token, Transaction, View, WhenFull,
    value,
};
