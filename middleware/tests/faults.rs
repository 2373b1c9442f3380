//! A store that fails: what the client is told, and that no half of the handler's response is left.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, SET_COOKIE, VARY};
use http::{Request, Response, StatusCode};
use sessile::engine::Durability;
use sessile::engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store, StoreError, StoreErrorKind,
};
use sessile::{Engine, Session, SessionId, SessionLayer, SessionRejection, Token};
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<String>;
type Res = Response<String>;

/// A memory store that can be broken.
struct Fragile {
    inner: MemoryStore,
    broken: Arc<AtomicBool>,
}

impl Fragile {
    fn check(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Io, "fragile", "disk on fire"));
        }
        Ok(())
    }
}

impl Store for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.inner.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.check()?;
        self.inner.load(id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.check()?;
        self.inner.commit(now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.inner.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.inner.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

fn fragile() -> (Engine, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let store = Fragile { inner: MemoryStore::new(), broken: Arc::clone(&broken) };
    (Engine::builder().durability(Durability::PowerLoss).open(store).unwrap(), broken)
}

/// Writes, and answers with headers and a body that must not survive a failed commit.
async fn write(request: Req) -> Result<Res, Infallible> {
    let session: Session = Session::from_request(&request).await.unwrap();
    session.put("k", "v").unwrap();
    let response = Response::builder().status(201).header(SET_COOKIE, "a=1").header("x-handler", "1");
    Ok(response.body("saved".to_owned()).unwrap())
}

#[tokio::test]
async fn a_failed_commit_replaces_the_whole_response_once() {
    let (engine, broken) = fragile();
    broken.store(true, Ordering::SeqCst);
    let service = SessionLayer::new(engine).layer(service_fn(write));
    let response = service.oneshot(Req::default()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.body(), "the session could not be saved\n");
    assert!(!response.headers().contains_key(SET_COOKIE));
    assert!(!response.headers().contains_key("x-handler"));
    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    assert_eq!(response.headers()[VARY], "Cookie");
}

#[tokio::test]
async fn the_application_may_word_the_failure() {
    let (engine, broken) = fragile();
    broken.store(true, Ordering::SeqCst);
    let layer = SessionLayer::new(engine)
        .on_error(|error| Response::builder().status(507).body(format!("{:?}", error.kind())).unwrap());
    let response = layer.layer(service_fn(write)).oneshot(Req::default()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(["Store", "ReadOnly"].contains(&response.body().as_str()), "{}", response.body());
}

#[tokio::test]
async fn a_failed_load_is_a_503_and_never_an_empty_session() {
    let (engine, broken) = fragile();
    broken.store(true, Ordering::SeqCst);
    let handler = async |request: Req| {
        let load: sessile::Load = Session::from_request(&request);
        let rejection = load.await.unwrap_err();
        assert!(matches!(rejection, SessionRejection::LoadFailed(_)));
        assert!(!rejection.body_text().contains("fire"));
        let mut response = Response::new(rejection.body_text().to_owned());
        *response.status_mut() = rejection.status();
        Ok::<_, Infallible>(response)
    };
    let mut request = Req::default();
    let cookie = format!("session={}", Token::generate().unwrap().encode().as_str());
    request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
    let response = SessionLayer::new(engine).layer(service_fn(handler)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[VARY], "Cookie", "the cookie was consulted");
    assert!(!response.headers().contains_key(SET_COOKIE));
}
