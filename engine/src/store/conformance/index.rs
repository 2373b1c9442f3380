//! Cases of what finds rows without their id: the order of expiry, the listing, the owners, the count.

use super::{
    Expired, NOW, Outcome, Row, Subject, delete, due, id, insert, owned, put, quarantine, rekey, row, update,
};

/// The first time at which a row due at `at` must be gone.
fn surely_due(s: &Subject, at: u64) -> u64 {
    at.saturating_add(s.can().ttl_grain_ms.saturating_sub(1))
}

pub(super) async fn expire_removes_the_longest_due_first(s: Subject) {
    let step = 10 * s.can().ttl_grain_ms.max(1);
    // Inserted in another order than they are due.
    for n in [3, 1, 5, 2, 4] {
        s.done(&[insert(n, due(1, NOW + step * u64::from(n)))]).await;
    }
    let now = surely_due(&s, NOW + step * 4);
    if !s.can().sweeps {
        assert_eq!(s.expire(now, 2).await, Expired::default(), "{}: it says that it does not sweep", s.case);
        return;
    }
    assert_eq!(s.expire(now, 2).await, Expired { removed: 2, more: true }, "{}", s.case);
    for (n, there) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
        assert_eq!(s.load(id(n)).await.is_some(), there, "{}: row {n}", s.case);
    }
    assert_eq!(s.expire_all(now).await, 2, "{}", s.case);
    s.counts(1).await;
}

pub(super) async fn expire_never_removes_early(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 1000))]).await;
    assert_eq!(s.expire(NOW + 999, 10).await, Expired::default(), "{}", s.case);
    s.holds(id(1), Some(&due(1, NOW + 1000))).await;
}

pub(super) async fn expire_removes_at_the_very_time(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 1000))]).await;
    let now = surely_due(&s, NOW + 1000);
    if !s.can().sweeps {
        return;
    }
    assert_eq!(s.expire(now, 10).await, Expired { removed: 1, more: false }, "{}", s.case);
    s.holds(id(1), None).await;
}

pub(super) async fn expire_keeps_to_its_limit(s: Subject) {
    s.done(&(0..10).map(|n| insert(n, due(1, NOW))).collect::<Vec<_>>()).await;
    let now = surely_due(&s, NOW);
    if !s.can().sweeps {
        return;
    }
    let (mut removed, mut calls) = (0, 0);
    loop {
        let expired = s.expire(now, 4).await;
        removed += expired.removed;
        calls += 1;
        s.counts(10 - removed).await;
        if !expired.more {
            break;
        }
        assert!(calls < 100, "{}: no end", s.case);
    }
    assert_eq!((removed, calls), (10, 3), "{}", s.case);
}

pub(super) async fn expire_with_limit_zero_removes_nothing(s: Subject) {
    s.done(&[insert(1, due(1, NOW))]).await;
    assert_eq!(s.expire(surely_due(&s, NOW), 0).await.removed, 0, "{}", s.case);
    s.holds(id(1), Some(&due(1, NOW))).await;
}

pub(super) async fn expire_follows_a_row_that_moved_later(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 100))]).await;
    s.done(&[update(1, 1, due(2, NOW + 50_000))]).await;
    assert_eq!(s.expire_all(NOW + 49_999).await, 0, "{}: too early", s.case);
    s.holds(id(1), Some(&due(2, NOW + 50_000))).await;
    // And once more, after the index has met the row.
    s.done(&[update(1, 2, due(3, NOW + 90_000))]).await;
    assert_eq!(s.expire_all(NOW + 89_999).await, 0, "{}: too early again", s.case);
    if s.sweeps(surely_due(&s, NOW + 90_000), 1).await {
        s.holds(id(1), None).await;
    }
}

pub(super) async fn expire_follows_a_row_that_moved_earlier(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 900_000))]).await;
    s.done(&[update(1, 1, due(2, NOW + 1000))]).await;
    assert_eq!(s.expire_all(NOW + 999).await, 0, "{}: too early", s.case);
    if !s.sweeps(surely_due(&s, NOW + 1000), 1).await {
        return;
    }
    s.done(&[insert(1, due(1, NOW + 2_000_000))]).await;
    assert_eq!(s.expire_all(NOW + 1_999_999).await, 0, "{}: an old time counts", s.case);
}

pub(super) async fn expire_follows_a_rekeyed_row(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 1000))]).await;
    s.done(&[rekey(1, 2, due(2, NOW + 5000))]).await;
    assert_eq!(s.expire_all(NOW + 4999).await, 0, "{}", s.case);
    s.holds(id(2), Some(&due(2, NOW + 5000))).await;
    s.sweeps(surely_due(&s, NOW + 5000), 1).await;
}

pub(super) async fn expire_spares_a_row_that_was_inserted_again(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 1000))]).await;
    s.done(&[delete(1)]).await;
    s.done(&[insert(1, due(1, NOW + 9000))]).await;
    assert_eq!(s.expire_all(NOW + 8999).await, 0, "{}", s.case);
    s.holds(id(1), Some(&due(1, NOW + 9000))).await;
}

pub(super) async fn expire_does_not_count_deleted_rows(s: Subject) {
    s.done(&(0..20).map(|n| insert(n, due(1, NOW))).collect::<Vec<_>>()).await;
    s.done(&(0..19).map(delete).collect::<Vec<_>>()).await;
    if s.sweeps(surely_due(&s, NOW), 1).await {
        s.counts(0).await;
    }
}

pub(super) async fn expire_removes_ten_thousand_rows(s: Subject) {
    for chunk in 0..10 {
        let rows = (chunk * 1000..(chunk + 1) * 1000).map(|n| insert(n, due(1, NOW + u64::from(n))));
        s.done(&rows.collect::<Vec<_>>()).await;
    }
    s.done(&[insert(20_000, due(1, NOW + 900_000))]).await;
    if s.sweeps(surely_due(&s, NOW + 9_999), 10_000).await {
        s.counts(1).await;
    }
    s.holds(id(20_000), Some(&due(1, NOW + 900_000))).await;
}

pub(super) async fn rows_that_never_expire_stay(s: Subject) {
    s.done(&[insert(1, due(1, u64::MAX)), insert(2, due(1, u64::MAX - 1))]).await;
    assert_eq!(s.expire_all(u64::MAX - 2).await, 0, "{}", s.case);
    s.holds(id(1), Some(&due(1, u64::MAX))).await;
}

pub(super) async fn an_expired_row_can_be_loaded_until_it_is_removed(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 10))]).await;
    assert_eq!(s.expire(NOW + 9, 10).await.removed, 0, "{}", s.case);
    // Due by now, but no expiry run has met it: an update must still find it.
    s.done(&[update(1, 1, due(2, NOW + 800_000))]).await;
    assert_eq!(s.expire_all(NOW + 10_000).await, 0, "{}", s.case);
    s.holds(id(1), Some(&due(2, NOW + 800_000))).await;
}

pub(super) async fn high_water_starts_at_zero_and_only_rises(s: Subject) {
    assert_eq!(s.high_water().await, 0, "{}", s.case);
    for (now, mark) in [(500, 500), (400, 500), (501, 501), (0, 501)] {
        assert!(s.store.commit(now, &[insert(1, row(1))]).await.is_ok(), "{}", s.case);
        assert_eq!(s.high_water().await, mark, "{}: after a commit at {now}", s.case);
    }
    for (mark, expected) in [(900, 900), (899, 900), (0, 900), (NOW, NOW)] {
        assert!(s.store.expire(1, mark, 10).await.is_ok(), "{}", s.case);
        assert_eq!(s.high_water().await, expected, "{}: after an expiry run at {mark}", s.case);
    }
    // The time of the run is not the mark.
    assert!(s.store.expire(NOW + 1, 0, 10).await.is_ok(), "{}", s.case);
    assert_eq!(s.high_water().await, NOW, "{}", s.case);
}

pub(super) async fn list_is_ordered_and_paged(s: Subject) {
    s.done(&(0..25).map(|n| insert(n, row(u64::from(n) + 1))).collect::<Vec<_>>()).await;
    let mut expected: Vec<_> = (0..25).map(|n| (*id(n).as_bytes(), row(u64::from(n) + 1))).collect();
    expected.sort_by_key(|(id, _)| *id);
    let (mut got, mut after, mut pages) = (Vec::new(), None, 0);
    while let Some(page) = s.list(after, 10).await {
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        got.extend(page.into_iter().map(|l| (*l.id.as_bytes(), l.row)));
        pages += 1;
        assert!(pages < 10, "{}: no end", s.case);
    }
    if s.can().list {
        assert_eq!(got, expected, "{}", s.case);
        assert_eq!(s.list(None, 0).await, Some(Vec::new()), "{}: limit 0", s.case);
    }
}

pub(super) async fn scan_goes_over_all_rows(s: Subject) {
    s.done(&(0..25).map(|n| insert(n, row(u64::from(n) + 1))).collect::<Vec<_>>()).await;
    let Some(listed) = s.list(None, 100).await else { return };
    for limit in [1, 7, 25, 26] {
        let (mut rows, mut after) = (Vec::new(), None);
        for _ in 0..30 {
            let page = s.store.scan(after, limit).await.unwrap_or_else(|e| panic!("{}: {e}", s.case));
            assert!(page.damaged.is_empty(), "{}", s.case);
            assert!(page.rows.len() <= limit, "{}: more than {limit}", s.case);
            rows.extend(page.rows);
            after = page.last;
            if after.is_none() {
                break;
            }
        }
        assert!(after.is_none(), "{}: no end", s.case);
        assert_eq!(rows, listed, "{}: {limit} a page", s.case);
    }
}

pub(super) async fn list_goes_on_behind_a_deleted_id(s: Subject) {
    s.done(&(0..10).map(|n| insert(n, row(1))).collect::<Vec<_>>()).await;
    let Some(before) = s.list(None, 10).await else { return };
    s.done(&[super::Change::Delete { id: before[4].id }]).await;
    let after = s.list(Some(before[4].id), 10).await;
    assert_eq!(after.as_deref(), Some(&before[5..]), "{}", s.case);
}

pub(super) async fn list_of_an_empty_store(s: Subject) {
    for after in [None, Some(id(1))] {
        if let Some(rows) = s.list(after, 10).await {
            assert!(rows.is_empty(), "{}", s.case);
        }
    }
    s.owns("nobody", &[]).await;
}

pub(super) async fn list_owner_finds_all_rows_of_one_owner(s: Subject) {
    s.done(&(0..30).map(|n| insert(n, owned(1, if n % 3 == 0 { "x" } else { "y" }))).collect::<Vec<_>>())
        .await;
    s.done(&[insert(100, row(1))]).await;
    s.owns("x", &(0..30).step_by(3).map(id).collect::<Vec<_>>()).await;
    s.owns("z", &[]).await;
    s.owns("", &[]).await;
}

pub(super) async fn list_owner_follows_changes(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    s.done(&[update(1, 1, owned(2, "a"))]).await;
    s.owns("a", &[id(1)]).await;
    s.done(&[update(1, 2, owned(3, "a"))]).await;
    s.owns("a", &[id(1)]).await;
    s.done(&[update(1, 3, owned(4, "b"))]).await;
    s.owns("a", &[]).await;
    s.owns("b", &[id(1)]).await;
    s.commit(&[update(1, 3, owned(5, "c"))], &[Outcome::Conflict { found: 4 }]).await;
    s.owns("c", &[]).await;
    s.done(&[update(1, 4, row(5))]).await;
    s.owns("b", &[]).await;
}

pub(super) async fn list_owner_keeps_similar_names_apart(s: Subject) {
    let names = ["a", "ab", "b", "a\0", "a\u{7f}", "aé", "A", "a ", "a%", "a_", "a*"];
    for (n, name) in (0..).zip(names) {
        s.done(&[insert(n, owned(1, name))]).await;
    }
    for (n, name) in (0..).zip(names) {
        s.owns(name, &[id(n)]).await;
    }
}

pub(super) async fn list_owner_forgets_removed_rows(s: Subject) {
    let of = |at| Row { owner: Some("a".into()), ..due(1, at) };
    s.done(&[insert(1, of(NOW)), insert(2, of(NOW + 900_000)), insert(3, of(NOW + 900_000))]).await;
    if s.sweeps(surely_due(&s, NOW), 1).await {
        s.owns("a", &[id(2), id(3)]).await;
    }
    s.done(&[delete(2), quarantine(3)]).await;
    s.owns("a", &[]).await;
}

pub(super) async fn list_owner_takes_the_longest_and_the_empty_name(s: Subject) {
    let long = "ü".repeat(127) + "x";
    s.done(&[insert(1, owned(1, &long)), insert(2, owned(1, "")), insert(3, row(1))]).await;
    s.holds(id(1), Some(&owned(1, &long))).await;
    s.holds(id(2), Some(&owned(1, ""))).await;
    s.owns(&long, &[id(1)]).await;
    s.owns("", &[id(2)]).await;
}

pub(super) async fn count_is_the_number_of_rows(s: Subject) {
    s.done(&(0..7).map(|n| insert(n, due(1, NOW))).collect::<Vec<_>>()).await;
    s.counts(7).await;
    s.done(&[update(0, 1, due(2, NOW)), delete(1), quarantine(2), rekey(3, 30, due(1, NOW)), delete(99)])
        .await;
    s.counts(5).await;
    if s.sweeps(surely_due(&s, NOW), 5).await {
        s.counts(0).await;
    }
}

pub(super) async fn put_moves_the_expiry(s: Subject) {
    let far = NOW + 1_000_000_000;
    s.done(&[put(1, due(1, NOW + 100)), put(2, due(1, far))]).await;
    s.done(&[put(1, due(2, far)), put(2, due(2, NOW + 100))]).await;
    let sweeps = s.sweeps(surely_due(&s, NOW + 100), 1).await;
    s.holds(id(1), Some(&due(2, far))).await;
    if sweeps {
        s.holds(id(2), None).await;
    }
}
