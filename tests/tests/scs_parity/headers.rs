//! `Vary` and `Cache-Control`.

use http::header::{CACHE_CONTROL, VARY};
use http::{Response, StatusCode};
use sessile::CacheControl;
use tower::{Layer, ServiceExt};

use crate::support::{Seen, Site};

fn with(name: http::HeaderName, value: &str) -> Response<String> {
    Response::builder().header(name, value).body(String::new()).unwrap()
}

#[tokio::test]
async fn vary_cookie_is_on_every_response_that_depends_on_the_session() {
    let site = Site::new();
    let mut browser = site.browser();
    let read = browser.visit(async |session| assert!(!session.exists("k"))).await;
    let wrote = browser.visit(async |session| session.put("k", "v").unwrap()).await;
    let destroyed = browser.visit(async |session| session.destroy().unwrap()).await;
    for seen in [read, wrote, destroyed] {
        assert_eq!(seen.vary(), ["Cookie"]);
    }
}

#[tokio::test]
async fn a_route_that_does_not_ask_for_the_session_keeps_its_headers() {
    // SCS: `Vary: Cookie` on every response, which spoils shared caches for routes without a session too.
    let site = Site::new();
    let inner = tower::service_fn(async |_: http::Request<String>| {
        Ok::<_, std::convert::Infallible>(Response::new(String::new()))
    });
    let response = site.layer.layer(inner).oneshot(site.browser().request()).await.unwrap();
    assert!(response.headers().is_empty());
}

#[tokio::test]
async fn vary_joins_the_handlers_own_value() {
    // SCS: adds a second line.
    let seen = Site::new().browser().respond(async |_| with(VARY, "Origin")).await;
    assert_eq!(seen.vary(), ["Origin, Cookie"]);
    let seen = Site::new().browser().respond(async |_| with(VARY, "cookie")).await;
    assert_eq!(seen.vary(), ["cookie"]);
}

#[tokio::test]
async fn cache_control_comes_only_with_a_session_cookie() {
    let site = Site::new();
    let mut browser = site.browser();
    let read = browser.visit(async |session| assert!(session.is_new())).await;
    assert!(read.cache_control().is_empty());
    let wrote = browser.visit(async |session| session.put("k", "v").unwrap()).await;
    assert_eq!(wrote.cache_control(), ["no-cache=\"Set-Cookie\""]);
    let read = browser.visit(async |session| assert!(session.exists("k"))).await;
    assert!(read.cache_control().is_empty());
}

#[tokio::test]
async fn cache_control_comes_with_the_delete_cookie_too() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert_eq!(seen.cache_control(), ["no-cache=\"Set-Cookie\""]);
}

#[tokio::test]
async fn cache_control_joins_the_handlers_own_value_in_one_line() {
    // SCS: adds a second line that contradicts the first.
    let seen = Site::new()
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            with(CACHE_CONTROL, "public, max-age=60")
        })
        .await;
    assert_eq!(seen.cache_control(), ["public, max-age=60, no-cache=\"Set-Cookie\""]);
}

#[tokio::test]
async fn a_stronger_cache_control_of_the_handler_is_left_alone() {
    // SCS: adds its line all the same.
    let seen = Site::new()
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            with(CACHE_CONTROL, "no-store")
        })
        .await;
    assert_eq!(seen.cache_control(), ["no-store"]);
}

#[tokio::test]
async fn no_store_can_be_chosen() {
    // SCS: fixed; later versions send `no-cache, no-store`.
    let site = Site::new().change(|layer| layer.cache_control(CacheControl::NoStore));
    let seen = site.browser().visit(async |session| session.put("k", "v").unwrap()).await;
    assert_eq!(seen.cache_control(), ["no-store"]);
}

#[tokio::test]
async fn handlers_own_status_headers_and_body_are_kept() {
    let seen: Seen = Site::new()
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            let response = Response::builder().status(StatusCode::CREATED).header("x-own", "1");
            response.body("made".to_owned()).unwrap()
        })
        .await;
    assert_eq!((seen.status(), seen.body()), (StatusCode::CREATED, "made"));
    assert_eq!(seen.0.headers()["x-own"], "1");
    assert!(seen.issues_a_token());
}
