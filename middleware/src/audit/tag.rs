//! [`SessionTag`]: a name for a session that is good for one process's logs and for nothing else.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use sessile_engine::SessionId;

/// Eight hexadecimal digits that stand for a session in logs: the same for the same session while the process
/// lives, and others in the next one.
///
/// They are a part of the id's SipHash under a random key that never leaves the process, so that nobody can
/// find a session by its tag, or tell from two logs that they are about the same session. Two of many
/// sessions may share a tag.
///
/// # Examples
/// ```
/// use sessile::{SessionTag, Token};
///
/// let id = Token::generate()?.id();
/// assert_eq!(SessionTag::of(&id), SessionTag::of(&id));
/// assert_eq!(SessionTag::of(&id).to_string().len(), 8);
/// # Ok::<(), sessile::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionTag(u32);

impl SessionTag {
    /// The tag of the session called `id`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a tag is short on purpose")]
    pub fn of(id: &SessionId) -> Self {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Self(KEY.get_or_init(RandomState::new).hash_one(id) as u32)
    }
}

impl fmt::Display for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
