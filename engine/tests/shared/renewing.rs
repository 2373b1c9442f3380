//! Renewals of sessions that other engines use.

use pollster::block_on;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::store::{Change, MemoryStore, StoreErrorKind};

use crate::support::{Silent, begin, commit, fresh, get, issued, put, strict, strict_pair};

#[test]
fn p4_the_old_token_is_dead_everywhere_and_what_others_wrote_moves_along() {
    let (rows, a, b) = strict_pair();
    let old = fresh(&a);
    let renewing = begin(&a, &old);
    put(&b, &old, "b", 7);
    renewing.put("a", &8).unwrap();
    renewing.renew().unwrap();
    let new = issued(&renewing);
    assert_eq!(rows.len(), 1);
    for engine in [&a, &b] {
        assert_eq!(get(engine, &old, "k"), None);
        assert_eq!(get(engine, &new, "a"), Some(8));
        assert_eq!(get(engine, &new, "b"), Some(7), "written elsewhere before the renewal");
    }
    // A version of its own: the next change meets those of others.
    put(&b, &new, "b", 9);
    put(&a, &new, "a", 10);
    assert_eq!((get(&a, &new, "b"), get(&b, &new, "a")), (Some(9), Some(10)));
}

#[test]
fn of_two_renewals_on_two_engines_one_wins() {
    let (rows, a, b) = strict_pair();
    let old = fresh(&a);
    let (one, other) = (begin(&a, &old), begin(&b, &old));
    one.renew().unwrap();
    other.renew().unwrap();
    let new = issued(&one);
    assert!(matches!(commit(&other), sessile_engine::Delivery::Nothing));
    assert_eq!(rows.len(), 1);
    assert_eq!(get(&b, &new, "k"), Some(0));
    assert!(other.is_revoked());
}

#[test]
fn a_write_elsewhere_to_a_renewed_session_makes_no_row() {
    let (rows, a, b) = strict_pair();
    let old = fresh(&a);
    let late = begin(&b, &old);
    let renewing = begin(&a, &old);
    renewing.renew().unwrap();
    let new = issued(&renewing);
    late.put("k", &9).unwrap();
    commit(&late);
    assert_eq!(rows.len(), 1);
    assert_eq!(get(&a, &new, "k"), Some(0));
    assert!(late.is_revoked());
}

/// The response was dropped when the store had moved the row: it comes back, with what was written meanwhile.
#[test]
fn p4_a_renewal_that_nobody_waits_for_leaves_the_old_token_working() {
    let rows = MemoryStore::new();
    let store = FaultStore::new(Silent(rows.clone()));
    let orders = store.handle();
    let a = strict().open(store).unwrap();
    let b = strict().open(Silent(rows.clone())).unwrap();
    let old = fresh(&a);
    let renewing = begin(&a, &old);
    renewing.renew().unwrap();
    orders.hang(FaultOp::Commit);
    let mut response = Box::pin(renewing.commit());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    use std::future::Future as _;
    assert!(response.as_mut().poll(&mut cx).is_pending());
    crate::support::soon("the writer is at it", || orders.waiting() > 0);
    drop(response);
    orders.release();
    put(&a, &old, "k", 5);
    assert_eq!(rows.len(), 1);
    for engine in [&a, &b] {
        assert_eq!(get(engine, &old, "k"), Some(5));
    }
    let moved = orders.committed().concat().iter().filter(|c| matches!(c, Change::Rekey { .. })).count();
    assert_eq!(moved, 2, "there and back");
    // And once more, for good.
    let renewing = begin(&a, &old);
    renewing.renew().unwrap();
    let new = issued(&renewing);
    assert_eq!((get(&b, &old, "k"), get(&b, &new, "k")), (None, Some(5)));
}

#[test]
fn a_renewal_whose_answer_was_lost_has_happened_or_not_and_is_told_so() {
    for applied in [true, false] {
        let rows = MemoryStore::new();
        let store = FaultStore::new(Silent(rows.clone()));
        let orders = store.handle();
        let a = strict().open(store).unwrap();
        let b = strict().open(Silent(rows.clone())).unwrap();
        let old = fresh(&a);
        let renewing = begin(&a, &old);
        renewing.renew().unwrap();
        orders.apply_failing_commits(applied);
        orders.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        match block_on(renewing.commit()) {
            Ok(sessile_engine::Delivery::Issue(issue)) => {
                assert!(applied);
                assert_eq!((get(&b, &old, "k"), get(&b, &issue.token, "k")), (None, Some(0)));
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(!applied, "{error}");
                block_on(a.flush()).unwrap();
                assert_eq!((get(&a, &old, "k"), get(&b, &old, "k")), (Some(0), Some(0)));
            }
        }
        assert_eq!(rows.len(), 1);
    }
}

#[test]
fn p3_a_session_that_is_ended_elsewhere_while_it_is_renewed_stays_ended() {
    let rows = MemoryStore::new();
    let store = FaultStore::new(Silent(rows.clone()));
    let orders = store.handle();
    let a = strict().open(store).unwrap();
    let b = strict().open(Silent(rows.clone())).unwrap();
    let old = fresh(&a);
    let session = begin(&a, &old);
    session.set_owner(Some("ann")).unwrap();
    commit(&session);
    let renewing = begin(&a, &old);
    renewing.renew().unwrap();
    orders.hang(FaultOp::Commit);
    let mut response = Box::pin(renewing.commit());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    use std::future::Future as _;
    assert!(response.as_mut().poll(&mut cx).is_pending());
    crate::support::soon("the writer is at it", || orders.waiting() > 0);
    assert_eq!(block_on(b.destroy_all("ann", None)).unwrap(), 1);
    orders.release();
    drop(response);
    block_on(a.flush()).unwrap();
    assert_eq!(rows.len(), 0);
    assert_eq!(get(&a, &old, "k"), None);
}
