//! When a session ends, and whether the client keeps its token: what a request may choose for one session. It
//! changes metadata only; the commit tells the client.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use super::Session;
use crate::cache::Phase;
use crate::clock::{LAST_MS, duration_ms, to_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Meta;

impl Session {
    /// Whether the client keeps the token when it ends its own session: a persistent cookie (`true`), or one that
    /// goes when the browser is closed (`false`). The session's lifetime on the server stays; see
    /// [`set_lifetime`](Self::set_lifetime). Creates the session if it is empty and this differs from the
    /// [default](crate::Builder::persistent). (SCS: `RememberMe`.)
    ///
    /// If it changes anything, the commit delivers the token again. A request that came with the old token of a
    /// rotation has no token to deliver; then the client learns of it with the next token it gets.
    ///
    /// # Errors
    /// [`ErrorKind::HeadSent`] once the response head is out, which carries it; otherwise as
    /// [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().persistent(false).in_memory()?;
    /// # let session = engine.session(None).await?;
    /// # use std::time::Duration;
    /// session.remember_me(true)?;
    /// session.set_lifetime(Duration::from_secs(30 * 24 * 60 * 60))?;
    /// # let sessile_engine::Delivery::Issue(issue) = session.commit().await? else { panic!() };
    /// # assert!(issue.persistent);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn remember_me(&self, on: bool) -> Result<()> {
        if self.unit().slot.lock().head_sent {
            return Err(Error::new(
                ErrorKind::HeadSent,
                "whether the client keeps its token must be said before the response head, which tells it",
            ));
        }
        self.change_meta(|meta| meta.persistent = on)
    }

    /// Whether the client keeps the token when it ends its own session; for an empty session, whether it will.
    pub fn is_persistent(&self) -> bool {
        self.record().map_or(self.core().config.life.persistent, |r| r.meta().persistent)
    }

    /// Lets the session end `lifetime` from now, however much it is used. Creates the session if it is empty.
    ///
    /// A [`renew`](Self::renew) in the same request, before or after, leaves it alone; one in a later request
    /// restarts the [engine's lifetime](crate::Builder::lifetime).
    ///
    /// # Errors
    /// As [`set_deadline`](Self::set_deadline).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// use std::time::Duration;
    ///
    /// session.set_lifetime(Duration::from_secs(30 * 24 * 60 * 60))?;
    /// let left = session.deadline().expect("there is a session").duration_since(std::time::SystemTime::now());
    /// assert!(left.expect("in the future") > Duration::from_secs(29 * 24 * 60 * 60));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn set_lifetime(&self, lifetime: Duration) -> Result<()> {
        let ms = duration_ms(lifetime);
        if ms == 0 {
            return Err(invalid("a lifetime must be at least 1 ms"));
        }
        let deadline = self.core().clock.now_ms().saturating_add(ms);
        self.move_deadline(deadline)
    }

    /// Lets the session end at `deadline`, however much it is used. Creates the session if it is empty.
    /// (SCS: `SetDeadline`, which takes any time, also a past one.)
    ///
    /// If the deadline moves later, the commit delivers the token again, so that the client keeps it for
    /// as long; once the response head is out, the server alone knows of the later deadline.
    /// Times are those of the engine's clock: the wall clock when the engine was opened, and the time
    /// since.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTime`] if it is not in the future, or after the year 9999; otherwise as
    /// [`put`](Self::put). Nothing is changed then.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// use std::time::{Duration, SystemTime};
    ///
    /// let end = SystemTime::now() + Duration::from_secs(3600);
    /// session.set_deadline(end)?;
    /// assert!(session.set_deadline(SystemTime::UNIX_EPOCH).is_err());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn set_deadline(&self, deadline: SystemTime) -> Result<()> {
        self.move_deadline(to_ms(deadline))
    }

    fn move_deadline(&self, deadline: u64) -> Result<()> {
        if deadline <= self.core().clock.now_ms() {
            return Err(invalid("a deadline must be in the future"));
        }
        if deadline > LAST_MS {
            return Err(invalid("a deadline must not be after the year 9999"));
        }
        self.change_meta(|meta| meta.deadline = deadline)?;
        self.unit().slot.lock().deadline_set = true;
        Ok(())
    }

    /// How long this session may go unused, from now on; `None` for as long as it lives. Counts as a use.
    /// Creates the session if it is empty. The client needs not be told: the server enforces it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTime`] if it is zero; otherwise as [`put`](Self::put). Nothing is changed then.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// use std::time::Duration;
    ///
    /// session.set_idle_timeout(Duration::from_secs(15 * 60))?;
    /// assert_eq!(session.idle_timeout(), Some(Duration::from_secs(900)));
    /// session.set_idle_timeout(None)?;
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn set_idle_timeout(&self, idle: impl Into<Option<Duration>>) -> Result<()> {
        let idle = match idle.into().map(duration_ms) {
            None => None,
            Some(ms) => match NonZeroU64::new(ms) {
                None => {
                    return Err(invalid("an idle timeout must be at least 1 ms; use `None` to have none"));
                }
                some => some,
            },
        };
        // First, so that a short timeout is not over at once.
        let now = self.core().clock.now_ms();
        if let Some(entry) = self.current(now)
            && let Some(times) = entry.check(now)
        {
            self.core().note_use(&entry, &times, now);
        }
        self.change_meta(|meta| {
            meta.idle_timeout = idle;
            meta.anonymous_idle = false;
        })
    }

    /// Applies `change`, and notes what the commit must tell the client.
    fn change_meta(&self, change: impl FnOnce(&mut Meta)) -> Result<()> {
        let reissue = self.edit(true, None, |record, mut meta| {
            let before = record.meta();
            change(&mut meta);
            let same = meta.deadline == before.deadline
                && meta.idle_timeout == before.idle_timeout
                && meta.anonymous_idle == before.anonymous_idle
                && meta.persistent == before.persistent;
            if same {
                return Ok((None, false));
            }
            let reissue = meta.deadline > before.deadline || meta.persistent != before.persistent;
            Ok((Some(record.with_meta(&meta)), reissue))
        })?;
        self.discard_empty();
        self.unit().slot.lock().reissue |= reissue == Some(true);
        if let Some(entry) = self.current_now().filter(|e| e.phase() == Phase::Live) {
            self.core().arm_earlier(&entry);
        }
        Ok(())
    }
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidTime, what)
}
