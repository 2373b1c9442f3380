//! What is in the tables of SQL Server: numbers, damaged rows, commits of any size and the largest rows.

use sessile_engine::StoreErrorKind;
use sessile_engine::store::{Change, Outcome, Row, Store};
use sessile_stores::mssql::MssqlStore;

use super::{BOUND, open, run};
use crate::support::{id, insert, owned, row, update};

#[test]
fn the_table_holds_what_it_says() {
    run(async |server| {
        let store = open(&server).await;
        let mut later = Row { expires_at: 4_000_000_123_456, ..owned(2, "Ann") };
        later.bytes = (0..=255).cycle().take(3 << 20).collect();
        let _ = store.commit(1, &[insert(1, row(1)), update(1, 1, later.clone())]).await.unwrap();
        assert!(store.load(&id(1)).await.unwrap() == Some(later));
        let held =
            server.rows().query_row("SELECT version, expires_at, CAST(owner AS TEXT) FROM t", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
            });
        assert_eq!(held.unwrap(), (2, 4_000_000_123_456, "Ann".to_owned()));
        for other in ["ann", "Ann ", "ANN", "Ánn", "Ann\0", ""] {
            assert!(store.list_owner(other).await.unwrap().is_empty());
        }
        assert_eq!(store.list_owner("Ann").await.unwrap().len(), 1);
        let _ = store.commit(5, &[Change::Quarantine { id: id(1) }]).await.unwrap();
        let aside = server.rows().query_row("SELECT version, quarantined_at FROM t_quarantine", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(aside.unwrap(), (2, 5));
    });
}

/// Versions, times and marks are unsigned, and never is the largest of them.
#[test]
fn numbers_beyond_63_bits_keep_their_order() {
    run(async |server| {
        let store = open(&server).await;
        let never = |version| Row { expires_at: u64::MAX, ..row(version) };
        let far = Row { expires_at: 1 << 63, ..row(u64::MAX - 1) };
        let _ =
            store.commit(7, &[insert(1, never(1)), insert(2, far.clone()), insert(3, row(1))]).await.unwrap();
        assert!(store.load(&id(2)).await.unwrap() == Some(far));
        assert_eq!(store.expire(i64::MAX.cast_unsigned(), 8, 10).await.unwrap().removed, 1);
        let expired = store.expire((1 << 63) + 1, 1 << 63, 10).await.unwrap();
        assert_eq!((expired.removed, expired.more), (1, false));
        assert_eq!(store.high_water().await.unwrap(), 1 << 63);
        let _ = store.commit(9, &[update(1, 1, never(u64::MAX))]).await.unwrap();
        assert_eq!(store.high_water().await.unwrap(), 1 << 63);
        assert_eq!(store.load(&id(1)).await.unwrap(), Some(never(u64::MAX)));
    });
}

#[test]
fn a_damaged_row_is_corrupt_by_itself_and_named_by_a_scan() {
    run(async |server| {
        let store = open(&server).await;
        let _ = store.commit(1, &(0..9).map(|n| insert(n, owned(1, "a"))).collect::<Vec<_>>()).await.unwrap();
        let damage = "UPDATE t SET owner = x'ff' WHERE id = ?1";
        assert_eq!(server.rows().execute(damage, [id(4).as_bytes().as_slice()]).unwrap(), 1);
        assert_eq!(store.load(&id(4)).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        let scan = store.scan(None, 100).await.unwrap();
        assert_eq!((scan.rows.len(), scan.damaged), (8, vec![id(4)]));
        assert_eq!(store.list(None, 8).await.unwrap().len(), 8);
    });
}

#[test]
fn a_commit_is_two_exchanges_of_any_number_of_rows() {
    run(async |server| {
        let store = open(&server).await;
        let before = (server.count("versions"), server.count("write"));
        let rows: Vec<_> = (0..500).map(|n| insert(n, owned(1, "a"))).collect();
        let _ = store.commit(1, &rows).await.unwrap();
        assert_eq!((server.count("versions"), server.count("write")), (before.0 + 1, before.1 + 1));
        // More than a transaction takes.
        let many: Vec<_> = (0..10_000).map(|n| Change::Delete { id: id(n) }).collect();
        assert_eq!(store.commit(1, &many).await.unwrap().len(), 10_000);
        assert_eq!(server.count("write"), before.1 + 4);
        assert_eq!(store.count().await.unwrap(), Some(0));
    });
}

/// What the store says it takes, it takes.
#[test]
fn the_largest_rows_and_batches_fit() {
    run(async |server| {
        let builder = MssqlStore::builder(server.url()).deadline(10 * BOUND).table("t").unwrap();
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        let most = store.capabilities().max_row_bytes;
        let large = |version| Row { bytes: vec![0xA5; most], ..owned(version, &"o".repeat(255)) };
        let _ = store.commit(1, &[insert(1, large(1)), insert(3, row(1))]).await.unwrap();
        let changes = [update(1, 1, large(2)), Change::Delete { id: id(3) }];
        assert_eq!(store.commit(1, &changes).await.unwrap(), [Outcome::Done; 2]);
        assert!(store.load(&id(1)).await.unwrap() == Some(large(2)));
        let larger = Row { bytes: vec![0; most + 1], ..row(1) };
        let e = store.commit(1, &[insert(4, larger)]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::TooLarge);
        // More bytes than a transaction takes.
        let half = |n| insert(n, Row { bytes: vec![7; most], ..row(1) });
        assert_eq!(
            store.commit(1, &(10..15).map(half).collect::<Vec<_>>()).await.unwrap(),
            [Outcome::Done; 5]
        );
        let ends: Vec<_> = (0..20).map(|n| Change::Quarantine { id: id(n) }).collect();
        let _ = store.commit(1, &ends).await.unwrap();
        assert_eq!(store.count().await.unwrap(), Some(0));
        let aside = "SELECT count(*), max(length(bytes)) FROM t_quarantine";
        let aside: (i64, i64) =
            server.rows().query_row(aside, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(aside, (6, i64::try_from(most).unwrap()));
    });
}
