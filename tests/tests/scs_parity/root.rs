//! SCS's own tests of its root package, ported one by one, where no other module has them under another name.

use std::cell::RefCell;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use http::header::{COOKIE, SET_COOKIE};
use sessile::engine::store::fault::FaultOp;
use sessile::{Delivery, ErrorKind, Session, StoreErrorKind};
use tower::ServiceExt;

use crate::support::{Site, at};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// An axum app of SCS's test handlers: `/put`, `/get`, `/destroy` and `/renew`.
struct App {
    router: Router,
    cookie: Option<String>,
}

impl App {
    fn of(site: &Site) -> Self {
        let router = Router::new()
            .route("/put", get(async |session: Session| session.put("foo", "bar").map(|()| "ok")))
            .route("/get", get(async |session: Session| session.get_or("foo", String::new())))
            .route("/destroy", get(async |session: Session| session.destroy().map(|()| "ok")))
            .route("/renew", get(async |session: Session| session.renew().map(|()| "ok")))
            .layer(site.layer.clone());
        Self { router, cookie: None }
    }

    /// Asks for `path`. Returns the body and the `Set-Cookie` line.
    async fn ask(&mut self, path: &str) -> (String, Option<String>) {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let line = response.headers().get(SET_COOKIE).map(|line| line.to_str().unwrap().to_owned());
        if let Some(line) = &line {
            self.cookie = line.split(';').next().map(str::to_owned);
        }
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        (String::from_utf8(body.to_vec()).unwrap(), line)
    }

    async fn value(&mut self) -> String {
        self.ask("/get").await.0
    }
}

#[tokio::test]
async fn test_enable() {
    let mut app = App::of(&Site::new());
    let first = app.ask("/put").await.1.unwrap();
    assert_eq!(app.ask("/get").await, ("bar".to_owned(), None));
    // SCS: the second put sends the same token again.
    assert_eq!(app.ask("/put").await.1, None);
    assert_eq!(app.cookie.as_deref(), first.split(';').next());
}

#[tokio::test]
async fn test_lifetime() {
    let site = Site::with(|b| b.lifetime(ms(500)));
    let mut app = App::of(&site);
    app.ask("/put").await;
    assert_eq!(app.value().await, "bar");
    site.clock.advance(ms(1000));
    assert_eq!(app.value().await, "");
}

#[tokio::test]
async fn test_idle_timeout() {
    let site = Site::with(|b| b.idle_timeout(ms(200)).lifetime(ms(1000)));
    let mut app = App::of(&site);
    app.ask("/put").await;
    site.clock.advance(ms(100));
    assert_eq!(app.value().await, "bar");
    site.clock.advance(ms(150));
    assert_eq!(app.value().await, "bar");
    site.clock.advance(ms(200));
    assert_eq!(app.value().await, "");
}

#[tokio::test]
async fn test_destroy() {
    let mut app = App::of(&Site::new());
    app.ask("/put").await;
    let line = app.ask("/destroy").await.1.unwrap();
    assert!(line.starts_with("session=;") && line.contains("Max-Age=0"), "{line}");
    assert!(line.contains("Expires=Thu, 01 Jan 1970 00:00:00 GMT"), "{line}");
    assert_eq!(app.value().await, "");
}

#[tokio::test]
async fn test_renew_token() {
    let mut app = App::of(&Site::new());
    app.ask("/put").await;
    let original = app.cookie.clone();
    assert!(app.ask("/renew").await.1.is_some());
    assert_ne!(app.cookie, original);
    assert_eq!(app.value().await, "bar");
}

#[tokio::test]
async fn test_remember_me() {
    let site = Site::with(|b| b.persistent(false));
    let mut browser = site.browser();
    let lasting = |line: &str| line.contains("Max-Age=") && line.contains("Expires=");
    let put = browser.visit(async |session| session.put("foo", "bar").unwrap()).await;
    assert!(!lasting(&put.cookie()));
    let on = browser.visit(async |session| session.remember_me(true).unwrap()).await;
    assert!(lasting(&on.cookie()));
    let off = browser.visit(async |session| session.remember_me(false).unwrap()).await;
    assert!(!lasting(&off.cookie()));
}

#[tokio::test]
async fn test_iterate() {
    let site = Site::new();
    for i in 0..3 {
        site.visitor("foo", &i.to_string()).await;
    }
    let found = RefCell::new(Vec::new());
    let each = async |session: sessile::engine::Session| {
        found.borrow_mut().extend(session.get::<String>("foo")?);
        Ok(())
    };
    site.engine.for_each(each).await.unwrap();
    found.borrow_mut().sort();
    assert_eq!(found.into_inner(), ["0", "1", "2"]);
    let error = site.engine.for_each(async |session| session.put("", &1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidKey);
}

#[tokio::test]
async fn test_session_manager_load() {
    let site = Site::new();
    let session = site.engine.session(None).await.unwrap();
    assert_eq!(session.id(), None, "no token, no session");
    session.put("foo", "bar").unwrap();
    let Delivery::Issue(issue) = session.commit().await.unwrap() else { panic!() };
    let again = site.engine.session(Some(&issue.token)).await.unwrap();
    assert_eq!(again.id(), Some(issue.token.id()));
    again.destroy().unwrap();
    again.commit().await.unwrap();
    assert_eq!(site.engine.session(Some(&issue.token)).await.unwrap().id(), None);
    site.store.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    assert!(site.engine.session(Some(&sessile::Token::generate().unwrap())).await.is_err());
}

#[tokio::test]
async fn test_session_manager_commit() {
    // SCS: the expiry is the deadline only if the idle timeout ends later.
    for idle in [None, Some(ms(1)), Some(crate::support::DAY * 2)] {
        let site = Site::with(|b| b.idle_timeout(idle));
        let session = site.engine.session(None).await.unwrap();
        session.put("foo", "bar").unwrap();
        let Delivery::Issue(issue) = session.commit().await.unwrap() else { panic!() };
        assert_eq!(Some(issue.expires_at), at(crate::support::DAY));
        assert_eq!(issue.token.encode().as_str().len(), 43, "the plain token, not its hash");
    }
}

#[tokio::test]
async fn test_mock_store_is_a_store_that_fails_on_demand() {
    // SCS: `mockstore` answers what it was told to. Ours is a real store with faults, counters and a log.
    let site = Site::new();
    site.visitor("foo", "bar").await;
    site.engine.flush().await.unwrap();
    assert_eq!(site.store.committed().concat().len(), 1);
    assert_eq!(site.store.calls(FaultOp::Load), 0);
}
