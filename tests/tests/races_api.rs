//! Logouts, renewals, merges and flash messages against each other, from many clients at once over real sockets:
//! nothing that ended comes back, a message is delivered at most once, and of a merge exactly one gets the data.
//!
//! `SESSILE_RACE_ROUNDS` sets the rounds (50), `SESSILE_SEED` repeats a run. The random waits choose which
//! interleavings are met; the verdict never depends on them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sessile_tests::{Client, Jar, Response, Rng, Server, Store};
use tempfile::TempDir;

fn rounds() -> u64 {
    sessile_tests::env_number("SESSILE_RACE_ROUNDS", 50)
}

/// Sends each client its path at the same moment, after a random wait: none, less than a millisecond, or about as long as a renewal
/// takes; the answers in
/// the same order.
fn at_once(rng: &mut Rng, requests: &mut [(Client, String)]) -> Vec<Response> {
    let barrier = Barrier::new(requests.len());
    let spread = [0, 800, 20_000][rng.index(3)];
    thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter_mut()
            .map(|(c, path)| {
                let (barrier, wait) = (&barrier, Duration::from_micros(rng.between(0, spread)));
                // Connected before it counts.
                c.raw("/healthz", &[]).ok();
                scope.spawn(move || {
                    barrier.wait();
                    thread::sleep(wait);
                    c.get(path)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn with_value(server: &Server, value: &str) -> Client {
    let mut c = server.client();
    c.get(&format!("/put?key=user&value={value}")).ok();
    c
}

fn logged_in(server: &Server, owner: &str) -> Client {
    let mut c = server.client();
    c.get(&format!("/login?owner={owner}")).ok();
    c
}

/// What a client with this token sees under `user`.
fn user(server: &Server, token: &Jar) -> String {
    Client::with(server.address(), token.clone()).get("/get?key=user").ok()
}

fn has_owner(server: &Server, token: &Jar) -> bool {
    match Client::with(server.address(), token.clone()).get("/sessions").status {
        200 => true,
        403 => false,
        status => panic!("{status}"),
    }
}

fn ok_or_gone(answers: &[Response]) {
    for r in answers {
        assert!(matches!(r.status, 200 | 403 | 410), "{} {}", r.status, r.body);
    }
}

/// A server on a file, so that what comes back after a restart is looked at as well.
fn on_file(dir: &TempDir) -> Server {
    Server::start(Store::Redb(dir.path().join("s.redb")), &["--show-token"])
}

// ---- Merge -----------------------------------------------------------------------------------------

#[test]
fn of_racing_merges_exactly_one_gets_the_data() {
    let dir = TempDir::new().unwrap();
    let (mut server, mut rng) = (on_file(&dir), Rng::announced("merge"));
    let mut dead = Vec::new();
    for round in 0..rounds() {
        let other = with_value(&server, "ada");
        let path = format!("/merge?token={}", other.jar.token().unwrap());
        let mut requests: Vec<(Client, String)> = (0..8)
            .map(|i| {
                let mut c = server.client();
                // Half of them merge into a session that exists, half into one that the merge begins.
                if i % 2 == 0 {
                    c.get("/put?key=own&value=x").ok();
                }
                (c, path.clone())
            })
            .collect();
        let answers = at_once(&mut rng, &mut requests);
        let mut done = 0;
        for ((c, _), r) in requests.iter_mut().zip(answers) {
            match r.ok().as_str() {
                "done" => {
                    done += 1;
                    assert_eq!(c.get("/get?key=user").ok(), "ada", "round {round}: merged and not there");
                }
                "absent" => assert_eq!(c.get("/get?key=user").ok(), "", "round {round}: twice"),
                answer => panic!("{answer}"),
            }
        }
        assert_eq!(done, 1, "round {round}");
        assert_eq!(user(&server, &other.jar), "", "round {round}: the merged session is over");
        dead.push(other.jar);
    }
    server.kill();
    server.restart();
    assert!(dead.iter().all(|token| user(&server, token).is_empty()), "back after a restart");
}

#[test]
fn merge_against_renew_destroy_and_flash_leaves_one_copy_at_most() {
    let dir = TempDir::new().unwrap();
    let (server, mut rng) = (on_file(&dir), Rng::announced("merge against the rest"));
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..rounds() {
        let end = if round % 2 == 0 { "/renew" } else { "/destroy" };
        let other = with_value(&server, "ada");
        let merger = with_value(&server, "own");
        let path = format!("/merge?token={}", other.jar.token().unwrap());
        let mut requests = [
            (merger, path),
            (other.clone_jar(), end.to_owned()),
            (other.clone_jar(), "/flash?message=m".to_owned()),
        ];
        let answers = at_once(&mut rng, &mut requests);
        ok_or_gone(&answers);
        assert_eq!(user(&server, &other.jar), "", "round {round}: the old token is dead in any case");
        let [(merger, _), (ender, _), (flasher, _)] = &requests;
        let here = user(&server, &merger.jar) == "ada";
        assert_eq!(here, answers[0].body == "done", "round {round}: {}", answers[0].body);
        let elsewhere = [ender, flasher]
            .into_iter()
            .filter(|c| c.jar != other.jar && user(&server, &c.jar) == "ada")
            .count();
        let copies = usize::from(here) + elsewhere;
        assert!(copies <= 1, "round {round}: {copies} copies");
        if end == "/destroy" {
            assert_eq!(elsewhere, 0, "round {round}: destroyed, and not");
        }
        if end == "/renew" {
            assert_eq!(copies, 1, "round {round}: neither ended it, so the data is somewhere");
        }
        let how = match answers[0].status {
            200 if here => "merged",
            200 => "ended first",
            _ => "busy",
        };
        *seen.entry(how).or_default() += 1;
    }
    println!("merge against the rest: {seen:?}");
}

#[test]
fn two_sessions_that_merge_each_other_keep_all_data_once() {
    let dir = TempDir::new().unwrap();
    let (server, mut rng) = (on_file(&dir), Rng::announced("merge each other"));
    for round in 0..rounds() {
        let (mut a, mut b) = (server.client(), server.client());
        a.get("/put?key=a&value=1").ok();
        b.get("/put?key=b&value=2").ok();
        let (jar_a, jar_b) = (a.jar.clone(), b.jar.clone());
        let path = |jar: &Jar| format!("/merge?token={}", jar.token().unwrap());
        let mut requests = [(a, path(&jar_b)), (b, path(&jar_a))];
        let answers = at_once(&mut rng, &mut requests);
        ok_or_gone(&answers);
        let copies = |key: &str| {
            [&jar_a, &jar_b, &requests[0].0.jar, &requests[1].0.jar]
                .into_iter()
                .filter_map(Jar::token)
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .filter(|token| {
                    let mut c = Client::with(server.address(), Jar::with(token));
                    !c.get(&format!("/get?key={key}")).ok().is_empty()
                })
                .count()
        };
        let bodies: Vec<&str> = answers.iter().map(|r| r.body.as_str()).collect();
        assert_eq!((copies("a"), copies("b")), (1, 1), "round {round}: {bodies:?}");
    }
}

// ---- Flash messages --------------------------------------------------------------------------------

fn count_messages(body: &str, delivered: &mut BTreeMap<String, u64>) {
    for message in serde_json::from_str::<Vec<Value>>(body).unwrap() {
        *delivered.entry(message["message"].as_str().unwrap().to_owned()).or_default() += 1;
    }
}

#[test]
fn every_message_is_delivered_exactly_once() {
    let server = Server::start(Store::Memory, &[]);
    let mut rng = Rng::announced("flash");
    let mut c = with_value(&server, "ada");
    for round in 0..rounds() {
        let mut requests: Vec<(Client, String)> = (0..12)
            .map(|i| {
                let path = if i % 2 == 0 { format!("/flash?message=m{i}") } else { "/flashes".to_owned() };
                (c.clone_jar(), path)
            })
            .collect();
        let mut delivered = BTreeMap::new();
        for (i, r) in at_once(&mut rng, &mut requests).into_iter().enumerate() {
            let body = r.ok();
            if i % 2 == 1 {
                count_messages(&body, &mut delivered);
            }
        }
        count_messages(&c.get("/flashes").ok(), &mut delivered);
        let expected = (0..12).step_by(2).map(|i| (format!("m{i}"), 1)).collect();
        assert_eq!(delivered, expected, "round {round}");
    }
}

#[test]
fn across_renewals_and_merges_a_message_is_delivered_at_most_once() {
    let dir = TempDir::new().unwrap();
    let (server, mut rng) = (on_file(&dir), Rng::announced("flash across renewals"));
    for round in 0..rounds() {
        let mut c = with_value(&server, "ada");
        for i in 0..4 {
            c.get(&format!("/flash?message=m{i}")).ok();
        }
        let merge = format!("/merge?token={}", c.jar.token().unwrap());
        let mut requests = vec![(c.clone_jar(), "/renew".to_owned()), (with_value(&server, "bob"), merge)];
        requests.extend((0..4).map(|_| (c.clone_jar(), "/flashes".to_owned())));
        let answers = at_once(&mut rng, &mut requests);
        ok_or_gone(&answers);
        let mut delivered = BTreeMap::new();
        for r in answers.iter().skip(2).filter(|r| r.status == 200) {
            count_messages(&r.body, &mut delivered);
        }
        // What is left went with the data, to the new token or to the other session.
        for (c, _) in requests.iter_mut().take(2) {
            let r = c.get("/flashes");
            if r.status == 200 {
                count_messages(&r.body, &mut delivered);
            }
        }
        let expected: BTreeMap<String, u64> = (0..4).map(|i| (format!("m{i}"), 1)).collect();
        assert!(
            delivered.iter().all(|(m, n)| *n == 1 && expected.contains_key(m)),
            "round {round}: {delivered:?}"
        );
        let read = answers[2..].iter().all(|r| r.status == 200);
        assert!(
            !read || delivered == expected,
            "round {round}: lost although no reader failed: {delivered:?}"
        );
    }
}

// ---- Owners ----------------------------------------------------------------------------------------

#[test]
fn a_logout_everywhere_reaches_sessions_that_are_being_renewed() {
    let dir = TempDir::new().unwrap();
    let (mut server, mut rng) = (on_file(&dir), Rng::announced("logout everywhere"));
    let mut dead: Vec<Jar> = Vec::new();
    for round in 0..rounds() {
        let owner = format!("ada{round}");
        let mut requests: Vec<(Client, String)> = ["/renew", "/rotate", "/put", "/flash?message=m", "/renew"]
            .into_iter()
            .map(|path| (logged_in(&server, &owner), path.to_owned()))
            .collect();
        let mut tokens: Vec<Jar> = requests.iter().map(|(c, _)| c.jar.clone()).collect();
        requests.push((logged_in(&server, &owner), "/logout-everywhere".to_owned()));
        tokens.push(requests[5].0.jar.clone());
        let answers = at_once(&mut rng, &mut requests);
        ok_or_gone(&answers);
        assert_eq!(answers[5].status, 200);
        tokens.extend(requests.iter().map(|(c, _)| c.jar.clone()).filter(|jar| jar.token().is_some()));
        for token in &tokens {
            assert!(!has_owner(&server, token), "round {round}: logged out everywhere, and still there");
        }
        dead.extend(tokens);
    }
    server.kill();
    server.restart();
    assert!(dead.iter().all(|token| !has_owner(&server, token)), "back after a restart");
}

#[test]
fn a_revoked_session_lives_on_only_under_a_token_of_a_renewal() {
    let dir = TempDir::new().unwrap();
    let (mut server, mut rng) = (on_file(&dir), Rng::announced("revoke"));
    let mut dead: Vec<Jar> = Vec::new();
    let (mut revoked, mut renewed) = (0, 0);
    for round in 0..rounds() {
        let owner = format!("ada{round}");
        let admin = logged_in(&server, &owner);
        let mut victim = logged_in(&server, &owner);
        victim.get("/put?key=user&value=ada").ok();
        let sessions: Vec<Value> = serde_json::from_str(&victim.get("/sessions").ok()).unwrap();
        let id = sessions.iter().find(|s| s["current"] == true).unwrap()["id"].as_str().unwrap().to_owned();
        let mut requests = [
            (admin, format!("/revoke?id={id}")),
            (victim.clone_jar(), "/renew".to_owned()),
            (victim.clone_jar(), "/flash?message=late".to_owned()),
            (victim.clone_jar(), "/count".to_owned()),
        ];
        let answers = at_once(&mut rng, &mut requests);
        ok_or_gone(&answers);
        assert!(!has_owner(&server, &victim.jar), "round {round}: the old token is dead in any case");
        for (c, path) in &requests[2..] {
            // A late write began a session of its own, which is nobody's.
            assert!(!has_owner(&server, &c.jar), "round {round}: {path}");
        }
        let (victim_now, _) = &requests[1];
        let alive = victim_now.jar != victim.jar && has_owner(&server, &victim_now.jar);
        if alive {
            renewed += 1;
            assert_eq!(user(&server, &victim_now.jar), "ada", "round {round}: with all its data");
        } else {
            revoked += 1;
            assert_ne!(user(&server, &victim_now.jar), "ada", "round {round}");
            dead.push(victim_now.jar.clone());
        }
        assert!(alive || answers[0].status == 200, "round {round}: refused, and not alive");
        dead.push(victim.jar);
    }
    println!("revoke: {revoked} revoked, {renewed} renewed first");
    server.kill();
    server.restart();
    assert!(dead.iter().all(|token| !has_owner(&server, token)), "back after a restart");
}

#[test]
fn logins_at_once_never_exceed_the_limit() {
    let mut rng = Rng::announced("limit");
    for (when_full, all_succeed) in [("refuse", false), ("drop-oldest", true)] {
        let server = Server::start(Store::Memory, &["--max-sessions", "3", "--when-full", when_full]);
        for round in 0..rounds() / 2 {
            let mut requests: Vec<(Client, String)> =
                (0..8).map(|_| (server.client(), format!("/login?owner=ada{round}"))).collect();
            let answers = at_once(&mut rng, &mut requests);
            ok_or_gone(&answers);
            assert!(!all_succeed || answers.iter().all(|r| r.status == 200), "round {round}");
            let alive = requests.iter().filter(|(c, _)| has_owner(&server, &c.jar)).count();
            assert_eq!(alive, 3, "round {round}, {when_full}");
        }
    }
}
