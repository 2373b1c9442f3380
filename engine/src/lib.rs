//! In-process session engine.
pub mod clock;
mod error;
pub mod record;
pub mod store;
mod sync;
mod token;
pub mod value;
mod wheel;

pub use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
pub use crate::token::{SessionId, Token};
