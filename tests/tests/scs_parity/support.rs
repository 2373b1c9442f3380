//! A site and its browsers: a layer over an engine with a clock that stands still, and clients that keep the cookie
//! as a browser does. It asserts nothing.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, COOKIE, HeaderName, SET_COOKIE, VARY};
use http::{Request, Response, StatusCode};
pub(crate) use sessile::Session;
use sessile::engine::clock::ManualClock;
use sessile::engine::store::MemoryStore;
use sessile::engine::store::fault::{FaultHandle, FaultStore};
use sessile::{Builder, Engine, SessionLayer, Token};
use tower::{Layer, ServiceExt, service_fn};

/// The start of the clock: 2023-11-14T22:13:20Z.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The start of the clock and `after`.
pub(crate) fn at(after: Duration) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(START_MS) + after)
}

/// An engine, its layer and its time.
pub(crate) struct Site {
    pub(crate) clock: ManualClock,
    pub(crate) engine: Engine,
    pub(crate) layer: SessionLayer,
    pub(crate) store: FaultHandle,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// An engine over a store that fails when it is told to.
    pub(crate) fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::new(START_MS);
        let store = FaultStore::new(MemoryStore::new());
        let handle = store.handle();
        let engine = settings(Engine::builder().clock(clock.clone())).open(store).unwrap();
        Self { layer: SessionLayer::new(engine.clone()), clock, engine, store: handle }
    }

    pub(crate) fn change(mut self, change: impl FnOnce(SessionLayer) -> SessionLayer) -> Self {
        self.layer = change(self.layer);
        self
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser { layer: self.layer.clone(), cookie: None }
    }

    /// A browser with a session that has `key` = `value`.
    pub(crate) async fn visitor(&self, key: &str, value: &str) -> Browser {
        let mut browser = self.browser();
        browser.visit(async |session| session.put(key, value).unwrap()).await;
        browser
    }

    /// What the store was given since this was asked last: the number of rows written or deleted.
    pub(crate) async fn writes(&self) -> usize {
        self.engine.flush().await.unwrap();
        self.store.take_committed().iter().map(Vec::len).sum()
    }

    /// The sessions that exist.
    pub(crate) async fn sessions(&self) -> usize {
        self.engine.iterate(None, 1000).await.unwrap().sessions.len()
    }
}

/// A client that keeps the session cookie.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) layer: SessionLayer,
    pub(crate) cookie: Option<String>,
}

impl Browser {
    /// A request whose handler is `page`. A session that cannot be loaded answers for itself, as axum's extractor does.
    pub(crate) async fn visit(&mut self, page: impl AsyncFnOnce(&Session)) -> Seen {
        self.respond(async |session| {
            page(session).await;
            Response::new(String::new())
        })
        .await
    }

    /// As [`visit`](Self::visit), from within the handler of another request: on a thread of its own, because a request
    /// that a handler serves itself is a part of its own.
    pub(crate) fn visit_meanwhile(&mut self, page: impl AsyncFnOnce(&Session) + Send) -> Seen {
        std::thread::scope(|scope| scope.spawn(|| pollster::block_on(self.visit(page))).join().unwrap())
    }

    pub(crate) async fn respond(&mut self, page: impl AsyncFnOnce(&Session) -> Response<String>) -> Seen {
        let mut page = Some(page);
        let service = service_fn(move |request: Request<String>| {
            let page = page.take().unwrap();
            async move {
                Ok::<_, Infallible>(match Session::from_request(&request).await {
                    Ok(session) => page(&session).await,
                    Err(rejection) => {
                        let mut response = Response::new(rejection.body_text().to_owned());
                        *response.status_mut() = rejection.status();
                        response
                    }
                })
            }
        });
        let response = self.layer.layer(service).oneshot(self.request()).await.unwrap();
        self.keep(Seen(response))
    }

    /// The value under `key` in the next request.
    pub(crate) async fn read(&mut self, key: &str) -> Option<String> {
        let mut value = None;
        self.visit(async |session| value = session.get::<String>(key).unwrap()).await;
        value
    }

    pub(crate) fn request(&self) -> Request<String> {
        let mut request = Request::new(String::new());
        if let Some(cookie) = &self.cookie {
            request.headers_mut().append(COOKIE, cookie.parse().unwrap());
        }
        request
    }

    /// Does with a response's cookie what a browser does.
    pub(crate) fn keep(&mut self, seen: Seen) -> Seen {
        if let Some(line) = seen.cookies().last() {
            let pair = line.split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        seen
    }

    /// The token that this browser holds.
    pub(crate) fn token(&self) -> Option<Token> {
        let (_, value) = self.cookie.as_ref()?.split_once('=')?;
        Token::parse(value.as_bytes())
    }
}

/// A response as the client sees it.
pub(crate) struct Seen(pub(crate) Response<String>);

impl Seen {
    pub(crate) fn lines(&self, name: HeaderName) -> Vec<String> {
        self.0.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn cookies(&self) -> Vec<String> {
        self.lines(SET_COOKIE)
    }

    /// The only cookie.
    pub(crate) fn cookie(&self) -> String {
        let mut cookies = self.cookies();
        assert_eq!(cookies.len(), 1, "{cookies:?}");
        cookies.remove(0)
    }

    pub(crate) fn sets_no_cookie(&self) -> bool {
        self.cookies().is_empty()
    }

    pub(crate) fn issues_a_token(&self) -> bool {
        self.cookie().split(';').next().unwrap().len() == "session=".len() + 43
    }

    pub(crate) fn removes_the_cookie(&self) -> bool {
        self.cookie().starts_with("session=;")
    }

    pub(crate) fn vary(&self) -> Vec<String> {
        self.lines(VARY)
    }

    pub(crate) fn cache_control(&self) -> Vec<String> {
        self.lines(CACHE_CONTROL)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub(crate) fn body(&self) -> &str {
        self.0.body()
    }
}
