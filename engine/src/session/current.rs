//! The entry that a handle stands for, when it is not the one it holds any more. Slow paths only.

use super::Session;
use crate::cache::EntryRef;

impl Session {
    /// The entry in service that this handle stands for.
    pub(super) fn current(&self, now: u64) -> Option<EntryRef> {
        let entry = self.unit().slot.lock().entry.clone()?;
        self.core().in_service(entry, now)
    }

    /// As [`current`](Self::current), now.
    pub(super) fn current_now(&self) -> Option<EntryRef> {
        self.current(self.core().clock.now_ms())
    }
}
