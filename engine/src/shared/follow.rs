//! The threads that keep up with other engines: one listens to the store's notices, one reads again what is in doubt while
//! somebody waits for it. They end with the engine and decide nothing that a request could not.

use std::sync::Arc;

use super::Shared;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DynStore, Notice, guarded};
use crate::sync::Duration;
use crate::token::SessionId;

/// Pause before a lost watch is opened again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often what somebody waits for is looked after, at least.
const ROUND: Duration = Duration::from_millis(500);

/// Starts the threads of an engine over a shared store.
pub(crate) fn start(core: &Arc<Core>) -> Result<()> {
    let Some(shared) = &core.shared else { return Ok(()) };
    let spawn = |name: &str, run: fn(&Core, &Shared, &dyn DynStore)| {
        let core = core.clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                if let (Some(shared), Some(store)) = (&core.shared, &core.store) {
                    run(&core, shared, store.as_ref());
                }
            })
            .map(drop)
            .map_err(|e| Error::new(ErrorKind::Config, "a thread could not be started").with_source(e))
    };
    if shared.watches {
        spawn("sessile-listen", listen)?;
    }
    spawn("sessile-follow", follow)
}

/// Listens to the store until the engine is closed.
fn listen(core: &Core, shared: &Shared, store: &dyn DynStore) {
    while !core.is_closed() {
        if let Err(error) = guarded(store.name(), || listen_once(core, shared, store)) {
            tracing::warn!(target: "sessile", %error, "the store's notices are lost; every session is read again");
        }
        shared.deafen(core.clock.now_ms());
        if !core.is_closed() {
            std::thread::sleep(AGAIN);
        }
    }
}

/// Listens until the channel is lost.
fn listen_once(core: &Core, shared: &Shared, store: &dyn DynStore) -> Result<(), crate::error::StoreError> {
    let mut watch = pollster::block_on(store.watch())?;
    // What happened before nobody told of.
    shared.near.doubt_all(core.clock.now_ms());
    shared.hear(core.clock.now_ms());
    while !core.is_closed() {
        let notice = pollster::block_on(watch.next())?;
        core.take_notice(shared, notice);
    }
    Ok(())
}

/// Looks after sessions until the engine is closed.
fn follow(core: &Core, shared: &Shared, store: &dyn DynStore) {
    let mut turn = 0;
    while !core.is_closed() {
        let mut ids = shared.to_look_after(ROUND);
        // What nobody tells of is asked for.
        ids.extend(core.watches.ids());
        for id in ids {
            if core.is_closed() {
                return;
            }
            let _ = guarded(store.name(), || {
                core.look_again(&id);
                Ok(())
            });
        }
        turn += 1;
        shared.near.tidy(turn, |id| core.cache.peek(id).is_some());
    }
}

impl Core {
    /// Takes what the store tells.
    pub(crate) fn take_notice(&self, shared: &Shared, notice: Notice) {
        let now = self.clock.now_ms();
        match notice {
            Notice::Alive => {}
            Notice::Lost => {
                shared.near.doubt_all(now);
                self.watches.ids().into_iter().for_each(|id| shared.look_after(id));
            }
            Notice::Changed(ids) => {
                for id in ids {
                    shared.near.doubt(&id);
                    // Somebody holds it, perhaps for long.
                    if self.cache.peek(&id).is_some_and(|entry| entry.is_held()) {
                        shared.look_after(id);
                    }
                }
            }
        }
        shared.hear(now);
    }

    /// Reads the session of `id` again if it is cached and in doubt, and ends it if it is over.
    fn look_again(&self, id: &SessionId) {
        let now = self.clock.now_ms();
        let Some(entry) = self.cache.peek(id).filter(|entry| self.is_stale(entry, now)) else { return };
        match pollster::block_on(self.read_again(&entry)) {
            Ok(true) => {
                let now = self.clock.now_ms();
                if entry.check(now).is_none() {
                    self.expire(&entry, now);
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(target: "sessile", %error, "a session could not be read again");
                // Or it would be forgotten by the wheel.
                if let Some(at) = entry.expires_at() {
                    self.arm(&entry, at.max(now.saturating_add(1000)));
                }
            }
        }
    }
}
