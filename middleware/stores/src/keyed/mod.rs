//! What stores have in common that keep a row as one value under one key, on servers that tell of changes. It knows none of
//! them.

pub(crate) mod board;
pub(crate) mod value;
