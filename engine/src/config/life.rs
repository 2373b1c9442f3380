//! The settings of a session's life beyond its lifetime: persistence, rotation, and what sessions without owner
//! may take. It checks them and derives the metadata of new sessions from them; it stores nothing.

use std::num::NonZeroU64;
use std::time::Duration;

use super::{Builder, Config};
use crate::clock::duration_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Meta;

/// A grace longer than this would make a stolen old token useful, not bridge requests that are under way.
const LONGEST_GRACE: Duration = Duration::from_secs(300);

/// As the builder was told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    persistent: bool,
    rotate_every: Option<Duration>,
    rotation_grace: Duration,
    anonymous_memory_limit: Option<usize>,
    anonymous_idle_timeout: Option<Duration>,
}

impl Settings {
    /// Whether tokens are rotated without being asked.
    pub(super) fn rotates(&self) -> bool {
        self.rotate_every.is_some()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            persistent: true,
            rotate_every: None,
            rotation_grace: Duration::from_secs(10),
            anonymous_memory_limit: None,
            anonymous_idle_timeout: None,
        }
    }
}

/// As the engine uses it.
pub(crate) struct Life {
    pub(crate) persistent: bool,
    /// The age at which a token is replaced.
    pub(crate) rotate_ms: Option<NonZeroU64>,
    /// How long a rotated token goes on working.
    pub(crate) grace_ms: u64,
    /// Bytes that sessions without owner may use.
    pub(crate) anonymous_limit: usize,
    pub(crate) anonymous_idle_ms: Option<NonZeroU64>,
}

impl Settings {
    /// What is left of the memory limit is `limit`.
    pub(super) fn cap_anonymous(&mut self, limit: usize) {
        self.anonymous_memory_limit = self.anonymous_memory_limit.map(|bytes| bytes.min(limit));
    }

    pub(super) fn check(&self, memory_limit: usize) -> Result<Life> {
        let bad = |what: String| Err(Error::new(ErrorKind::Config, what));
        let rotate_ms = self.rotate_every.map(duration_ms);
        if rotate_ms.is_some_and(|ms| ms < 1000) {
            return bad("tokens can be rotated every second at most; use `None` to rotate none".into());
        }
        if self.rotation_grace > LONGEST_GRACE {
            return bad(format!(
                "a rotated token may go on working for {LONGEST_GRACE:?} at most, not {:?}",
                self.rotation_grace
            ));
        }
        let anonymous_idle_ms = self.anonymous_idle_timeout.map(duration_ms);
        if anonymous_idle_ms == Some(0) {
            return bad("the idle timeout of sessions without owner must be at least 1 ms".into());
        }
        let anonymous_limit = self.anonymous_memory_limit.unwrap_or(memory_limit / 4 * 3);
        if anonymous_limit == 0 || anonymous_limit > memory_limit {
            return bad(format!(
                "the memory limit of sessions without owner must be above 0 and within the memory limit of \
                 {memory_limit} bytes, not {anonymous_limit}"
            ));
        }
        Ok(Life {
            persistent: self.persistent,
            rotate_ms: rotate_ms.and_then(NonZeroU64::new),
            grace_ms: duration_ms(self.rotation_grace),
            anonymous_limit,
            anonymous_idle_ms: anonymous_idle_ms.and_then(NonZeroU64::new),
        })
    }
}

impl Builder {
    /// Whether clients keep the token of a new session beyond their own session (a persistent cookie). Default:
    /// `true`. [`Session::remember_me`](crate::Session::remember_me) changes it for one session.
    /// (SCS: `Cookie.Persist`.)
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.life.persistent = persistent;
        self
    }

    /// Gives a session a new token when its token is older than this and a response can carry the new one
    /// (OWASP: renewal timeout). Default: `None`, never. At least one second.
    ///
    /// The deadline stays; the old token goes on working for [`rotation_grace`](Self::rotation_grace).
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder()
    ///     .rotate_every(Duration::from_secs(15 * 60))
    ///     .rotation_grace(Duration::from_secs(5))
    ///     .in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn rotate_every(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.life.rotate_every = age.into();
        self
    }

    /// How long a token that was rotated goes on working, for requests that were under way with it. Default:
    /// 10 seconds; 5 minutes is the most.
    ///
    /// It holds while the process lives: the old token of a rotation does not survive a restart.
    pub fn rotation_grace(mut self, grace: Duration) -> Self {
        self.life.rotation_grace = grace;
        self
    }

    /// Bytes of the [memory limit](Self::memory_limit) that sessions without owner may use. Default: three
    /// quarters of it. An application that never sets an owner can give them all of it.
    ///
    /// Above it they make room for each other and wait for the writer, and nothing that they do evicts or slows
    /// a session with an owner. An [in-memory](Self::in_memory) engine refuses new ones
    /// ([`ErrorKind::OutOfMemoryBudget`]): it could only forget others, and it keeps what it has accepted.
    /// [`anonymous_idle_timeout`](Self::anonymous_idle_timeout) is what gives their room back.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile_engine::Engine;
    ///
    /// let engine = Engine::builder()
    ///     .memory_limit(256 << 20)
    ///     .anonymous_memory_limit(64 << 20)
    ///     .anonymous_idle_timeout(Duration::from_secs(60 * 60))
    ///     .in_memory()?;
    /// # Ok::<(), sessile_engine::Error>(())
    /// ```
    pub fn anonymous_memory_limit(mut self, bytes: usize) -> Self {
        self.life.anonymous_memory_limit = Some(bytes);
        self
    }

    /// An idle timeout for sessions without owner; [`idle_timeout`](Self::idle_timeout) holds for them too if it
    /// is shorter. Default: `None`. A session that is given an owner is freed of it.
    pub fn anonymous_idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.life.anonymous_idle_timeout = idle.into();
        self
    }
}

impl Config {
    /// The metadata of a session that begins at `now`, without an owner.
    pub(crate) fn fresh_meta(&self, now: u64) -> Meta {
        let mut meta = Meta {
            version: 1,
            created_at: now,
            last_seen: now,
            deadline: now.saturating_add(self.lifetime_ms),
            idle_timeout: self.idle_ms,
            authenticated_at: None,
            issued_at: now,
            persistent: self.life.persistent,
            anonymous_idle: false,
        };
        self.assign(&mut meta, false);
        meta
    }

    /// Adapts `meta` to a session that has, or has no, owner from now on. An idle timeout that the application
    /// chose for this session stays.
    pub(crate) fn assign(&self, meta: &mut Meta, owned: bool) {
        if owned {
            if meta.anonymous_idle {
                meta.anonymous_idle = false;
                meta.idle_timeout = self.idle_ms;
            }
        } else if let Some(anonymous) = self.life.anonymous_idle_ms
            && meta.idle_timeout == self.idle_ms
            && self.idle_ms.is_none_or(|idle| anonymous < idle)
        {
            meta.anonymous_idle = true;
            meta.idle_timeout = Some(anonymous);
        }
    }
}
