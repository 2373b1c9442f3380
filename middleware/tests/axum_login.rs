//! A real axum-login app whose only change is the store.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Query;
use axum::http::{Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum_login::{AuthManagerLayerBuilder, AuthUser, AuthnBackend, UserId, login_required};
use serde::Deserialize;
use sessile::Engine;
use sessile::adapter::TowerSessionsStore;
use tempfile::TempDir;
use tower::ServiceExt;
use tower_sessions::{Session, SessionManagerLayer};

#[derive(Debug, Clone)]
struct User {
    id: u64,
    password: String,
}

impl AuthUser for User {
    type Id = u64;

    fn id(&self) -> u64 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.password.as_bytes()
    }
}

#[derive(Debug, Clone, Default)]
struct Users(Arc<Mutex<HashMap<u64, User>>>);

#[derive(Debug, Clone, Deserialize)]
struct Credentials {
    id: u64,
    password: String,
}

impl Users {
    fn set_password(&self, id: u64, password: &str) {
        self.0.lock().unwrap().insert(id, User { id, password: password.into() });
    }
}

impl AuthnBackend for Users {
    type User = User;
    type Credentials = Credentials;
    type Error = Infallible;

    async fn authenticate(&self, given: Credentials) -> Result<Option<User>, Infallible> {
        let users = self.0.lock().unwrap();
        Ok(users.get(&given.id).filter(|user| user.password == given.password).cloned())
    }

    async fn get_user(&self, id: &UserId<Self>) -> Result<Option<User>, Infallible> {
        Ok(self.0.lock().unwrap().get(id).cloned())
    }
}

type AuthSession = axum_login::AuthSession<Users>;

async fn login(mut auth: AuthSession, Query(given): Query<Credentials>) -> impl IntoResponse {
    let Some(user) = auth.authenticate(given).await.unwrap() else { return StatusCode::UNAUTHORIZED };
    auth.login(&user).await.unwrap();
    StatusCode::OK
}

async fn logout(mut auth: AuthSession) -> impl IntoResponse {
    auth.logout().await.unwrap();
}

async fn cart(session: Session) -> String {
    let n = session.get::<u32>("cart").await.unwrap().unwrap_or(0) + 1;
    session.insert("cart", n).await.unwrap();
    n.to_string()
}

fn app(engine: &Engine, users: &Users) -> Router {
    let store = TowerSessionsStore::with_owner(engine.clone(), |data| {
        Some(format!("user:{}", data.get("axum-login.data")?.get("user_id")?.as_u64()?))
    });
    let auth = AuthManagerLayerBuilder::new(users.clone(), SessionManagerLayer::new(store)).build();
    Router::new()
        .route("/protected", get(|auth: AuthSession| async move { auth.user.unwrap().id.to_string() }))
        .route_layer(login_required!(Users, login_url = "/login"))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/cart", get(cart))
        .layer(auth)
}

/// A client with a cookie jar for one cookie.
#[derive(Default, Clone)]
struct Browser {
    cookie: Option<String>,
}

impl Browser {
    async fn send(&mut self, app: &Router, method: &str, path: &str) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (pair != "id=").then(|| pair.to_owned());
        }
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn login(&mut self, app: &Router, password: &str) -> StatusCode {
        self.send(app, "POST", &format!("/login?id=7&password={password}")).await.0
    }

    /// Whether the protected page opens.
    async fn is_in(&mut self, app: &Router) -> bool {
        let (status, body) = self.send(app, "GET", "/protected").await;
        match status {
            StatusCode::OK => body == "7",
            StatusCode::TEMPORARY_REDIRECT => false,
            other => panic!("{other}"),
        }
    }
}

fn users() -> Users {
    let users = Users::default();
    users.set_password(7, "one");
    users
}

#[tokio::test]
async fn login_protects_and_logout_ends() {
    let (engine, users) = (Engine::builder().in_memory().unwrap(), users());
    let app = app(&engine, &users);
    let mut browser = Browser::default();
    assert!(!browser.is_in(&app).await);
    assert_eq!(browser.login(&app, "wrong").await, StatusCode::UNAUTHORIZED);
    assert!(!browser.is_in(&app).await);

    // The visitor's cart comes along, under another id.
    assert_eq!(browser.send(&app, "GET", "/cart").await.1, "1");
    let mut planted = browser.clone();
    assert_eq!(browser.login(&app, "one").await, StatusCode::OK);
    assert_ne!(browser.cookie, planted.cookie);
    assert!(browser.is_in(&app).await);
    assert_eq!(browser.send(&app, "GET", "/cart").await.1, "2");
    assert!(!planted.is_in(&app).await);

    let mut stolen = browser.clone();
    assert!(stolen.is_in(&app).await);
    assert_eq!(browser.send(&app, "POST", "/logout").await.0, StatusCode::OK);
    assert_eq!(browser.cookie, None);
    assert!(!stolen.is_in(&app).await);
}

#[tokio::test]
async fn another_password_ends_all_sessions() {
    let (engine, users) = (Engine::builder().in_memory().unwrap(), users());
    let app = app(&engine, &users);
    let (mut phone, mut laptop) = (Browser::default(), Browser::default());
    assert_eq!(phone.login(&app, "one").await, StatusCode::OK);
    assert_eq!(laptop.login(&app, "one").await, StatusCode::OK);
    users.set_password(7, "two");
    let before = laptop.cookie.clone();
    assert!(!phone.is_in(&app).await);
    assert!(!laptop.is_in(&app).await);
    assert_eq!(laptop.login(&app, "two").await, StatusCode::OK);
    assert_ne!(laptop.cookie, before);
    assert!(laptop.is_in(&app).await);
    // Another password back does not bring the old session back.
    users.set_password(7, "one");
    laptop.cookie = before;
    assert!(!laptop.is_in(&app).await);
}

#[tokio::test]
async fn a_login_survives_a_restart_and_a_logout_does_too() {
    let (dir, users) = (TempDir::new().unwrap(), users());
    let open = || Engine::builder().open_redb(dir.path().join("sessions.redb")).unwrap();
    let (mut stays, mut leaves) = (Browser::default(), Browser::default());
    let engine = open();
    {
        let app = app(&engine, &users);
        assert_eq!(stays.login(&app, "one").await, StatusCode::OK);
        assert_eq!(leaves.login(&app, "one").await, StatusCode::OK);
        let mut left = leaves.clone();
        left.send(&app, "POST", "/logout").await;
    }
    engine.close().await.unwrap();
    drop(engine);

    let engine = open();
    let app = app(&engine, &users);
    assert!(stays.is_in(&app).await);
    assert!(!leaves.is_in(&app).await);
}
