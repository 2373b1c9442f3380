//! The token, its hash, the two expiries and the idle rule.

use std::collections::HashSet;
use std::time::Duration;

use sessile::{Session, Token};
use tower::{Layer, ServiceExt};

use crate::support::{DAY, HOUR, MINUTE, SECOND, Site, at};

#[test]
fn a_token_is_32_random_bytes_in_43_characters_of_base64url() {
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let token = Token::generate().unwrap();
        let text = token.encode();
        let text = text.as_str();
        assert_eq!(text.len(), 43);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(Token::parse(text.as_bytes()).map(|t| t.id()), Some(token.id()));
        assert!(seen.insert(text.to_owned()));
    }
}

#[test]
fn a_token_cannot_be_printed() {
    // SCS: the token is a string like any other, and ends up in logs.
    let site = Site::new();
    let session = pollster::block_on(site.engine.session(None)).unwrap();
    session.put("k", "v").unwrap();
    let issue = session.issue().unwrap().unwrap();
    let printed = format!("{session:?} {issue:?}");
    assert!(!printed.contains(issue.token.encode().as_str()), "{printed}");
}

#[tokio::test]
async fn the_idle_timeout_slides_with_every_use() {
    let site = Site::with(|b| b.idle_timeout(20 * MINUTE));
    let mut browser = site.visitor("k", "v").await;
    for _ in 0..5 {
        site.clock.advance(19 * MINUTE);
        assert_eq!(browser.read("k").await.as_deref(), Some("v"));
    }
    site.clock.advance(20 * MINUTE);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn expiry_is_the_earlier_of_the_deadline_and_the_end_of_the_idle_timeout() {
    let site = Site::with(|b| b.lifetime(HOUR).idle_timeout(40 * MINUTE));
    let mut browser = site.visitor("k", "v").await;
    browser.visit(async |session| assert_eq!(session.expires_at(), at(40 * MINUTE))).await;
    site.clock.advance(30 * MINUTE);
    browser.visit(async |session| assert_eq!(session.expires_at(), at(HOUR))).await;
    site.clock.advance(30 * MINUTE);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn reading_with_an_idle_timeout_rewrites_no_row_and_sends_no_cookie() {
    // SCS: every request that loads a session rewrites the whole blob and sends the cookie again.
    let site = Site::with(|b| b.idle_timeout(20 * MINUTE));
    let mut browser = site.visitor("k", "v").await;
    site.writes().await;
    for _ in 0..10 {
        site.clock.advance(SECOND);
        let seen = browser.visit(async |session| assert!(session.exists("k"))).await;
        assert!(seen.sets_no_cookie());
    }
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn a_brand_new_untouched_session_is_not_stored() {
    let site = Site::with(|b| b.idle_timeout(20 * MINUTE));
    let seen = site.browser().visit(async |session| assert!(session.is_new())).await;
    assert!(seen.sets_no_cookie());
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn a_request_can_be_no_use_of_its_session() {
    // SCS: every request is one, so that a page that polls never goes idle.
    let site = Site::with(|b| b.idle_timeout(20 * MINUTE));
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(15 * MINUTE);
    let poll = tower::service_fn(async |request: http::Request<String>| {
        let session: Session = Session::untouched(&request).await.unwrap();
        assert!(session.exists("k"));
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    site.layer.layer(poll).oneshot(browser.request()).await.unwrap();
    site.clock.advance(5 * MINUTE);
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn the_idle_timeout_can_be_that_of_one_session() {
    // SCS: one for all.
    let site = Site::with(|b| b.idle_timeout(20 * MINUTE));
    let mut browser = site.visitor("k", "v").await;
    browser.visit(async |session| session.set_idle_timeout(HOUR).unwrap()).await;
    site.clock.advance(59 * MINUTE);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_session_is_expired_when_now_is_the_deadline() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(DAY - Duration::from_millis(1));
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
    site.clock.advance(Duration::from_millis(1));
    assert_eq!(browser.read("k").await, None);
}
