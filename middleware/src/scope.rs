//! Tells a handler which request it is serving, without touching the request: a thread-local stack of
//! [`Frame`]s that the response future fills around every poll and empties again after it, as task-locals
//! do. It moves frames and remembers what was loaded; it loads and commits nothing.
//!
//! Invariants:
//! - A frame is on the stack exactly while its layer's inner service runs (`call` or `poll`), and in its
//!   response future at all other times. [`enter`] restores this on unwinding too.
//! - Frames are pushed and popped like stack frames, so the last one of a marker belongs to the innermost
//!   layer.
//! - No code of users runs while the stack is borrowed, so that no lookup can meet a borrow.

use std::any::TypeId;
use std::cell::RefCell;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use sessile_engine::{Moment, Session as Live, Token};

use crate::cookie::read::{self, Candidates};
use crate::layer::Shared;
use crate::transport::{self, Carrier, RequestHead};

mod frame;
#[cfg(test)]
mod tests;

pub(crate) use self::frame::Frame;
use self::frame::Parts;

thread_local! {
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Where the state lives: inside the frame, or where other tasks reach it as well.
enum Slot {
    Local(State),
    Remote(Arc<Remote>),
}

/// The state of a request that may be moved to another task.
pub(crate) struct Remote {
    pub(crate) shared: Arc<Shared>,
    state: Mutex<State>,
}

/// What has become of the session in this request.
#[derive(Default)]
struct State {
    phase: Phase,
    /// The cookies were looked at, so the response depends on them.
    consulted: bool,
    /// Of the tokens that were found: [`transport::fingerprint`].
    fingerprint: u64,
}

#[derive(Default)]
enum Phase {
    /// Nobody has asked.
    #[default]
    Unasked,
    /// This layer loaded the session and commits it.
    Own(Live),
    /// The same layer further out loaded it for the same client and commits it.
    Borrowed(Live),
    /// The response head is out; nothing can be handed to the client any more.
    HeadSent,
}

impl State {
    fn session(&self) -> Option<&Live> {
        match &self.phase {
            Phase::Own(session) | Phase::Borrowed(session) => Some(session),
            Phase::Unasked | Phase::HeadSent => None,
        }
    }

    /// Keeps `session`, or hands it back with the reason why not.
    fn settle(&mut self, session: Live) -> Settled {
        match &self.phase {
            Phase::Unasked => {
                self.phase = Phase::Own(session.clone());
                Settled::Kept(session)
            }
            Phase::Own(earlier) | Phase::Borrowed(earlier) => Settled::Earlier(earlier.clone(), session),
            Phase::HeadSent => Settled::Late(session),
        }
    }
}

/// What [`Source::settle`] made of a loaded session.
pub(crate) enum Settled {
    /// It is now the request's session.
    Kept(Live),
    /// The request had one already, loaded concurrently: that one. The second is the spare, for the caller
    /// to drop: that may run code of observers.
    Earlier(Live, Live),
    /// The response head is out.
    Late(Live),
    /// The request is not being served here (any more).
    Lost,
}

/// What is left for the response head.
pub(crate) struct Finished {
    pub(crate) consulted: bool,
    pub(crate) session: Option<Live>,
}

impl Remote {
    /// A panic cannot leave the state half changed, so poisoning means nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frame {
    /// A frame whose state only this request's own task reaches. Allocates nothing but the thread's first places.
    pub(crate) fn local(shared: Arc<Shared>) -> Self {
        Self::of(Parts { shared, slot: Slot::Local(State::default()) })
    }

    /// A frame whose state is shared with the holders of the returned handle.
    pub(crate) fn remote(shared: Arc<Shared>) -> (Self, Arc<Remote>) {
        let remote = Arc::new(Remote { shared: Arc::clone(&shared), state: Mutex::default() });
        (Self::of(Parts { shared, slot: Slot::Remote(Arc::clone(&remote)) }), remote)
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut State) -> R) -> R {
        match &mut self.slot {
            Slot::Local(state) => f(state),
            Slot::Remote(remote) => f(&mut remote.state()),
        }
    }

    /// The common case of a load: this is the only layer of its marker, its tokens are in cookies, the client
    /// sent one or none, and its session is in memory.
    fn load_now(&mut self, headers: &HeaderMap, alone: bool) -> Option<Live> {
        let Parts { shared, slot: Slot::Local(state) } = &mut **self else { return None };
        if !alone || !matches!(state.phase, Phase::Unasked) {
            return None;
        }
        if !matches!(shared.carrier, Carrier::Cookie) {
            return None;
        }
        let name = shared.cookie.name();
        let token = match read::only(headers, name).and_then(Token::parse) {
            Some(token) => Some(token),
            None => {
                let found = Candidates::find(headers, name);
                // Whatever is odd is reported on the other way.
                if found.over_budget || found.malformed {
                    return None;
                }
                match found.as_slice() {
                    [] => None,
                    [value] => Some(Token::parse(value)?),
                    _ => return None,
                }
            }
        };
        let engine = &shared.engine;
        let (session, fingerprint) = match token {
            None => (engine.session_now(None)?, transport::fingerprint([])),
            Some(token) => {
                let id = token.id();
                (engine.session_now(Some((token, &id)))?, transport::fingerprint([&id]))
            }
        };
        state.consulted = true;
        state.fingerprint = fingerprint;
        state.phase = Phase::Own(session.clone());
        Some(session)
    }

    /// Closes the frame at the response head.
    pub(crate) fn finish(&mut self) -> Finished {
        self.with(|state| match mem::replace(&mut state.phase, Phase::HeadSent) {
            Phase::Own(session) => Finished { consulted: true, session: Some(session) },
            // The outer layer says what there is to say.
            Phase::Borrowed(_) => Finished { consulted: false, session: None },
            Phase::Unasked | Phase::HeadSent => Finished { consulted: state.consulted, session: None },
        })
    }
}

/// While it lives, the frame of a slot is on the stack; then it is back in its slot, also when that is because of a panic.
///
/// With an empty slot, or on a thread that is being torn down, nothing is on the stack. Either way what happens meanwhile
/// happens at one moment of the engine's time.
pub(crate) struct Entered<'a> {
    slot: Option<&'a mut Option<Frame>>,
    _moment: Moment,
}

/// Puts the frame in `slot` on the stack. A guard, not a function around the call of the inner service: what that returns
/// is large, and should be made where it stays.
#[inline]
pub(crate) fn enter(slot: &mut Option<Frame>) -> Entered<'_> {
    let moment = Moment::hold();
    let entered = STACK.try_with(|stack| {
        let (Ok(mut stack), Some(frame)) = (stack.try_borrow_mut(), slot.take()) else { return false };
        stack.push(frame);
        true
    });
    Entered { slot: matches!(entered, Ok(true)).then_some(slot), _moment: moment }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let top = STACK.try_with(|stack| stack.try_borrow_mut().ok()?.pop());
            *slot = top.ok().flatten();
        }
    }
}

/// Where a session can be loaded from, and where it is kept afterwards.
pub(crate) enum Source {
    /// The innermost frame of the marker on this thread's stack.
    Scope(TypeId, Arc<Shared>),
    /// A handle that travelled with the request.
    Remote(Arc<Remote>),
}

/// What a first look at the scope gave.
pub(crate) enum Found {
    /// The request's session, loaded earlier.
    Session(Live),
    /// None yet; it can be loaded from here.
    Source(Source),
}

impl Source {
    /// As [`in_scope`](Self::in_scope), for the request with this head; its session is loaded at once if that
    /// takes no waiting.
    ///
    /// The stack is borrowed meanwhile: [`session_now`](sessile_engine::Engine::session_now) runs nothing of
    /// the application's.
    pub(crate) fn for_request(marker: TypeId, request: RequestHead<'_>) -> Option<Found> {
        top(marker, |frame, below| {
            if let Some(session) = frame.with(|state| state.session().cloned()) {
                return Found::Session(session);
            }
            let alone = below.iter().all(|outer| outer.shared.marker != marker);
            frame
                .load_now(request.headers(), alone)
                .map_or_else(|| Found::Source(Self::Scope(marker, Arc::clone(&frame.shared))), Found::Session)
        })
    }

    /// The layer of `marker` around the code that runs now.
    pub(crate) fn in_scope(marker: TypeId) -> Option<Found> {
        top(marker, |frame, _| {
            let session = frame.with(|state| state.session().cloned());
            session
                .map_or_else(|| Found::Source(Self::Scope(marker, Arc::clone(&frame.shared))), Found::Session)
        })
    }

    /// The layer behind a handle.
    pub(crate) fn behind(remote: &Arc<Remote>) -> Found {
        let session = remote.state().session().cloned();
        session.map_or_else(|| Found::Source(Self::Remote(Arc::clone(remote))), Found::Session)
    }

    pub(crate) fn shared(&self) -> &Shared {
        match self {
            Self::Scope(_, shared) => shared,
            Self::Remote(remote) => &remote.shared,
        }
    }

    /// Notes that the request's tokens, with this fingerprint, were looked at. If the same layer further
    /// out has loaded a session for the same tokens, that one becomes this layer's too and is returned.
    ///
    /// The tokens are compared because the inner request need not be the outer one: a handler may call a
    /// service with a request of its own, and must not lend it the session of a token that it does not bring.
    /// Two requests without any token look the same; the layer's documentation says what to do about it.
    pub(crate) fn consult(&self, fingerprint: u64) -> Option<Live> {
        let note = |state: &mut State| {
            state.consulted = true;
            state.fingerprint = fingerprint;
        };
        match self {
            Self::Remote(remote) => {
                note(&mut remote.state());
                None
            }
            Self::Scope(marker, shared) => top(*marker, |frame, below| {
                frame.with(note);
                let outer = below.iter_mut().rev().find_map(|outer| {
                    if outer.shared.marker != *marker || !outer.shared.is_same(shared) {
                        return None;
                    }
                    outer.with(|s| if s.fingerprint == fingerprint { s.session().cloned() } else { None })
                })?;
                frame.with(|state| {
                    if matches!(state.phase, Phase::Unasked) {
                        state.phase = Phase::Borrowed(outer);
                    }
                    state.session().cloned()
                })
            })?,
        }
    }

    /// Makes `session` the request's session.
    pub(crate) fn settle(&self, session: Live) -> Settled {
        match self {
            Self::Remote(remote) => remote.state().settle(session),
            Self::Scope(marker, shared) => top(*marker, |frame, _| {
                let here = Arc::ptr_eq(&frame.shared, shared);
                here.then(|| frame.with(|state| state.settle(session)))
            })
            .flatten()
            .unwrap_or(Settled::Lost),
        }
    }
}

/// Runs `f` on the innermost frame of `marker` and the frames below it.
fn top<R>(marker: TypeId, f: impl FnOnce(&mut Frame, &mut [Frame]) -> R) -> Option<R> {
    STACK
        .try_with(|stack| {
            let mut stack = stack.try_borrow_mut().ok()?;
            let at = stack.iter().rposition(|frame| frame.shared.marker == marker)?;
            let (below, rest) = stack.split_at_mut(at);
            rest.first_mut().map(|frame| f(frame, below))
        })
        .ok()
        .flatten()
}
