//! Several engines over one store, as on several machines: what each writes, ends, moves and remembers.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod belief;
mod endings;
mod failing;
mod late;
mod load;
mod merging;
mod renewing;
mod support;
