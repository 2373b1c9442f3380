//! What the rows share: an application of one route whose handler is the test's, and questions to its answers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use sessile::engine::clock::ManualClock;
use sessile::engine::store::MemoryStore;
use sessile::engine::store::fault::{FaultHandle, FaultStore};
use sessile::{Builder, Engine, Event, Session, SessionLayer, Token};
use tower::{Layer, ServiceExt, service_fn};

pub(crate) type Req = Request<String>;
pub(crate) type Res = Response<String>;

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn memory() -> SessionLayer {
    SessionLayer::new(Engine::builder().in_memory().unwrap())
}

/// An engine by a clock that the test moves.
pub(crate) fn clocked() -> (Builder, ManualClock) {
    let clock = ManualClock::new(START_MS);
    (Engine::builder().clock(clock.clone()), clock)
}

/// An engine over `rows`, and the orders of the store between them.
pub(crate) fn over(builder: Builder, rows: &MemoryStore) -> (Engine, FaultHandle) {
    let store = FaultStore::new(rows.clone());
    let orders = store.handle();
    (builder.open(store).unwrap(), orders)
}

/// What an engine tells its observer.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    pub(crate) fn by(builder: Builder) -> (Builder, Self) {
        let told = Self::default();
        let events = told.clone();
        (builder.observer(move |event: &Event| events.0.lock().unwrap().push(event.clone())), told)
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.all().iter().filter(|event| wanted(event)).count()
    }
}

/// A request with these `Cookie` lines.
pub(crate) fn request(cookies: &[&str]) -> Req {
    let mut request = Request::new(String::new());
    for cookie in cookies.iter().filter(|c| !c.is_empty()) {
        request.headers_mut().append(COOKIE, cookie.parse().unwrap());
    }
    request
}

/// Sends `request` to an application whose handler does `act` with its session.
pub(crate) async fn send(layer: &SessionLayer, request: Req, act: impl AsyncFn(Session) -> Res) -> Res {
    let act = &act;
    let handler = service_fn(move |request: Req| async move {
        let response = match Session::from_request(&request).await {
            Ok(session) => act(session).await,
            Err(rejection) => status(rejection.status(), rejection.body_text()),
        };
        Ok::<_, Infallible>(response)
    });
    layer.layer(handler).oneshot(request).await.unwrap()
}

/// As [`send`], with one `Cookie` line.
pub(crate) async fn ask(layer: &SessionLayer, cookie: &str, act: impl AsyncFn(Session) -> Res) -> Res {
    send(layer, request(&[cookie]), act).await
}

pub(crate) fn status(code: StatusCode, body: &str) -> Res {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = code;
    response
}

pub(crate) fn ok() -> Res {
    Response::new(String::new())
}

/// Begins a session with `k = value` and gives its `name=value` cookie.
pub(crate) async fn begin(layer: &SessionLayer, value: &str) -> String {
    cookie(&ask(layer, "", async |s| put(&s, value)).await)
}

pub(crate) fn put(session: &Session, value: &str) -> Res {
    session.put("k", value).unwrap();
    ok()
}

/// What the session of `cookie` has under `k`.
pub(crate) async fn value(layer: &SessionLayer, cookie: &str) -> Option<String> {
    let body = ask(layer, cookie, async |s| {
        Response::new(s.get::<String>("k").unwrap().map(|v| format!("={v}")).unwrap_or_default())
    })
    .await
    .into_body();
    body.strip_prefix('=').map(str::to_owned)
}

pub(crate) async fn alive(layer: &SessionLayer, cookie: &str) -> bool {
    value(layer, cookie).await.is_some()
}

/// Logs `owner` in and gives the cookie.
pub(crate) async fn login(layer: &SessionLayer, cookie_before: &str, owner: &str) -> String {
    let response = ask(layer, cookie_before, async |s| {
        s.put("k", owner).unwrap();
        s.login(owner).await.unwrap();
        ok()
    })
    .await;
    cookie(&response)
}

pub(crate) fn lines(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

/// The whole `Set-Cookie` lines.
pub(crate) fn set(response: &Res) -> Vec<&str> {
    lines(response.headers(), SET_COOKIE)
}

/// The `name=value` of the one cookie that is set.
pub(crate) fn cookie(response: &Res) -> String {
    let all = set(response);
    assert_eq!(all.len(), 1, "{} {all:?}", response.status());
    all[0].split(';').next().unwrap().to_owned()
}

pub(crate) fn token(cookie: &str) -> Token {
    Token::parse(cookie.split_once('=').unwrap().1.as_bytes()).unwrap()
}

/// A token in its proper form that nobody issued, as a cookie.
pub(crate) fn stranger() -> String {
    format!("session={}", Token::generate().unwrap().encode().as_str())
}
