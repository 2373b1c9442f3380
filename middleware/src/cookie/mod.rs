//! The cookie transport: which cookie carries the token ([`policy`]), how it is found in a request
//! ([`read`]) and how it is written into a response ([`write`]). It looks no session up.

pub(crate) mod attributes;
pub(crate) mod policy;
pub(crate) mod read;
pub(crate) mod write;
