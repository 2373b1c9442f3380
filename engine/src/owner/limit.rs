//! How many sessions one owner may have: the policy, and the gate that lets one login of an owner at a time
//! count and then come in. It counts nothing itself and ends no session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// What happens when an owner logs in who has as many sessions as
/// [`Builder::max_sessions_per_owner`](crate::Builder::max_sessions_per_owner) allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerLimit {
    /// The login fails with [`ErrorKind::OwnerLimit`](crate::ErrorKind::OwnerLimit) and changes nothing.
    Refuse,
    /// The session whose login is the longest ago is ended (by
    /// [`authenticated_at`](crate::Session::authenticated_at), then creation, then id), at once and on every handle.
    DropOldest,
}

/// Gates: owners that share one wait for each other.
const GATES: usize = 64;

/// One gate per stripe of owners.
pub(crate) struct Gates(Box<[Gate]>);

impl Gates {
    pub(crate) fn new() -> Self {
        Self((0..GATES).map(|_| Gate { state: Mutex::new(State::default()) }).collect())
    }

    /// Waits for the gate of the owner with this hash.
    ///
    /// # Cancel safety
    /// Dropping the future, or what it returns, lets the next one in.
    pub(crate) fn enter(&self, owner: u64) -> Enter<'_> {
        // Not the bits that choose the index's stripe: the two are independent.
        let gate = &self.0[usize::try_from((owner >> 32) % GATES as u64).unwrap_or(0)];
        Enter { gate, ticket: None }
    }
}

struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: bool,
    next: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The future of [`Gates::enter`].
pub(crate) struct Enter<'a> {
    gate: &'a Gate,
    ticket: Option<u64>,
}

/// The right to count and change one owner's sessions.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
}

impl<'a> Future for Enter<'a> {
    type Output = Pass<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Pass<'a>> {
        let mut state = self.gate.lock();
        if let Some(ticket) = self.ticket {
            state.waiting.retain(|(t, _)| *t != ticket);
        }
        if !state.taken {
            state.taken = true;
            self.ticket = None;
            return Poll::Ready(Pass { gate: self.gate });
        }
        let ticket = self.ticket.unwrap_or(state.next);
        state.next = state.next.max(ticket + 1);
        state.waiting.push((ticket, cx.waker().clone()));
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        // Whoever leaves wakes everyone, so a wake-up that this one got is nobody else's.
        if let Some(ticket) = self.ticket {
            self.gate.lock().waiting.retain(|(t, _)| *t != ticket);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.gate.lock();
            state.taken = false;
            std::mem::take(&mut state.waiting)
        };
        for (_, waker) in waiting {
            waker.wake();
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn one_at_a_time_and_dropping_lets_the_next_in() {
        let gates = Gates::new();
        let mut cx = Context::from_waker(Waker::noop());
        let first = pollster::block_on(gates.enter(1));
        let mut second = pin!(gates.enter(1));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        let mut given_up = Box::pin(gates.enter(1));
        assert!(given_up.as_mut().poll(&mut cx).is_pending());
        drop(given_up);
        drop(first);
        let Poll::Ready(pass) = second.as_mut().poll(&mut cx) else { panic!("the gate is free") };
        drop(pass);
        drop(pollster::block_on(gates.enter(1)));
    }
}
