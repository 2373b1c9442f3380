//! Writers that are in each other's way in SQL Server: all get through, one renewal wins, a deadlock is retried.

use std::sync::Arc;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::{Change, Outcome, Row, Store};

use super::{open, run};
use crate::support::mssql::Fault;
use crate::support::{id, insert, owned, row, update};

/// Of all who change a row at the version that they have read, one wins each time.
#[test]
fn writers_in_each_others_way_all_get_through() {
    run(async |server| {
        crate::support::rivals::all_get_through(open(&server).await, open(&server).await).await;
    });
}

/// A session whose id is renewed by two at once has one id in the end.
#[test]
fn of_two_renewals_one_wins() {
    run(async |server| {
        let stores = [open(&server).await, open(&server).await].map(Arc::new);
        for n in 0..100 {
            let _ = stores[0].commit(1, &[insert(n, owned(1, "a"))]).await.unwrap();
            let renewals: Vec<_> = [1000, 2000]
                .into_iter()
                .zip(&stores)
                .map(|(base, store)| {
                    let renewal = Change::Rekey {
                        from: id(n),
                        expected: Some(1),
                        to: id(base + n),
                        row: owned(2, "a"),
                    };
                    let store = Arc::clone(store);
                    tokio::spawn(async move { store.commit(1, &[renewal]).await.unwrap()[0] })
                })
                .collect();
            let mut outcomes = Vec::new();
            for renewal in renewals {
                outcomes.push(renewal.await.unwrap());
            }
            outcomes.sort_by_key(|outcome| *outcome != Outcome::Done);
            assert_eq!(outcomes, [Outcome::Done, Outcome::Missing]);
        }
        assert_eq!(stores[0].list_owner("a").await.unwrap().len(), 100);
    });
}

/// A deadlock's victim, and who met a key that was not there a moment ago: both look again.
#[test]
fn a_deadlock_or_a_key_of_somebody_else_is_retried() {
    run(async |server| {
        let store = open(&server).await;
        server.fault("write", Fault::Error(1205), 3);
        server.fault("versions", Fault::Error(1205), 1);
        assert_eq!(store.commit(1, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        let _ = store.commit(1, &[insert(2, Row { expires_at: 5, ..row(1) })]).await.unwrap();
        server.fault("write", Fault::Error(2627), 2);
        assert_eq!(
            store.commit(1, &[insert(1, row(1)), insert(3, row(1))]).await.unwrap(),
            [Outcome::Exists, Outcome::Done]
        );
        server.fault("expire", Fault::Error(1205), 2);
        assert_eq!(store.expire(9, 9, 10).await.unwrap().removed, 1);
        server.fault("load", Fault::Error(1205), 2);
        assert!(store.load(&id(1)).await.unwrap().is_some());
        assert!(server.is_sound());
        // Others are not, and have applied nothing.
        for (number, kind) in [
            (1222, StoreErrorKind::Unavailable),
            (229, StoreErrorKind::Config),
            (9002, StoreErrorKind::Full),
            (824, StoreErrorKind::Corrupt),
        ] {
            server.fault("write", Fault::Error(number), 1);
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
        }
        assert_eq!(store.load(&id(1)).await.unwrap(), Some(row(1)));
    });
}
