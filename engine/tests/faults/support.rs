//! What the fault tests share: an engine over a store that fails on demand, and bounded waiting.

use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pollster::block_on;
use sessile_engine::store::fault::{FaultHandle, FaultStore};
use sessile_engine::store::{MemoryStore, Store};
use sessile_engine::{
    Builder, Delivery, Durability, Engine, Error, ErrorKind, Event, Result, Session, SessionId, Token,
};

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const ALWAYS: u64 = u64::MAX;
/// Nothing here takes this long unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
pub(crate) fn real_now() -> Instant {
    Instant::now()
}

pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = real_now();
    while !holds() {
        assert!(real_now().duration_since(start) < BOUND, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `f` on a thread of its own; `None` if it hangs.
pub(crate) fn try_within<T: Send + 'static>(
    bound: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || tx.send(f()));
    rx.recv_timeout(bound).ok()
}

pub(crate) fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    try_within(BOUND, f).unwrap_or_else(|| panic!("it hangs or panicked: {what}"))
}

/// Polls `future` up to `times` and drops it.
pub(crate) fn poll_and_drop<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..times {
        if let Poll::Ready(out) = future.as_mut().poll(&mut cx) {
            return Some(out);
        }
    }
    None
}

pub(crate) fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

pub(crate) fn commit(session: &Session) -> Result<Delivery> {
    let session = session.clone();
    within("a commit", move || block_on(session.commit()))
}

pub(crate) fn token_of(delivery: Delivery) -> Token {
    match delivery {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A published session with `n`.
pub(crate) fn fresh(engine: &Engine, n: i64) -> Token {
    let session = begin(engine, None);
    session.put("n", &n).unwrap();
    token_of(commit(&session).unwrap())
}

pub(crate) fn n(engine: &Engine, token: &Token) -> Option<i64> {
    begin(engine, Some(token)).get("n").unwrap()
}

pub(crate) fn flush(engine: &Engine) -> Result<()> {
    let engine = engine.clone();
    within("a flush", move || block_on(engine.flush()))
}

pub(crate) fn close(engine: &Engine) -> Result<()> {
    let engine = engine.clone();
    within("closing", move || block_on(engine.close()))
}

/// Waits until a healed store has everything.
pub(crate) fn settle(engine: &Engine) {
    soon("the healed store gets everything", || flush(engine).is_ok());
}

/// The ids in the store.
pub(crate) fn ids(rows: &MemoryStore) -> Vec<SessionId> {
    block_on(rows.list(None, usize::MAX)).unwrap().into_iter().map(|l| l.id).collect()
}

pub(crate) fn assert_store_failed(error: &Error, store: &str) {
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(error.store_error().unwrap().store(), store);
    let source = std::error::Error::source(error).unwrap().to_string();
    assert!(source.contains(store), "names the store: {source}");
}

#[derive(Clone, Default)]
pub(crate) struct Events(pub(crate) Arc<Mutex<Vec<Event>>>);

impl Events {
    pub(crate) fn of(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.0.lock().unwrap().iter().filter(|e| wanted(e)).cloned().collect()
    }

    /// `-` for a store that went down, `+` for one that came up.
    pub(crate) fn store(&self) -> String {
        let of = |e: &Event| match e {
            Event::StoreDown { .. } => Some('-'),
            Event::StoreUp => Some('+'),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(of).collect()
    }
}

/// An engine over `rows` behind a store that fails on demand.
pub(crate) fn open_over(builder: Builder, rows: &MemoryStore) -> (Engine, FaultHandle, Events) {
    let store = FaultStore::new(rows.clone());
    let handle = store.handle();
    let events = Events::default();
    let seen = events.clone();
    let observer = move |e: &Event| seen.0.lock().unwrap().push(e.clone());
    (builder.observer(observer).open(store).unwrap(), handle, events)
}

pub(crate) fn open(builder: Builder) -> (Engine, FaultHandle, Events, MemoryStore) {
    let rows = MemoryStore::new();
    let (engine, handle, events) = open_over(builder, &rows);
    (engine, handle, events, rows)
}

pub(crate) fn power_loss() -> Builder {
    Engine::builder().durability(Durability::PowerLoss)
}

/// What a restart finds.
pub(crate) fn reopen(rows: &MemoryStore) -> Engine {
    Engine::builder().open(rows.clone()).unwrap()
}
