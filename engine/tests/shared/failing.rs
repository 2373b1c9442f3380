//! A shared store that fails: answers that are lost, and what is retried.

use pollster::block_on;
use sessile_engine::store::fault::{FaultHandle, FaultOp, FaultStore};
use sessile_engine::store::{MemoryStore, StoreErrorKind};
use sessile_engine::{Engine, Health};

use crate::support::{Silent, begin, commit, fresh, get, put, soon, strict};

fn failing_pair() -> (MemoryStore, FaultHandle, Engine, Engine) {
    let rows = MemoryStore::new();
    let store = FaultStore::new(Silent(rows.clone()));
    let orders = store.handle();
    let a = strict().open(store).unwrap();
    let b = strict().open(Silent(rows.clone())).unwrap();
    (rows, orders, a, b)
}

#[test]
fn a_commit_whose_answer_was_lost_is_made_once() {
    for applied in [true, false] {
        let (_, orders, a, b) = failing_pair();
        let token = fresh(&a);
        let session = begin(&a, &token);
        session.put("a", &1).unwrap();
        orders.apply_failing_commits(applied);
        orders.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        assert!(block_on(session.commit()).unwrap_err().is_temporary());
        assert!(matches!(a.health(), Health::Degraded { .. } | Health::Ok));
        // Another engine comes in between.
        put(&b, &token, "b", 2);
        block_on(a.flush()).unwrap();
        for engine in [&a, &b] {
            assert_eq!((get(engine, &token, "a"), get(engine, &token, "b")), (Some(1), Some(2)));
        }
        assert_eq!(a.health(), Health::Ok);
    }
}

#[test]
fn p6_a_creation_whose_answer_was_lost_leaves_no_row() {
    for applied in [true, false] {
        let (rows, orders, a, _) = failing_pair();
        let session = block_on(a.session(None)).unwrap();
        session.put("k", &0).unwrap();
        orders.apply_failing_commits(applied);
        orders.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        assert!(block_on(session.commit()).is_err());
        block_on(a.flush()).unwrap();
        assert_eq!(rows.len(), 0, "its response was an error");
    }
}

#[test]
fn a_stored_counter_whose_answer_was_lost_counts_once_or_says_so() {
    for applied in [true, false] {
        let (_, orders, a, b) = failing_pair();
        let token = fresh(&a);
        let session = begin(&a, &token);
        orders.apply_failing_commits(applied);
        orders.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        let counted = block_on(session.update_stored("n", |n: Option<u64>| n.unwrap_or(0) + 1));
        assert_eq!(counted.is_ok(), applied, "{counted:?}");
        assert_eq!(get(&b, &token, "n"), applied.then_some(1));
    }
}

#[test]
fn a_conflict_that_cannot_be_read_loses_nothing() {
    let (_, orders, a, b) = failing_pair();
    let token = fresh(&a);
    let session = begin(&a, &token);
    put(&b, &token, "b", 2);
    session.put("a", &1).unwrap();
    orders.fail_next(FaultOp::Load, 1, StoreErrorKind::Unavailable);
    assert!(block_on(session.commit()).unwrap_err().is_temporary());
    soon("it is tried again", || get(&b, &token, "a") == Some(1));
    assert_eq!(get(&a, &token, "b"), Some(2));
}

#[test]
fn a_logout_while_the_store_is_down_is_made_when_it_is_back() {
    let (rows, orders, a, b) = failing_pair();
    let token = fresh(&a);
    orders.fail_from(FaultOp::Commit, 0, StoreErrorKind::Unavailable);
    let session = begin(&a, &token);
    session.destroy().unwrap();
    assert!(block_on(session.commit()).is_err(), "not told before it is true everywhere");
    assert!(!begin(&a, &token).exists("k"));
    orders.heal();
    soon("the row is deleted", || rows.is_empty());
    assert!(!begin(&b, &token).exists("k"));
    commit(&begin(&b, &token));
}
