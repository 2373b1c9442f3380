//! Cases of unusual contents, of sizes, and of the store's end and its return.

use super::{
    Expired, NOW, Row, SessionId, StoreErrorKind, Subject, delete, due, id, insert, owned, rekey, row, update,
};

fn of(bytes: Vec<u8>) -> Row {
    Row { bytes, ..row(1) }
}

pub(super) async fn every_byte_survives(s: Subject) {
    let row = of((0..=255).rev().chain(0..=255).collect());
    s.done(&[insert(1, row.clone())]).await;
    s.holds(id(1), Some(&row)).await;
}

pub(super) async fn an_empty_record_is_a_record(s: Subject) {
    s.done(&[insert(1, of(Vec::new()))]).await;
    s.holds(id(1), Some(&of(Vec::new()))).await;
    s.counts(1).await;
}

pub(super) async fn large_records_survive(s: Subject) {
    for (n, len) in (0..).zip([4095, 4096, 4097, 65_536]) {
        if len > s.can().max_row_bytes {
            continue;
        }
        let row = of((0..len).map(|i| (i % 251) as u8).collect());
        s.done(&[insert(n, row.clone())]).await;
        s.holds(id(n), Some(&row)).await;
    }
}

pub(super) async fn ids_that_differ_in_one_bit_are_different(s: Subject) {
    let flipped = |bit: usize| {
        let mut bytes = [0; 32];
        bytes[bit / 8] = 1 << (bit % 8);
        SessionId::from_bytes(bytes)
    };
    let rows = (0..256).map(|bit| super::Change::Insert { id: flipped(bit), row: row(bit as u64 + 1) });
    s.done(&rows.collect::<Vec<_>>()).await;
    for bit in 0..256 {
        s.holds(flipped(bit), Some(&row(bit as u64 + 1))).await;
    }
    s.holds(SessionId::from_bytes([0; 32]), None).await;
    s.holds(SessionId::from_bytes([0xFF; 32]), None).await;
    s.done(&[super::Change::Insert { id: SessionId::from_bytes([0xFF; 32]), row: row(3) }]).await;
    s.holds(SessionId::from_bytes([0xFF; 32]), Some(&row(3))).await;
}

pub(super) async fn the_largest_numbers_survive(s: Subject) {
    let largest = |version| due(version, u64::MAX);
    s.done(&[insert(1, largest(u64::MAX - 1))]).await;
    s.done(&[update(1, u64::MAX - 1, largest(u64::MAX))]).await;
    s.holds(id(1), Some(&largest(u64::MAX))).await;
    assert!(s.store.commit(u64::MAX, &[]).await.is_ok(), "{}", s.case);
    assert_eq!(s.high_water().await, u64::MAX, "{}", s.case);
    let removed = u64::from(s.can().sweeps);
    assert_eq!(s.expire(u64::MAX, 10).await, Expired { removed, more: false }, "{}", s.case);
    s.done(&[insert(2, due(1, 0))]).await;
    assert_eq!(s.expire(s.can().ttl_grain_ms, 10).await.removed, removed, "{}: due at 0", s.case);
}

pub(super) async fn rows_grow_and_shrink(s: Subject) {
    s.done(&[insert(1, of(vec![1; 10]))]).await;
    for (version, len) in (1..).zip([3000, 0, 1, 9000, 12, 300]) {
        let len = len.min(s.can().max_row_bytes);
        let row = Row { version: version + 1, ..of(vec![version as u8; len]) };
        s.done(&[update(1, version, row.clone())]).await;
        s.holds(id(1), Some(&row)).await;
    }
}

pub(super) async fn an_oversized_row_is_refused(s: Subject) {
    let Some(len) = s.can().max_row_bytes.checked_add(1).filter(|len| *len <= 64 << 20) else { return };
    match s.store.commit(NOW, &[insert(1, row(1)), insert(2, of(vec![0; len]))]).await {
        Err(e) => assert_eq!(e.kind(), StoreErrorKind::TooLarge, "{}", s.case),
        Ok(outcomes) => panic!("{}: accepted: {outcomes:?}", s.case),
    }
    s.holds(id(2), None).await;
    if s.can().exclusive {
        s.holds(id(1), None).await;
    }
    s.done(&[insert(3, row(1))]).await;
}

pub(super) async fn an_oversized_owner_is_refused(s: Subject) {
    match s.store.commit(NOW, &[insert(1, row(1)), insert(2, owned(1, &"x".repeat(256)))]).await {
        Err(e) => assert_eq!(e.kind(), StoreErrorKind::TooLarge, "{}", s.case),
        Ok(outcomes) => panic!("{}: accepted: {outcomes:?}", s.case),
    }
    s.holds(id(2), None).await;
    if s.can().exclusive {
        s.holds(id(1), None).await;
    }
    s.done(&[insert(3, row(1))]).await;
}

pub(super) async fn everything_survives_reopening(s: Subject) {
    s.done(&(0..100).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>()).await;
    s.done(&[delete(0), update(1, 1, owned(2, "b")), rekey(2, 200, owned(2, "a"))]).await;
    s.done(&[super::quarantine(3)]).await;
    assert!(s.store.commit(NOW + 77, &[]).await.is_ok(), "{}", s.case);
    let Some(s) = s.reopen().await else { return };
    s.holds(id(0), None).await;
    s.holds(id(1), Some(&owned(2, "b"))).await;
    s.holds(id(2), None).await;
    s.holds(id(3), None).await;
    s.holds(id(200), Some(&owned(2, "a"))).await;
    s.counts(98).await;
    s.owns("b", &[id(1)]).await;
    s.owns("a", &(4..100).chain([200]).map(id).collect::<Vec<_>>()).await;
    assert_eq!(s.high_water().await, NOW + 77, "{}", s.case);
    s.done(&[update(1, 2, owned(3, "b"))]).await;
}

pub(super) async fn expiry_goes_on_after_reopening(s: Subject) {
    s.done(&[insert(1, due(1, NOW + 10)), insert(2, due(1, NOW + 20)), insert(3, due(1, NOW + 30))]).await;
    s.done(&[update(2, 1, due(2, NOW + 900_000)), update(3, 1, due(2, NOW + 5))]).await;
    let Some(s) = s.reopen().await else { return };
    s.sweeps(NOW + 100_000, 2).await;
    s.holds(id(2), Some(&due(2, NOW + 900_000))).await;
}

pub(super) async fn close_is_idempotent(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    for _ in 0..3 {
        if let Err(e) = s.store.close().await {
            panic!("{}: close failed: {e}", s.case);
        }
    }
}

pub(super) async fn a_closed_store_refuses_every_call(s: Subject) {
    s.done(&[insert(1, row(1))]).await;
    if let Err(e) = s.store.close().await {
        panic!("{}: close failed: {e}", s.case);
    }
    let wanted = id(1);
    let errors = [
        s.store.load(&wanted).await.err(),
        s.store.commit(NOW, &[insert(2, row(1))]).await.err(),
        s.store.expire(NOW, NOW, 10).await.err(),
        s.store.high_water().await.err(),
        s.store.count().await.err(),
    ];
    for (n, error) in (0..).zip(errors) {
        let kind = error.map(|e| e.kind());
        assert_eq!(kind, Some(StoreErrorKind::Closed), "{}: call {n}", s.case);
    }
    for (supported, error) in [
        (s.can().list, s.store.list(None, 10).await.err()),
        (s.can().by_owner, s.store.list_owner("a").await.err()),
    ] {
        let kind = error.map(|e| e.kind());
        if supported {
            assert_eq!(kind, Some(StoreErrorKind::Closed), "{}: a listing", s.case);
        } else {
            assert!(kind.is_some(), "{}: a listing works", s.case);
        }
    }
}
