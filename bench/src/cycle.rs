//! One request through a tower service: a cookie in, a session, a response out. The bare service does all of it
//! but the session, so that the difference is the session's price.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::header::{CONTENT_TYPE, COOKIE};
use http::{HeaderValue, Request, Response};
use sessile::{Engine, Session, SessionLayer};
use tower_layer::Layer;
use tower_service::Service;

/// A body that is nothing.
pub type Body = ();

/// What the handler does with the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Does not ask for it.
    Nothing,
    /// Reads two keys.
    Read,
    /// Reads two keys through one snapshot.
    ReadSnapshot,
    /// Reads two keys and writes one.
    Write,
}

/// The response of every handler here: like any real one it has a content type.
fn respond(seen: u64) -> Response<Body> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    std::hint::black_box(seen);
    response
}

/// The handler without sessions.
pub fn bare() -> impl Service<Request<()>, Response = Response<Body>, Error = Infallible> + Clone {
    tower::service_fn(|request: Request<()>| async move {
        let n = request.headers().get(COOKIE).map_or(0, |c| c.len() as u64);
        Ok(respond(n))
    })
}

/// The handler with the session of `engine`.
pub fn with_sessions(
    engine: Engine,
    work: Work,
) -> impl Service<Request<()>, Response = Response<Body>, Error = Infallible> {
    let handler = tower::service_fn(move |request: Request<()>| async move {
        if work == Work::Nothing {
            return Ok(respond(0));
        }
        let Ok(session) = <Session>::from_request(&request).await else { return Ok(respond(0)) };
        Ok(respond(use_session(&session, work)))
    });
    SessionLayer::new(engine).layer(handler)
}

fn use_session(session: &Session, work: Work) -> u64 {
    let mut seen = 0;
    if work == Work::ReadSnapshot {
        if let Some(s) = session.snapshot() {
            seen += s.i64("user_id").ok().flatten().unwrap_or(0).unsigned_abs();
            seen += s.str("role").ok().flatten().map_or(0, |r| r.len() as u64);
        }
        return seen;
    }
    seen += session.get::<i64>("user_id").ok().flatten().unwrap_or(0).unsigned_abs();
    seen += session.get::<bool>("absent").ok().flatten().map_or(0, u64::from);
    if work == Work::Write {
        let _ = session.put("last_page", "/a/page/with/a/path/that/is/quite/long/but/not/absurd/at-all");
    }
    seen
}

/// Drives a future that needs no reactor.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// One cycle with the cookie header `cookie`.
#[inline]
pub fn cycle<S>(service: &mut S, cookie: HeaderValue) -> u16
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible>,
{
    let mut request = Request::new(());
    request.headers_mut().insert(COOKIE, cookie);
    match run(service.call(request)) {
        Ok(response) => response.status().as_u16(),
        Err(never) => match never {},
    }
}

/// Cookie headers of `n` published sessions.
pub fn populate(engine: &Engine, n: usize) -> Vec<HeaderValue> {
    (0..n as u64)
        .filter_map(|i| {
            let token = run(crate::data::create(engine, i)).ok().flatten()?;
            HeaderValue::from_str(&format!("session={}", token.encode().as_str())).ok()
        })
        .collect()
}
