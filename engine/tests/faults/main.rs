//! What the engine does when its store fails, hangs or holds damaged rows, seen from outside. No test's outcome
//! depends on how long something takes: whatever is waited for has a bound that only a hang exceeds.

#![cfg(all(feature = "conformance", feature = "redb"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod failing;
mod full;
mod hanging;
mod journaled;
mod keys;
mod moved;
mod scan;
mod support;
