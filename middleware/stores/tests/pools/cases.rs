//! What holds for a store over any app's pool.

use std::time::Duration;

use sessile_engine::StoreErrorKind;
use sessile_engine::store::conformance::Subject;
use sessile_engine::store::{Notice, Outcome, Store, Watch};
use sessile_stores::postgres::PostgresStore;

use super::support::postgres::{PASSWORD, Server};
use super::support::{self, id, insert, row, update};
use super::{BOUND, Client, over, run, runtime};

pub(super) fn conformance<C: Client>() {
    let Some(server) = Server::start() else { return };
    let app = runtime();
    let pool = app.block_on(C::pool(&server, 16));
    let version = format!("PostgreSQL {}, real", support::postgres::version());
    // The app's runtime has the pool; the engine calls from threads without one.
    support::conforms(&format!("PostgreSQL, over {}", C::NAME), &version, async |n| {
        let table = format!("case_{n}");
        let open = move |handle: tokio::runtime::Handle, pool: C::Pool, table: String| async move {
            Subject::new(handle.spawn(async move { over::<C>(pool, &table).await }).await.unwrap())
        };
        let again = (app.handle().clone(), pool.clone(), table.clone());
        open(app.handle().clone(), pool.clone(), table).await.reopened_by(move || {
            let (handle, pool, table) = again.clone();
            Box::pin(open(handle, pool, table))
        })
    });
}

/// A pool whose runtime has one thread would stand still whenever the engine is waited for there.
pub(super) fn a_runtime_of_one_thread_is_refused<C: Client>() {
    let Some(server) = Server::start() else { return };
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    one.block_on(async {
        let builder = C::builder(C::pool(&server, 2).await, "t", BOUND);
        assert_eq!(C::migrate(&builder).await.unwrap_err().kind(), StoreErrorKind::Config);
        assert_eq!(C::open(builder).await.unwrap_err().kind(), StoreErrorKind::Config);
    });
}

async fn theirs(server: &Server) -> PostgresStore {
    let builder = PostgresStore::builder(server.url("postgres")).table("t").unwrap().deadline(BOUND);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

async fn is_told(watch: &mut dyn Watch) {
    loop {
        match watch.next().await.unwrap() {
            Notice::Alive => {}
            told => {
                assert_eq!(told, Notice::Changed(vec![id(1)]));
                break;
            }
        }
    }
}

/// An app may change from one client to the other, and two apps may use both at once.
pub(super) fn it_shares_its_tables_with_the_other_client<C: Client>() {
    run(async |server| {
        let ours = over::<C>(C::pool(&server, 8).await, "t").await;
        let theirs = theirs(&server).await;
        let mut told = theirs.watch().await.unwrap();
        let _ = ours.commit(1, &[insert(1, row(1))]).await.unwrap();
        assert_eq!(theirs.load(&id(1)).await.unwrap(), Some(row(1)));
        is_told(&mut *told).await;
        let mut told = ours.watch().await.unwrap();
        assert_eq!(theirs.commit(1, &[update(1, 1, row(2))]).await.unwrap(), [Outcome::Done]);
        assert_eq!(ours.load(&id(1)).await.unwrap().unwrap().version, 2);
        is_told(&mut *told).await;
        assert_eq!(ours.commit(1, &[update(1, 1, row(3))]).await.unwrap(), [Outcome::Conflict { found: 2 }]);
    });
}

/// Writers over the same rows, through both clients: each accepted change is there exactly once.
pub(super) fn writers_in_each_others_way_all_get_through<C: Client>() {
    run(async |server| {
        let ours = over::<C>(C::pool(&server, 8).await, "t").await;
        support::rivals::all_get_through(ours, theirs(&server).await).await;
    });
}

/// Callers that go away at any moment leave no connection with another's answer, and no open transaction.
pub(super) fn calls_that_are_dropped_leave_nothing_behind<C: Client>() {
    run(async |server| {
        let store = over::<C>(C::pool(&server, 3).await, "t").await;
        support::leavers::leave_rows_as_they_were(&store).await;
        assert!(server.is_idle().await, "a transaction was left open");
    });
}

pub(super) fn nobody_gets_the_answer_of_a_caller_who_left<C: Client>() {
    let Some(server) = Server::start() else { return };
    let app = runtime();
    let store = app.block_on(async { over::<C>(C::pool(&server, 8).await, "t").await });
    support::leavers::leave_no_answers(&store, 60);
}

/// A call whose deadline ends inside a transaction: its connection is closed, its locks go, and the next call works.
pub(super) fn a_deadline_ends_a_call_and_its_transaction<C: Client>() {
    run(async |server| {
        let made = over::<C>(C::pool(&server, 1).await, "t").await;
        let _ = made.commit(1, &[insert(1, row(1))]).await.unwrap();
        let builder = C::builder(C::pool(&server, 1).await, "t", Duration::from_millis(300));
        let store = C::open(builder).await.unwrap();
        let (client, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; UPDATE t SET version = version").await.unwrap();
        for _ in 0..3 {
            let e = store.commit(1, &[update(1, 1, row(2))]).await.unwrap_err();
            assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        }
        client.batch_execute("COMMIT").await.unwrap();
        let mut outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        for _ in 0..100 {
            if outcome.is_ok() {
                break;
            }
            outcome = store.commit(1, &[update(1, 1, row(2))]).await;
        }
        // The second if the server had answered one of them too late.
        let outcomes = outcome.unwrap();
        assert!(matches!(outcomes[..], [Outcome::Done | Outcome::Conflict { found: 2 }]), "{outcomes:?}");
    });
}

/// The server ends a connection that waits in the pool: the next calls have another one, and nobody is told.
pub(super) fn a_connection_that_the_server_ended_is_replaced<C: Client>() {
    run(async |server| {
        let store = over::<C>(C::pool(&server, 1).await, "t").await;
        for n in 0..10 {
            let _ = store.commit(1, &[insert(n, row(1))]).await.unwrap();
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
            server.sql("postgres", end);
            assert_eq!(store.load(&id(n)).await.unwrap(), Some(row(1)));
            server.sql("postgres", end);
            assert_eq!(store.commit(1, &[update(n, 1, row(2))]).await.unwrap(), [Outcome::Done]);
        }
    });
}

/// The server is killed and comes back: the failures in between are "unavailable", what was confirmed is there, and the
/// same store works again.
pub(super) fn a_server_that_ends_is_unavailable_and_comes_back<C: Client>() {
    run(async |mut server| {
        let builder = C::builder(C::pool(&server, 4).await, "t", Duration::from_secs(2));
        C::migrate(&builder).await.unwrap();
        let store = C::open(builder).await.unwrap();
        for n in 0..50 {
            assert_eq!(store.commit(1, &[insert(n, row(1))]).await.unwrap(), [Outcome::Done]);
        }
        server.kill();
        let e = store.commit(1, &[insert(99, row(1))]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}");
        server.resume();
        let mut loaded = store.load(&id(0)).await;
        for _ in 0..100 {
            match &loaded {
                Ok(_) => break,
                Err(e) => assert_eq!(e.kind(), StoreErrorKind::Unavailable, "{e}"),
            }
            loaded = store.load(&id(0)).await;
        }
        assert_eq!(loaded.unwrap(), Some(row(1)));
        assert_eq!(store.count().await.unwrap(), Some(50));
    });
}

pub(super) fn it_is_opened_with_its_tables_only<C: Client>() {
    run(async |server| {
        let builder = C::builder(C::pool(&server, 4).await, "absent", BOUND);
        assert_eq!(C::open(builder.clone()).await.unwrap_err().kind(), StoreErrorKind::Config);
        server.sql("postgres", &C::schema_sql(&builder));
        let store = C::open(builder.clone()).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.load(&id(1)).await.unwrap_err().kind(), StoreErrorKind::Closed);
        server.sql("postgres", "UPDATE absent_marks SET value = 2 WHERE name = 'schema'");
        assert_eq!(C::open(builder).await.unwrap_err().kind(), StoreErrorKind::NewerFormat);
    });
}

/// Neither the password nor what a row holds is in what is printed.
pub(super) fn errors_show_no_secret<C: Client>() {
    run(async |mut server| {
        let builder = C::builder(C::pool(&server, 2).await, "t", Duration::from_secs(2));
        C::migrate(&builder).await.unwrap();
        let store = C::open(builder.clone()).await.unwrap();
        assert!(!format!("{store:?} {builder:?}").contains(PASSWORD));
        // A row that the server refuses, and quotes in the detail of its message.
        server.sql("postgres", "ALTER TABLE t ADD CHECK (version < 5)");
        let e = store.commit(1, &[insert(1, row(0x4142_4344))]).await.unwrap_err();
        assert_eq!(e.kind(), StoreErrorKind::Config);
        let source = std::error::Error::source(&e).map(ToString::to_string).unwrap();
        assert!(source.contains("violates check constraint"), "{source}");
        for secret in [PASSWORD, "Failing row", "4443424100000000", &0x4142_4344.to_string()] {
            assert!(!format!("{e} {e:?} {source}").contains(secret), "{secret} in {e:?} {source}");
        }
        server.kill();
        let e = store.load(&id(1)).await.unwrap_err();
        assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e:?}");
    });
}
