//! Request states that each thread keeps for its next requests, so that a hit allocates nothing. It knows
//! nothing of what is in them, and keeps no session, token or engine alive.

use std::sync::Arc as StdArc;

use triomphe::Arc;

use super::{SlotCell, Unit};
use crate::cache::{EntryRef, Seen};
use crate::engine::Lane;
use crate::token::Token;

/// States a thread keeps: as many as it is likely to serve requests at a time.
#[cfg(not(feature = "shuttle"))]
const KEPT: usize = 64;

#[cfg(not(feature = "shuttle"))]
thread_local! {
    static UNITS: std::cell::RefCell<Vec<Arc<Unit>>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A state for a request.
#[cfg(not(feature = "shuttle"))]
#[inline]
pub(super) fn take(
    lane: StdArc<Lane>,
    entry: Option<EntryRef>,
    seen: Option<Seen>,
    token: Option<Token>,
) -> Arc<Unit> {
    let kept = UNITS.try_with(|units| units.try_borrow_mut().ok()?.pop());
    if let Ok(Some(mut unit)) = kept
        && let Some(state) = Arc::get_mut(&mut unit)
    {
        state.lane = Some(lane);
        state.slot.reset(entry, seen, token);
        return unit;
    }
    Arc::new(Unit { lane: Some(lane), slot: SlotCell::new(entry, seen, token) })
}

/// Keeps a state that nobody else holds for another request, emptied.
#[cfg(not(feature = "shuttle"))]
pub(super) fn give_back(mut unit: Arc<Unit>) {
    let Some(state) = Arc::get_mut(&mut unit) else { return };
    let lane = state.lane.take();
    state.slot.clear();
    // On a thread that is being torn down there is nothing to keep it in; it is freed.
    let _ = UNITS.try_with(|units| {
        if let Ok(mut all) = units.try_borrow_mut()
            && all.len() < KEPT
        {
            all.push(unit);
        }
    });
    // Last: this may end an engine, which must not find the pool borrowed.
    drop(lane);
}

/// Shuttle's locks belong to one schedule, so nothing is kept from one to the next.
#[cfg(feature = "shuttle")]
pub(super) fn take(
    lane: StdArc<Lane>,
    entry: Option<EntryRef>,
    seen: Option<Seen>,
    token: Option<Token>,
) -> Arc<Unit> {
    Arc::new(Unit { lane: Some(lane), slot: SlotCell::new(entry, seen, token) })
}

#[cfg(feature = "shuttle")]
pub(super) fn give_back(unit: Arc<Unit>) {
    drop(unit);
}
