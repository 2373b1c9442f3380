//! Support for the tests that drive the playground from outside, over real sockets: it starts, kills and
//! restarts the server, speaks HTTP/1.1 and keeps cookies. It links no part of sessile, so a test sees only
//! what any client sees. It panics where a test should fail.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests measure the server from outside, by the real clock"
)]

pub mod client;
pub mod jar;
pub mod oracle;
mod readme;
pub mod rng;
pub mod server;
pub mod stream;

pub use client::{Client, Response};
pub use jar::Jar;
pub use rng::Rng;
pub use server::{Failed, Interrupted, Server, Store};
pub use stream::Stream;

/// The number in the environment variable `name`, or `default`.
///
/// # Panics
/// If the variable is set to something that is not a number: a typing error must not weaken a test.
#[must_use]
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(s) => s.parse().unwrap_or_else(|_| panic!("{name}={s} is not a number")),
        Err(_) => default,
    }
}
