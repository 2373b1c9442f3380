//! The server over files whose system calls fail, or are written down, by a library that is loaded in front of the C
//! library: what redb, sled and the journal really ask of the operating system, not what a seam of ours shows. And the
//! same one floor below, where the blocks of a real file system are recorded.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod block;
mod failing;
mod oracle;
mod replay;
mod requests;
mod shim;
