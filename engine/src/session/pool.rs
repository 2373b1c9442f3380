//! Request states that each thread keeps for its next requests, so that a hit allocates nothing. It knows
//! nothing of what is in them, and keeps no session, token or engine alive.

use std::sync::Arc;

use super::{Slot, Unit};
use crate::core::Core;
use crate::sync::Mutex;

/// States a thread keeps: as many as it is likely to serve requests at a time.
#[cfg(not(feature = "shuttle"))]
const KEPT: usize = 64;

#[cfg(not(feature = "shuttle"))]
thread_local! {
    static UNITS: std::cell::Cell<Vec<Arc<Unit>>> = const { std::cell::Cell::new(Vec::new()) };
}

/// A state for a request.
#[cfg(not(feature = "shuttle"))]
pub(super) fn take(core: Arc<Core>, slot: Slot) -> Arc<Unit> {
    let kept = UNITS.try_with(|units| {
        let mut all = units.take();
        let unit = all.pop();
        units.set(all);
        unit
    });
    if let Ok(Some(mut unit)) = kept
        && let Some(state) = Arc::get_mut(&mut unit)
    {
        state.core = Some(core);
        *state.slot.get_mut() = slot;
        return unit;
    }
    Arc::new(Unit { core: Some(core), slot: Mutex::new(slot) })
}

/// Keeps a state that nobody else holds for another request, emptied.
#[cfg(not(feature = "shuttle"))]
pub(super) fn give_back(mut unit: Arc<Unit>) {
    let Some(state) = Arc::get_mut(&mut unit) else { return };
    let core = state.core.take();
    let slot = std::mem::take(state.slot.get_mut());
    // On a thread that is being torn down there is nothing to keep it in; it is freed.
    let _ = UNITS.try_with(|units| {
        let mut all = units.take();
        if all.len() < KEPT {
            all.push(unit);
        }
        units.set(all);
    });
    // Last: these may end an engine, which must not find the pool borrowed.
    drop((core, slot));
}

/// Shuttle's locks belong to one schedule, so nothing is kept from one to the next.
#[cfg(feature = "shuttle")]
pub(super) fn take(core: Arc<Core>, slot: Slot) -> Arc<Unit> {
    Arc::new(Unit { core: Some(core), slot: Mutex::new(slot) })
}

#[cfg(feature = "shuttle")]
pub(super) fn give_back(unit: Arc<Unit>) {
    drop(unit);
}
