//! What comes after the response head, where SCS loses changes silently.

use http::{Response, StatusCode};
use sessile::{ErrorKind, Level, Session};

use crate::support::{Browser, Seen, Site};

/// Serves a request and returns the session that its handler kept.
async fn kept(browser: &mut Browser, page: impl AsyncFnOnce(&Session)) -> (Session, Seen) {
    let mut handle = None;
    let seen = browser
        .visit(async |session| {
            page(session).await;
            handle = Some(session.clone());
        })
        .await;
    (handle.unwrap(), seen)
}

#[tokio::test]
async fn a_put_after_the_head_is_kept() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let (late, _) = kept(&mut browser, async |_| {}).await;
    late.put("k", "late").unwrap();
    assert_eq!(browser.read("k").await.as_deref(), Some("late"));
}

#[tokio::test]
async fn remove_clear_and_pop_after_the_head_are_kept() {
    let site = Site::new();
    let mut browser = site.visitor("a", "1").await;
    browser
        .visit(async |session| {
            session.put("b", "2").unwrap();
            session.put("c", "3").unwrap();
        })
        .await;
    let (late, _) = kept(&mut browser, async |_| {}).await;
    assert!(late.remove("a").unwrap());
    browser.visit(async |session| assert_eq!(session.keys(), ["b", "c"])).await;
    assert_eq!(late.pop::<String>("b").unwrap().as_deref(), Some("2"));
    browser.visit(async |session| assert_eq!(session.keys(), ["c"])).await;
    late.clear().unwrap();
    browser.visit(async |session| assert!(session.keys().is_empty())).await;
}

#[tokio::test]
async fn a_flash_message_that_a_template_takes_late_is_shown_once() {
    // SCS: a `Pop` in a template that has written already is not stored, and the message is shown for ever.
    let site = Site::new();
    let mut browser = site.browser();
    browser.visit(async |session| session.flash(Level::Info, "hello").unwrap()).await;
    let (late, _) = kept(&mut browser, async |_| {}).await;
    assert_eq!(late.flashes().unwrap().len(), 1);
    browser.visit(async |session| assert!(session.flashes().unwrap().is_empty())).await;
}

#[tokio::test]
async fn a_first_put_after_the_head_is_an_error() {
    let site = Site::new();
    let (late, _) = kept(&mut site.browser(), async |_| {}).await;
    assert_eq!(late.put("k", "late").unwrap_err().kind(), ErrorKind::HeadSent);
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_renew_token_after_the_head_is_an_error() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let (late, _) = kept(&mut browser, async |_| {}).await;
    assert_eq!(late.renew().unwrap_err().kind(), ErrorKind::HeadSent);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_remember_me_after_the_head_is_an_error() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let (late, _) = kept(&mut browser, async |_| {}).await;
    assert_eq!(late.remember_me(false).unwrap_err().kind(), ErrorKind::HeadSent);
}

#[tokio::test]
async fn a_destroy_after_the_head_ends_the_session_and_leaves_the_cookie() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let (late, seen) = kept(&mut browser, async |_| {}).await;
    late.destroy().unwrap();
    assert!(seen.sets_no_cookie());
    assert_eq!(browser.read("k").await, None);
}

#[tokio::test]
async fn a_stream_that_is_flushed_before_its_first_byte_carries_the_cookie() {
    // SCS: `Flush` sends the head without `Set-Cookie`, and the row becomes an orphan. Here there is no head without
    // a commit.
    let site = Site::new();
    let mut browser = site.browser();
    let (late, seen) = kept(&mut browser, async |session| session.put("k", "v").unwrap()).await;
    assert!(seen.issues_a_token());
    late.put("k", "streamed").unwrap();
    assert_eq!(browser.read("k").await.as_deref(), Some("streamed"));
}

#[tokio::test]
async fn an_upgrade_carries_the_cookie_and_its_task_can_store() {
    // SCS: nothing is committed before a hijack, and a session that begins there cannot be reached.
    let site = Site::new();
    let mut browser = site.browser();
    let mut socket = None;
    let seen = browser
        .respond(async |session| {
            session.put("k", "v").unwrap();
            socket = Some(session.clone());
            Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(String::new()).unwrap()
        })
        .await;
    assert!(seen.issues_a_token());
    socket.unwrap().put("k", "from the socket").unwrap();
    assert_eq!(browser.read("k").await.as_deref(), Some("from the socket"));
}

#[tokio::test]
async fn a_socket_learns_that_its_session_has_ended() {
    // SCS: no way to know.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let (socket, _) = kept(&mut browser, async |_| {}).await;
    let revoked = socket.revoked();
    browser.visit(async |session| session.destroy().unwrap()).await;
    revoked.await;
    assert!(socket.is_revoked());
    assert_eq!(socket.put("k", "w").unwrap_err().kind(), ErrorKind::Revoked);
}
