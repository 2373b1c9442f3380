//! What tower-sessions asks of every store in its own integration tests, through its layer and an axum router,
//! over memory and over a file. Included by the test of each version.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use axum::routing::get;
use sessile::Engine;
use sessile::adapter::TowerSessionsStore;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tower::ServiceExt;

use crate::ts::{Expiry, Session, SessionManagerLayer};

fn routes() -> Router {
    Router::new()
        .route("/", get(|_: Session| async move { "Hello, world!" }))
        .route("/insert", get(|s: Session| async move { s.insert("foo", 42).await.unwrap() }))
        .route("/get", get(|s: Session| async move { format!("{:?}", s.get::<u8>("foo").await.unwrap()) }))
        .route("/remove", get(|s: Session| async move { drop(s.remove_value("foo").await.unwrap()) }))
        .route("/cycle_id", get(|s: Session| async move { s.cycle_id().await.unwrap() }))
        .route("/flush", get(|s: Session| async move { s.flush().await.unwrap() }))
        .route(
            "/flush_and_insert",
            get(|s: Session| async move {
                s.flush().await.unwrap();
                s.insert("message", "you are logged out").await.unwrap();
            }),
        )
        .route(
            "/cycle_and_fail",
            get(|s: Session| async move {
                s.cycle_id().await.unwrap();
                StatusCode::INTERNAL_SERVER_ERROR
            }),
        )
        .route(
            "/set_expiry",
            get(|s: Session| async move {
                s.set_expiry(Some(Expiry::AtDateTime(OffsetDateTime::now_utc() + Duration::days(1))));
            }),
        )
        .route("/remove_expiry", get(|s: Session| async move { s.set_expiry(Some(Expiry::OnSessionEnd)) }))
}

/// The app over memory and over a file.
fn apps(expiry: Option<Expiry>) -> Vec<(Router, Option<TempDir>)> {
    let dir = TempDir::new().unwrap();
    let file = Engine::builder().open_redb(dir.path().join("sessions.redb")).unwrap();
    let memory = Engine::builder().in_memory().unwrap();
    [(memory, None), (file, Some(dir))]
        .into_iter()
        .map(|(engine, dir)| {
            let mut layer =
                SessionManagerLayer::new(TowerSessionsStore::new(engine)).with_domain("localhost");
            if let Some(expiry) = expiry {
                layer = layer.with_expiry(expiry);
            }
            (routes().layer(layer), dir)
        })
        .collect()
}

const HOUR: Option<Expiry> = Some(Expiry::OnInactivity(Duration::HOUR));

struct Answer {
    status: StatusCode,
    /// The whole `Set-Cookie`.
    set: Option<String>,
    body: String,
}

impl Answer {
    fn cookie(&self) -> &str {
        self.set.as_deref().unwrap().split(';').next().unwrap()
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.set.as_deref().unwrap().split("; ").skip(1);
        all.find_map(|a| a.strip_prefix(name).map(|value| value.strip_prefix('=').unwrap_or(value)))
    }

    fn max_age(&self) -> i64 {
        self.attribute("Max-Age").unwrap().parse().unwrap()
    }
}

async fn send(app: &Router, path: &str, cookie: Option<&str>) -> Answer {
    let mut request = Request::builder().uri(path);
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    let response: Response<Body> = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let set = response.headers().get(header::SET_COOKIE).map(|v| v.to_str().unwrap().to_owned());
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer { status, set, body: String::from_utf8(body.to_vec()).unwrap() }
}

#[tokio::test]
async fn no_session_no_cookie() {
    for (app, _dir) in apps(HOUR) {
        assert_eq!(send(&app, "/", None).await.set, None);
    }
}

#[tokio::test]
async fn a_bogus_or_malformed_id_is_not_adopted() {
    for (app, _dir) in apps(HOUR) {
        let answer = send(&app, "/insert", Some("id=AAAAAAAAAAAAAAAAAAAAAA")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_ne!(answer.cookie(), "id=AAAAAAAAAAAAAAAAAAAAAA");
        let answer = send(&app, "/", Some("id=malformed")).await;
        assert_eq!((answer.status, answer.cookie()), (StatusCode::OK, "id="));
    }
}

#[tokio::test]
async fn a_session_gets_a_cookie_and_keeps_its_data() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        assert!(inserted.cookie().starts_with("id="));
        for (name, value) in [("HttpOnly", ""), ("Secure", ""), ("SameSite", "Strict"), ("Path", "/")] {
            assert_eq!(inserted.attribute(name), Some(value), "{name}");
        }
        assert!((3000..=3600).contains(&inserted.max_age()));
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.body, "Some(42)");
        // Reading is no reason for a cookie.
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.set, None);
    }
    for (app, _dir) in apps(None) {
        assert_eq!(send(&app, "/insert", None).await.attribute("Max-Age"), None);
    }
}

#[tokio::test]
async fn the_last_value_can_be_removed() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        assert_eq!(send(&app, "/get", None).await.body, "None");
        let removed = send(&app, "/remove", Some(inserted.cookie())).await;
        assert_eq!(removed.cookie(), inserted.cookie());
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.body, "None");
    }
}

#[tokio::test]
async fn cycling_the_id_keeps_the_data_and_kills_the_old_id() {
    for (app, _dir) in apps(HOUR) {
        let first = send(&app, "/insert", None).await;
        let second = send(&app, "/cycle_id", Some(first.cookie())).await;
        assert_ne!(first.cookie(), second.cookie());
        assert_eq!(send(&app, "/get", Some(second.cookie())).await.body, "Some(42)");
        let old = send(&app, "/get", Some(first.cookie())).await;
        assert_eq!((old.body.as_str(), old.cookie()), ("None", "id="));
    }
}

#[tokio::test]
async fn flush_removes_the_cookie_and_the_session() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        let flushed = send(&app, "/flush", Some(inserted.cookie())).await;
        assert_eq!((flushed.cookie(), flushed.max_age()), ("id=", 0));
        assert_eq!(flushed.attribute("Path"), Some("/"));
        assert_eq!(flushed.attribute("Domain"), Some("localhost"));
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.body, "None");
    }
}

/// With a store that keeps the id of the record, the new session would have the id of the old one.
#[tokio::test]
async fn a_session_begun_after_a_flush_has_another_id() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        let flushed = send(&app, "/flush_and_insert", Some(inserted.cookie())).await;
        assert!(flushed.cookie().len() > 20);
        assert_ne!(flushed.cookie(), inserted.cookie());
    }
}

/// The trait does not tell this deletion from a logout, so it is final: documented in the module.
#[tokio::test]
async fn a_failed_response_after_a_cycle_leaves_no_session() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        let failed = send(&app, "/cycle_and_fail", Some(inserted.cookie())).await;
        assert_eq!((failed.status, failed.set), (StatusCode::INTERNAL_SERVER_ERROR, None));
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.body, "None");
    }
}

#[tokio::test]
async fn the_expiry_can_be_set_and_its_kind_changed() {
    for (app, _dir) in apps(HOUR) {
        let inserted = send(&app, "/insert", None).await;
        let day = send(&app, "/set_expiry", Some(inserted.cookie())).await;
        assert!((86_000..=86_400).contains(&day.max_age()));
        assert_eq!(day.cookie(), inserted.cookie());
    }
    for (app, _dir) in apps(None) {
        let inserted = send(&app, "/insert", None).await;
        assert_eq!(inserted.attribute("Max-Age"), None);
        let day = send(&app, "/set_expiry", Some(inserted.cookie())).await;
        assert!((86_000..=86_400).contains(&day.max_age()));
        let none = send(&app, "/remove_expiry", Some(inserted.cookie())).await;
        assert_eq!(none.attribute("Max-Age"), None);
        assert_eq!(send(&app, "/get", Some(inserted.cookie())).await.body, "Some(42)");
    }
}
