//! A store that fails: what the client is told, and that no half of the handler's response is left.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

mod support;

use std::convert::Infallible;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, SET_COOKIE, VARY};
use http::{Request, Response, StatusCode};
use sessile::engine::Durability;
use sessile::{
    Corrupt, Engine, Error, ErrorKind, ErrorResponse, Session, SessionLayer, SessionRejection, StoreDown,
    Token,
};
use support::Fragile;
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<String>;
type Res = Response<String>;

fn fragile() -> (Engine, Fragile) {
    let store = Fragile::new();
    (Engine::builder().durability(Durability::PowerLoss).open(store.clone()).unwrap(), store)
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
    let (engine, store) = fragile();
    store.break_down(true);
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
    let (engine, store) = fragile();
    store.break_down(true);
    let layer = SessionLayer::new(engine)
        .on_error(|error| Response::builder().status(507).body(format!("{:?}", error.kind())).unwrap());
    let response = layer.layer(service_fn(write)).oneshot(Req::default()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(["Store", "ReadOnly"].contains(&response.body().as_str()), "{}", response.body());
}

#[tokio::test]
async fn a_failed_load_is_a_503_and_never_an_empty_session() {
    let (engine, store) = fragile();
    store.break_down(true);
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

// ---- policies ----------------------------------------------------------------------------------------

/// A cookie of a session that is stored with `k = "v"`, and an engine that has not read it yet.
async fn stored() -> (Engine, Fragile, String) {
    let (engine, store) = fragile();
    let first =
        SessionLayer::new(engine.clone()).layer(service_fn(write)).oneshot(Req::default()).await.unwrap();
    let line = first.headers().get_all(SET_COOKIE).iter().next_back().unwrap().to_str().unwrap();
    let cookie = line.split(';').next().unwrap().to_owned();
    engine.close().await.unwrap();
    let engine = Engine::builder().durability(Durability::PowerLoss).open(store.clone()).unwrap();
    (engine, store, cookie)
}

fn request(cookie: &str) -> Req {
    Request::builder().header(COOKIE, cookie).body(String::new()).unwrap()
}

async fn read(request: Req) -> Result<Res, Infallible> {
    let load: sessile::Load = Session::from_request(&request);
    Ok(match load.await {
        Ok(session) => Response::new(format!("{:?}", session.get::<String>("k").unwrap())),
        Err(rejection) => Response::builder().status(rejection.status()).body(String::new()).unwrap(),
    })
}

#[tokio::test]
async fn serve_empty_refuses_every_change_and_leaves_the_cookie_alone() {
    for broken in [false, true] {
        let (engine, store, cookie) = stored().await;
        if broken {
            store.break_down(true)
        } else {
            store.take_down(true)
        }
        let layer = SessionLayer::new(engine).on_store_down(StoreDown::ServeEmpty);
        let handler = async |request: Req| {
            let session: Session = Session::from_request(&request).await.unwrap();
            assert!(session.is_stand_in() && session.id().is_none());
            assert!(!session.exists("k") && session.keys().is_empty() && session.snapshot().is_none());
            assert_eq!(session.get::<String>("k").unwrap(), None);
            let refused = |error: Error| {
                assert_eq!(error.kind(), ErrorKind::NotLoaded);
                assert_eq!(ErrorResponse::from(error).status(), StatusCode::SERVICE_UNAVAILABLE);
            };
            refused(session.put("k", "new").unwrap_err());
            refused(session.remove("k").unwrap_err());
            refused(session.clear().unwrap_err());
            refused(session.update("k", |_: Option<u8>| 1).unwrap_err());
            refused(session.set_owner(Some("ann")).unwrap_err());
            refused(session.renew().unwrap_err());
            refused(session.rotate().unwrap_err());
            refused(session.issue().unwrap_err());
            refused(session.destroy().unwrap_err());
            Ok::<_, Infallible>(Response::new("served".to_owned()))
        };
        let response = layer.layer(service_fn(handler)).oneshot(request(&cookie)).await.unwrap();
        assert_eq!(response.body(), "served");
        assert!(!response.headers().contains_key(SET_COOKIE));
        assert_eq!(response.headers()[VARY], "Cookie");
        store.break_down(false);
        store.take_down(false);
        let back = layer.layer(service_fn(read)).oneshot(request(&cookie)).await.unwrap();
        assert_eq!(back.body(), "Some(\"v\")", "the session is back with the store");
    }
}

#[tokio::test]
async fn a_layer_without_the_policy_and_a_closed_engine_still_fail() {
    let (engine, store, cookie) = stored().await;
    store.take_down(true);
    let fail = SessionLayer::new(engine.clone());
    let response = fail.layer(service_fn(read)).oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    store.take_down(false);
    engine.close().await.unwrap();
    let empty = SessionLayer::new(engine).on_store_down(StoreDown::ServeEmpty);
    let response = empty.layer(service_fn(read)).oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "a closed engine is no outage");
}

#[tokio::test]
async fn a_damaged_record_gives_a_fresh_session_or_one_500() {
    for policy in [Corrupt::Fresh, Corrupt::Fail] {
        let (engine, store, cookie) = stored().await;
        store.damage(true);
        let layer = SessionLayer::new(engine.clone()).on_corrupt(policy);
        let response = layer.layer(service_fn(read)).oneshot(request(&cookie)).await.unwrap();
        let fails = policy == Corrupt::Fail;
        assert_eq!(response.status().as_u16(), if fails { 500 } else { 200 });
        assert_eq!(response.body(), if fails { "" } else { "None" });
        assert_eq!(engine.stats().await.quarantined, 1);
        engine.flush().await.unwrap();
        store.damage(false);
        let next = layer.layer(service_fn(write)).oneshot(request(&cookie)).await.unwrap();
        assert_eq!(next.status().as_u16(), 201, "never an endless 500");
        assert_eq!(next.headers().get_all(SET_COOKIE).iter().count(), 2, "a new session under a new token");
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn errors_are_responses_that_say_nothing() {
    use axum::response::IntoResponse as _;

    let engine = Engine::builder().in_memory().unwrap();
    let session = engine.session(None).await.unwrap();
    session.put("secret", "value").unwrap();
    session.commit().await.unwrap();
    let other = engine.session(None).await.unwrap();
    other.commit().await.unwrap();
    let late = other.put("k", "v").unwrap_err();
    engine.destroy_session(&session.id().unwrap()).await.unwrap();
    let gone = session.put("k", "v").unwrap_err();
    let refused = engine.stand_in().put("k", "v").unwrap_err();
    let limit = engine.session(None).await.unwrap().put("k", &"x".repeat(1 << 20)).unwrap_err();
    for (error, status) in [(gone, 401), (late, 500), (refused, 503), (limit, 500)] {
        assert_eq!(error.http_status(), status, "{error}");
        let response = error.into_response();
        assert_eq!(response.status().as_u16(), status);
        let body = axum::body::to_bytes(response.into_body(), 1 << 10).await.unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert_eq!(
            text,
            if status == 401 { "the session has ended" } else { "the session could not be used" }
        );
    }
}
