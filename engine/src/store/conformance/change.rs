//! Cases of one change: what it does, and to which row it does nothing.

use super::{Outcome, Subject, delete, id, insert, owned, put, quarantine, rekey, rekey_at, row, update};

pub(super) async fn an_empty_store_has_nothing(s: Subject) {
    s.holds(id(1), None).await;
    s.counts(0).await;
    assert_eq!(s.expire_all(u64::MAX).await, 0, "{}", s.case);
}

pub(super) async fn insert_adds_a_row(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.holds(id(1), Some(&row(1))).await;
    s.holds(id(2), None).await;
}

pub(super) async fn insert_never_overwrites(s: Subject) {
    s.done(&[insert(1, owned(7, "a"))]).await;
    s.commit(&[insert(1, owned(8, "b"))], &[Outcome::Exists]).await;
    s.holds(id(1), Some(&owned(7, "a"))).await;
    s.owns("a", &[id(1)]).await;
    s.owns("b", &[]).await;
}

pub(super) async fn update_replaces_at_the_right_version(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[update(1, 1, row(2))]).await;
    s.done(&[update(1, 2, row(9))]).await;
    s.holds(id(1), Some(&row(9))).await;
}

/// A row that is sealed anew keeps its version: it is the same state in other bytes.
pub(super) async fn update_to_the_same_version_replaces_the_bytes(s: Subject) {
    let mut anew = owned(5, "a");
    s.done(&[insert(1, anew.clone())]).await;
    anew.bytes.reverse();
    anew.bytes.push(7);
    s.done(&[update(1, 5, anew.clone())]).await;
    s.holds(id(1), Some(&anew)).await;
    s.owns("a", &[id(1)]).await;
    s.counts(1).await;
    s.commit(&[update(1, 4, row(5))], &[Outcome::Conflict { found: 5 }]).await;
}

pub(super) async fn update_reports_another_version(s: Subject) {
    s.done(&[insert(1, row(5))]).await;
    s.commit(&[update(1, 4, row(6))], &[Outcome::Conflict { found: 5 }]).await;
    s.commit(&[update(1, 6, row(7))], &[Outcome::Conflict { found: 5 }]).await;
    s.holds(id(1), Some(&row(5))).await;
}

pub(super) async fn update_of_a_missing_row_adds_nothing(s: Subject) {
    s.commit(&[update(1, 0, row(1))], &[Outcome::Missing]).await;
    s.commit(&[update(1, 1, row(1))], &[Outcome::Missing]).await;
    s.holds(id(1), None).await;
    s.counts(0).await;
}

pub(super) async fn update_never_resurrects(s: Subject) {
    for (n, end) in [(1, delete(1)), (2, rekey(2, 102, row(9))), (3, quarantine(3))] {
        s.done(&[insert(n, row(1))]).await;
        s.done(&[end]).await;
        s.commit(&[update(n, 1, row(2))], &[Outcome::Missing]).await;
        s.holds(id(n), None).await;
    }
    s.done(&[insert(4, row(1))]).await;
    if !s.sweeps(u64::MAX - 1, 2).await {
        return;
    }
    s.commit(&[update(4, 1, row(2))], &[Outcome::Missing]).await;
    s.holds(id(4), None).await;
}

pub(super) async fn put_sets_the_row_whatever_is_there(s: Subject) {
    s.done(&[put(1, owned(5, "a"))]).await;
    s.holds(id(1), Some(&owned(5, "a"))).await;
    s.owns("a", &[id(1)]).await;
    s.done(&[put(1, owned(3, "b"))]).await;
    s.holds(id(1), Some(&owned(3, "b"))).await;
    s.owns("a", &[]).await;
    s.owns("b", &[id(1)]).await;
    s.done(&[put(1, owned(3, "b"))]).await;
    s.holds(id(1), Some(&owned(3, "b"))).await;
    s.counts(1).await;
    s.done(&[delete(1), put(1, row(9))]).await;
    s.holds(id(1), Some(&row(9))).await;
    s.owns("b", &[]).await;
    s.commit(&[insert(1, row(1))], &[Outcome::Exists]).await;
    s.done(&[update(1, 9, row(10))]).await;
}

pub(super) async fn put_over_a_quarantined_row(s: Subject) {
    s.done(&[insert(1, row(1)), quarantine(1)]).await;
    s.done(&[put(1, row(2))]).await;
    s.holds(id(1), Some(&row(2))).await;
    s.counts(1).await;
}

pub(super) async fn delete_removes(s: Subject) {
    s.done(&[insert(1, row(1)), insert(2, row(1))]).await;
    s.done(&[delete(1)]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&row(1))).await;
}

pub(super) async fn delete_is_idempotent(s: Subject) {
    s.done(&[delete(1)]).await;
    s.done(&[insert(1, row(1))]).await;
    s.done(&[delete(1), delete(1)]).await;
    s.done(&[delete(1)]).await;
    s.holds(id(1), None).await;
    s.done(&[insert(1, row(3))]).await;
    s.holds(id(1), Some(&row(3))).await;
}

pub(super) async fn rekey_moves(s: Subject) {
    s.done(&[insert(1, owned(1, "a"))]).await;
    s.done(&[rekey(1, 2, owned(2, "b"))]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&owned(2, "b"))).await;
    s.counts(1).await;
    s.owns("a", &[]).await;
    s.owns("b", &[id(2)]).await;
}

pub(super) async fn rekey_of_a_missing_row_adds_nothing(s: Subject) {
    s.commit(&[rekey(1, 2, row(1))], &[Outcome::Missing]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), None).await;
}

pub(super) async fn rekey_never_overwrites(s: Subject) {
    s.done(&[insert(1, row(1)), insert(2, row(5))]).await;
    s.commit(&[rekey(1, 2, row(9))], &[Outcome::Exists]).await;
    s.holds(id(1), Some(&row(1))).await;
    s.holds(id(2), Some(&row(5))).await;
    s.commit(&[rekey(3, 2, row(9))], &[Outcome::Exists]).await;
    s.holds(id(2), Some(&row(5))).await;
}

pub(super) async fn rekey_to_itself_changes_nothing(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.commit(&[rekey(1, 1, row(2))], &[Outcome::Exists]).await;
    s.holds(id(1), Some(&row(1))).await;
}

pub(super) async fn rekey_moves_at_the_right_version_only(s: Subject) {
    s.done(&[insert(1, owned(5, "a"))]).await;
    s.commit(&[rekey_at(1, 4, 2, row(1))], &[Outcome::Conflict { found: 5 }]).await;
    s.holds(id(1), Some(&owned(5, "a"))).await;
    s.holds(id(2), None).await;
    s.commit(&[rekey_at(3, 1, 2, row(1))], &[Outcome::Missing]).await;
    s.done(&[rekey_at(1, 5, 2, owned(1, "b"))]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&owned(1, "b"))).await;
    s.commit(&[insert(3, row(1)), rekey_at(2, 9, 3, row(2))], &[Outcome::Done, Outcome::Exists]).await;
    s.owns("b", &[id(2)]).await;
}

pub(super) async fn rekeys_chain(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[rekey(1, 2, row(2)), rekey(2, 3, row(3)), rekey(3, 4, row(4))]).await;
    for n in 1..=3 {
        s.holds(id(n), None).await;
    }
    s.holds(id(4), Some(&row(4))).await;
    s.done(&[rekey(4, 1, row(5))]).await;
    s.holds(id(1), Some(&row(5))).await;
    s.counts(1).await;
}

pub(super) async fn a_rekeyed_row_accepts_no_update_under_its_old_id(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[rekey(1, 2, row(2))]).await;
    s.commit(&[update(1, 1, row(2)), update(2, 2, row(3))], &[Outcome::Missing, Outcome::Done]).await;
    s.holds(id(1), None).await;
    s.holds(id(2), Some(&row(3))).await;
}

pub(super) async fn quarantine_hides(s: Subject) {
    s.done(&[insert(1, owned(1, "a")), insert(2, owned(1, "a"))]).await;
    s.done(&[quarantine(1)]).await;
    s.holds(id(1), None).await;
    s.counts(1).await;
    s.owns("a", &[id(2)]).await;
    if let Some(rows) = s.list(None, 10).await {
        assert_eq!(rows.len(), 1, "{}: a quarantined row is listed", s.case);
    }
    s.sweeps(u64::MAX - 1, 1).await;
}

pub(super) async fn quarantine_of_a_missing_row_is_done(s: Subject) {
    s.done(&[quarantine(1)]).await;
    s.holds(id(1), None).await;
}

pub(super) async fn quarantine_twice_with_an_insert_between(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[quarantine(1)]).await;
    s.done(&[insert(1, row(2))]).await;
    s.holds(id(1), Some(&row(2))).await;
    s.done(&[quarantine(1), quarantine(1)]).await;
    s.holds(id(1), None).await;
}

pub(super) async fn an_empty_commit_does_nothing(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[]).await;
    s.holds(id(1), Some(&row(1))).await;
}
