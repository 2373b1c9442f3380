//! Handing a token out before the response head, for transports that carry it in a body. Nothing comes into
//! service here: the commit at the head does that, as ever.

use std::time::Duration;

use super::{Issue, Session, Slot};
use crate::cache::{Phase, revoked};
use crate::clock::from_ms_saturating;
use crate::error::{Error, ErrorKind, Result};
use crate::token::Token;
use crate::writer::Lifetime;

impl Session {
    /// The token that the client must use after this response, given out now so that the application can put
    /// it into a response body, and taken off the transport: the commit then delivers none. `None` if the
    /// client's present token stays valid, or if there is no session.
    ///
    /// Call it last, right before the body is made: a later [`renew`](Self::renew) or
    /// [`destroy`](Self::destroy) changes what the client must be told. Asked again, it gives the same token.
    ///
    /// The token is not in service yet. The new session is published, or the old token swapped for this one,
    /// by the commit at the response head as always (promises P4, P6): a request that panics or is dropped
    /// first leaves the old token working and no orphan behind, and if the commit fails, the response with this
    /// token must not leave.
    ///
    /// # Errors
    /// [`ErrorKind::HeadSent`] once the response head is out, [`ErrorKind::Revoked`] if the session is gone,
    /// [`ErrorKind::NotLoaded`] on a stand-in, [`ErrorKind::Random`].
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// let issue = session.issue()?.expect("a new session has a token");
    /// let body = format!("{{\"token\":\"{}\"}}", issue.token.encode().as_str());
    ///
    /// // At the response head. There is nothing left to deliver.
    /// assert!(matches!(session.commit().await?, sessile_engine::Delivery::Nothing));
    /// let again = engine.session(Some(&issue.token)).await?;
    /// assert_eq!(again.get::<String>("user")?.as_deref(), Some("ann"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn issue(&self) -> Result<Option<Issue>> {
        let core = self.core();
        core.check_writable()?;
        let now = core.clock.now_ms();
        let mut slot = self.unit().slot.lock();
        slot.check_loaded()?;
        if slot.head_sent {
            return Err(Error::new(
                ErrorKind::HeadSent,
                "a token must be asked for before the response head, at which it comes into service",
            ));
        }
        let Some(entry) = slot.entry.clone() else { return Ok(None) };
        let record = core.record_quietly(entry.clone(), now).ok_or_else(revoked)?;
        let (token, deadline) = match slot.renew {
            // Nothing was written yet: a transaction that is under way may still leave it empty.
            _ if entry.phase() == Phase::Unpublished && !slot.modified => return Ok(None),
            _ if entry.phase() == Phase::Unpublished => (slot.token.clone(), record.deadline()),
            None => return Ok(None),
            Some(lifetime) => {
                let next = match slot.next.take() {
                    Some(next) => next,
                    None => Box::new(Token::generate()?),
                };
                let token = Token::clone(&next);
                slot.next = Some(next);
                let deadline = match lifetime {
                    Lifetime::Restart if !slot.deadline_set => now.saturating_add(core.config.lifetime_ms),
                    Lifetime::Restart | Lifetime::Keep | Lifetime::Rotate => record.deadline(),
                };
                (Some(token), deadline)
            }
        };
        let Some(token) = token else { return Ok(None) };
        slot.handed = true;
        let left = deadline.saturating_sub(now);
        Ok(Some(Issue {
            token,
            max_age: Duration::from_millis(left),
            expires_at: from_ms_saturating(core.clock.wall_ms().saturating_add(left)),
            persistent: record.meta().persistent,
        }))
    }
}

impl Slot {
    /// An error if the application has given a token out that is not to be: the response carries it.
    pub(super) fn check_not_handed(&self) -> Result<()> {
        if self.handed {
            return Err(Error::new(
                ErrorKind::Undeliverable,
                "the token that was given out early did not come into service",
            ));
        }
        Ok(())
    }
}
