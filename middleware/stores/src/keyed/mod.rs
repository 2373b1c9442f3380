//! What stores have in common that tell an engine of changes, those that keep a row as one value under one key, and those that
//! make each change by a request of its own. It knows none of them.

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
    feature = "dynamodb",
    feature = "firestore",
    feature = "_tower-sessions-store"
))]
#[allow(dead_code, reason = "not every store needs all of it")]
pub(crate) mod value;
#[cfg(any(feature = "mongodb", feature = "memcached", feature = "dynamodb"))]
#[allow(dead_code, reason = "not every store needs all of it")]
pub(crate) mod wave;
