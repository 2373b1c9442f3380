//! `Iterate`. SCS loads every session into a map and calls the function with each; changes need a `Commit`. Here pages
//! are read, and changes happen when they are called.

use std::cell::RefCell;
use std::collections::BTreeSet;

use sessile::{Error, ErrorKind};

use crate::support::{DAY, Site};

/// A site with sessions whose `k` is 1, 2 and 3.
async fn three() -> Site {
    let site = Site::new();
    for value in ["1", "2", "3"] {
        site.visitor("k", value).await;
    }
    site
}

async fn values(site: &Site) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    site.engine
        .for_each(async |session| {
            found.borrow_mut().extend(session.get::<String>("k")?);
            Ok(())
        })
        .await
        .unwrap();
    let mut found = found.into_inner();
    found.sort();
    found
}

#[tokio::test]
async fn iterate_visits_every_live_session_once() {
    assert_eq!(values(&three().await).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn iterate_skips_expired_sessions() {
    let site = three().await;
    site.clock.advance(DAY);
    site.visitor("k", "4").await;
    assert_eq!(values(&site).await, ["4"]);
}

#[tokio::test]
async fn iterate_is_aborted_by_the_functions_error_which_is_returned() {
    let site = three().await;
    let mut calls = 0;
    let error = site
        .engine
        .for_each(|session| {
            calls += 1;
            async move { session.put("", &1) }
        })
        .await
        .unwrap_err();
    assert_eq!((calls, error.kind()), (1, ErrorKind::InvalidKey));
}

#[tokio::test]
async fn changes_in_iterate_need_no_commit() {
    // SCS: lost unless the function calls `Commit`.
    let site = three().await;
    site.engine.for_each(async |session| session.put("k", "new")).await.unwrap();
    assert_eq!(values(&site).await, ["new", "new", "new"]);
}

#[tokio::test]
async fn destroy_in_iterate_ends_the_session_of_a_user() {
    // SCS: the README's "revoke all sessions of user 4", which does nothing with `HashTokenInStore`.
    let site = Site::new();
    let mut two = site.visitor("k", "2").await;
    site.visitor("k", "3").await;
    site.engine
        .for_each(async |session| {
            if session.get::<String>("k")?.as_deref() == Some("2") {
                session.destroy()?;
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(values(&site).await, ["3"]);
    assert_eq!(two.read("k").await, None);
}

#[tokio::test]
async fn a_commit_in_iterate_inserts_no_second_row() {
    // SCS: with hashing, each pass that commits doubles the rows.
    let site = three().await;
    for _ in 0..2 {
        site.engine
            .for_each(async |session| {
                session.put("seen", &true)?;
                session.commit().await.map(drop)
            })
            .await
            .unwrap();
    }
    assert_eq!(site.sessions().await, 3);
}

#[tokio::test]
async fn the_token_is_not_known_in_iterate_and_the_id_is_the_sessions_own() {
    // SCS: `Token(ctx)` is the secret, or with hashing its hash, which then opens nothing.
    let site = Site::new();
    let browser = site.visitor("k", "v").await;
    let ids = RefCell::new(BTreeSet::new());
    site.engine
        .for_each(async |session| {
            ids.borrow_mut().extend(session.id());
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    assert_eq!(ids.into_inner().into_iter().collect::<Vec<_>>(), [browser.token().unwrap().id()]);
}

#[tokio::test]
async fn iterate_comes_in_pages() {
    // SCS: all sessions at once in one map.
    let site = three().await;
    let first = site.engine.iterate(None, 2).await.unwrap();
    assert_eq!(first.sessions.len(), 2);
    let second = site.engine.iterate(first.next, 2).await.unwrap();
    assert_eq!((second.sessions.len(), second.next), (1, None));
}

#[tokio::test]
async fn iterate_works_with_every_engine() {
    // SCS: panics "type %T does not support iteration" for a store without `All`.
    let engine = sessile::Engine::builder().in_memory().unwrap();
    let session = engine.session(None).await.unwrap();
    session.put("k", "v").unwrap();
    session.commit().await.unwrap();
    assert_eq!(engine.iterate(None, 10).await.unwrap().sessions.len(), 1);
}
