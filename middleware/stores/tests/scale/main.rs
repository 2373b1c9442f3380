//! Three servers of one app over one Redis, one Redis cluster or one PostgreSQL, with clients that are sent to any of
//! them: what was answered is there, every count is exact, and a logout is honoured everywhere. Also when the channel
//! between them is cut, when one of them is cut off, and when the store's server dies.
//!
//! `SESSILE_SCALE` multiplies the work (1); 40 makes it 200,000 puts, 100,000 increments and 10,000 logouts per store.
//! `SESSILE_SEED` repeats a run. Needs the playground with the features of both stores, in `SESSILE_PLAYGROUND`.

#![cfg(all(feature = "redis", feature = "postgres"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the servers are measured from outside, by the real clock")]

#[path = "../support/cluster.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod cluster_server;
mod faults;
mod nodes;
mod partition;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod redis_server;
#[path = "../support/mod.rs"]
mod sql_server;
mod work;

use sql_server::process;
