//! The adapter under tower-sessions 0.14.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use tower_sessions as ts;

#[path = "tower_sessions/routes.rs"]
mod routes;
#[path = "tower_sessions/store.rs"]
mod store;
