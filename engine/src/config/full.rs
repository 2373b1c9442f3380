//! What the engine does with writes while the disk is full. It finds out nothing itself.

use super::Builder;

/// What becomes of writes while no space is left for them.
///
/// In both cases sessions are read and served, sessions can be ended, what was accepted before stays in memory and is
/// written when there is space again, and [`Engine::health`](crate::Engine::health) is
/// [`Health::Full`](crate::Health::Full) until then. The engine looks for itself, about once a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// Changes are made in memory. A response that must wait for its write fails with
    /// [`StoreErrorKind::Full`](crate::StoreErrorKind::Full), and a session that it would have begun does not exist; at
    /// [`Durability::Eventual`](crate::Durability::Eventual) it leaves. Changed sessions cannot be evicted, so when
    /// they fill the memory limit, no others come in. A process that ends meanwhile loses these changes. The default.
    #[default]
    Keep,
    /// From the first write that finds no space on, calls that would change a session fail with the same error and
    /// change nothing, at every level of durability: what cannot be kept is not begun.
    Refuse,
}

impl Builder {
    /// What becomes of writes while the disk is full. Default: [`WhenFull::Keep`].
    ///
    /// # Examples
    /// ```
    /// use sessile_engine::{Engine, WhenFull, store::MemoryStore};
    ///
    /// let engine = Engine::builder().when_full(WhenFull::Refuse).open(MemoryStore::default())?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }
}
