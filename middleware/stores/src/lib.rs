//! Remote stores for sessile, one cargo feature each: an app that outgrew one machine opens its engine over one of
//! these and keeps everything else. It owns connections, statements and scripts; what a session is, and when a
//! change is made, it never decides.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "redis", feature = "postgres", feature = "mysql"))]
#[allow(dead_code, reason = "not every store needs all of it")]
mod driver;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
#[allow(dead_code, reason = "not every store needs all of it")]
mod sql;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
