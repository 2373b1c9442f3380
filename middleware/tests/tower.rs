//! The layer among other tower layers, above and below it, and under hyper without axum.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]
#![cfg(feature = "axum")]

#[path = "support/wire.rs"]
mod wire;

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sessile::{Engine, ErrorResponse, Session, SessionLayer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use wire::{Head, Wire, serve};

fn layer() -> SessionLayer {
    SessionLayer::new(Engine::builder().in_memory().unwrap())
}

async fn hits(session: Session) -> Result<String, ErrorResponse> {
    Ok(session.update("hits", |n: Option<u64>| n.unwrap_or(0) + 1)?.to_string())
}

async fn peek(session: Session) -> Result<String, ErrorResponse> {
    Ok(format!("{:?}", session.get::<u64>("hits")?))
}

/// Renews a session that exists and writes to one that does not, and never answers.
async fn stuck(session: Session) -> Result<(), ErrorResponse> {
    session.renew()?;
    session.put("stuck", &true)?;
    pending().await
}

async fn panics(session: Session) -> Result<(), ErrorResponse> {
    session.renew()?;
    session.put("panicked", &true)?;
    panic!("on purpose")
}

async fn long(session: Session) -> Result<String, ErrorResponse> {
    session.put("hits", &1u64)?;
    Ok("sessile ".repeat(1000))
}

fn routes() -> Router {
    Router::new()
        .route("/hits", get(hits))
        .route("/peek", get(peek))
        .route("/stuck", get(stuck))
        .route("/panics", get(panics))
        .route("/long", get(long))
}

async fn ask(app: &Router, path: &str, cookie: &str) -> (StatusCode, String) {
    let request =
        Request::builder().uri(path).header(COOKIE, cookie).body(axum::body::Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
    assert!(cookies.len() < 2);
    let cookie = cookies.first().map(|c| c.to_str().unwrap().split(';').next().unwrap().to_owned());
    (response.status(), cookie.unwrap_or_default())
}

async fn hits_of(app: &Router, cookie: &str) -> String {
    let request =
        Request::builder().uri("/peek").header(COOKIE, cookie).body(axum::body::Body::empty()).unwrap();
    let body = app.clone().oneshot(request).await.unwrap().into_body();
    String::from_utf8(axum::body::to_bytes(body, 100).await.unwrap().to_vec()).unwrap()
}

/// A request that ends outside the session layer commits nothing; one that is turned into a response inside it
/// commits like any other.
async fn ends_early(above: Router, below: Router, path: &str, status: StatusCode) {
    let (_, cookie) = ask(&above, "/hits", "").await;
    assert_eq!(ask(&above, path, "").await, (status, String::new()));
    assert_eq!(ask(&above, path, &cookie).await, (status, String::new()));
    assert_eq!(hits_of(&above, &cookie).await, "Some(1)", "the old token works");

    let (_, cookie) = ask(&below, "/hits", "").await;
    let (answer, fresh) = ask(&below, path, "").await;
    assert_eq!(answer, status);
    assert!(fresh.starts_with("session="), "{fresh:?}");
    let (answer, renewed) = ask(&below, path, &cookie).await;
    assert_eq!(answer, status);
    assert_eq!(hits_of(&below, &cookie).await, "None");
    assert_eq!(hits_of(&below, &renewed).await, "Some(1)");
}

#[tokio::test]
async fn a_panic_is_caught_above_or_below() {
    let above = routes().layer(ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(layer()));
    let below = routes().layer(CatchPanicLayer::new()).layer(layer());
    ends_early(above, below, "/panics", StatusCode::INTERNAL_SERVER_ERROR).await;
}

// Time stands still until nothing else can happen, so no request times out that could go on.
#[tokio::test(start_paused = true)]
async fn a_timeout_above_or_below() {
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(30));
    let above = routes().layer(ServiceBuilder::new().layer(timeout).layer(layer()));
    let below = routes().layer(timeout).layer(layer());
    ends_early(above, below, "/stuck", StatusCode::REQUEST_TIMEOUT).await;
}

async fn gzipped(app: Router) -> Head {
    let at = serve(app).await;
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/long", &["Accept-Encoding: gzip"]).await;
    let head = wire.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.all("content-encoding"), ["gzip"]);
    assert_eq!(wire::get(at, "/peek", &head.cookie()).await.1, "Some(1)");
    head
}

#[tokio::test]
async fn compression_above_or_below_leaves_both_their_headers() {
    let gzip = CompressionLayer::new;
    for app in [
        routes().layer(layer()).layer(gzip()),
        routes().layer(gzip()).layer(layer()),
        routes().layer(ServiceBuilder::new().layer(gzip()).layer(layer())),
    ] {
        let head = gzipped(app).await;
        let vary = head.all("vary").join(", ").to_ascii_lowercase();
        let mut vary: Vec<_> = vary.split(", ").collect();
        vary.sort_unstable();
        assert_eq!(vary, ["accept-encoding", "cookie"]);
    }
}

#[tokio::test]
async fn tracing_above_and_below_changes_nothing() {
    let http = TraceLayer::new_for_http;
    let app = routes().layer(http()).layer(layer()).layer(http());
    let (status, cookie) = ask(&app, "/hits", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(hits_of(&app, &cookie).await, "Some(1)");
}

#[tokio::test]
async fn the_documented_order_stacks_up() {
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(60)))
        .layer(CompressionLayer::new())
        .layer(layer());
    let app = routes().layer(stack);
    let (_, cookie) = ask(&app, "/hits", "").await;
    assert_eq!(ask(&app, "/panics", &cookie).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(hits_of(&app, &cookie).await, "Some(1)");
}

// ---- the contract of `Service` -----------------------------------------------------------------------

/// Panics when it is called on an instance that was not polled ready, as `Service` allows it to.
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Request<String>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Request<String>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        ready(Ok(Response::new("ok".to_owned())))
    }
}

#[tokio::test]
async fn the_instance_that_was_ready_is_the_one_that_is_called() {
    for extension in [false, true] {
        let mut service = layer().request_extension(extension).layer(Strict { ready: false });
        for _ in 0..3 {
            let response = service.ready().await.unwrap().call(Request::default()).await.unwrap();
            assert_eq!(response.body(), "ok");
        }
        // A caller that clones must take the ready one along and leave the clone behind.
        let clone = service.clone();
        let mut ready = std::mem::replace(&mut service, clone);
        ready.ready().await.unwrap().call(Request::default()).await.unwrap();
    }
}

async fn count(request: Request<String>) -> Result<Response<String>, Infallible> {
    let session: Session = Session::from_request(&request).await.unwrap();
    let n = session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
    Ok(Response::new(n.to_string()))
}

#[tokio::test]
async fn limits_and_queues_above_and_below() {
    let limited = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .layer(layer())
        .concurrency_limit(1)
        .load_shed()
        .service(service_fn(count));
    let response = limited.oneshot(Request::default()).await.unwrap();
    assert_eq!((response.body().as_str(), response.headers().contains_key(SET_COOKIE)), ("1", true));

    // Above, a buffer moves the whole layer to its worker; below, it takes the request away from the layer's
    // task, which needs the handle.
    let above = ServiceBuilder::new().buffer(4).layer(layer()).service(service_fn(count));
    let below =
        ServiceBuilder::new().layer(layer().request_extension(true)).buffer(4).service(service_fn(count));
    let response = above.oneshot(Request::default()).await.unwrap();
    assert!(response.headers().contains_key(SET_COOKIE));
    let response = below.oneshot(Request::default()).await.unwrap();
    assert!(response.headers().contains_key(SET_COOKIE));
}

#[tokio::test]
async fn hyper_serves_it_without_axum() {
    let service = layer().layer(service_fn(async |request: Request<hyper::body::Incoming>| {
        let session: Session = Session::from_request(&request).await.unwrap();
        let n = session.update("hits", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
        Ok::<_, Infallible>(Response::new(n.to_string()))
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let (head, body) = wire::get(at, "/", "").await;
    assert_eq!(body, "1");
    assert_eq!(wire::get(at, "/", &head.cookie()).await.1, "2");
}
