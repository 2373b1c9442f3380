//! The life of a session as its handle sees it: metadata, owner, renewal, destruction. Nothing here reaches the
//! client; that is the commit's business.

use std::time::{Duration, SystemTime};

use super::{Claim, Session, Slot, Status};
use crate::cache::{Phase, Read};
use crate::clock::from_ms;
use crate::ending::Ending;
use crate::error::{Error, ErrorKind, Result};
use crate::token::SessionId;
use crate::writer::Lifetime;

impl Session {
    /// The session's public id, safe to show. `None` while there is no session.
    pub fn id(&self) -> Option<SessionId> {
        let now = self.core().clock.now_ms();
        {
            let slot = self.unit().slot.lock();
            let entry = slot.entry.as_ref()?;
            if matches!(entry.read(now), Read::Live(_)) {
                return Some(*entry.id());
            }
        }
        self.current(now).map(|entry| *entry.id())
    }

    /// The owner the session was assigned to, e.g. `user:42`.
    pub fn owner(&self) -> Option<String> {
        self.record()?.owner().map(str::to_owned)
    }

    /// Assigns the session to an owner, under which it is indexed, or to nobody. Creates the session if it is
    /// empty. When somebody logs in, use [`login`](Self::login) instead, which also renews.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] for an owner of more than 255 bytes; [`ErrorKind::OwnerLimit`] for a published session
    /// if the number of sessions per owner is limited, since only `login` can wait for the count; otherwise as
    /// [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.set_owner(Some("user:42"))?;
    /// assert_eq!(session.owner().as_deref(), Some("user:42"));
    /// session.set_owner(None)?;
    /// assert_eq!(session.owner(), None);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn set_owner(&self, owner: Option<&str>) -> Result<()> {
        let config = &self.core().config;
        let limits = config.limits;
        self.edit_entry(true, None, |entry, record, mut meta| {
            if record.owner() == owner {
                return Ok((None, ()));
            }
            self.check_assignment(entry, owner)?;
            config.assign(&mut meta, owner.is_some());
            Ok((Some(record.with_owner(&meta, owner, &limits)?), ()))
        })?;
        Ok(())
    }

    /// When the session was created.
    pub fn created_at(&self) -> Option<SystemTime> {
        from_ms(self.record()?.meta().created_at)
    }

    /// When the session was last used by any request, including this one.
    pub fn last_seen(&self) -> Option<SystemTime> {
        from_ms(self.current_now()?.last_seen())
    }

    /// The absolute deadline: the session ends then, however much it is used.
    pub fn deadline(&self) -> Option<SystemTime> {
        from_ms(self.record()?.deadline())
    }

    /// How long the session may go unused.
    pub fn idle_timeout(&self) -> Option<Duration> {
        let ms = self.record()?.meta().idle_timeout?;
        Some(Duration::from_millis(ms.get()))
    }

    /// When the session ends if it is not used again: the earlier of its deadline and the end of its idle
    /// timeout.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// assert_eq!(session.expires_at(), session.deadline(), "there is no idle timeout by default");
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn expires_at(&self) -> Option<SystemTime> {
        from_ms(self.current_now()?.expires_at()?)
    }

    /// Whether this request created the session, or there is none yet.
    pub fn is_new(&self) -> bool {
        let slot = self.unit().slot.lock();
        slot.entry.as_ref().is_none_or(|e| e.phase() == Phase::Unpublished)
    }

    /// Whether the session that this handle stood for has ended. After this request destroyed it, a write
    /// starts a new one and makes this `false` again.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("user", "ann")?;
    /// let other = session.clone();
    /// session.destroy()?;
    /// assert!(other.is_revoked());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn is_revoked(&self) -> bool {
        let slot = self.unit().slot.lock();
        if slot.entry.is_none() {
            return slot.destroyed;
        }
        drop(slot);
        self.current_now().is_none()
    }

    /// What this request has done to the session.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// use sessile_engine::Status;
    ///
    /// assert_eq!(session.status(), Status::Unmodified);
    /// session.put("user", "ann")?;
    /// assert_eq!(session.status(), Status::Modified);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn status(&self) -> Status {
        let slot = self.unit().slot.lock();
        if slot.modified || slot.renew.is_some() {
            Status::Modified
        } else if slot.destroyed {
            Status::Destroyed
        } else {
            Status::Unmodified
        }
    }

    /// Gives the session a new token and a new lifetime, keeping its data: call it whenever privileges change,
    /// above all at login (OWASP: session fixation).
    ///
    /// The swap happens when the response head is produced: until then, and if the response never gets that far,
    /// the old token works; afterwards it is dead, and other requests that still hold the session
    /// under it see it as revoked. On an empty session this does nothing: what it becomes gets a fresh token
    /// anyway.
    ///
    /// # Errors
    /// [`ErrorKind::Revoked`], [`ErrorKind::ReadOnly`], [`ErrorKind::Closed`]; [`ErrorKind::HeadSent`] once the
    /// response head is out.
    ///
    /// # Durability
    /// Durable before the response is released, at every level.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # use sessile_engine::Delivery;
    /// # let session = engine.session(None).await?;
    /// # session.put("user", "ann")?;
    /// # let Delivery::Issue(issue) = session.commit().await? else { panic!() };
    /// # let old = issue.token;
    /// let session = engine.session(Some(&old)).await?;
    /// session.renew()?;
    /// let Delivery::Issue(issue) = session.commit().await? else { panic!("a renewal has a token to deliver") };
    ///
    /// assert!(engine.session(Some(&old)).await?.id().is_none());
    /// assert!(engine.session(Some(&issue.token)).await?.exists("user"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn renew(&self) -> Result<()> {
        self.ask_for_renewal(Lifetime::Restart)
    }

    pub(super) fn ask_for_renewal(&self, lifetime: Lifetime) -> Result<()> {
        self.core().check_writable()?;
        let now = self.core().clock.now_ms();
        let mut slot = self.unit().slot.lock();
        slot.check_loaded()?;
        if slot.head_sent {
            return Err(Error::new(
                ErrorKind::HeadSent,
                "a renewal must come before the response head, which carries the new token",
            ));
        }
        let Some(entry) = slot.entry.clone() else { return Ok(()) };
        let Some(entry) = self.core().in_service_quietly(entry, now) else {
            return Err(crate::cache::revoked());
        };
        // Whoever came with the old token of a rotation has been rotated.
        let rotated =
            lifetime == Lifetime::Rotate && slot.entry.as_ref().is_none_or(|e| e.id() != entry.id());
        if entry.phase() == Phase::Live && slot.renew != Some(Lifetime::Restart) && !rotated {
            slot.renew = Some(lifetime);
        }
        Ok(())
    }

    /// Ends the session, now and for good (promise P3): every handle on it, in every request, sees it gone when
    /// this returns. A later write through this handle starts a new session with a new token.
    ///
    /// # Errors
    /// [`ErrorKind::NotLoaded`] on a [stand-in](crate::Engine::stand_in): the session is not destroyed.
    /// Destroying what is gone already is fine.
    ///
    /// # Durability
    /// The commit at the response head waits until the deletion is durable, at every level.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # use sessile_engine::Delivery;
    /// # let session = engine.session(None).await?;
    /// # session.put("user", "ann")?;
    /// # let Delivery::Issue(issue) = session.commit().await? else { panic!() };
    /// # let old = issue.token;
    /// let session = engine.session(Some(&old)).await?;
    /// session.destroy()?;
    /// assert!(matches!(session.commit().await?, Delivery::Remove));
    /// assert!(engine.session(Some(&old)).await?.id().is_none());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn destroy(&self) -> Result<()> {
        let mut slot = self.unit().slot.lock();
        slot.check_loaded()?;
        let Some(entry) = slot.entry.take() else {
            // Whoever asks again is not told that it is over before that is durable.
            slot.must_wait |= slot.ending;
            return Ok(());
        };
        let published = entry.phase() != Phase::Unpublished;
        let claims = std::mem::take(&mut slot.claims);
        *slot = Slot {
            head_sent: slot.head_sent,
            destroyed: true,
            must_wait: slot.must_wait || published || !claims.is_empty(),
            remove: slot.remove || published,
            renewing: slot.renewing,
            ..Slot::default()
        };
        drop(slot);
        // What was merged into it ends with it.
        claims.into_iter().for_each(Claim::settle);
        if published {
            self.core().end_wherever(entry, Ending::Destroyed);
        } else {
            // Only this request knows of it, but somebody may watch.
            self.core().end(&entry, Ending::Destroyed);
        }
        Ok(())
    }

    /// Waits until everything this session has been given so far is in the store.
    ///
    /// A session that this request creates is stored when its response head is produced; then this returns at
    /// once, and the response waits for the store instead.
    ///
    /// # Errors
    /// The store's error; the changes stay in memory and are retried.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the writing.
    ///
    /// # Durability
    /// `Ok` means that the session survives a crash of process and machine, as far as the store does. An
    /// in-memory engine has nothing that could survive and returns at once.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("order", &4711)?;
    /// session.sync().await?; // as after PowerLoss, for this session alone
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn sync(&self) -> Result<()> {
        {
            let mut slot = self.unit().slot.lock();
            if slot.entry.as_ref().is_some_and(|e| e.phase() == Phase::Unpublished) {
                slot.must_wait = true;
                return Ok(());
            }
        }
        match self.core().dirty_queue() {
            Some(queue) => queue.flush().await,
            None => Ok(()),
        }
    }
}
