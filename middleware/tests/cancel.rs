//! A request that is dropped after each number of polls, and a handler that panics at each of its own: nothing of the
//! session is half done, nothing is left behind for the next request on the thread, and the layer goes on.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

mod support;

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response};
use sessile::engine::store::Store;
use sessile::engine::{Delivery, Durability};
use sessile::{Engine, Session, SessionLayer, Token};
use support::Fragile;
use tower::{Layer, Service, service_fn};

type Req = Request<()>;
type Res = Response<String>;

/// Polls that no request needs.
const MOST: u32 = 40;

/// What a handler does with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Begin,
    Write,
    Renew,
    Login,
    Destroy,
}

const ALL: [Work; 5] = [Work::Begin, Work::Write, Work::Renew, Work::Login, Work::Destroy];

/// Whether somebody was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pending once.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn handle(request: Req, work: Work) -> Result<Res, Infallible> {
    pause().await;
    let session: Session = Session::from_request(&request).await.unwrap();
    match work {
        Work::Begin | Work::Write => session.put("n", &2).unwrap(),
        Work::Renew => session.renew().unwrap(),
        Work::Login => session.login("user:1").await.unwrap(),
        Work::Destroy => session.destroy().unwrap(),
    }
    pause().await;
    Ok(Response::new(String::new()))
}

struct World {
    engine: Engine,
    layer: SessionLayer,
    rows: Fragile,
    token: Token,
}

fn ready<F: Future>(future: F) -> F::Output {
    polled(pin!(future), MOST).unwrap()
}

/// Polls up to `most` times, each time when it was woken.
fn polled<F: Future + ?Sized>(mut future: Pin<&mut F>, most: u32) -> Option<F::Output> {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    for poll in 0..most {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return Some(done);
        }
        let mut waits = 0;
        while poll + 1 < most && !alarm.0.swap(false, Ordering::SeqCst) {
            assert!(waits < 30_000, "never woken");
            std::thread::sleep(Duration::from_millis(1));
            waits += 1;
        }
    }
    None
}

impl World {
    /// A session with `n` = 1 in the store and not in memory.
    fn new() -> Self {
        let rows = Fragile::new();
        let engine = Engine::builder().open(rows.clone()).unwrap();
        let session = ready(engine.session(None)).unwrap();
        session.put("n", &1).unwrap();
        let Delivery::Issue(issue) = ready(session.commit()).unwrap() else { panic!("a new session") };
        ready(engine.close()).unwrap();
        let engine = Engine::builder().durability(Durability::PowerLoss).open(rows.clone()).unwrap();
        Self { layer: SessionLayer::new(engine.clone()), engine, rows, token: issue.token }
    }

    fn request(&self, work: Work) -> Req {
        let mut request = Request::new(());
        if work != Work::Begin {
            let cookie = format!("session={}", self.token.encode().as_str());
            request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
        }
        request
    }

    fn n(&self, token: &Token) -> Option<i64> {
        ready(ready(self.engine.session(Some(token))).unwrap().commit()).unwrap();
        ready(self.engine.session(Some(token))).unwrap().get("n").unwrap()
    }

    /// What holds after a request that did `work`, whose response was `given`, or that was cut before. `acted` says
    /// whether the handler had come to its act.
    fn check(&self, work: Work, given: Option<Res>, acted: bool) {
        assert!(Session::<sessile::Main>::current().is_none(), "the scope of a request is left");
        let cookie = given.as_ref().and_then(|r| r.headers().get(SET_COOKIE)).map(|c| c.to_str().unwrap());
        let new = cookie.and_then(|c| c.strip_prefix("session=")?.split(';').next());
        let new = new.and_then(|value| Token::parse(value.as_bytes()));
        let mut sessions = 1;
        match work {
            Work::Begin => {
                assert_eq!(new.is_some(), given.is_some(), "a cookie");
                sessions += u64::from(new.is_some());
                assert_eq!(self.n(&self.token), Some(1));
                if let Some(new) = &new {
                    assert_eq!(self.n(new), Some(2));
                }
            }
            Work::Write => assert_eq!(self.n(&self.token), Some(if acted { 2 } else { 1 })),
            Work::Renew | Work::Login => match &new {
                Some(new) => {
                    assert_eq!((self.n(&self.token), self.n(new)), (None, Some(1)));
                }
                None => {
                    assert!(given.is_none(), "a response without the new token");
                    assert_eq!(self.n(&self.token), Some(1), "the old token works");
                }
            },
            Work::Destroy => {
                assert_eq!(self.n(&self.token), (!acted).then_some(1));
                sessions -= u64::from(acted);
            }
        }
        // Nothing is held.
        let mut service = self.layer.layer(service_fn(|request| handle(request, Work::Write)));
        let response = ready(service.call(self.request(Work::Begin))).unwrap();
        assert!(response.headers().contains_key(SET_COOKIE));
        sessions += 1;
        let mut tries = 0;
        // What a dropped request left to be undone is undone by the writer.
        while ready(async {
            self.engine.flush().await.is_err() || self.engine.stats().await.stored != Some(sessions)
        }) {
            assert!(tries < 5_000, "{:?}, expected {sessions}", ready(self.engine.stats()));
            std::thread::sleep(Duration::from_millis(1));
            tries += 1;
        }
        ready(self.engine.close()).unwrap();
        assert_eq!(ready(Store::count(&self.rows)).unwrap(), Some(sessions));
    }
}

#[test]
fn a_request_may_be_dropped_after_any_poll() {
    for work in ALL {
        for polls in 0..MOST {
            let world = World::new();
            let acted = Arc::new(AtomicBool::new(false));
            let seen = acted.clone();
            let mut service = world.layer.layer(service_fn(move |request| {
                let seen = seen.clone();
                let mut inner = Box::pin(handle(request, work));
                let mut count = 0;
                std::future::poll_fn(move |cx| {
                    count += 1;
                    let polled = inner.as_mut().poll(cx);
                    seen.store(polled.is_ready() || count > acts_at(work), Ordering::SeqCst);
                    polled
                })
            }));
            let mut future = Box::pin(service.call(world.request(work)));
            let given = polled(future.as_mut(), polls);
            drop(future);
            let done = given.is_some();
            world.check(work, given.map(Result::unwrap), acted.load(Ordering::SeqCst));
            if done {
                break;
            }
            assert!(polls + 1 < MOST, "{work:?} is never done");
        }
    }
}

/// Polls of the handler before the one in which it acts: its pause, and the load of a session that the store is slow with.
fn acts_at(work: Work) -> u32 {
    if work == Work::Begin { 1 } else { 2 }
}

#[test]
fn a_handler_may_panic_at_any_poll() {
    for work in ALL {
        for at in 1..=4 {
            let world = World::new();
            let count = Arc::new(AtomicU32::new(0));
            let counted = count.clone();
            let mut service = world.layer.layer(service_fn(move |request| {
                let count = counted.clone();
                let mut inner = Box::pin(handle(request, work));
                std::future::poll_fn(move |cx| {
                    let polled = inner.as_mut().poll(cx);
                    if count.fetch_add(1, Ordering::SeqCst) + 1 == at {
                        panic!("on purpose");
                    }
                    polled
                })
            }));
            let mut future = Box::pin(service.call(world.request(work)));
            let given = catch_unwind(AssertUnwindSafe(|| polled(future.as_mut(), MOST)));
            // Not polled again, as nothing may after a panic.
            drop(future);
            let acted = count.load(Ordering::SeqCst) > acts_at(work) || given.is_ok();
            world.check(work, given.ok().flatten().map(Result::unwrap), acted);
        }
    }
}
