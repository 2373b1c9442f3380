//! A server that dies, freezes and loses connections; callers that go away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::support::relay::Relay;
use super::*;

fn impatient(server: &Server) -> MongoStore {
    let _ = open(server, "t");
    block_on(builder(server, "t").deadline(Duration::from_millis(500)).open()).unwrap()
}

#[test]
fn no_call_gets_the_answer_to_a_call_that_was_dropped() {
    let Some(server) = Server::any() else { return };
    let store = open(&server, "t");
    super::support::leavers::leave_no_answers(&store, 100);
}

/// Calls whose deadline ends while their answer is on its way leave it to nobody.
#[test]
fn no_call_gets_the_answer_to_a_call_whose_deadline_ended() {
    let Some(server) = Server::start(&[]) else { return };
    let _ = open(&server, "t");
    let relay = Relay::to(server.port());
    let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", relay.port);
    let store = MongoStore::builder(url).collection(&server.name("t")).unwrap().pool_size(2);
    let store = block_on(store.deadline(Duration::from_millis(700)).open()).unwrap();
    assert!(soon(
        || commit(&store, &(0..20).map(|n| put(n, row(u64::from(n) + 1))).collect::<Vec<_>>()).is_ok()
    ));
    for round in 0..3 {
        relay.hold();
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        // What has been held back is answered now, to nobody.
        if round % 2 == 0 {
            relay.release();
        }
        for n in 2..20 {
            let mut loaded = None;
            assert!(soon(|| {
                loaded = block_on(store.load(&id(n))).ok();
                loaded.is_some()
            }));
            assert_eq!(loaded.unwrap(), Some(row(u64::from(n) + 1)), "row {n}");
        }
        relay.release();
    }
}

#[test]
fn a_server_that_dies_is_unavailable_until_it_is_back_with_its_rows() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, owned(1, "u"))]).is_ok()));
    server.kill();
    let start = Instant::now();
    assert_eq!(kind(block_on(store.load(&id(1)))), StoreErrorKind::Unavailable);
    assert_eq!(kind(commit(&store, &[insert(2, row(1))])), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.expire(NOW, 0, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list(None, 1))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.list_owner("u"))), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.high_water())), StoreErrorKind::Unavailable);
    assert_eq!(kind(block_on(store.count())), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let hasty = builder(&server, "t").deadline(Duration::from_millis(300));
    assert_eq!(kind(block_on(hasty.open())), StoreErrorKind::Unavailable);
    server.restart();
    recovers(&store, 2);
    assert_eq!(load(&store, 1), Some(owned(1, "u")));
    assert_eq!(block_on(store.high_water()).unwrap(), NOW);
}

/// Killed under load: every failure is "unavailable", and what was confirmed is there.
#[test]
fn what_was_confirmed_survives_a_kill() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = impatient(&server);
    let ended = AtomicBool::new(false);
    let (confirmed, failed) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u32)
            .map(|w| {
                let (store, ended) = (&store, &ended);
                scope.spawn(move || {
                    let (mut confirmed, mut failed) = (Vec::new(), 0);
                    for n in w * 1_000_000.. {
                        if ended.load(Ordering::Relaxed) {
                            break;
                        }
                        match commit(store, &[insert(n, row(1))]) {
                            Ok(_) => confirmed.push(n),
                            Err(e) => {
                                assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
                                failed += 1;
                            }
                        }
                    }
                    (confirmed, failed)
                })
            })
            .collect();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(700));
            server.kill();
            std::thread::sleep(Duration::from_millis(200));
            server.restart();
        }
        std::thread::sleep(Duration::from_millis(700));
        ended.store(true, Ordering::Relaxed);
        let done: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let failed: u32 = done.iter().map(|(_, failed)| failed).sum();
        (done.into_iter().flat_map(|(confirmed, _)| confirmed).collect::<Vec<_>>(), failed)
    });
    assert!(failed > 0, "no call met the server's end");
    assert!(confirmed.len() > 10, "{}", confirmed.len());
    let patient = open(&server, "t");
    for n in confirmed {
        assert_eq!(load(&patient, n), Some(row(1)), "row {n} was confirmed");
    }
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_within_the_deadline() {
    let Some(server) = Server::start(&[]) else { return };
    let store = impatient(&server);
    assert!(soon(|| commit(&store, &[put(1, row(1))]).is_ok()));
    server.freeze(true);
    let start = Instant::now();
    for _ in 0..3 {
        let e = block_on(store.load(&id(1))).unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
    }
    assert_eq!(kind(commit(&store, &[update(1, 1, row(2))])), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    server.freeze(false);
    recovers(&store, 2);
    // Nobody knows what became of it.
    assert!(matches!(load(&store, 1).unwrap().version, 1 | 2));
}

#[test]
fn calls_are_answered_when_their_store_was_made_inside_a_runtime() {
    let Some(server) = Server::any() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // Without a driver for time or sockets: the store brings its own.
        builder(&server, "t").migrate().await.unwrap();
        let store = builder(&server, "t").open().await.unwrap();
        let other = builder(&server, "t").open().await.unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(other.load(&id(1)).await.unwrap(), Some(row(1)));
        drop(store);
        other.close().await.unwrap();
        other.close().await.unwrap();
        assert_eq!(kind(other.load(&id(1)).await), StoreErrorKind::Closed);
    });
}

#[test]
fn a_database_of_the_app_is_used_and_left_open() {
    let Some(server) = Server::any() else { return };
    server.ask(async |database| {
        let builder = MongoStore::from_database(database.clone()).collection(&server.name("t")).unwrap();
        builder.migrate().await.unwrap();
        let store = builder.deadline(BOUND).open().await.unwrap();
        assert_eq!(store.commit(NOW, &[insert(1, row(1))]).await.unwrap(), [Outcome::Done]);
        store.close().await.unwrap();
        assert_eq!(kind(store.load(&id(1)).await), StoreErrorKind::Closed);
        drop(store);
        database.run_command(mongodb::bson::doc! { "ping": 1 }).await
    });
}
