//! The defects of SCS, each with the test that sessile does not have it.

use http::{Response, StatusCode};
use sessile::engine::store::fault::FaultOp;
use sessile::value::Timestamp;
use sessile::{CookiePolicy, Engine, ErrorKind, Level, StoreErrorKind};

use crate::support::{DAY, HOUR, SECOND, Site};

#[tokio::test]
async fn defect_01_logout_and_renewal_undone_by_concurrent_requests() {
    let site = Site::with(|b| b.idle_timeout(HOUR));
    for end in ["destroy", "renew"] {
        let mut slow = site.visitor("user", "42").await;
        let mut other = slow.clone();
        let old = slow.token().unwrap();
        slow.visit(async |session| {
            let _ = session.put("before", "1");
            other.visit_meanwhile(async |session| match end {
                "destroy" => session.destroy().unwrap(),
                _ => session.renew().unwrap(),
            });
            assert!(session.put("after", "1").unwrap_err().is_revoked());
        })
        .await;
        assert!(site.engine.session(Some(&old)).await.unwrap().is_new(), "{end}");
    }
}

#[tokio::test]
async fn defect_02_lost_updates() {
    let site = Site::new();
    let mut a = site.visitor("n", "").await;
    let mut b = a.clone();
    a.visit(async |slow| {
        let add = |s: Option<String>| s.unwrap_or_default() + "x";
        slow.update("n", add).unwrap();
        b.visit_meanwhile(async |fast| drop(fast.update("n", add).unwrap()));
        slow.update("n", add).unwrap();
    })
    .await;
    assert_eq!(a.read("n").await.as_deref(), Some("xxx"));
}

#[tokio::test]
async fn defect_03_idle_timeout_as_a_full_rewrite_per_request() {
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    for _ in 0..100 {
        site.clock.advance(SECOND);
        browser.visit(async |_| {}).await;
    }
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn defect_04_iterate_broken_with_hashing() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.engine.for_each(async |session| session.put("k", "w")).await.unwrap();
    assert_eq!(site.sessions().await, 1);
    site.engine.for_each(async |session| session.destroy()).await.unwrap();
    assert_eq!(site.sessions().await, 0);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn defect_05_renew_token_not_atomic() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.renew().unwrap()).await;
    assert!(seen.status().is_server_error());
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
    // And when it works, row and token change together.
    site.engine.flush().await.unwrap();
    browser.visit(async |session| session.renew().unwrap()).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
    assert_eq!(site.engine.stats().await.stored, Some(1));
}

#[tokio::test]
async fn defect_06_a_commit_failure_mixes_two_bodies() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser
        .respond(async |session| {
            session.destroy().unwrap();
            Response::new("HANDLER-BODY".to_owned())
        })
        .await;
    assert_eq!(seen.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!seen.body().contains("HANDLER"));
}

#[tokio::test]
async fn defect_07_flush_before_write_loses_the_cookie() {
    let seen = Site::new()
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            Response::new(String::new())
        })
        .await;
    assert!(seen.body().is_empty() && seen.issues_a_token(), "a head without a byte of body");
}

#[tokio::test]
async fn defect_08_late_changes_silently_dropped() {
    let site = Site::new();
    let (mut known, mut unknown) = (site.visitor("k", "v").await, site.browser());
    let (mut kept, mut refused) = (None, None);
    known.visit(async |session| kept = Some(session.clone())).await;
    unknown.visit(async |session| refused = Some(session.clone())).await;
    kept.unwrap().put("k", "late").unwrap();
    assert_eq!(known.read("k").await.as_deref(), Some("late"));
    assert_eq!(refused.unwrap().put("k", "late").unwrap_err().kind(), ErrorKind::HeadSent);
}

#[tokio::test]
async fn defect_09_an_undecodable_session_is_a_permanent_500() {
    let (_, mut browser) = crate::failures::damaged().await;
    for _ in 0..2 {
        assert_eq!(browser.visit(async |_| {}).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn defect_10_duplicated_headers() {
    let site = Site::new();
    let seen = site
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            let response = Response::builder().header("vary", "Cookie").header("cache-control", "no-cache");
            response.header("set-cookie", "session=old").body(String::new()).unwrap()
        })
        .await;
    let count = (seen.vary().len(), seen.cache_control().len(), seen.cookies().len());
    assert_eq!(count, (1, 1, 1));
}

#[tokio::test]
async fn defect_11_only_the_first_cookie_of_the_name_is_tried() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser.cookie = browser.cookie.map(|cookie| format!("session=planted; {cookie}"));
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn defect_12_a_typed_pop_destroys_a_value_of_another_type() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser.visit(async |session| assert!(session.pop::<u8>("k").is_err())).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn defect_13_a_time_needs_registration() {
    let site = Site::new();
    let mut browser = site.browser();
    let moment = Timestamp::from_micros(7);
    let seen = browser.visit(async |session| session.put("at", &moment).unwrap()).await;
    assert!(seen.issues_a_token());
    browser.visit(async |session| assert_eq!(session.get::<Timestamp>("at").unwrap(), Some(moment))).await;
}

#[test]
fn defect_14_no_validation_of_the_configuration() {
    assert!(Engine::builder().lifetime(std::time::Duration::ZERO).in_memory().is_err());
    assert!(CookiePolicy::builder().name("no good").build().is_err());
    assert!(CookiePolicy::builder().name("__Host-id").domain("example.com").build().is_err());
}

#[tokio::test]
async fn defect_15_remember_me_leaks_into_keys_and_clear() {
    let site = Site::with(|b| b.persistent(false));
    let mut browser = site.visitor("k", "v").await;
    browser.visit(async |session| session.remember_me(true).unwrap()).await;
    browser
        .visit(async |session| {
            assert_eq!(session.keys(), ["k"]);
            session.clear().unwrap();
            assert!(session.is_persistent());
        })
        .await;
}

#[tokio::test]
async fn defect_16_no_index_of_users() {
    let site = Site::new();
    let mut browsers = Vec::new();
    for owner in ["ann", "ann", "bob"] {
        let mut browser = site.browser();
        browser.visit(async |session| session.login(owner).await.unwrap()).await;
        browsers.push(browser);
    }
    assert_eq!(site.engine.sessions_of("ann").await.unwrap().len(), 2);
    let this = browsers[0].token().unwrap().id();
    assert_eq!(site.engine.destroy_all("ann", Some(&this)).await.unwrap(), 1);
    assert_eq!(site.engine.sessions_of("ann").await.unwrap().len(), 1);
    assert_eq!(site.engine.sessions_of("bob").await.unwrap().len(), 1);
}

#[tokio::test]
async fn defect_17_the_deadline_is_not_enforced_on_load() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let mut kept = None;
    browser.visit(async |session| kept = Some(session.clone())).await;
    site.clock.advance(DAY);
    // Not even a handle from before reads it, whether or not anything has swept.
    assert_eq!(kept.unwrap().get::<String>("k").unwrap(), None);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn defect_18_stopping_twice_blocks_for_ever() {
    let site = Site::new();
    site.engine.close().await.unwrap();
    site.engine.close().await.unwrap();
}

#[tokio::test]
async fn a_pop_of_nothing_does_not_dirty_the_session() {
    // Not SCS's defect but of others: reading flash messages marks the session changed although there are none.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    browser.visit(async |session| assert!(session.flashes().unwrap().is_empty())).await;
    assert_eq!(site.writes().await, 0);
    browser.visit(async |session| session.flash(Level::Info, "x").unwrap()).await;
    assert_eq!(site.writes().await, 1);
}
