//! [`Frame`]: one layer's share in a request, at a place that does not change while the frame is handed from the response
//! future to the stack and back. Each thread keeps emptied places for its next requests. It decides nothing about what it
//! holds, and keeps none of it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Slot;
use crate::layer::Shared;

/// Places a thread keeps: as many as it is likely to serve requests at a time.
const KEPT: usize = 64;

/// Where a frame is, full or empty.
type Place = Box<Option<Parts>>;

thread_local! {
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// One layer's share in the request being served. Moving it moves a pointer.
pub(crate) struct Frame {
    /// Present, and full, until it is dropped.
    place: Option<Place>,
}

/// What a frame holds.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(super) slot: Slot,
}

impl Frame {
    pub(super) fn of(parts: Parts) -> Self {
        let kept = PLACES.try_with(|places| places.try_borrow_mut().ok()?.pop());
        let mut place = kept.ok().flatten().unwrap_or_default();
        *place = Some(parts);
        Self { place: Some(place) }
    }
}

impl Deref for Frame {
    type Target = Parts;

    #[inline]
    fn deref(&self) -> &Parts {
        self.place.as_deref().and_then(Option::as_ref).expect("full until it is dropped")
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut Parts {
        self.place.as_deref_mut().and_then(Option::as_mut).expect("full until it is dropped")
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        let Some(mut place) = self.place.take() else { return };
        // This may end an engine, which must not find the places borrowed.
        *place = None;
        // On a thread that is being torn down there is nothing to keep it in; it is freed.
        let _ = PLACES.try_with(|places| {
            if let Ok(mut places) = places.try_borrow_mut()
                && places.len() < KEPT
            {
                places.push(place);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use sessile_engine::Engine;

    use super::super::State;
    use super::*;
    use crate::layer::SessionLayer;

    fn frame(shared: &Arc<Shared>) -> Frame {
        Frame::of(Parts { shared: Arc::clone(shared), slot: Slot::Local(State::default()) })
    }

    fn kept() -> usize {
        PLACES.with(|places| places.borrow().len())
    }

    #[test]
    fn a_place_is_used_again_and_holds_nothing_meanwhile() {
        let shared = SessionLayer::new(Engine::builder().in_memory().unwrap()).into_shared();
        let first = frame(&shared);
        assert_eq!((Arc::strong_count(&shared), kept()), (2, 0));
        let at = std::ptr::from_ref::<Parts>(&first);
        drop(first);
        assert_eq!((Arc::strong_count(&shared), kept()), (1, 1));
        let second = frame(&shared);
        assert_eq!((std::ptr::from_ref::<Parts>(&second), kept()), (at, 0));
    }

    #[test]
    fn a_crowd_leaves_no_more_places_than_are_kept() {
        let shared = SessionLayer::new(Engine::builder().in_memory().unwrap()).into_shared();
        drop((0..2 * KEPT).map(|_| frame(&shared)).collect::<Vec<_>>());
        assert_eq!(kept(), KEPT);
    }
}
