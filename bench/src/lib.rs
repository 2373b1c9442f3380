//! Shared parts of the benchmarks: the five-key session, a seeded stream of requests, a counting allocator and
//! the request cycle through a tower service. It measures nothing itself.

#![expect(missing_docs, reason = "an internal crate")]

pub mod alloc;
pub mod cycle;
pub mod data;
