//! What the core does when the end of a session moves. It files nothing that is filed early enough already.

use super::Core;
use crate::cache::EntryRef;

impl Core {
    /// Files `entry` anew if it ends before the wheel would look at it. An end that moved later needs nothing:
    /// the wheel looks again when the old time comes.
    ///
    /// So a session whose end keeps moving to and fro has one item more for each time it moved to an earlier
    /// end than any before, not one for each move.
    pub(crate) fn arm_earlier(&self, entry: &EntryRef) {
        let Some(at) = entry.expires_at() else { return };
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits, as `arm` keeps them")]
        let tick = (at / 1000 + 1) as u32;
        if entry.armed().wrapping_sub(tick).cast_signed() > 0 {
            self.arm(entry, at);
        }
    }
}
