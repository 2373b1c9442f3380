//! The default store: one redb file.
/// A store in one redb file.
#[derive(Debug)]
pub struct RedbStore {}
