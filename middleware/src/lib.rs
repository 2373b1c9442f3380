//! Durable sessions for tower and axum apps in one binary: the tower layer, the extractor and the cookie in
//! front of [`sessile_engine`]. It keeps no session itself; the engine does.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use sessile::{Engine, Session, SessionLayer};
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
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
//!         .await?;
//!     engine.close().await?;
//!     Ok(())
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
//! # Features
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | yes | [`Session`] as an axum extractor, [`SessionRejection`] and [`ErrorResponse`] as responses (through axum-core) |
//! | `redb` | yes | the embedded file store: `Engine::builder().open_redb(path)` |
//! | `tower-sessions-0_14` | no | `adapter::TowerSessionsStore`, the engine as a store of tower-sessions 0.14 and axum-login 0.18 |
//! | `tower-sessions-0_15` | no | the same for tower-sessions 0.15 |
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
//! - *Errors.* A response with an error status commits like any other. An error of the inner *service* (not of
//!   an axum handler, which makes a response of it) passes through and commits nothing.

#![forbid(unsafe_code)]

#[cfg(feature = "_tower-sessions")]
pub mod adapter;
mod cookie;
mod extract;
mod fail;
mod future;
mod headers;
mod layer;
mod rejection;
mod scope;
mod service;

pub use crate::cookie::policy::{ConfigError, ConfigErrorKind, CookiePolicy, CookiePolicyBuilder, SameSite};
pub use crate::extract::{Load, Session, SessionHandle};
pub use crate::future::ResponseFuture;
pub use crate::headers::CacheControl;
pub use crate::layer::{Main, SessionLayer};
pub use crate::rejection::{ErrorResponse, LoadFailed, MissingLayer, SessionRejection};
pub use crate::service::SessionService;

/// The engine by itself, with everything that is not re-exported here. Its `Session` is what
/// [`Session`] dereferences to.
pub use sessile_engine as engine;
#[doc(inline)]
pub use sessile_engine::{
    Builder, Delivery, Durability, Engine, Error, ErrorKind, Event, Health, Observer, Result, SessionId,
    Snapshot, Stats, Status, StoreError, StoreErrorKind, Token, Transaction,
};
