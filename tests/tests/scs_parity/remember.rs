//! `Cookie.Persist` and `RememberMe`.

use sessile::{Session, Status};

use crate::support::{Browser, DAY, Seen, Site, at};

fn persistent(seen: &Seen) -> bool {
    let line = seen.cookie();
    assert_eq!(line.contains("Max-Age"), line.contains("Expires"));
    line.contains("Max-Age")
}

/// A site where cookies end with the browser unless a session says otherwise. (SCS: `Cookie.Persist = false`.)
fn forgetful() -> Site {
    Site::with(|b| b.persistent(false))
}

async fn first(site: &Site, page: impl AsyncFnOnce(&Session)) -> (Browser, Seen) {
    let mut browser = site.browser();
    let seen = browser
        .visit(async |session| {
            session.put("k", "v").unwrap();
            page(session).await;
        })
        .await;
    (browser, seen)
}

#[tokio::test]
async fn with_persist_an_untouched_session_gets_a_persistent_cookie() {
    assert!(persistent(&first(&Site::new(), async |_| {}).await.1));
}

#[tokio::test]
async fn with_persist_remember_me_true_changes_nothing() {
    let (_, seen) = first(&Site::new(), async |session| session.remember_me(true).unwrap()).await;
    assert!(persistent(&seen));
}

#[tokio::test]
async fn with_persist_remember_me_false_makes_a_browser_session_cookie() {
    // SCS: no effect. A user who unticks the box means it.
    let (_, seen) = first(&Site::new(), async |session| session.remember_me(false).unwrap()).await;
    assert!(!persistent(&seen));
}

#[tokio::test]
async fn without_persist_the_cookie_ends_with_the_browser() {
    assert!(!persistent(&first(&forgetful(), async |_| {}).await.1));
    let (_, seen) = first(&forgetful(), async |session| session.remember_me(false).unwrap()).await;
    assert!(!persistent(&seen));
}

#[tokio::test]
async fn without_persist_remember_me_true_makes_a_persistent_cookie() {
    let (_, seen) = first(&forgetful(), async |session| session.remember_me(true).unwrap()).await;
    assert!(persistent(&seen));
}

#[tokio::test]
async fn remember_me_survives_later_puts() {
    let site = forgetful();
    let (mut browser, _) = first(&site, async |session| session.remember_me(true).unwrap()).await;
    browser.visit(async |session| session.put("k", "w").unwrap()).await;
    let seen = browser.visit(async |session| session.renew().unwrap()).await;
    assert!(persistent(&seen));
}

#[tokio::test]
async fn remember_me_survives_clear() {
    // SCS: `Clear` drops the flag, because it is one of the values.
    let site = forgetful();
    let (mut browser, _) = first(&site, async |session| session.remember_me(true).unwrap()).await;
    browser.visit(async |session| session.clear().unwrap()).await;
    browser.visit(async |session| assert!(session.is_persistent())).await;
}

#[tokio::test]
async fn remember_me_ends_with_destroy() {
    let site = forgetful();
    let (mut browser, _) = first(&site, async |session| session.remember_me(true).unwrap()).await;
    let seen = browser
        .visit(async |session| {
            session.destroy().unwrap();
            session.put("k", "v").unwrap();
        })
        .await;
    assert!(!persistent(&seen));
}

#[tokio::test]
async fn remember_me_false_takes_it_back() {
    let site = forgetful();
    let (mut browser, _) = first(&site, async |session| session.remember_me(true).unwrap()).await;
    let seen = browser.visit(async |session| session.remember_me(false).unwrap()).await;
    assert!(!persistent(&seen));
}

#[tokio::test]
async fn remember_me_marks_the_session_modified() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    browser
        .visit(async |session| {
            session.remember_me(false).unwrap();
            assert_eq!(session.status(), Status::Modified);
        })
        .await;
}

#[tokio::test]
async fn remember_me_that_changes_nothing_marks_nothing() {
    // SCS: marks the session modified and sends the cookie again.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let seen = browser
        .visit(async |session| {
            session.remember_me(true).unwrap();
            assert_eq!(session.status(), Status::Unmodified);
        })
        .await;
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn expiry_on_the_server_is_the_same_with_and_without_remember_me() {
    let site = Site::new();
    for on in [true, false] {
        let (mut browser, _) = first(&site, async |session| session.remember_me(on).unwrap()).await;
        browser.visit(async |session| assert_eq!(session.deadline(), at(DAY))).await;
    }
}

#[tokio::test]
async fn remember_me_does_not_lengthen_the_lifetime_and_set_lifetime_does() {
    // SCS: one lifetime for all sessions; 30 days for who ticks the box has to be built by hand.
    let site = forgetful();
    let (mut browser, seen) = first(&site, async |session| {
        session.remember_me(true).unwrap();
        session.set_lifetime(30 * DAY).unwrap();
    })
    .await;
    assert!(seen.cookie().contains("Max-Age=2592000"));
    site.clock.advance(29 * DAY);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn remember_me_does_not_show_in_keys() {
    // SCS: `Keys` lists `__rememberMe`.
    let (mut browser, _) = first(&forgetful(), async |session| session.remember_me(true).unwrap()).await;
    browser.visit(async |session| assert_eq!(session.keys(), ["k"])).await;
}
