//! Connections and servers that end, fall silent or say no; answers that are lost; callers that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::*;

const VERBS: [&str; 4] = ["commit", "batchGet", "runQuery", "runAggregationQuery"];

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let server = Server::start();
    let store = open(&server);
    super::support::leavers::leave_no_answers(&store, 400);
}

/// What had changed nothing is asked again over another connection; a change whose answer was lost is an error, and made or
/// not as a whole.
#[test]
fn a_lost_answer_leaves_a_commit_made_or_not() {
    let server = Server::start();
    let store = open(&server);
    done(&store, &[insert(1, owned(1, "u")), insert(2, row(1))]);
    for fault in [Fault::CloseBefore, Fault::CloseAfter] {
        server.fault("batchGet", fault, 1);
        assert_eq!(load(&store, 1), Some(owned(1, "u")));
        server.fault("runQuery", fault, 1);
        assert_eq!(block_on(store.list_owner("u")).unwrap().len(), 1);
        server.fault("runAggregationQuery", fault, 1);
        assert_eq!(block_on(store.count()).unwrap(), Some(2));
    }
    let sent = server.count("commit");
    server.fault("commit", Fault::CloseBefore, 1);
    assert_eq!(
        kind(commit(&store, &[update(1, 1, owned(2, "u")), update(2, 1, row(2))])),
        StoreErrorKind::Unavailable
    );
    assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(1, "u")), Some(row(1))));
    server.fault("commit", Fault::CloseAfter, 1);
    assert_eq!(
        kind(commit(&store, &[update(1, 1, owned(2, "u")), update(2, 1, row(2))])),
        StoreErrorKind::Unavailable
    );
    assert_eq!((load(&store, 1), load(&store, 2)), (Some(owned(2, "u")), Some(row(2))));
    assert_eq!(server.count("commit"), sent + 2, "a commit is sent once");
    // Who sends it again learns what became of it.
    assert_eq!(commit(&store, &[update(1, 1, owned(2, "u"))]).unwrap(), [Outcome::Conflict { found: 2 }]);
    server.fault("commit", Fault::CloseAfter, 1);
    assert_eq!(kind(commit(&store, &[rekey(1, 2, 3, owned(3, "u"))])), StoreErrorKind::Unavailable);
    assert_eq!(commit(&store, &[rekey(1, 2, 3, owned(3, "u"))]).unwrap(), [Outcome::Exists]);
    assert_eq!((load(&store, 1), load(&store, 3)), (None, Some(owned(3, "u"))));
    server.fault("commit", Fault::CloseAfter, 1);
    assert_eq!(kind(commit(&store, &[insert(4, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(commit(&store, &[insert(4, row(1))]).unwrap(), [Outcome::Exists]);
    assert!(server.is_sound());
}

/// A call whose deadline ends before its answer, or inside of it: the next calls get their own, over other connections.
#[test]
fn a_deadline_costs_the_connection_and_no_other_call() {
    let server = Server::start();
    let patient = open(&server);
    done(&patient, &(1..4).map(|n| insert(n, row(u64::from(n)))).collect::<Vec<_>>());
    let store = opened(FirestoreStore::builder(&server.url()).deadline(Duration::from_millis(500)));
    for fault in [Fault::Half, Fault::Late] {
        let before = server.connections();
        server.fault("batchGet", fault, 1);
        assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
        // With the other answer still to come.
        for n in 2..4 {
            assert!(soon(
                || matches!(block_on(store.load(&id(n))), Ok(Some(found)) if found == row(u64::from(n)))
            ));
        }
        server.release();
        assert!(server.connections() > before, "{fault:?}");
    }
    server.fault("commit", Fault::Late, 1);
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    assert_eq!(load(&patient, 1), Some(row(1)));
    // It comes after somebody has changed the row: what it was decided on is not there any more.
    done(&patient, &[update(1, 1, row(7))]);
    server.release();
    done(&patient, &[update(2, 2, row(3))]);
    assert_eq!(load(&patient, 1), Some(row(7)));
}

#[test]
fn what_the_service_says_is_told_in_kind() {
    let server = Server::start();
    let store = open(&server);
    done(&store, &[insert(1, owned(1, "u"))]);
    for (code, wanted) in [
        (Code::ResourceExhausted, StoreErrorKind::Unavailable),
        (Code::Unavailable, StoreErrorKind::Unavailable),
        (Code::Internal, StoreErrorKind::Unavailable),
        (Code::PermissionDenied, StoreErrorKind::Config),
        (Code::InvalidArgument, StoreErrorKind::Config),
        // The emulator's token is the only one that there is.
        (Code::Unauthenticated, StoreErrorKind::Config),
    ] {
        for verb in VERBS {
            server.fault(verb, Fault::Refuse(code), 1);
            let told = match verb {
                "commit" => kind(commit(&store, &[update(1, 1, row(2))])),
                "batchGet" => kind(block_on(store.load(&id(1)))),
                "runQuery" => kind(block_on(store.list_owner("u"))),
                _ => kind(block_on(store.count())),
            };
            assert_eq!(told, wanted, "{verb}: {code:?}");
        }
    }
    // A query that wants an index, and a database that is not there, are no passing faults.
    server.fault("runQuery", Fault::Refuse(Code::FailedPrecondition), 1);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Config);
    server.fault("batchGet", Fault::Refuse(Code::NotFound), 1);
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Config);
    // Whoever answers in its place: the rows are not damaged by that.
    for verb in VERBS {
        if verb != "commit" {
            server.fault(verb, Fault::Stranger, 1);
        }
    }
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.count())), StoreErrorKind::Unavailable);
    assert_eq!(load(&store, 1), Some(owned(1, "u")));
    server.fault("commit", Fault::Stranger, 1);
    assert_eq!(kind(commit(&store, &[update(1, 1, owned(2, "u"))])), StoreErrorKind::Unavailable);
    assert_eq!(load(&store, 1), Some(owned(1, "u")), "it was not made");
    assert!(server.is_sound());
}

/// The server goes away under load and comes back: every failure is "unavailable", what was confirmed is there, and the
/// same store works again.
#[test]
fn a_server_that_ends_is_unavailable_and_comes_back() {
    let server = Server::start();
    let store = Arc::new(open(&server));
    let (ended, confirmed, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (store, ended, confirmed, failed) = (&store, &ended, &confirmed, &failed);
        let writers: Vec<_> = (0..4_u32)
            .map(|w| {
                scope.spawn(move || {
                    let (mut mine, mut n) = (Vec::new(), w * 1_000_000);
                    while !ended.load(Ordering::Relaxed) {
                        match commit(store, &[insert(n, row(1))]) {
                            Ok(_) => {
                                mine.push(n);
                                confirmed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => {
                                assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
                                failed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        n += 1;
                    }
                    mine
                })
            })
            .collect();
        for _ in 0..3 {
            let before = confirmed.load(Ordering::Relaxed);
            assert!(soon(|| confirmed.load(Ordering::Relaxed) > before + 20));
            let before = failed.load(Ordering::Relaxed);
            server.kill();
            assert!(soon(|| {
                server.kill_connections();
                failed.load(Ordering::Relaxed) > before + 4
            }));
            server.resume();
        }
        ended.store(true, Ordering::Relaxed);
        for writer in writers {
            for n in writer.join().unwrap() {
                assert!(load(store, n).is_some(), "row {n} was confirmed");
            }
        }
    });
    server.kill();
    let start = Instant::now();
    for told in [
        kind(block_on(store.load(&id(1)))),
        kind(commit(&store, &[insert(9_999_999, row(1))])),
        kind(block_on(store.expire(NOW, 0, 1))),
        kind(block_on(store.list(None, 1))),
        kind(block_on(store.high_water())),
        kind(block_on(builder_at(&server.url()).open())),
    ] {
        assert_eq!(told, StoreErrorKind::Unavailable);
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        let builder = builder_at(&server.url());
        builder.migrate().await.unwrap();
        let (store, other) = (builder.clone().open().await.unwrap(), builder.open().await.unwrap());
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        drop(store);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        other.close().await.unwrap();
        assert_eq!(other.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
    });
}

#[test]
fn it_does_not_tell_of_changes() {
    let server = Server::start();
    let store = open(&server);
    assert!(!store.capabilities().watch);
    let told = block_on(store.watch()).map(drop);
    assert_eq!(told.unwrap_err().kind(), StoreErrorKind::Unsupported);
}
