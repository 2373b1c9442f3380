//! Compiles the examples of the README and of the pages in `docs/migrate` as documentation tests. It holds no code
//! of its own.

/// The README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// From SCS.
#[cfg(doctest)]
#[doc = include_str!("../../docs/migrate/scs.md")]
pub struct FromScs;

/// From gorilla/sessions.
#[cfg(doctest)]
#[doc = include_str!("../../docs/migrate/gorilla.md")]
pub struct FromGorilla;
