//! Compiles the README's example as a documentation test. It holds no code of its own.

/// The README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
