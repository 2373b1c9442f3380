//! Logging in: owner, new token and time of authentication in one step, within the limit of sessions per owner.
//! Nothing here reaches the client; that is the commit's business.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::commit::publish;
use super::{Session, Slot};
use crate::cache::{EntryRef, Phase, Read};
use crate::clock::{duration_ms, from_ms};
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::owner::{CLIENT_KEY, Client};
use crate::record::Record;
use crate::value::Encoded;
use crate::writer::Lifetime;

impl Session {
    /// Logs somebody in: assigns the session to `owner`, asks for a renewal (a new token and a new lifetime with
    /// the response head, see [`renew`](Self::renew)) and notes the time of authentication. Creates the session
    /// if it is empty. Call it again when the user proves who they are once more; its counterpart, a logout, is
    /// [`destroy`](Self::destroy).
    ///
    /// If the sessions of an owner are limited
    /// ([`Builder::max_sessions_per_owner`](crate::Builder::max_sessions_per_owner)), they are counted here, and
    /// for a new session once more when it is published. A session that belongs to the owner already takes no further
    /// place.
    ///
    /// # Errors
    /// [`ErrorKind::OwnerLimit`] if the limit is reached and the policy is to refuse;
    /// [`ErrorKind::HeadSent`] once the response head is out; [`ErrorKind::Limit`] and
    /// [`ErrorKind::InvalidKey`] for an owner of more than 255 bytes or none; [`ErrorKind::Store`] if the
    /// owner's sessions must be counted and the store cannot tell; [`ErrorKind::Revoked`],
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::Closed`]. The session is then as it was before.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready leaves this session as it was; with
    /// [`OwnerLimit::DropOldest`](crate::OwnerLimit::DropOldest) other sessions may have been ended.
    ///
    /// # Durability
    /// On a session that exists, as a renewal: durable before the response is released, and so are the ends of the
    /// sessions dropped. A login that begins a session is written as the engine's
    /// [`Durability`](crate::Durability) says.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.login("user:42").await?;
    /// assert_eq!(session.owner().as_deref(), Some("user:42"));
    /// assert!(session.authenticated_within(Duration::from_secs(300)));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn login(&self, owner: &str) -> Result<()> {
        let core = self.core().clone();
        self.check_login(&core, owner)?;
        let Some(_) = core.config.owner_limit else { return self.sign_in(owner, false) };
        let pass = core.gates.enter(core.cache.owners.hash(owner)).await;
        let others_ended = if !self.is_new() {
            core.admit(owner, self.id()).await?
        } else {
            // It takes its place when it is published; but a refusal is told now.
            if core.owner_limit_refuses() {
                core.admit(owner, None).await?;
            }
            false
        };
        let done = self.sign_in(owner, others_ended);
        // The next one counts this one.
        drop(pass);
        done
    }

    /// Whether a login could succeed, before anything is changed for it.
    fn check_login(&self, core: &Core, owner: &str) -> Result<()> {
        core.check_writable()?;
        let now = core.clock.now_ms();
        let slot = self.unit().slot.lock();
        slot.check_loaded()?;
        if slot.head_sent {
            return Err(too_late());
        }
        let record = match slot.entry.clone() {
            None => Record::empty(&core.config.fresh_meta(now)),
            Some(entry) => core.record_quietly(entry, now).ok_or_else(crate::cache::revoked)?,
        };
        drop(slot);
        record.with_owner(&record.meta(), Some(owner), &core.config.limits)?;
        Ok(())
    }

    fn sign_in(&self, owner: &str, others_ended: bool) -> Result<()> {
        let core = self.core();
        let config = &core.config;
        let limits = config.limits;
        // The renewal first: whoever knows the old token must not get to see the owner's session, whatever
        // commits this session between the two.
        let before = self.unit().slot.lock().renew;
        self.ask_for_renewal(Lifetime::Restart)?;
        let now = core.clock.now_ms();
        let done = self.edit(true, None, |record, mut meta| {
            meta.authenticated_at = NonZeroU64::new(now);
            config.assign(&mut meta, true);
            Ok((Some(record.with_owner(&meta, Some(owner), &limits)?), ()))
        });
        let mut slot = self.unit().slot.lock();
        slot.must_wait |= others_ended && slot.entry.is_some();
        if let Err(error) = done {
            slot.renew = before;
            return Err(error);
        }
        Ok(())
    }

    /// When the user of this session last proved who they are, by [`login`](Self::login).
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        from_ms(self.record()?.authenticated_at()?.get())
    }

    /// Whether the user proved who they are less than `age` ago: ask before something that deserves a fresh
    /// proof, such as a change of the password.
    pub fn authenticated_within(&self, age: Duration) -> bool {
        let now = self.core().clock.now_ms();
        self.record()
            .and_then(|r| r.authenticated_at())
            .is_some_and(|at| now < at.get().saturating_add(duration_ms(age)))
    }

    /// Remembers what the client says of itself, for [`Engine::sessions_of`](crate::Engine::sessions_of): nothing
    /// is recorded unless this is called. Both `None` forgets it. Creates the session if it is empty, and
    /// writes nothing if nothing changed.
    ///
    /// It is kept with the values, under the key `sessile.client`, so [`clear`](Self::clear) removes it. A user
    /// agent is cut to 256 bytes, an address to 64. The address is text, so that an application may keep
    /// less than all of it (`192.0.2.0/24`).
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.login("user:42").await?;
    /// session.set_client_info(Some("Mozilla/5.0"), Some("192.0.2.0/24"))?;
    /// session.commit().await?;
    /// assert_eq!(engine.sessions_of("user:42").await?[0].ip.as_deref(), Some("192.0.2.0/24"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn set_client_info(&self, user_agent: Option<&str>, ip: Option<&str>) -> Result<()> {
        let client = Client::new(user_agent, ip);
        if client.is_empty() {
            self.remove(CLIENT_KEY)?;
            return Ok(());
        }
        if self.get::<Client>(CLIENT_KEY).ok().flatten().as_ref() == Some(&client) {
            return Ok(());
        }
        let limits = self.core().config.limits;
        let value = Encoded::of(&client)?;
        self.edit(true, None, |record, meta| {
            Ok((Some(record.put(&meta, CLIENT_KEY, &value, &limits)?), ()))
        })?;
        Ok(())
    }

    /// Whether `set_owner` may give `entry` to somebody. Asked under the entry's lock.
    pub(super) fn check_assignment(&self, entry: &EntryRef, owner: Option<&str>) -> Result<()> {
        if self.core().config.owner_limit.is_none() || owner.is_none() || entry.phase() != Phase::Live {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OwnerLimit,
            "sessions per owner are limited, so a published session gets its owner by `login`, which can count",
        ))
    }

    /// Puts the slot's new session into service, if its owner may have another one. Returns whether others were
    /// ended for it.
    pub(super) async fn publish_within_limit(&self, core: &Arc<Core>) -> Result<(Option<EntryRef>, bool)> {
        let mut others_ended = false;
        loop {
            let owner = counted_owner(core, &self.unit().slot.lock());
            let pass = match &owner {
                None => None,
                Some(owner) => Some(core.gates.enter(core.cache.owners.hash(owner)).await),
            };
            if let Some(owner) = &owner {
                others_ended |= core.admit(owner, None).await?;
            }
            let published = {
                let mut slot = self.unit().slot.lock();
                // It may have been given to another owner meanwhile; while the slot is locked it is not.
                (counted_owner(core, &slot) == owner).then(|| publish(core, &mut slot))
            };
            drop(pass);
            if let Some(published) = published {
                return Ok((published?, others_ended));
            }
        }
    }
}

/// Whom the slot's session will count for once it is published, if sessions per owner are limited.
pub(super) fn counted_owner(core: &Core, slot: &Slot) -> Option<String> {
    core.config.owner_limit?;
    let Read::Live(record) = slot.entry.as_ref()?.read(core.clock.now_ms()) else { return None };
    record.owner().map(str::to_owned)
}

fn too_late() -> Error {
    Error::new(ErrorKind::HeadSent, "a login must come before the response head, which carries the new token")
}
