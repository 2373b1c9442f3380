//! Work on a store that is well.

use std::time::{Duration, Instant};

use sessile_tests::Rng;

use crate::nodes::{Nodes, Visitor, scale};
use crate::{redis_server, sql_server};

const SESSIONS: usize = 50;
const THREADS: u64 = 8;

fn on_redis(test: impl Fn(&str, &Nodes)) {
    let Some(server) = redis_server::Server::start() else { return };
    test("redis", &Nodes::start(&server.url(), &[]));
}

fn on_postgres(test: impl Fn(&str, &Nodes)) {
    let Some(server) = sql_server::postgres::Server::start() else { return };
    test("postgres", &Nodes::start(&server.url("postgres"), &[]));
}

#[test]
fn every_answered_put_on_redis_is_there() {
    on_redis(puts);
}

#[test]
fn every_answered_put_on_postgres_is_there() {
    on_postgres(puts);
}

#[test]
fn counters_on_redis_are_exact() {
    on_redis(counts);
}

#[test]
fn counters_on_postgres_are_exact() {
    on_postgres(counts);
}

#[test]
fn p3_a_logout_on_redis_is_honoured_everywhere() {
    on_redis(logouts);
}

#[test]
fn p3_a_logout_on_postgres_is_honoured_everywhere() {
    on_postgres(logouts);
}

/// Runs `work` on several threads, each with its number and its random numbers.
fn at_once<T: Send>(name: &str, work: impl Fn(u64, Rng) -> T + Sync) -> Vec<T> {
    let rng = Rng::announced(name);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (work, rng) = (&work, rng.fork(n));
                scope.spawn(move || work(n, rng))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Unique keys on 50 sessions, sent anywhere.
fn puts(store: &str, nodes: &Nodes) {
    let each = 5_000 * scale() / THREADS;
    let (mut answered, start) = (0, Instant::now());
    // A session holds 1,024 keys.
    let batch = 40_000 / THREADS;
    for from in (0..each).step_by(usize::try_from(batch).unwrap()) {
        let mut sessions: Vec<Visitor> = (0..SESSIONS).map(|_| nodes.client()).collect();
        for session in &mut sessions {
            session.get(0, "/put?key=first&value=1").ok();
        }
        let until = (from + batch).min(each);
        let owned: Vec<Vec<Visitor>> =
            (0..THREADS).map(|_| sessions.iter().map(Visitor::again).collect()).collect();
        let owned = std::sync::Mutex::new(owned);
        let put = at_once("puts on three nodes", |n, mut rng| {
            let mut mine = owned.lock().unwrap().pop().unwrap();
            let mut put = Vec::new();
            for i in from..until {
                let session = rng.index(SESSIONS);
                let key = format!("{n}-{i}");
                mine[session].anywhere(&mut rng, &format!("/put?key={key}&value={i}")).ok();
                put.push((session, key));
            }
            put
        });
        let mut wanted: Vec<Vec<String>> = vec![vec!["first".into()]; SESSIONS];
        for (session, key) in put.into_iter().flatten() {
            wanted[session].push(key);
            answered += 1;
        }
        for (session, mut wanted) in sessions.iter_mut().zip(wanted) {
            wanted.sort_unstable();
            // A server that has just written it knows all of it.
            session.get(1, "/put?key=first&value=2").ok();
            let found: Vec<String> = serde_json::from_str(&session.get(1, "/keys").ok()).unwrap();
            assert_eq!(found, wanted);
        }
    }
    let rate = f64::from(u32::try_from(answered).unwrap()) / start.elapsed().as_secs_f64();
    println!(
        "three nodes on {store}: {answered} answered puts of unique keys on {SESSIONS} sessions, all there ({rate:.0}/s)"
    );
}

/// Increments of 10 counters, sent anywhere.
fn counts(store: &str, nodes: &Nodes) {
    let each = 2_500 * scale() / THREADS;
    let mut sessions: Vec<Visitor> = (0..10).map(|_| nodes.client()).collect();
    for session in &mut sessions {
        session.get(0, "/put?key=first&value=1").ok();
    }
    let owned: Vec<Vec<Visitor>> =
        (0..THREADS).map(|_| sessions.iter().map(Visitor::again).collect()).collect();
    let owned = std::sync::Mutex::new(owned);
    let told = at_once("counters on three nodes", |_, mut rng| {
        let mut mine = owned.lock().unwrap().pop().unwrap();
        let mut told = Vec::new();
        for _ in 0..each {
            let session = rng.index(10);
            let n: u64 = mine[session].anywhere(&mut rng, "/count").ok().parse().unwrap();
            told.push((session, n));
        }
        told
    });
    let mut numbers: Vec<Vec<u64>> = vec![Vec::new(); 10];
    for (session, n) in told.into_iter().flatten() {
        numbers[session].push(n);
    }
    let mut sum = 0;
    for numbers in &mut numbers {
        numbers.sort_unstable();
        assert_eq!(
            *numbers,
            (1..=numbers.len() as u64).collect::<Vec<_>>(),
            "each client is told a number of its own"
        );
        sum += numbers.len();
    }
    println!("three nodes on {store}: {sum} increments of 10 counters, every one counted once");
}

/// Logouts on one server while the others are asked for the session again and again.
fn logouts(store: &str, nodes: &Nodes) {
    let each = 250 * scale() / THREADS;
    let addresses = nodes.addresses();
    let mut times: Vec<Duration> = at_once("logouts on three nodes", |n, mut rng| {
        let mut times = Vec::new();
        for round in 0..each {
            let mut user = Visitor::new(&addresses, sessile_tests::Jar::default());
            user.get(0, &format!("/put?key=user&value={n}-{round}")).ok();
            for node in 0..addresses.len() {
                // Each has it in its cache.
                assert_eq!(user.get(node, "/get?key=user").ok(), format!("{n}-{round}"));
            }
            let mut thief = user.again();
            let at = rng.index(addresses.len());
            user.get(at, "/destroy").ok();
            let answered = Instant::now();
            for node in 0..addresses.len() {
                // What it still serves must end within the bound; then it stays so.
                while thief.get(node, "/get?key=user").ok() != "" {
                    assert!(answered.elapsed() < Duration::from_secs(60), "never honoured on node {node}");
                    // Or the clients keep the store's server from the processors, and measure themselves.
                    std::thread::sleep(Duration::from_millis(1));
                }
                if node != at {
                    times.push(answered.elapsed());
                }
            }
            for node in 0..addresses.len() {
                assert_eq!(thief.get(node, "/get?key=user").ok(), "", "it came back");
            }
        }
        times
    })
    .into_iter()
    .flatten()
    .collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "three nodes on {store}: {} logouts, refused by the other nodes after {:?} (median), {:?} (p99), {:?} (longest)",
        times.len() / (addresses.len() - 1),
        at(500),
        at(990),
        times[times.len() - 1],
    );
}
