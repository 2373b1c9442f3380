//! What stores have in common that tell an engine of changes, and those that keep a row as one value under one key. It knows
//! none of them.

#[cfg(any(feature = "redis", feature = "etcd", feature = "consul", feature = "mongodb"))]
pub(crate) mod board;
#[cfg(any(feature = "etcd", feature = "consul", feature = "firestore"))]
#[allow(dead_code, reason = "not every store has keys that point to rows")]
pub(crate) mod plan;
#[cfg(any(
    feature = "redis",
    feature = "etcd",
    feature = "consul",
    feature = "memcached",
    feature = "firestore",
    feature = "_tower-sessions-store"
))]
pub(crate) mod value;
