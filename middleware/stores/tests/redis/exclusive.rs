//! The only writer: its lease, what it may not do without it, and an engine's journal in front of it.

use std::time::Duration;

use sessile_engine::{Delivery, Durability, Engine, Token};

use super::*;

fn exclusive(server: &Server) -> Result<RedisStore, StoreError> {
    RedisStore::builder(&server.url()).deadline(Duration::from_millis(500)).exclusive().connect()
}

#[test]
fn nobody_else_opens_what_one_engine_writes() {
    let Some(server) = Server::start() else { return };
    let first = exclusive(&server).unwrap();
    assert!(first.capabilities().exclusive);
    assert_eq!(kind(exclusive(&server)), StoreErrorKind::Locked);
    assert_eq!(kind(RedisStore::connect(&server.url())), StoreErrorKind::Locked, "nor to share it");
    RedisStore::builder(&server.url()).prefix("other:").exclusive().connect().unwrap();
    done(&first, &[put(1, row(1))]);
    block_on(first.close()).unwrap();
    let second = exclusive(&server).unwrap();
    assert_eq!(load(&second, 1), Some(row(1)));
    done(&second, &[put(1, row(2))]);
    block_on(second.close()).unwrap();
    assert!(!open(&server).capabilities().exclusive);
}

#[test]
fn a_lease_is_renewed_while_the_store_lives_and_runs_out_after_it() {
    let Some(server) = Server::start() else { return };
    let short = || RedisStore::builder(&server.url()).exclusive_for(Duration::from_millis(400)).connect();
    let first = short().unwrap();
    let locked =
        |result: Result<RedisStore, StoreError>| result.is_err_and(|e| e.kind() == StoreErrorKind::Locked);
    // It is asked until the first lease has run out more than twice over.
    let mut tries = 0;
    assert!(soon(|| {
        tries += 1;
        std::thread::sleep(Duration::from_millis(20));
        server.ask::<i64>(&["EXISTS", "sessile:lease"]) == 1 && tries > 50
    }));
    assert!(locked(short()));
    // As a crash: nobody gives the lease back.
    drop(first);
    let mut second = None;
    assert!(soon(|| {
        second = short().ok();
        second.is_some()
    }));
    done(second.as_ref().unwrap(), &[put(1, row(1))]);
}

#[test]
fn who_lost_the_lease_to_another_writes_nothing_more() {
    let Some(server) = Server::start() else { return };
    let first = exclusive(&server).unwrap();
    done(&first, &[put(1, row(1))]);
    // As if it had been cut off for longer than the lease.
    let _: i64 = server.ask(&["DEL", "sessile:lease"]);
    let second = exclusive(&server).unwrap();
    done(&second, &[put(1, row(2))]);
    assert_eq!(kind(commit(&first, &[put(1, row(9))])), StoreErrorKind::Locked);
    assert_eq!(kind(block_on(first.expire(u64::MAX, 0, 10))), StoreErrorKind::Locked);
    block_on(second.close()).unwrap();
    assert_eq!(kind(commit(&first, &[put(1, row(9))])), StoreErrorKind::Locked, "not even when it is free");
    assert_eq!(server.ask::<i64>(&["EXISTS", "sessile:lease"]), 0);
    block_on(first.close()).unwrap();
    assert_eq!(load(&open(&server), 1), Some(row(2)));
}

/// Who lost it to nobody goes on: an outage that was longer than the lease is no reason to stop.
#[test]
fn a_lease_that_ran_out_unseen_is_taken_up_again() {
    let Some(mut server) = Server::start() else { return };
    let store = exclusive(&server).unwrap();
    let _: i64 = server.ask(&["DEL", "sessile:lease"]);
    done(&store, &[put(1, row(1))]);
    server.restart();
    assert!(soon(|| commit(&store, &[put(1, row(2))]).is_ok()), "the server came back empty");
    assert_eq!(load(&store, 1), Some(row(2)));
}

/// A commit that its caller gave up and wrote again must not be made after what followed it.
#[test]
fn a_commit_that_comes_late_is_not_made() {
    let Some(server) = Server::start() else { return };
    let relay = Relay::to(server.port());
    // No renewal of the lease disturbs the count of scripts.
    let builder = RedisStore::builder(&relay.url()).deadline(Duration::from_millis(300));
    let store = builder.exclusive_for(Duration::from_secs(3600)).connect().unwrap();
    let scripts = || {
        let stats: String = server.ask(&["INFO", "commandstats"]);
        let lines = stats.lines().filter(|line| line.starts_with("cmdstat_eval"));
        let calls =
            lines.filter_map(|line| line.split_once("calls=")?.1.split_once(',')?.0.parse::<u64>().ok());
        calls.sum::<u64>()
    };
    for round in 0..3_u64 {
        done(&store, &[put(1, row(10 * round + 1))]);
        relay.hold();
        assert_eq!(kind(commit(&store, &[put(1, row(10 * round + 2))])), StoreErrorKind::Unavailable);
        let newest = row(10 * round + 3);
        assert!(soon(|| commit(&store, &[put(1, newest.clone())]).is_ok()), "over another connection");
        let before = scripts();
        relay.release();
        assert!(soon(|| scripts() > before), "the late commit has reached the server");
        assert_eq!(load(&store, 1), Some(newest));
    }
}

fn engine(server: &Server, journal: &std::path::Path) -> sessile_engine::Result<Engine> {
    let store = exclusive(server).map_err(sessile_engine::Error::from)?;
    Engine::builder().journal(journal).durability(Durability::process_crash()).open(store)
}

fn write(engine: &Engine, token: Option<&Token>, value: u32) -> Option<Token> {
    let session = block_on(engine.session(token)).unwrap();
    session.put("n", &value).unwrap();
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => Some(issue.token),
        _ => None,
    }
}

fn read(engine: &Engine, token: &Token) -> Option<u32> {
    block_on(engine.session(Some(token))).unwrap().get("n").unwrap()
}

/// Needs no server to be up: neither for writes, nor for what is read of sessions in memory.
#[test]
fn with_a_journal_writes_go_on_without_the_server_and_reach_it_later() {
    let args = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start_with(None, &args) else { return };
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let first = engine(&server, &journal).unwrap();
    let old = write(&first, None, 1).unwrap();
    block_on(first.checkpoint()).unwrap();

    server.kill();
    let new: Vec<_> = (0..50).map(|n| write(&first, None, n).unwrap()).collect();
    write(&first, Some(&old), 2);
    for (n, token) in (0..).zip(&new) {
        assert_eq!(read(&first, token), Some(n), "while the server is down");
    }
    assert_eq!(read(&first, &old), Some(2));

    server.restart();
    assert!(soon(|| block_on(first.checkpoint()).is_ok()), "the server never got them");
    let ids: Vec<String> = server.ask(&["KEYS", "sessile:s:*"]);
    assert_eq!(ids.len(), 51);
    block_on(first.close()).unwrap();

    // Another engine without the first one's journal finds all of it on the server.
    let second = engine(&server, &dir.path().join("another")).unwrap();
    for (n, token) in (0..).zip(&new) {
        assert_eq!(read(&second, token), Some(n));
    }
    assert_eq!(read(&second, &old), Some(2));
    block_on(second.close()).unwrap();
}

/// The process ends while the server is down; the next one has what was accepted.
#[test]
fn what_was_accepted_without_the_server_is_replayed_by_the_next_process() {
    let args = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = Server::start_with(None, &args) else { return };
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let first = engine(&server, &journal).unwrap();
    let old = write(&first, None, 1).unwrap();
    block_on(first.checkpoint()).unwrap();
    server.kill();
    write(&first, Some(&old), 7);
    let new = write(&first, None, 8).unwrap();
    // It cannot reach the server any more, and says so; the journal keeps what is due.
    let _ = block_on(first.close());
    drop(first);
    server.restart();
    let _: i64 = server.ask(&["DEL", "sessile:lease"]);
    let second = engine(&server, &journal).unwrap();
    assert_eq!((read(&second, &old), read(&second, &new)), (Some(7), Some(8)));
    block_on(second.checkpoint()).unwrap();
    let ids: Vec<String> = server.ask(&["KEYS", "sessile:s:*"]);
    assert_eq!(ids.len(), 2);
}
