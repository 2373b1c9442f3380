//! Every documented sentence of SCS's behaviour (alexedwards/scs v2.9.0) as a test, named by the sentence. Where
//! sessile differs on purpose the test asserts sessile's behaviour, and a comment that begins with `SCS:` says what
//! SCS does and why we differ. SCS's stores are not part of it.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

mod after_destroy;
mod concurrency;
mod control;
mod cookie;
mod data;
mod defaults;
mod defects;
mod failures;
mod headers;
mod iterate;
mod late;
mod lifecycle;
mod managers;
mod middleware;
mod remember;
mod root;
mod support;
mod token;
mod typed;
