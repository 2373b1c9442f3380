//! In-process session engine.
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
