//! How a store stays the only writer of its rows. It decides who may write; what is written it never sees.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio::sync::{Mutex, MutexGuard};

use super::shared::Shared;
use super::{error, scripts};

/// The right of one opened store to be the only writer, and the order of its commits.
pub(super) struct Lease {
    token: String,
    time: Duration,
    /// Held while a commit is on its way, so that the turns reach the server in order.
    order: Mutex<()>,
    turn: AtomicU64,
}

impl Lease {
    pub(super) fn new(time: Duration) -> Result<Self, StoreError> {
        let mut random = [0_u8; 16];
        #[expect(clippy::disallowed_methods, reason = "no two stores may have the same lease")]
        getrandom::fill(&mut random).map_err(|e| {
            error::own(StoreErrorKind::Unavailable, format!("the system gave no random bytes: {e}"))
        })?;
        let token = format!("{:032x}", u128::from_le_bytes(random));
        Ok(Self { token, time, order: Mutex::new(()), turn: AtomicU64::new(0) })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn ms(&self) -> u64 {
        u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for the commit before, and gives the next one its turn.
    pub(super) async fn next(&self) -> (MutexGuard<'_, ()>, u64) {
        let order = self.order.lock().await;
        (order, self.turn.fetch_add(1, Ordering::AcqRel) + 1)
    }
}

/// Renews the lease until the store is closed or dropped. A failure is the next round's affair: if nobody else has
/// opened the rows by then, the lease is as good as before.
pub(super) async fn renew(shared: Weak<Shared>, time: Duration) {
    loop {
        tokio::time::sleep(time / 4).await;
        let Some(shared) = shared.upgrade() else { return };
        let Some(lease) = shared.lease.as_ref().filter(|_| !shared.link.is_closed()) else { return };
        let call = shared.scripts.lease(lease.token(), lease.ms());
        match tokio::time::timeout(time / 4, shared.link.run("the lease", &call)).await {
            Ok(Ok(value)) => {
                if scripts::refusal(&value).is_some() {
                    tracing::error!(
                        store = super::NAME,
                        "another engine has become the only writer of the rows"
                    );
                    return;
                }
            }
            Ok(Err(e)) => tracing::warn!(store = super::NAME, error = %e, "the lease could not be renewed"),
            Err(_) => tracing::warn!(store = super::NAME, "the lease could not be renewed in time"),
        }
    }
}
