//! Many requests at once on one session, over real sockets: nothing is lost, a flash value is delivered once,
//! and a session that was destroyed or renewed never comes back, whatever was in flight.
//!
//! `SESSILE_RACE_ROUNDS` sets the rounds (50), `SESSILE_SEED` repeats a run. The random waits choose which
//! interleavings are met; the verdict never depends on them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the server is measured from outside, by the real clock")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sessile_tests::{Client, Jar, Response, Rng, Server, Store};
use tempfile::TempDir;

const CLIENTS: usize = 64;

fn rounds() -> u64 {
    sessile_tests::env_number("SESSILE_RACE_ROUNDS", 50)
}

/// A session of its own with a first value.
fn signed_in(server: &Server) -> Client {
    let mut c = server.client();
    c.get("/put?key=user&value=ada").ok();
    c
}

/// Sends `path(i)` from 64 connections that are open and let go at the same moment; the answers, by `i`.
fn at_once(clients: &mut [Client], path: impl Fn(usize) -> String + Sync) -> Vec<Response> {
    let barrier = Barrier::new(clients.len());
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(i, c)| {
                let (barrier, path) = (&barrier, path(i));
                scope.spawn(move || {
                    barrier.wait();
                    c.get(&path)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// 64 clients of one session, connected.
fn crowd(of: &Client) -> Vec<Client> {
    (0..CLIENTS)
        .map(|_| {
            let mut c = of.clone_jar();
            c.get("/healthz").ok();
            c
        })
        .collect()
}

// ---- Updates ---------------------------------------------------------------------------------------

#[test]
fn every_increment_counts_once() {
    let server = Server::start(Store::Memory, &[]);
    let mut c = signed_in(&server);
    let mut clients = crowd(&c);
    for _ in 0..rounds() {
        let mut seen: Vec<usize> = at_once(&mut clients, |_| "/count".to_owned())
            .into_iter()
            .map(|r| r.ok().parse().unwrap())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=CLIENTS).collect::<Vec<_>>(), "each client is told a number of its own");
        assert_eq!(c.get("/pop?key=count").ok(), CLIENTS.to_string());
    }
}

#[test]
fn no_key_of_a_concurrent_request_is_lost() {
    let server = Server::start(Store::Memory, &[]);
    for round in 0..rounds() {
        let mut c = signed_in(&server);
        for r in at_once(&mut crowd(&c), |i| format!("/put?key=key{i}&value=round{round}-{i}")) {
            assert_eq!(r.set_cookie(), None);
            r.ok();
        }
        let keys: Vec<String> = serde_json::from_str(&c.get("/keys").ok()).unwrap();
        assert_eq!(keys.len(), CLIENTS + 1, "{keys:?}");
        for i in 0..CLIENTS {
            assert_eq!(c.get(&format!("/get?key=key{i}")).ok(), format!("round{round}-{i}"));
        }
    }
}

#[test]
fn a_flash_value_is_delivered_exactly_once() {
    let server = Server::start(Store::Memory, &[]);
    let mut c = signed_in(&server);
    let mut clients = crowd(&c);
    for round in 0..rounds() {
        c.get(&format!("/put?key=flash&value=round{round}")).ok();
        let answers = at_once(&mut clients, |_| "/pop?key=flash".to_owned());
        let delivered: Vec<String> =
            answers.into_iter().map(Response::ok).filter(|b| !b.is_empty()).collect();
        assert_eq!(delivered, [format!("round{round}")]);
    }
}

#[test]
fn first_writes_without_a_cookie_make_sessions_of_their_own() {
    let server = Server::start(Store::Memory, &[]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for r in at_once(&mut clients, |i| format!("/put?key=i&value={i}")) {
        r.ok();
    }
    for (i, c) in clients.iter_mut().enumerate() {
        assert_eq!(c.get("/get?key=i").ok(), i.to_string());
    }
    assert_eq!(server.stat("cached"), u64::try_from(CLIENTS).unwrap());
}

// ---- Logout and renew ------------------------------------------------------------------------------

/// How a session's old token is made invalid.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Destroy,
    Renew,
}

/// What a round of the race saw.
#[derive(Default)]
struct Seen {
    /// Writers that were told their session is gone.
    revoked: u64,
    /// Writers that wrote before the end.
    written: u64,
    /// Writers whose request began after the end: they got a session of their own.
    fresh: u64,
    /// Old tokens, each dead from now on.
    dead: Vec<Jar>,
}

/// Slow readers and writers, quick writers, and one request that ends the session, all on one session.
fn race(server: &Server, end: End, rng: &mut Rng, seen: &mut Seen) {
    let owner = signed_in(server);
    let old = owner.jar.clone();
    let over = AtomicBool::new(false);

    let (ended, ended_at, successor, mut writers, readers) = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|i| {
                let mut c = owner.clone_jar();
                let ms = rng.between(0, 60);
                scope.spawn(move || {
                    let sent = Instant::now();
                    let r = c.get(&format!("/slow?ms={ms}&key=slow{i}&value=late"));
                    // The handler puts no earlier than this.
                    vec![(format!("slow{i}"), sent + Duration::from_millis(ms), r)]
                })
            })
            .collect();
        let quick: Vec<_> = (0..2)
            .map(|i| {
                let (old, address, over) = (&old, server.address(), &over);
                scope.spawn(move || {
                    let mut c = Client::new(address);
                    let mut answers = Vec::new();
                    let mut n = 0;
                    while !over.load(Ordering::Relaxed) {
                        let key = format!("quick{i}-{n}");
                        let sent = Instant::now();
                        // Always with the old token, as a tab does that missed the news.
                        let header = old.header().unwrap();
                        let r = c.raw(&format!("/put?key={key}&value=late"), &[("cookie", &header)]);
                        answers.push((key, sent, r));
                        n = (n + 1) % 100;
                    }
                    answers
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let mut c = owner.clone_jar();
                let ms = rng.between(0, 60);
                scope.spawn(move || {
                    let sent = Instant::now();
                    let r = c.get(&format!("/slow-get?ms={ms}&key=user"));
                    (sent + Duration::from_millis(ms), r)
                })
            })
            .collect();

        thread::sleep(Duration::from_millis(rng.between(0, 40)));
        let mut c = owner.clone_jar();
        let ended = c.get(if end == End::Destroy { "/destroy" } else { "/renew" });
        let ended_at = Instant::now();
        // A while longer, so that writers come after the end too.
        thread::sleep(Duration::from_millis(rng.between(0, 10)));
        over.store(true, Ordering::Relaxed);
        let mut all: Vec<(String, Instant, Response)> = Vec::new();
        for w in writers.into_iter().chain(quick) {
            all.extend(w.join().unwrap());
        }
        let readers: Vec<(Instant, Response)> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        (ended, ended_at, c, all, readers)
    });

    let cookie = ended.set_cookie();
    assert_eq!(ended.status, 200, "{}", ended.body);
    match end {
        End::Destroy => assert!(cookie.unwrap().is_removal()),
        End::Renew => assert_ne!(cookie.unwrap().value, old.token().unwrap()),
    }

    let mut kept = Vec::new();
    for (key, not_before, r) in writers.drain(..) {
        match (r.status, r.set_cookie()) {
            // The request came after the end: an empty session, and its first write made it a new one.
            (200, Some(cookie)) => {
                assert!(!cookie.is_removal());
                assert_ne!(cookie.value, old.token().unwrap(), "{end:?}: the old token was issued again");
                assert_ne!(
                    Some(cookie.value.as_str()),
                    successor.jar.token(),
                    "{end:?}: one token, two clients"
                );
                seen.fresh += 1;
            }
            // Written into the session that was, and so before its end.
            (200, None) => {
                assert!(not_before < ended_at, "{end:?}: {key} was accepted after the end was answered");
                kept.push(key);
                seen.written += 1;
            }
            (410, cookie) => {
                assert_eq!(cookie, None, "{end:?}: a cookie for a session that is gone");
                seen.revoked += 1;
            }
            (status, _) => panic!("{end:?}: {key}: {status} {}", r.body),
        }
    }
    for (not_before, r) in readers {
        assert_eq!(r.set_cookie(), None, "{end:?}: a reader got a cookie");
        assert!(r.status == 200 || r.status == 410, "{end:?}: {} {}", r.status, r.body);
        let read = r.status == 200 && !r.body.is_empty();
        assert!(!read || not_before < ended_at, "{end:?}: read after the end was answered: {}", r.body);
        assert!(!read || r.body == "ada", "{end:?}: {}", r.body);
    }

    for _ in 0..3 {
        assert_dead(server, &old);
        thread::sleep(Duration::from_millis(rng.between(0, 3)));
    }
    if end == End::Renew {
        let mut c = successor;
        assert_eq!(c.get("/get?key=user").ok(), "ada", "the data follows the new token");
        let keys: Vec<String> = serde_json::from_str(&c.get("/keys").ok()).unwrap();
        for key in kept {
            assert!(keys.contains(&key), "{key} was acknowledged before the renewal and is not there");
        }
    }
    seen.dead.push(old);
}

fn assert_dead(server: &Server, token: &Jar) {
    let mut c = server.client();
    let header = token.header().unwrap();
    let headers = [("cookie", header.as_str())];
    assert_eq!(c.raw("/get?key=user", &headers).ok(), "", "a dead token reads");
    assert_eq!(c.raw("/keys", &headers).ok(), "[]", "a dead token lists");
    let r = c.raw("/put?key=back&value=again", &headers);
    assert_eq!(r.status, 200, "{}", r.body);
    assert_ne!(r.set_cookie().expect("a session of its own").value, token.token().unwrap());
}

fn never_comes_back(end: End) {
    let dir = TempDir::new().unwrap();
    let mut rng = Rng::announced(&format!("{end:?}"));
    let mut server = Server::start(Store::Redb(dir.path().join("s.redb")), &[]);
    let mut seen = Seen::default();
    for round in 0..rounds() {
        race(&server, end, &mut rng, &mut seen);
        // By a crash and in good order, in turn: no late flush may have written a dead session.
        if round % 10 == 4 || round + 1 == rounds() {
            server.kill();
            server.restart();
        } else if round % 10 == 9 {
            assert!(server.terminate().success());
            server.restart();
        } else {
            continue;
        }
        for token in &seen.dead {
            assert_dead(&server, token);
        }
    }
    let Seen { revoked, written, fresh, dead } = seen;
    println!(
        "{end:?}: {} rounds: {written} writes before the end, {revoked} refused, {fresh} in new sessions; 0 of {} \
         old tokens alive",
        rounds(),
        dead.len()
    );
    assert!(revoked > 0 && written > 0 && fresh > 0, "the rounds met only some of the interleavings");
}

#[test]
fn a_destroyed_session_never_comes_back() {
    never_comes_back(End::Destroy);
}

#[test]
fn a_renewed_sessions_old_token_never_comes_back() {
    never_comes_back(End::Renew);
}

#[test]
fn of_concurrent_renewals_one_token_lives() {
    let server = Server::start(Store::Memory, &[]);
    for round in 0..rounds() {
        let owner = signed_in(&server);
        let mut clients: Vec<Client> = (0..8).map(|_| owner.clone_jar()).collect();
        let answers = at_once(&mut clients, |_| "/renew".to_owned());
        for r in &answers {
            assert!(matches!(r.status, 200 | 410), "round {round}: {} {}", r.status, r.body);
        }
        let mut tokens: Vec<String> = answers
            .iter()
            .filter_map(Response::set_cookie)
            .filter(|cookie| !cookie.is_removal())
            .map(|cookie| cookie.value)
            .filter(|token| {
                Client::with(server.address(), Jar::with(token)).get("/get?key=user").ok() == "ada"
            })
            .collect();
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "round {round}: the session has one token");
        assert_dead(&server, &owner.jar);
    }
}

#[test]
fn renew_and_destroy_at_once_leave_nothing_under_the_old_token() {
    let server = Server::start(Store::Memory, &[]);
    for round in 0..rounds() {
        let owner = signed_in(&server);
        let mut clients: Vec<Client> = (0..4).map(|_| owner.clone_jar()).collect();
        let answers =
            at_once(&mut clients, |i| if i % 2 == 0 { "/renew".to_owned() } else { "/destroy".to_owned() });
        for r in &answers {
            assert!(matches!(r.status, 200 | 410), "round {round}: {} {}", r.status, r.body);
        }
        for _ in 0..3 {
            assert_dead(&server, &owner.jar);
        }
    }
}
