//! A store in memory, without files.
/// A store that keeps its rows in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {}
