//! `Destroy`, `RenewToken`, `MergeSession`, `Status`, `Deadline`, `SetDeadline` and `Token`.

use std::time::Duration;

use sessile::engine::store::fault::FaultOp;
use sessile::{ErrorKind, Merged, Status, StoreErrorKind, Token};

use crate::support::{DAY, HOUR, Site, at};

#[tokio::test]
async fn destroy_happens_at_once() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let token = browser.token().unwrap();
    browser
        .visit(async |session| {
            session.destroy().unwrap();
            assert!(site.engine.session(Some(&token)).await.unwrap().is_new());
        })
        .await;
}

#[tokio::test]
async fn destroy_empties_values_token_and_status() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser
        .visit(async |session| {
            session.destroy().unwrap();
            assert_eq!((session.status(), session.id()), (Status::Destroyed, None));
            assert!(session.keys().is_empty());
        })
        .await;
}

#[tokio::test]
async fn destroy_is_final_even_if_the_store_fails() {
    // SCS: returns the store's error and leaves the session as it was. A logout must not be undone by an outage: the
    // session is dead at once, the response is a 503, and the row goes when the store works again.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let token = browser.token().unwrap();
    site.engine.flush().await.unwrap();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert_eq!(seen.status(), 503);
    assert!(site.engine.session(Some(&token)).await.unwrap().is_new());
}

#[tokio::test]
async fn renew_token_gives_a_new_token_and_keeps_the_values() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let old = browser.token().unwrap();
    let seen = browser
        .visit(async |session| {
            session.renew().unwrap();
            assert_eq!(session.status(), Status::Modified);
        })
        .await;
    assert!(seen.issues_a_token());
    assert_ne!(browser.token().unwrap().id(), old.id());
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn renew_token_kills_the_old_token() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let mut thief = browser.clone();
    browser.visit(async |session| session.renew().unwrap()).await;
    assert_eq!(thief.read("k").await, None);
    assert_eq!(site.sessions().await, 1);
}

#[tokio::test]
async fn renew_token_restarts_the_lifetime() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.clock.advance(HOUR);
    let seen = browser.visit(async |session| session.renew().unwrap()).await;
    assert!(seen.cookie().contains("Max-Age=86400"));
    browser.visit(async |session| assert_eq!(session.deadline(), at(HOUR + DAY))).await;
}

#[tokio::test]
async fn the_old_token_works_until_the_response_leaves() {
    // SCS: the old row is deleted at the call, long before the client can know the new token.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let token = browser.token().unwrap();
    browser
        .visit(async |session| {
            session.renew().unwrap();
            let other = site.engine.session(Some(&token)).await.unwrap();
            assert_eq!(other.get::<String>("k").unwrap().as_deref(), Some("v"));
        })
        .await;
    assert!(site.engine.session(Some(&token)).await.unwrap().is_new());
}

#[tokio::test]
async fn renew_token_on_an_empty_session_makes_none() {
    // SCS: stores an empty session. The first write gets a fresh token anyway.
    let site = Site::new();
    let seen = site.browser().visit(async |session| session.renew().unwrap()).await;
    assert!(seen.sets_no_cookie());
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn merge_session_takes_the_others_values_which_overwrite_ours() {
    let site = Site::new();
    let mut other = site.visitor("k", "theirs").await;
    other.visit(async |session| session.put("only", "theirs").unwrap()).await;
    let mut browser = site.visitor("k", "ours").await;
    browser.visit(async |session| session.put("mine", "ours").unwrap()).await;
    browser
        .visit(async |session| {
            let merged = session.merge(&other.token().unwrap()).await.unwrap();
            assert_eq!(merged, Merged::Done { keys: 2 });
            assert_eq!(session.status(), Status::Modified);
        })
        .await;
    assert_eq!(browser.read("k").await.as_deref(), Some("theirs"));
    assert_eq!(browser.read("only").await.as_deref(), Some("theirs"));
    assert_eq!(browser.read("mine").await.as_deref(), Some("ours"));
}

#[tokio::test]
async fn merge_session_deletes_the_other_and_keeps_our_token() {
    let site = Site::new();
    let mut other = site.visitor("a", "1").await;
    let mut browser = site.visitor("b", "2").await;
    let own = browser.token().unwrap().id();
    browser
        .visit(async |session| {
            let _ = session.merge(&other.token().unwrap()).await.unwrap();
            assert_eq!(session.id(), Some(own));
        })
        .await;
    assert_eq!(other.read("a").await, None);
    assert_eq!(site.sessions().await, 1);
}

#[tokio::test]
async fn merge_session_takes_the_later_deadline() {
    let site = Site::new();
    let mut browser = site.visitor("b", "2").await;
    site.clock.advance(HOUR);
    let other = site.visitor("a", "1").await;
    browser
        .visit(async |session| {
            let _ = session.merge(&other.token().unwrap()).await.unwrap();
            assert_eq!(session.deadline(), at(HOUR + DAY));
        })
        .await;
}

#[tokio::test]
async fn merge_session_merges_remember_me_too() {
    let site = Site::with(|b| b.persistent(false));
    let mut other = site.visitor("a", "1").await;
    other.visit(async |session| session.remember_me(true).unwrap()).await;
    let mut browser = site.visitor("b", "2").await;
    let seen = browser
        .visit(async |session| {
            let _ = session.merge(&other.token().unwrap()).await.unwrap();
        })
        .await;
    assert!(seen.cookie().contains("Max-Age"));
}

#[tokio::test]
async fn merge_session_of_an_unknown_token_does_nothing() {
    let site = Site::new();
    let mut browser = site.visitor("b", "2").await;
    browser
        .visit(async |session| {
            let merged = session.merge(&Token::generate().unwrap()).await.unwrap();
            assert_eq!((merged, session.status()), (Merged::Absent, Status::Unmodified));
        })
        .await;
}

#[tokio::test]
async fn merge_session_of_the_own_token_does_nothing() {
    let site = Site::new();
    let mut browser = site.visitor("b", "2").await;
    let token = browser.token().unwrap();
    browser
        .visit(async |session| {
            let merged = session.merge(&token).await.unwrap();
            assert_eq!((merged, session.status()), (Merged::Same, Status::Unmodified));
        })
        .await;
    assert_eq!(browser.read("b").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn merge_session_returns_the_stores_error_and_changes_nothing() {
    // SCS: an error of the delete comes after memory was merged already.
    let site = Site::new();
    let mut browser = site.visitor("b", "2").await;
    site.store.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    browser
        .visit(async |session| {
            let error = session.merge(&Token::generate().unwrap()).await.unwrap_err();
            assert_eq!((error.kind(), session.status()), (ErrorKind::Store, Status::Unmodified));
        })
        .await;
}

#[tokio::test]
async fn status_goes_from_unmodified_to_modified_to_destroyed() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser
        .visit(async |session| {
            assert_eq!(session.status(), Status::Unmodified);
            session.put("k", "w").unwrap();
            assert_eq!(session.status(), Status::Modified);
            session.destroy().unwrap();
            assert_eq!(session.status(), Status::Destroyed);
        })
        .await;
}

#[tokio::test]
async fn set_deadline_sets_the_absolute_expiry_and_marks_modified() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser
        .visit(async |session| {
            session.set_deadline(at(HOUR).unwrap()).unwrap();
            assert_eq!((session.deadline(), session.status()), (at(HOUR), Status::Modified));
        })
        .await;
    site.clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
    site.clock.advance(Duration::from_millis(1));
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn set_deadline_to_a_past_time_is_refused() {
    // SCS: no check. Who wants a session to end calls `destroy`.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser
        .visit(async |session| {
            let error = session.set_deadline(at(Duration::ZERO).unwrap()).unwrap_err();
            assert_eq!((error.kind(), session.status()), (ErrorKind::InvalidTime, Status::Unmodified));
        })
        .await;
}

#[tokio::test]
async fn a_later_deadline_reaches_the_cookie() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let seen = browser.visit(async |session| session.set_deadline(at(2 * DAY).unwrap()).unwrap()).await;
    assert!(seen.cookie().contains("Max-Age=172800"));
}

#[tokio::test]
async fn token_is_empty_until_there_is_a_session() {
    // SCS: `Token` is the secret, and empty until the first commit. `id` is public; `issue` gives the secret out.
    let site = Site::new();
    let mut browser = site.browser();
    let mut id = None;
    browser
        .visit(async |session| {
            assert_eq!(session.id(), None);
            session.put("k", "v").unwrap();
            id = session.id();
            assert!(id.is_some());
        })
        .await;
    assert_eq!(browser.token().map(|token| token.id()), id);
}
