//! [`Lanes`]: the configuration of a layer, once for every few threads. A request counts itself with the one of the thread
//! that began it, so that threads do not pass one counter's cache line around. It knows nothing of what is configured.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layer::Shared;

/// Lanes for each thread that can run at a time: which threads serve requests is not known, and two of them should seldom
/// have the same.
const A_THREAD: usize = 4;
/// More are of no use to the largest machines.
const MOST: usize = 128;

/// See the module.
#[derive(Clone)]
pub(crate) struct Lanes(Arc<[Arc<Shared>]>);

impl Lanes {
    pub(crate) fn of(shared: &Shared) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let lanes = threads.saturating_mul(A_THREAD).clamp(1, MOST).next_power_of_two();
        let lane = |_| Arc::new(Shared { engine: shared.engine.apart(), ..shared.clone() });
        Self((0..lanes).map(lane).collect())
    }

    /// This thread's.
    #[inline]
    pub(crate) fn mine(&self) -> &Arc<Shared> {
        // A power of two, see `of`.
        &self.0[this_thread() & (self.0.len() - 1)]
    }
}

/// A number of this thread's. Threads have those from 0 on in the order in which they first ask.
#[inline]
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    MINE.with(|mine| {
        mine.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        })
    })
}

#[cfg(test)]
mod tests {
    use sessile_engine::Engine;

    use super::*;
    use crate::layer::SessionLayer;

    #[test]
    fn threads_have_lanes_of_one_engine_and_keep_them() {
        let shared = SessionLayer::new(Engine::builder().in_memory().unwrap()).into_shared();
        let lanes = Lanes::of(&shared);
        let mine = lanes.mine();
        assert!(Arc::ptr_eq(mine, lanes.mine()));
        assert!(mine.is_same(&shared));
        let other = std::thread::scope(|scope| scope.spawn(|| Arc::clone(lanes.mine())).join().unwrap());
        assert!(other.is_same(mine));
        let numbers =
            std::thread::scope(|scope| scope.spawn(|| (this_thread(), this_thread())).join().unwrap());
        assert_eq!(numbers.0, numbers.1);
        assert_ne!(numbers.0, this_thread());
    }

    #[test]
    fn the_engine_closes_with_the_last_of_its_lanes() {
        let engine = Engine::builder().in_memory().unwrap();
        let session = engine.session_now(None).expect("without a token it takes no waiting");
        let lanes = Lanes::of(&SessionLayer::new(engine).into_shared());
        let last = Arc::clone(lanes.mine());
        drop(lanes);
        session.put("still", &1).unwrap();
        drop(last);
        assert!(session.put("no more", &1).is_err());
    }
}
