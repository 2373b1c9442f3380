//! Concurrent requests on one session. In SCS the last writer wins on the whole blob.

use sessile::engine::store::fault::FaultOp;
use sessile::{ErrorKind, Session};
use tokio::task::JoinSet;

use crate::support::{HOUR, Site};

#[tokio::test]
async fn two_requests_that_put_different_keys_keep_both() {
    let site = Site::new();
    let mut a = site.visitor("k", "v").await;
    let mut b = a.clone();
    a.visit(async |slow| {
        b.visit_meanwhile(async |fast| fast.put("fast", "1").unwrap());
        slow.put("slow", "2").unwrap();
    })
    .await;
    a.visit(async |session| assert_eq!(session.keys(), ["fast", "k", "slow"])).await;
}

#[tokio::test]
async fn a_slow_request_that_only_reads_undoes_nothing() {
    // SCS: with an idle timeout it writes back what it loaded.
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let mut a = site.visitor("k", "v").await;
    let mut b = a.clone();
    a.visit(async |_| {
        b.visit_meanwhile(async |fast| fast.put("k", "new").unwrap());
    })
    .await;
    assert_eq!(a.read("k").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_logout_is_not_undone_by_a_slow_request_that_reads() {
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let mut a = site.visitor("user", "42").await;
    let mut b = a.clone();
    let seen = a
        .visit(async |slow| {
            b.visit_meanwhile(async |session| session.destroy().unwrap());
            assert_eq!(slow.get::<String>("user").unwrap(), None);
        })
        .await;
    assert!(seen.sets_no_cookie());
    assert_eq!(a.read("user").await, None);
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_logout_is_not_undone_by_a_slow_request_that_writes() {
    let site = Site::new();
    let mut a = site.visitor("user", "42").await;
    let mut b = a.clone();
    let seen = a
        .visit(async |slow| {
            b.visit_meanwhile(async |session| session.destroy().unwrap());
            assert_eq!(slow.put("k", "v").unwrap_err().kind(), ErrorKind::Revoked);
        })
        .await;
    assert!(seen.sets_no_cookie());
    assert_eq!(a.read("user").await, None);
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_renewal_is_not_undone_by_a_slow_request() {
    // SCS: the old token comes alive again, and the slow response takes the new cookie away.
    let site = Site::with(|b| b.idle_timeout(HOUR));
    let mut slow = site.visitor("k", "v").await;
    let mut user = slow.clone();
    let seen = slow
        .visit(async |session| {
            user.visit_meanwhile(async |session| {
                session.renew().unwrap();
                session.put("user", "42").unwrap();
            });
            assert_eq!(session.put("k", "late").unwrap_err().kind(), ErrorKind::Revoked);
        })
        .await;
    assert!(seen.sets_no_cookie());
    assert_eq!(slow.read("k").await, None, "the old token is dead");
    assert_eq!(user.read("user").await.as_deref(), Some("42"));
    assert_eq!(site.sessions().await, 1);
}

#[tokio::test]
async fn two_first_requests_make_two_sessions() {
    let site = Site::new();
    let mut first = site.browser();
    let mut second = site.browser();
    first
        .visit(async |one| {
            one.put("k", "1").unwrap();
            second.visit_meanwhile(async |two| two.put("k", "2").unwrap());
        })
        .await;
    assert_eq!(site.sessions().await, 2);
    assert_eq!(first.read("k").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn methods_may_be_called_from_many_tasks_of_one_request() {
    // SCS: each call is safe, but a `Get` and a `Put` are not atomic together.
    let site = Site::new();
    let session = site.engine.session(None).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let session = session.clone();
        tasks.spawn(async move {
            for _ in 0..100 {
                session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(session.get::<u32>("n").unwrap(), Some(800));
}

#[tokio::test]
async fn a_read_never_waits_for_another_requests_save() {
    // SCS: the mutex of a request is held across the store's commit.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    site.engine.flush().await.unwrap();
    site.store.hang(FaultOp::Commit);
    browser.visit(async |session: &Session| session.put("k", "w").unwrap()).await;
    assert_eq!(browser.read("k").await.as_deref(), Some("w"));
    site.store.release();
}
