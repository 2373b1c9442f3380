//! The background pass that seals stored records anew with the active key. It owns its place in the store, its pace
//! and its numbers; it changes no session: version, expiry, owner and contents of a row stay, its envelope does not.
//!
//! # Why nothing is overwritten or brought back
//! It runs on the writer's thread, and no other writes to the store but requests that put their session into a journal
//! themselves. The update is a compare-and-set: a row that is gone
//! stays gone, and one with another version stays as it is, to be looked at in the next pass. Since the
//! version stays, a session that was read meanwhile, or is cached, changes as if nothing had happened: its next write
//! expects the version that is still there.
//!
//! Everything else that the engine writes is sealed with the active key, so a pass that finds nothing to do is the
//! last one.

use super::{Change, DynStore, Outcome, commit};
use crate::core::Core;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::keyring::Keyring;
use crate::record::is_current;
use crate::store::{Listed, Row, guarded};
use crate::sync::{Duration, Mutex};
use crate::token::SessionId;

/// Rows looked at in one turn: what they take of memory and time is that of a small batch.
const ROWS: usize = 128;
/// Pause between turns: the writer is never busy with this for long, and a million rows take a quarter of an hour.
const PAUSE_MS: u64 = 100;
/// Pause between a pass that found something and the one that looks whether that was all.
const PASS_PAUSE_MS: u64 = 1_000;
/// Pause after the store failed.
const FAILURE_PAUSE_MS: u64 = 5_000;

/// How far the engine is with sealing stored sessions anew; see [`Engine::rekeying`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rekeying {
    /// A whole pass over the store has found no session that is sealed in another way than the keyring's: retired
    /// keys can be dropped, and unkeyed records need not be accepted any more.
    pub complete: bool,
    /// Passes begun since the engine was opened.
    pub passes: u64,
    /// Sessions that the current pass, or the last one, has looked at.
    pub checked: u64,
    /// Sessions that it has not looked at yet, if the store can count: no more than so many are left to be sealed
    /// anew. 0 when complete.
    pub left: Option<u64>,
    /// Sessions sealed anew since the engine was opened. Those that were written anyway are not counted.
    pub resealed: u64,
    /// Sessions of this pass that no key of the ring opens. They are left as they are.
    pub unopened: u64,
    /// Sessions of this pass that are damaged. They are quarantined when somebody asks for them.
    pub damaged: u64,
}

/// Where the pass is.
#[derive(Default)]
pub(crate) struct Reseal(Mutex<State>);

#[derive(Default)]
struct State {
    shown: Rekeying,
    /// The last row of the previous turn.
    after: Option<SessionId>,
    /// This pass has met a row that had to be sealed anew.
    found: bool,
    /// Engine time of the next turn, in ms.
    next: u64,
}

/// What a turn did.
#[derive(Default)]
struct Turn {
    checked: u64,
    unopened: u64,
    damaged: u64,
    resealed: u64,
    found: bool,
    /// The last row looked at; `None` at the end of the store.
    last: Option<SessionId>,
}

impl Core {
    fn reseals(&self) -> Option<&Keyring> {
        let ring = self.config.keyring.as_ref()?;
        self.store.as_ref()?.capabilities().list.then_some(ring)
    }

    /// How long the writer may sleep, if the pass goes on by then.
    pub(crate) fn reseal_nap(&self) -> Option<Duration> {
        self.reseals()?;
        let state = self.reseal.0.lock();
        (!state.shown.complete).then_some(Duration::from_millis(PAUSE_MS))
    }

    /// A turn of the pass, if one is due. Called by the writer only.
    pub(crate) fn reseal_some(&self, store: &dyn DynStore, now: u64) {
        let Some(ring) = self.reseals() else { return };
        let after = {
            let mut state = self.reseal.0.lock();
            if state.shown.complete || now < state.next {
                return;
            }
            if state.after.is_none() {
                let shown = &mut state.shown;
                shown.passes += 1;
                (shown.checked, shown.unopened, shown.damaged) = (0, 0, 0);
                state.found = false;
            }
            state.after
        };
        let turn = self.reseal_turn(store, ring, after, now);
        let mut state = self.reseal.0.lock();
        match turn {
            Ok(turn) => {
                state.shown.checked += turn.checked;
                state.shown.unopened += turn.unopened;
                state.shown.damaged += turn.damaged;
                state.shown.resealed += turn.resealed;
                state.found |= turn.found;
                state.after = turn.last;
                let pause = if turn.last.is_some() { PAUSE_MS } else { PASS_PAUSE_MS };
                state.next = now.saturating_add(pause);
                if turn.last.is_none() && !state.found {
                    state.shown.complete = true;
                    let resealed = state.shown.resealed;
                    drop(state);
                    tracing::info!(target: "sessile", resealed, "all stored sessions are sealed as the keyring says");
                }
            }
            Err(error) => {
                state.next = now.saturating_add(FAILURE_PAUSE_MS);
                if state.after.is_none() {
                    // It begins anew.
                    state.shown.passes -= 1;
                }
                drop(state);
                tracing::warn!(target: "sessile", %error, "sealing sessions anew failed; it will be tried again");
            }
        }
    }

    fn reseal_turn(
        &self,
        store: &dyn DynStore,
        ring: &Keyring,
        after: Option<SessionId>,
        now: u64,
    ) -> Result<Turn, StoreError> {
        let listed = guarded(store.name(), || pollster::block_on(store.list(after, ROWS)))?;
        let mut turn = Turn { checked: listed.len() as u64, ..Turn::default() };
        if listed.len() >= ROWS {
            turn.last = listed.last().map(|listed| listed.id);
        }
        let mut changes = Vec::new();
        for Listed { id, row } in listed {
            if is_current(&row.bytes, ring) {
                continue;
            }
            match self.try_open(&id, &row) {
                Ok(record) => {
                    let bytes = self.seal(&id, &record)?;
                    let expected = row.version;
                    changes.push(Change::Update { id, expected, row: Row { bytes, ..row } });
                }
                Err(error) if error.is_key() => turn.unopened += 1,
                Err(_) => turn.damaged += 1,
            }
        }
        if changes.is_empty() {
            return Ok(turn);
        }
        turn.found = true;
        // An error that leaves the file in an unknown state latches the engine, as after any commit.
        let outcomes = commit(store, now, &changes).inspect_err(|error| {
            if !error.kind().is_temporary() {
                self.commit_failed(error);
            }
        })?;
        self.counters.commits.add(1);
        self.counters.committed_changes.add(changes.len() as u64);
        turn.resealed = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count() as u64;
        Ok(turn)
    }
}

impl Engine {
    /// How far the engine is with sealing the stored sessions anew after a change of the
    /// [keyring](crate::Builder::keyring): after a rotation of keys, another
    /// [`Protection`](crate::Protection), or the first key. `None` if there is nothing of the kind: no keyring, no
    /// store, or one that cannot list. (Over a store that cannot list, sessions are sealed anew only when they
    /// are written. Keep a retired key until the last session from its time has expired.)
    ///
    /// After each start the writer goes once over all stored sessions, at a bounded pace, and again until it finds
    /// nothing to do. No session changes by that: neither its expiry nor its last use, nor its version.
    ///
    /// # Complexity
    /// O(1), and the store's own count.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # use sessile_engine::{Engine, Key, Keyring, Protection, store::MemoryStore};
    /// # let (old, new) = (Key::generate()?, Key::generate()?);
    /// let ring = Keyring::new(Protection::Encrypt, new).accept(old)?;
    /// let engine = Engine::builder().keyring(ring).open(MemoryStore::default())?;
    /// while !engine.rekeying().await.is_some_and(|state| state.complete) {
    ///     // In real life: look again tomorrow, and take the old key out of the configuration then.
    ///     std::thread::sleep(std::time::Duration::from_millis(10));
    /// }
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn rekeying(&self) -> Option<Rekeying> {
        let core = self.core();
        core.reseals()?;
        let stored = match &core.store {
            Some(store) => store.count().await.ok().flatten(),
            None => None,
        };
        let mut shown = core.reseal.0.lock().shown.clone();
        shown.left = if shown.complete { Some(0) } else { stored.map(|n| n.saturating_sub(shown.checked)) };
        Some(shown)
    }
}
