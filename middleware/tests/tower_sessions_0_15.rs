//! The adapter under tower-sessions 0.15.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use tower_sessions_0_15 as ts;

#[path = "tower_sessions/routes.rs"]
mod routes;
#[path = "tower_sessions/store.rs"]
mod store;
