//! The session engine behind [sessile](https://github.com/sessile-rs/sessile): a sharded cache in front of an embedded
//! file, with records that are read in place, an expiry wheel and write-behind. It knows no HTTP; web apps use
//! the `sessile` crate, which puts a tower layer around it.
//!
//! Start with [`Engine::builder`]. A request begins with [`Engine::session`], uses the [`Session`], and ends with
//! [`Session::commit`], which says what the client must be told.
//!
//! | to | call |
//! |---|---|
//! | read and write | [`Session::get`], [`put`](Session::put), [`pop`](Session::pop), [`update`](Session::update), [`transact`](Session::transact), [`snapshot`](Session::snapshot); [`SessionKey`] for typed keys, [`put_struct`](Session::put_struct) for structs, [`put_archived`](Session::put_archived) for what is read in place |
//! | log in and out | [`Session::login`], [`destroy`](Session::destroy); [`Engine::sessions_of`] and [`destroy_all`](Engine::destroy_all) for all sessions of an owner |
//! | leave a message | [`Session::flash`], [`flashes`](Session::flashes) |
//! | change the token | [`Session::renew`], [`rotate`](Session::rotate), [`Builder::rotate_every`] |
//! | decide how long | [`Builder::lifetime`], [`idle_timeout`](Builder::idle_timeout); [`Session::set_lifetime`], [`remember_me`](Session::remember_me) |
//! | join two sessions | [`Session::merge`] |
//! | wait for the end or a change | [`Session::revoked`], [`changed`](Session::changed) |
//! | look over all of them | [`Engine::iterate`], [`for_each`](Engine::for_each), [`stats`](Engine::stats) |
//! | bound the memory | [`Builder::memory_limit`], [`anonymous_memory_limit`](Builder::anonymous_memory_limit) |
//! | be told | [`Observer`] |
//! | protect what is stored | [`Builder::keyring`], [`Keyring`], [`Engine::rekeying`] |
//! | bring a store | [`store::Store`] |
//! | put another library in front | [`by_id`] |
//!
//! # What it promises
//! Operations on one session are linearizable and happen when they are called; a session that was destroyed,
//! renewed or revoked never comes back, whatever races with it; what a crash may cost is chosen by name
//! ([`Durability`]). `docs/design.md` lists all promises with their mechanism and tests.
//!
//! # Features
//! | feature | default | what it adds | cost |
//! |---|---|---|---|
//! | `redb` | yes | `RedbStore` and `Builder::open_redb` | the redb crate |
//! | `sled` | no | `SledStore` and `Builder::open_sled`: an alternative, not recommended | the sled crate, frozen since 2021 |
//! | `conformance` | no | the public test suite for stores, and a store that fails on demand; not covered by semver | none at run time |
//! | `axum` | no | `Error` as an axum response | axum-core |
//! | `shuttle` | no | replaces locks and atomics for schedule tests; never enable it in an application | everything |

pub mod by_id;
mod cache;
pub mod clock;
mod config;
mod core;
mod ending;
mod engine;
mod error;
mod iterate;
mod journal;
mod keyring;
mod observer;
mod owner;
mod place;
pub mod record;
#[cfg(feature = "axum")]
mod response;
mod session;
mod shared;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_data_tests;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_life;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod stats;
pub mod store;
mod sync;
mod token;
pub mod value;
mod watch;
mod wheel;
mod writer;

pub use crate::clock::Moment;
pub use crate::config::{Builder, Durability, WhenFull};
pub use crate::engine::{Begin, Engine};
pub use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
pub use crate::iterate::Page;
pub use crate::journal::Recovery;
pub use crate::keyring::{EncodedKey, KEY_BYTES, Key, Keyring, Protection};
pub use crate::observer::{Event, ExpiredBy, Observer, RevokedBy};
pub use crate::owner::{OwnerLimit, SessionInfo};
pub use crate::session::{
    Changed, Commit, Conflicts, Delivery, Ended, Flash, Issue, Level, Merged, Namespace, ParseLevelError,
    Revoked, Session, SessionKey, Snapshot, Status, Transaction, View,
};
pub use crate::stats::{Health, Stats};
pub use crate::token::{EncodedToken, ParseSessionIdError, SessionId, Token};
pub use crate::writer::{Rekeying, Scan};

/// For types of [`Session::put_archived`]: `#[rkyv(crate = sessile_engine::rkyv)]` (`sessile::engine::rkyv`), or an own
/// dependency on the same version. Its features that change the layout of archives, such as `unaligned`, change that
/// of records too, and make stored ones unreadable.
pub use rkyv;
