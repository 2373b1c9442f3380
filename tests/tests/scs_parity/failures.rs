//! Errors of store and codec, and panics.

use std::panic::AssertUnwindSafe;

use http::{Response, StatusCode};
use sessile::engine::store::fault::FaultOp;
use sessile::engine::store::{Change, MemoryStore, Row, Store};
use sessile::value::{Bytes, Timestamp};
use sessile::{Corrupt, Engine, Session, SessionLayer, StoreErrorKind, Token};

use crate::support::{Browser, Site};

async fn quiet(site: &Site) {
    site.engine.flush().await.unwrap();
}

#[tokio::test]
async fn a_find_error_changes_nothing_and_the_next_request_works() {
    let site = Site::new();
    let mut browser = site.browser();
    browser.cookie = Some(format!("session={}", Token::generate().unwrap().encode().as_str()));
    site.store.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    assert_eq!(browser.visit(async |_| {}).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.visit(async |_| {}).await.status(), StatusCode::OK);
    assert_eq!(site.writes().await, 0);
}

/// A browser whose session's row is damaged.
pub(crate) async fn damaged() -> (Engine, Browser) {
    let store = MemoryStore::new();
    let token = Token::generate().unwrap();
    let row = Row { bytes: b"nonsense".to_vec(), ..row_of_a_session().await };
    let change = Change::Insert { id: token.id(), row };
    store.commit(1, &[change]).await.unwrap();
    let engine = Engine::builder().open(store).unwrap();
    let cookie = Some(format!("session={}", token.encode().as_str()));
    (engine.clone(), Browser { layer: SessionLayer::new(engine), cookie })
}

/// A row that an engine wrote just now.
async fn row_of_a_session() -> Row {
    let site = Site::with(|b| b.clock(sessile::engine::clock::SystemClock));
    site.visitor("k", "v").await;
    quiet(&site).await;
    match &site.store.committed().concat()[..] {
        [Change::Insert { row, .. }] => row.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_undecodable_session_is_a_fresh_one() {
    // SCS: 500 on every request until the session expires, and no way to destroy it.
    let (engine, mut browser) = damaged().await;
    let seen = browser
        .visit(async |session| {
            assert!(session.is_new() && session.check_intact().is_err());
            session.put("k", "v").unwrap();
        })
        .await;
    assert_eq!((seen.status(), seen.issues_a_token()), (StatusCode::OK, true));
    assert_eq!(engine.stats().await.quarantined, 1);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn an_undecodable_session_can_be_a_500_once() {
    let (engine, mut browser) = damaged().await;
    browser.layer = browser.layer.on_corrupt(Corrupt::Fail);
    assert_eq!(browser.visit(async |_| {}).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    engine.flush().await.unwrap();
    assert_eq!(browser.visit(async |_| {}).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_commit_error_replaces_the_whole_response() {
    // SCS: the handler's body is appended to the error's: "Internal Server Error\nHANDLER-BODY".
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    quiet(&site).await;
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser
        .respond(async |session| {
            session.renew().unwrap();
            let response = Response::builder().status(StatusCode::CREATED).header("x-own", "1");
            response.body("HANDLER-BODY".to_owned()).unwrap()
        })
        .await;
    assert_eq!(seen.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!seen.body().contains("HANDLER-BODY") && !seen.0.headers().contains_key("x-own"));
    assert!(seen.sets_no_cookie());
}

#[tokio::test]
async fn a_commit_error_of_a_new_session_leaves_none() {
    let site = Site::new();
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = site
        .browser()
        .visit(async |session| {
            session.put("k", "v").unwrap();
            session.sync().await.unwrap();
        })
        .await;
    assert_eq!((seen.status(), seen.sets_no_cookie()), (StatusCode::SERVICE_UNAVAILABLE, true));
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn an_ordinary_change_waits_for_no_store_and_survives_its_outage() {
    // SCS: the change is lost with the failed commit. Here it is tried again until it is stored.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    quiet(&site).await;
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.put("k", "w").unwrap()).await;
    assert_eq!(seen.status(), StatusCode::OK);
    assert!(site.engine.flush().await.is_err());
    quiet(&site).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("w"));
}

#[tokio::test]
async fn a_delete_error_in_renew_token_leaves_the_old_token() {
    // SCS: the error is returned by `RenewToken`; if the later commit fails instead, the session is lost.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    quiet(&site).await;
    site.store.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let seen = browser.visit(async |session| session.renew().unwrap()).await;
    assert_eq!(seen.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn values_keep_their_types() {
    // SCS: with a codec like JSON, integers, bytes and times silently become zero values.
    let site = Site::new();
    let mut browser = site.browser();
    let moment = Timestamp::from_micros(1_700_000_000_000_001);
    browser
        .visit(async |session| {
            session.put("int", &i64::MAX).unwrap();
            session.put_bytes("bytes", b"\xff").unwrap();
            session.put("time", &moment).unwrap();
        })
        .await;
    browser
        .visit(async |session| {
            assert_eq!(session.get::<i64>("int").unwrap(), Some(i64::MAX));
            assert_eq!(session.get::<Bytes>("bytes").unwrap().map(Bytes::into_vec), Some(vec![0xff]));
            assert_eq!(session.get::<Timestamp>("time").unwrap(), Some(moment));
        })
        .await;
}

/// A request whose handler panics after `page`.
async fn panics(browser: &Browser, page: impl AsyncFnOnce(&Session)) {
    use futures_like::catch;
    let mut browser = browser.clone();
    let request = browser.visit(async |session| {
        page(session).await;
        panic!("the handler panics");
    });
    assert!(catch(AssertUnwindSafe(request)).await.is_err());
}

/// As `FutureExt::catch_unwind`.
mod futures_like {
    use std::future::poll_fn;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::Poll;

    pub(super) async fn catch<F: Future>(future: AssertUnwindSafe<F>) -> std::thread::Result<F::Output> {
        let mut future = pin!(future.0);
        poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        })
        .await
    }
}

#[tokio::test]
async fn a_panic_publishes_no_new_session() {
    let site = Site::new();
    panics(&site.browser(), async |session| session.put("k", "v").unwrap()).await;
    assert_eq!((site.sessions().await, site.writes().await), (0, 0));
}

#[tokio::test]
async fn a_panic_keeps_what_was_done_to_an_existing_session() {
    // SCS: changes are dropped, but `Destroy` and the first half of `RenewToken` have happened. Here every operation
    // happens when it is called; `transact` is for those that belong together.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    panics(&browser, async |session| session.put("k", "w").unwrap()).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("w"));
}

#[tokio::test]
async fn a_panic_in_a_transaction_changes_nothing() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    panics(&browser, async |session| {
        session
            .transact(|tx| -> sessile::Result<()> {
                tx.put("k", "w")?;
                panic!("half-way")
            })
            .unwrap();
    })
    .await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_panic_after_renew_token_leaves_the_old_token() {
    // SCS: the user loses the session.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    panics(&browser, async |session| session.renew().unwrap()).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_panic_after_destroy_leaves_it_destroyed() {
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    panics(&browser, async |session| session.destroy().unwrap()).await;
    assert_eq!(browser.read("k").await, None);
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_recovery_inside_the_layer_commits_what_was_done() {
    let site = Site::new();
    let mut browser = site.browser();
    let seen = browser
        .respond(async |session| {
            let half = futures_like::catch(AssertUnwindSafe(async {
                session.put("k", "v").unwrap();
                panic!("recovered");
            }))
            .await;
            assert!(half.is_err());
            Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(String::new()).unwrap()
        })
        .await;
    assert!(seen.issues_a_token());
    assert_eq!(browser.read("k").await.as_deref(), Some("v"));
}
