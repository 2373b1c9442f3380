//! The fields of `SessionManager` and what `New()` sets them to.

use sessile::engine::store::Change;
use sessile::engine::store::fault::FaultOp;
use sessile::{
    ConfigErrorKind, CookiePolicy, Engine, ErrorKind, SameSite, Session, SessionLayer, StoreErrorKind,
};

use crate::support::{DAY, HOUR, SECOND, Site, at};

#[tokio::test]
async fn idle_timeout_is_off_by_default() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(DAY - SECOND);
    browser.visit(async |session| assert_eq!(session.idle_timeout(), None)).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn lifetime_is_24_hours_by_default() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser.visit(async |session| assert_eq!(session.deadline(), at(DAY))).await;
    site.clock.advance(DAY);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn lifetime_is_absolute_and_use_does_not_extend_it() {
    let site = Site::with(|b| b.lifetime(HOUR));
    let mut browser = site.visitor("k", "v").await;
    for _ in 0..3 {
        site.clock.advance(HOUR / 4);
        browser.visit(async |session| session.put("k", "w").unwrap()).await;
    }
    site.clock.advance(HOUR / 4);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn the_store_is_memory_by_default() {
    // SCS: `New()` starts a memory store with a clean-up goroutine, which leak when `Store` is replaced. Ours is
    // asked for.
    let engine = Engine::builder().in_memory().unwrap();
    let session = engine.session(None).await.unwrap();
    session.put("k", "v").unwrap();
    session.commit().await.unwrap();
    assert_eq!(engine.stats().await.cached, 1);
}

#[tokio::test]
async fn error_func_answers_500_in_one_line_of_text_by_default() {
    // SCS: 500 "Internal Server Error" for everything. A store that does not answer is a 503 here, as trying again
    // may help.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.renew().unwrap()).await;
    assert_eq!(seen.status(), 503);
    assert!(!seen.body().is_empty() && seen.body().lines().count() == 1);
}

#[tokio::test]
async fn hash_token_in_store_is_always_on() {
    // SCS: off by default. A store that leaks must not leak logins.
    let site = Site::new();
    let browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    let token = browser.token().unwrap();
    let committed = site.store.committed().concat();
    let [Change::Insert { id, row }] = &committed[..] else { panic!("{committed:?}") };
    assert_eq!(*id, token.id());
    let text = token.encode();
    assert!(!row.bytes.windows(text.as_bytes().len()).any(|part| part == text.as_bytes()));
}

#[tokio::test]
async fn a_context_key_of_its_own_lets_several_managers_share_one_request() {
    enum Admin {}
    let site = Site::new();
    let outer = SessionLayer::new(Engine::builder().in_memory().unwrap())
        .cookie(CookiePolicy::builder().name("admin").build().unwrap())
        .marker::<Admin>();
    let inner = tower::service_fn(async |request: http::Request<String>| {
        let main: Session = Session::from_request(&request).await.unwrap();
        let admin = Session::<Admin>::from_request(&request).await.unwrap();
        main.put("of", "main").unwrap();
        admin.put("of", "admin").unwrap();
        assert_eq!(main.get::<String>("of").unwrap().as_deref(), Some("main"));
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let service = tower::Layer::layer(&outer, tower::Layer::layer(&site.layer, inner));
    let response = tower::ServiceExt::oneshot(service, site.browser().request()).await.unwrap();
    assert_eq!(response.headers().get_all(http::header::SET_COOKIE).iter().count(), 2);
}

#[test]
fn fields_are_validated_when_the_engine_is_built() {
    // SCS: any value is accepted, also a negative lifetime, and fails at run time or silently.
    let refused = |built: sessile::Result<Engine>| built.unwrap_err().kind() == ErrorKind::Config;
    assert!(refused(Engine::builder().lifetime(std::time::Duration::ZERO).in_memory()));
    assert!(refused(Engine::builder().idle_timeout(std::time::Duration::ZERO).in_memory()));
}

#[test]
fn cookie_fields_are_validated_when_the_policy_is_built() {
    // SCS: an illegal name makes an empty `Set-Cookie` line and loses the session silently.
    let kind =
        |policy: sessile::engine::Result<CookiePolicy, sessile::ConfigError>| policy.unwrap_err().kind();
    assert_eq!(kind(CookiePolicy::builder().name("a b").build()), ConfigErrorKind::Name);
    let insecure = CookiePolicy::builder().same_site(SameSite::None).insecure_http().build();
    assert_eq!(kind(insecure), ConfigErrorKind::SameSite);
    let insecure = CookiePolicy::builder().partitioned().insecure_http().build();
    assert_eq!(kind(insecure), ConfigErrorKind::Partitioned);
}

#[tokio::test]
async fn a_handler_without_the_layer_gets_an_error_and_no_panic() {
    // SCS: `panic("scs: no session data in context")`.
    enum Nowhere {}
    let request = http::Request::new(());
    let rejection = Session::<Nowhere>::from_request(&request).await.unwrap_err();
    assert_eq!(rejection.status(), 500);
    assert!(rejection.body_text().contains("session layer missing"));
}
