//! Work on a store that is well.

use std::time::{Duration, Instant};

use sessile_tests::Rng;

use crate::nodes::{Nodes, Visitor, scale, turn};
use crate::{cluster_server, redis_server, sql_server};

const SESSIONS: usize = 50;
const THREADS: u64 = 8;

fn on_redis(test: impl Fn(&str, &Nodes)) {
    let _turn = turn();
    let Some(server) = redis_server::Server::start() else { return };
    test("redis", &Nodes::start(&server.url(), &[]));
}

fn on_cluster(test: impl Fn(&str, &Nodes)) {
    let _turn = turn();
    let Some(cluster) = cluster_server::Cluster::start() else { return };
    test("redis cluster", &Nodes::start(&cluster.url(), &[]));
}

fn on_postgres(test: impl Fn(&str, &Nodes)) {
    let _turn = turn();
    let Some(server) = sql_server::postgres::Server::start() else { return };
    test("postgres", &Nodes::start(&server.url("postgres"), &[]));
}

#[test]
fn every_answered_put_on_redis_is_there() {
    on_redis(puts);
}

#[test]
fn every_answered_put_on_a_cluster_is_there() {
    on_cluster(puts);
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
fn counters_on_a_cluster_are_exact() {
    on_cluster(counts);
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
fn p3_a_logout_on_a_cluster_is_honoured_everywhere() {
    on_cluster(logouts);
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
            session.sure(0, "/put?key=first&value=1");
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
                mine[session].anywhere(&mut rng, &format!("/put?key={key}&value={i}"));
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
            session.sure(1, "/put?key=first&value=2");
            let found: Vec<String> = serde_json::from_str(&session.sure(1, "/keys")).unwrap();
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
        session.sure(0, "/put?key=first&value=1");
    }
    let owned: Vec<Vec<Visitor>> =
        (0..THREADS).map(|_| sessions.iter().map(Visitor::again).collect()).collect();
    let owned = std::sync::Mutex::new(owned);
    let told = at_once("counters on three nodes", |_, mut rng| {
        let mut mine = owned.lock().unwrap().pop().unwrap();
        let (mut told, mut refused) = (Vec::new(), vec![0_u64; 10]);
        for _ in 0..each {
            let session = rng.index(10);
            let node = mine[session].some_node(&mut rng);
            let response = mine[session].get(node, "/count");
            if response.status == 503 {
                // Counted or not: nobody was told.
                refused[session] += 1;
            } else {
                told.push((session, response.ok().parse::<u64>().unwrap()));
            }
        }
        (told, refused)
    });
    let (mut numbers, mut unknown) = (vec![Vec::new(); 10], vec![0_u64; 10]);
    for (told, refused) in told {
        for (session, n) in told {
            numbers[session].push(n);
        }
        for (all, refused) in unknown.iter_mut().zip(refused) {
            *all += refused;
        }
    }
    let (mut sum, mut refused) = (0, 0);
    for ((numbers, unknown), session) in numbers.iter_mut().zip(unknown).zip(&mut sessions) {
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "each client is told a number of its own");
        let last: u64 = session.sure(1, "/count").parse().unwrap();
        let counted = all as u64 + 1;
        assert!(
            (counted..=counted + unknown).contains(&last),
            "{last} after {counted} and {unknown} refused"
        );
        sum += all;
        refused += unknown;
    }
    println!(
        "three nodes on {store}: {sum} increments of 10 counters, every one counted once ({refused} refused)"
    );
}

/// Logouts on one server while the others are asked for the session again and again.
fn logouts(store: &str, nodes: &Nodes) {
    let each = 250 * scale() / THREADS;
    let addresses = nodes.addresses();
    let mut times: Vec<Duration> = at_once("logouts on three nodes", |n, mut rng| {
        let mut times = Vec::new();
        for round in 0..each {
            let mut user = Visitor::new(&addresses, sessile_tests::Jar::default());
            user.sure(0, &format!("/put?key=user&value={n}-{round}"));
            for node in 0..addresses.len() {
                // Each has it in its cache.
                assert_eq!(user.sure(node, "/get?key=user"), format!("{n}-{round}"));
            }
            let mut thief = user.again();
            let at = rng.index(addresses.len());
            user.sure(at, "/destroy");
            let answered = Instant::now();
            for node in 0..addresses.len() {
                // What it still serves must end within the bound; then it stays so.
                while !thief.sure(node, "/get?key=user").is_empty() {
                    assert!(answered.elapsed() < Duration::from_secs(60), "never honoured on node {node}");
                    // Or the clients keep the store's server from the processors, and measure themselves.
                    std::thread::sleep(Duration::from_millis(1));
                }
                if node != at {
                    times.push(answered.elapsed());
                }
            }
            for node in 0..addresses.len() {
                assert_eq!(thief.sure(node, "/get?key=user"), "", "it came back");
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
