//! Tokens that are replaced because of their age: when a commit does so by itself. How it is done is the
//! renewal's business, what becomes of the old token that of `core/aliases.rs`.

use super::{Session, Slot};
use crate::cache::{Phase, Read};
use crate::core::Core;
use crate::stats::Health;

/// Whether the commit of `slot` is to rotate the session's token.
pub(super) fn is_due(core: &Core, slot: &Slot) -> bool {
    let Some(age) = core.config.life.rotate_ms else { return false };
    let Some(entry) = &slot.entry else { return false };
    if entry.phase() != Phase::Live {
        return false;
    }
    let now = core.clock.now_ms();
    let Read::Live(record) = entry.read(now) else { return false };
    // A store in trouble must not take along responses that want nothing of it.
    now.saturating_sub(record.issued_at()) >= age.get()
        && core.check_writable().is_ok()
        && core.health() == Health::Ok
}

impl Session {
    /// As [`renew`](Self::renew), but the absolute deadline stays, and the old token goes on working for the
    /// [grace](crate::Builder::rotation_grace): for changing tokens every so often, which
    /// [`rotate_every`](crate::Builder::rotate_every) does by itself.
    ///
    /// Requests under way, and those that still present the old token, see the same session until the grace is
    /// over, and then see it revoked; so do the handles of long streams that began under the old token. When
    /// the session is destroyed, revoked or renewed, the old token is dead with it at once. The grace is kept
    /// in memory: after a restart only the new token works.
    ///
    /// When privileges change, call [`renew`](Self::renew): it leaves no grace.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
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
    /// session.rotate()?;
    /// let Delivery::Issue(issue) = session.commit().await? else { panic!("a rotation has a token to deliver") };
    ///
    /// // A request that was under way with the old token finds the session still.
    /// assert!(engine.session(Some(&old)).await?.exists("user"));
    /// assert!(engine.session(Some(&issue.token)).await?.exists("user"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn rotate(&self) -> crate::Result<()> {
        self.ask_for_renewal(crate::writer::Lifetime::Rotate)
    }
}
