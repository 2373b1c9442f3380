//! What a request can do after `Destroy`, and what becomes of the cookie.

use sessile::Status;

use crate::support::{DAY, HOUR, Seen, Session, Site, at};

/// Destroys a session that was made an hour ago and does `next` in the same request. Returns the response and how many
/// sessions there are.
async fn destroy_and(next: impl AsyncFnOnce(&Session)) -> (Seen, usize) {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(HOUR);
    let old = browser.token().unwrap();
    let seen = browser
        .visit(async |session| {
            session.destroy().unwrap();
            next(session).await;
        })
        .await;
    let again = site.engine.session(Some(&old)).await.unwrap();
    assert!(again.is_new() && again.keys().is_empty(), "the old token opens nothing, whatever came after");
    (seen, site.sessions().await)
}

/// `next` leaves the session destroyed.
async fn stays_destroyed(next: impl AsyncFnOnce(&Session)) {
    let (seen, sessions) = destroy_and(async |session| {
        next(session).await;
        assert_eq!(session.status(), Status::Destroyed);
        assert!(session.keys().is_empty());
    })
    .await;
    assert!(seen.removes_the_cookie());
    assert_eq!(sessions, 0);
}

/// `next` begins a new session, which has a new token and a new deadline.
async fn begins_anew(next: impl AsyncFnOnce(&Session)) {
    let (seen, sessions) = destroy_and(async |session| {
        next(session).await;
        assert_eq!(session.status(), Status::Modified);
        assert_eq!(session.get::<String>("k").unwrap(), None);
    })
    .await;
    assert!(seen.issues_a_token());
    assert_eq!(sessions, 1);
}

#[tokio::test]
async fn nothing_leaves_it_destroyed() {
    stays_destroyed(async |_| {}).await;
}

#[tokio::test]
async fn get_leaves_it_destroyed() {
    stays_destroyed(async |session| assert_eq!(session.get::<String>("k").unwrap(), None)).await;
}

#[tokio::test]
async fn clear_leaves_it_destroyed() {
    stays_destroyed(async |session| session.clear().unwrap()).await;
}

#[tokio::test]
async fn pop_of_a_missing_key_leaves_it_destroyed() {
    stays_destroyed(async |session| assert_eq!(session.pop::<String>("k").unwrap(), None)).await;
}

#[tokio::test]
async fn remove_of_a_missing_key_leaves_it_destroyed() {
    stays_destroyed(async |session| assert!(!session.remove("k").unwrap())).await;
}

#[tokio::test]
async fn a_second_destroy_leaves_it_destroyed() {
    stays_destroyed(async |session| session.destroy().unwrap()).await;
}

#[tokio::test]
async fn renew_token_leaves_it_destroyed() {
    // SCS: makes and stores an empty session. There is nothing to renew; a later write gets a fresh token anyway.
    stays_destroyed(async |session| session.renew().unwrap()).await;
}

#[tokio::test]
async fn an_explicit_commit_leaves_it_destroyed() {
    // SCS: stores a new empty session and then deletes the cookie: an orphan.
    let (_, sessions) = destroy_and(async |session| drop(session.commit().await.unwrap())).await;
    assert_eq!(sessions, 0);
}

#[tokio::test]
async fn remember_me_with_the_default_value_leaves_it_destroyed() {
    // SCS: any `RememberMe` stores a session that holds nothing but the flag.
    stays_destroyed(async |session| session.remember_me(true).unwrap()).await;
}

#[tokio::test]
async fn remember_me_with_another_value_begins_a_new_session() {
    begins_anew(async |session| session.remember_me(false).unwrap()).await;
}

#[tokio::test]
async fn put_begins_a_new_session_with_a_new_token_and_a_new_deadline() {
    begins_anew(async |session| {
        session.put("new", "v").unwrap();
        assert_eq!(session.deadline(), at(HOUR + DAY));
    })
    .await;
}

#[tokio::test]
async fn set_deadline_begins_a_new_session() {
    begins_anew(async |session| session.set_deadline(at(2 * DAY).unwrap()).unwrap()).await;
}

#[tokio::test]
async fn a_successful_merge_begins_a_new_session() {
    let site = Site::new();
    let other = site.visitor("cart", "7").await;
    let mut browser = site.visitor("k", "v").await;
    let seen = browser
        .visit(async |session| {
            session.destroy().unwrap();
            let _ = session.merge(&other.token().unwrap()).await.unwrap();
            assert_eq!(session.status(), Status::Modified);
        })
        .await;
    assert!(seen.issues_a_token());
    assert_eq!(browser.read("cart").await.as_deref(), Some("7"));
    assert_eq!(site.sessions().await, 1);
}

#[tokio::test]
async fn destroy_with_no_session_at_all_does_nothing() {
    // SCS: `Delete("")` in the store and a delete cookie. A stale cookie opens nothing, so it may stay.
    let site = Site::new();
    let mut browser = site.browser();
    browser.cookie = Some(format!("session={}", "A".repeat(43)));
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert!(seen.sets_no_cookie());
    assert_eq!(site.writes().await, 0);
}

#[tokio::test]
async fn destroy_of_a_session_that_was_never_sent_leaves_nothing() {
    let site = Site::new();
    let seen = site
        .browser()
        .visit(async |session| {
            session.put("k", "v").unwrap();
            session.destroy().unwrap();
        })
        .await;
    assert!(seen.sets_no_cookie());
    assert_eq!((site.writes().await, site.sessions().await), (0, 0));
}
