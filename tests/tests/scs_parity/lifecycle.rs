//! `Load` and `Commit` without the middleware: the engine by itself.

use sessile::engine::store::fault::FaultOp;
use sessile::{Delivery, Engine, ErrorKind, Issue, Session, Status, StoreErrorKind, Token};

use crate::support::{DAY, HOUR, MINUTE, Site, at};

type Live = sessile::engine::Session;

async fn load(site: &Site, token: Option<&Token>) -> Live {
    site.engine.session(token).await.unwrap()
}

async fn issued(session: &Live) -> Issue {
    match session.commit().await.unwrap() {
        Delivery::Issue(issue) => issue,
        other => panic!("{other:?}"),
    }
}

async fn stored(site: &Site) -> Token {
    let session = load(site, None).await;
    session.put("k", "v").unwrap();
    issued(&session).await.token
}

#[tokio::test]
async fn load_twice_in_one_request_gives_the_same_session() {
    let site = Site::new();
    let inner = tower::service_fn(async |request: http::Request<String>| {
        let first: Session = Session::from_request(&request).await.unwrap();
        first.put("k", "v").unwrap();
        let again: Session = Session::from_request(&http::Request::new(())).await.unwrap();
        assert_eq!(again.get::<String>("k").unwrap().as_deref(), Some("v"));
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let service = tower::Layer::layer(&site.layer, inner);
    tower::ServiceExt::oneshot(service, site.browser().request()).await.unwrap();
}

#[tokio::test]
async fn load_without_a_token_gives_an_unmodified_session_without_token() {
    let site = Site::new();
    let session = load(&site, None).await;
    assert_eq!((session.status(), session.id()), (Status::Unmodified, None));
}

#[tokio::test]
async fn an_empty_session_has_no_deadline_until_something_is_written() {
    // SCS: the deadline is set when the request begins. Here nothing exists until the first write.
    let site = Site::new();
    let session = load(&site, None).await;
    assert_eq!(session.deadline(), None);
    site.clock.advance(MINUTE);
    session.put("k", "v").unwrap();
    assert_eq!(session.deadline(), at(MINUTE + DAY));
}

#[tokio::test]
async fn load_of_a_known_token_gives_its_values_and_keeps_the_token() {
    let site = Site::new();
    let token = stored(&site).await;
    let session = load(&site, Some(&token)).await;
    assert_eq!(session.get::<String>("k").unwrap().as_deref(), Some("v"));
    assert_eq!(session.id(), Some(token.id()));
}

#[tokio::test]
async fn load_returns_the_stores_error() {
    let site = Site::new();
    site.store.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    let error = site.engine.session(Some(&Token::generate().unwrap())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn a_token_that_the_client_made_up_is_never_adopted() {
    let site = Site::new();
    let made_up = Token::generate().unwrap();
    let session = load(&site, Some(&made_up)).await;
    assert_eq!(session.id(), None);
    session.put("k", "v").unwrap();
    assert_ne!(issued(&session).await.token.id(), made_up.id());
    assert!(load(&site, Some(&made_up)).await.is_new());
}

#[tokio::test]
async fn the_token_of_an_expired_session_is_never_adopted() {
    let site = Site::new();
    let token = stored(&site).await;
    site.clock.advance(DAY);
    let session = load(&site, Some(&token)).await;
    session.put("k", "v").unwrap();
    assert_ne!(issued(&session).await.token.id(), token.id());
}

#[tokio::test]
async fn a_loaded_session_is_unmodified_with_an_idle_timeout_too() {
    // SCS: starts as modified, so that every request rewrites the row. Here a use is noted in memory.
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let token = stored(&site).await;
    assert_eq!(load(&site, Some(&token)).await.status(), Status::Unmodified);
}

#[tokio::test]
async fn commit_makes_a_token_if_there_is_none() {
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    let issue = issued(&session).await;
    assert_eq!(issue.token.encode().as_str().len(), 43);
    assert!(!load(&site, Some(&issue.token)).await.is_new());
}

#[tokio::test]
async fn commit_returns_the_deadline_as_expiry() {
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    let issue = issued(&session).await;
    assert_eq!((Some(issue.expires_at), issue.max_age), (at(DAY), DAY));
}

#[tokio::test]
async fn commit_returns_the_deadline_also_when_the_idle_timeout_ends_first() {
    // SCS: `min(deadline, now+IdleTimeout)`, and the cookie is sent anew with every response. Here the server alone
    // enforces the idle timeout, and reading costs no cookie.
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    assert_eq!(session.expires_at(), at(HOUR));
    assert_eq!(issued(&session).await.max_age, DAY);
}

#[tokio::test]
async fn commit_of_an_unmodified_session_does_nothing() {
    // SCS: `Commit` stores whatever there is, also an empty session.
    let site = Site::new();
    let delivery = load(&site, None).await.commit().await.unwrap();
    assert!(matches!(delivery, Delivery::Nothing));
    assert_eq!((site.writes().await, site.sessions().await), (0, 0));
}

#[tokio::test]
async fn commit_error_gives_no_token_and_no_session() {
    // SCS: the token stays in the context, and a second `Commit` may store it.
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    session.sync().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    assert_eq!(session.commit().await.unwrap_err().kind(), ErrorKind::Store);
    site.store.heal();
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_second_commit_does_nothing() {
    // SCS: the status stays Modified; every `Commit` writes the row again and restarts the idle timeout.
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    drop(issued(&session).await);
    site.writes().await;
    assert!(matches!(session.commit().await.unwrap(), Delivery::Nothing));
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn the_deadline_is_checked_on_load_and_not_left_to_the_store() {
    // SCS: "expiry is entirely the store's duty". This store keeps the row, and a new engine reads it late.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    let clock = sessile::engine::clock::ManualClock::new(crate::support::START_MS);
    let open = || Engine::builder().clock(clock.clone()).open_redb(&path).unwrap();
    let engine = open();
    let session = engine.session(None).await.unwrap();
    session.put("k", "v").unwrap();
    let token = issued(&session).await.token;
    drop(session);
    engine.close().await.unwrap();
    drop(engine);
    clock.advance(DAY);
    let engine = open();
    assert_eq!(engine.stats().await.stored, Some(1), "the row is still there");
    assert!(engine.session(Some(&token)).await.unwrap().is_new());
}

#[tokio::test]
async fn a_later_change_of_the_lifetime_does_not_affect_existing_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    let clock = sessile::engine::clock::ManualClock::new(crate::support::START_MS);
    let engine = Engine::builder().clock(clock.clone()).open_redb(&path).unwrap();
    let session = engine.session(None).await.unwrap();
    session.put("k", "v").unwrap();
    let token = issued(&session).await.token;
    drop(session);
    engine.close().await.unwrap();
    drop(engine);
    let engine = Engine::builder().clock(clock).lifetime(HOUR).open_redb(&path).unwrap();
    assert_eq!(engine.session(Some(&token)).await.unwrap().deadline(), at(DAY));
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_no_change_of_its_session() {
    // SCS: with a context store the request's context cancels the save. Here a change is made when it is called.
    let site = Site::new();
    let token = stored(&site).await;
    let session = load(&site, Some(&token)).await;
    session.put("k", "w").unwrap();
    drop(session.commit());
    drop(session);
    assert_eq!(load(&site, Some(&token)).await.get::<String>("k").unwrap().as_deref(), Some("w"));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_new_session_behind() {
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    drop(session.commit());
    drop(session);
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn the_cookie_can_be_left_to_the_application() {
    // SCS: `WriteSessionCookie`. Here `issue` gives out what a response of the application's own must carry.
    let site = Site::new();
    let session = load(&site, None).await;
    session.put("k", "v").unwrap();
    let issue = session.issue().unwrap().unwrap();
    assert!(matches!(session.commit().await.unwrap(), Delivery::Nothing));
    assert!(!load(&site, Some(&issue.token)).await.is_new());
}
