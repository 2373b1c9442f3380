//! `LoadAndSave`, step by step.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response, StatusCode};
use sessile::engine::store::fault::FaultOp;
use sessile::{Session, StoreErrorKind};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Browser, DAY, Site};

#[tokio::test]
async fn a_request_without_the_cookie_gets_an_empty_session() {
    let site = Site::new();
    site.browser()
        .visit(async |session| {
            assert!(session.is_new() && session.keys().is_empty());
            assert_eq!(session.id(), None);
        })
        .await;
}

#[tokio::test]
async fn the_cookie_is_found_among_others() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser.cookie = browser.cookie.map(|cookie| format!("a=1; {cookie}; b=2"));
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn of_several_cookies_of_the_name_the_first_live_one_wins() {
    // SCS: only the first is tried, so a planted one hides the real session.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let planted = "A".repeat(43);
    browser.cookie = browser.cookie.map(|cookie| format!("session=x; session={planted}; {cookie}"));
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_malformed_token_reaches_no_store() {
    // SCS: any text of any length goes to the store.
    let site = Site::new();
    let mut browser = site.browser();
    for bad in ["x".to_owned(), "A".repeat(8000), "A".repeat(42), "A".repeat(44), "ä".repeat(43)] {
        browser.cookie = Some(format!("session={bad}"));
        browser.visit(async |session| assert!(session.is_new())).await;
    }
    assert_eq!(site.store.calls(FaultOp::Load), 0);
}

#[tokio::test]
async fn a_load_error_is_answered_and_the_handler_does_not_run() {
    let site = Site::new();
    site.store.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    let mut browser = site.browser();
    browser.cookie = Some(format!("session={}", "A".repeat(43)));
    let seen = browser.visit(async |_| panic!("the handler ran")).await;
    assert_eq!(seen.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn a_handler_that_needs_no_session_runs_while_the_store_is_down() {
    // SCS: every request with a cookie loads, and fails.
    let site = Site::new();
    site.store.fail_from(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    let app = Router::new().route("/", get(async || "public")).layer(site.layer.clone());
    let request = Request::builder().uri("/").header(COOKIE, format!("session={}", "A".repeat(43)));
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_handler_can_answer_a_load_error_itself() {
    // SCS: `ErrorFunc` answers for all. Here the extractor's rejection is the handler's to take.
    let site = Site::new();
    site.store.fail_from(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    let handler = async |session: Result<Session, sessile::SessionRejection>| match session {
        Ok(_) => (StatusCode::OK, "in"),
        Err(_) => (StatusCode::IM_A_TEAPOT, "later"),
    };
    let app = Router::new().route("/", get(handler)).layer(site.layer.clone());
    let request = Request::builder().uri("/").header(COOKIE, format!("session={}", "A".repeat(43)));
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn a_commit_error_is_answered_by_the_error_func() {
    let site = Site::new().change(|layer| {
        layer.on_error(|error| {
            let mut response = Response::new(format!("mine: {:?}", error.kind()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    });
    let mut browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert_eq!((seen.status(), seen.body()), (StatusCode::BAD_GATEWAY, "mine: Store"));
}

#[tokio::test]
async fn a_new_session_is_committed_and_its_cookie_sent() {
    let site = Site::new();
    let mut browser = site.browser();
    let seen = browser.visit(async |session| session.put("k", "v").unwrap()).await;
    assert!(seen.issues_a_token());
    assert_eq!(site.sessions().await, 1);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn the_session_is_in_service_before_the_body_is_sent() {
    // SCS: commits at the first `Write` or `WriteHeader`. Here the response head is that moment, whatever the body
    // does.
    struct Unread;
    impl Default for Unread {
        fn default() -> Self {
            panic!("the body was replaced")
        }
    }
    let site = Site::new();
    let inner = service_fn(async |request: Request<String>| {
        let session: Session = Session::from_request(&request).await.unwrap();
        session.put("k", "v").unwrap();
        Ok::<_, Infallible>(Response::new(Unread))
    });
    let response = site.layer.layer(inner).oneshot(site.browser().request()).await.unwrap();
    let (head, _body) = response.into_parts();
    let cookie = head.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let mut browser = Browser { layer: site.layer.clone(), cookie: Some(cookie) };
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_response_without_a_body_commits_as_well() {
    let site = Site::new();
    let mut browser = site.browser();
    let seen = browser
        .respond(async |session| {
            session.put("k", "v").unwrap();
            Response::builder().status(StatusCode::NO_CONTENT).body(String::new()).unwrap()
        })
        .await;
    assert!(seen.issues_a_token());
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn an_error_response_commits_as_well() {
    let site = Site::new();
    let mut browser = site.browser();
    browser
        .respond(async |session| {
            session.put("k", "v").unwrap();
            Response::builder().status(StatusCode::BAD_REQUEST).body(String::new()).unwrap()
        })
        .await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_later_change_is_stored_and_sends_no_cookie() {
    // SCS: sends the cookie again with every change. The browser has it already.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    let seen = browser.visit(async |session| session.put("k", "w").unwrap()).await;
    assert!(seen.sets_no_cookie());
    assert_eq!(site.writes().await, 1);
    assert_eq!(browser.read("k").await.as_deref(), Some("w"));
}

#[tokio::test]
async fn a_destroyed_session_gets_the_delete_cookie() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert!(seen.removes_the_cookie());
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn an_unmodified_session_writes_nothing_and_sends_no_cookie() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    let seen = browser.visit(async |session| assert!(session.exists("k"))).await;
    assert!(seen.sets_no_cookie());
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn a_visitor_who_never_writes_gets_no_cookie_and_no_row() {
    let site = Site::new();
    let seen = site.browser().visit(async |session| assert!(session.keys().is_empty())).await;
    assert!(seen.sets_no_cookie());
    assert_eq!((site.writes().await, site.sessions().await), (0, 0));
}

#[tokio::test]
async fn an_unknown_cookie_of_a_visitor_who_only_reads_is_not_cleared() {
    let site = Site::new();
    let mut browser = site.browser();
    browser.cookie = Some(format!("session={}", "A".repeat(43)));
    let seen = browser.visit(async |session| assert!(session.keys().is_empty())).await;
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn an_expired_cookie_of_a_visitor_who_only_reads_is_not_cleared() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(DAY);
    let seen = browser.visit(async |session| assert!(session.keys().is_empty())).await;
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn an_unknown_cookie_is_replaced_at_the_first_write() {
    let site = Site::new();
    let mut browser = site.browser();
    browser.cookie = Some(format!("session={}", "A".repeat(43)));
    let seen = browser.visit(async |session| session.put("k", "v").unwrap()).await;
    assert!(seen.issues_a_token() && !seen.cookie().contains("AAAAAAAA"));
}

#[tokio::test]
async fn what_the_writer_underneath_can_do_stays_possible() {
    // SCS: the wrapper hides `ReadFrom` and `Pusher`. Here the response is not wrapped: body and extensions pass
    // through.
    #[derive(Clone)]
    struct Upgrade;
    let seen = Site::new()
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            let mut response = Response::new("body".to_owned());
            response.extensions_mut().insert(Upgrade);
            response
        })
        .await;
    assert!(seen.0.extensions().get::<Upgrade>().is_some());
    assert_eq!(seen.body(), "body");
}
