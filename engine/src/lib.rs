//! The session engine behind [sessile](https://github.com/sessile-rs/sessile): a sharded cache in front of an embedded
//! file, with records that are read in place, an expiry wheel and write-behind. It knows no HTTP; web apps use
//! the `sessile` crate, which puts a tower layer around it.
//!
//! Start with [`Engine::builder`]. A request begins with [`Engine::session`], uses the [`Session`], and ends with
//! [`Session::commit`], which says what the client must be told.
//!
//! # What it promises
//! Operations on one session are linearizable and happen when they are called; a session that was destroyed,
//! renewed or revoked never comes back, whatever races with it; what a crash may cost is chosen by name
//! ([`Durability`]). `docs/design.md` lists all promises with their mechanism and tests.
//!
//! # Features
//! | feature | default | what it adds | cost |
//! |---|---|---|---|
//! | `redb` | yes | `RedbStore` and `Builder::open_redb` | the redb crate |
//! | `conformance` | no | the public test suite for stores, and a store that fails on demand; not covered by semver | none at run time |
//! | `shuttle` | no | replaces locks and atomics for schedule tests; never enable it in an application | everything |

pub mod by_id;
mod cache;
pub mod clock;
mod config;
mod core;
mod engine;
mod error;
mod observer;
pub mod record;
mod session;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod stats;
pub mod store;
mod sync;
mod token;
pub mod value;
mod wheel;
mod writer;

pub use crate::config::{Builder, Durability};
pub use crate::engine::{Begin, Engine};
pub use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
pub use crate::observer::{Event, Observer};
pub use crate::session::{Commit, Delivery, Issue, Session, Snapshot, Status, Transaction};
pub use crate::stats::{Health, Stats};
pub use crate::token::{EncodedToken, ParseSessionIdError, SessionId, Token};
