//! One of three servers is cut off from the store, in a network namespace: packets vanish in both directions, and its
//! clients still reach it.

use std::time::{Duration, Instant};

use sessile_tests::{Jar, Rng, Server, Store};

use crate::nodes::{Visitor, scale, turn};
use crate::sql_server::namespace::{NETWORK, Namespace};
use crate::{redis_server, sql_server};

/// The one that is cut off.
const CUT: usize = 2;
const MAX_STALENESS: Duration = Duration::from_secs(3);
/// Between two requests of a client: a session has room for a thousand keys.
const PAUSE: Duration = Duration::from_millis(50);

/// Two servers beside the store and one in the namespace.
fn start(namespace: &Namespace, near: &str, far: &str) -> Vec<Server> {
    let flags = ["--log", "error"];
    let listen = format!("{}:0", namespace.inside());
    let inside = Server::start_by(&namespace.command(), &listen, Store::Remote(far.to_owned()), &flags);
    let beside = || Server::start(Store::Remote(near.to_owned()), &flags);
    vec![beside(), beside(), inside]
}

/// What the server that is cut off does with one session.
#[derive(Default)]
struct Seen {
    /// How long it still served what it had.
    served: Duration,
    refused: u32,
    /// Writes that it answered.
    written: Vec<String>,
}

fn hammer(client: &mut Visitor, name: &str, round: usize, cut: Instant, until: Instant) -> Seen {
    let (mut seen, mut n) = (Seen::default(), 0);
    while Instant::now() < until {
        let asked = cut.elapsed();
        let read = client.get(CUT, "/get?key=user");
        match read.status {
            200 => {
                assert_eq!(read.body, name, "an empty session in place of an error");
                seen.served = asked;
            }
            status => {
                assert!(matches!(status, 500 | 503), "{status}");
                seen.refused += 1;
            }
        }
        n += 1;
        let key = format!("{round}-cut-{n}");
        match client.get(CUT, &format!("/put?key={key}&value=1")).status {
            200 => seen.written.push(key),
            status => {
                assert!(matches!(status, 500 | 503), "{status}");
                seen.refused += 1;
            }
        }
        std::thread::sleep(PAUSE);
    }
    seen
}

fn partitions(store: &str, namespace: &Namespace, near: &str, far: &str) {
    let servers = start(namespace, near, far);
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    let mut rng = Rng::announced("partitions");
    let lengths: &[u64] = if scale() > 1 { &[2, 5, 10, 30] } else { &[2, 6] };
    let (mut answered, mut refused, mut served) = (0, 0, Duration::ZERO);
    for (round, seconds) in lengths.iter().enumerate() {
        let mut ann = Visitor::new(&addresses, Jar::default());
        let mut bob = Visitor::new(&addresses, Jar::default());
        ann.sure(0, "/put?key=user&value=ann");
        bob.sure(0, "/put?key=user&value=bob");
        for node in 0..3 {
            assert_eq!(ann.sure(node, "/get?key=user"), "ann");
            assert_eq!(bob.sure(node, "/get?key=user"), "bob");
        }
        namespace.cut(true);
        let cut = Instant::now();
        let until = cut + Duration::from_secs(*seconds);
        let mut thief = bob.again();
        let (seen, mut wanted) = std::thread::scope(|scope| {
            let mut there = ann.again();
            let hammered = scope.spawn(move || hammer(&mut there, "ann", round, cut, until));
            // Bob leaves at once; what the server that cannot know still serves of him ends by itself.
            let left = scope.spawn(move || {
                bob.sure(0, "/destroy");
                let mut served = Duration::ZERO;
                while Instant::now() < until {
                    let asked = cut.elapsed();
                    let response = bob.again().get(CUT, "/get?key=user");
                    assert!(matches!(response.status, 200 | 500 | 503), "{response:?}");
                    if response.status == 200 && !response.body.is_empty() {
                        served = asked;
                    }
                    std::thread::sleep(PAUSE);
                }
                served
            });
            // Ann's writes on the two others.
            let mut written = Vec::new();
            let mut n = 0;
            while Instant::now() < until {
                n += 1;
                let key = format!("{round}-{n}");
                ann.sure(rng.index(CUT), &format!("/put?key={key}&value=1"));
                written.push(key);
                std::thread::sleep(PAUSE);
            }
            let seen = hammered.join().unwrap();
            served = served.max(left.join().unwrap()).max(seen.served);
            (seen, written)
        });
        assert!(seen.refused > 0, "it answered writes for {seconds} s without the store");
        namespace.cut(false);
        let healed = Instant::now();
        while ann.get(CUT, "/get?key=user").status != 200 {
            assert!(healed.elapsed() < Duration::from_secs(120), "it never finds the store again");
            std::thread::sleep(Duration::from_millis(20));
        }
        for node in 0..3 {
            assert_eq!(thief.sure(node, "/get?key=user"), "", "who had left is back on {node}");
        }
        refused += seen.refused;
        wanted.extend(seen.written);
        answered += wanted.len();
        // Who has just written knows all that is stored.
        ann.sure(CUT, "/put?key=last&value=1");
        let found: Vec<String> = serde_json::from_str(&ann.sure(CUT, "/keys")).unwrap();
        let lost: Vec<_> = wanted.iter().filter(|key| !found.contains(key)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    println!(
        "one of three nodes cut off from {store} for {lengths:?} s: {answered} answered writes all there, \
         {refused} requests refused there, served for {served:?} at most ({MAX_STALENESS:?} are promised)"
    );
}

#[test]
fn p3_a_server_that_is_cut_off_from_redis_serves_nobody_who_has_left() {
    let _turn = turn();
    let Some(namespace) = Namespace::make() else { return };
    let all = ["--bind", "0.0.0.0", "--protected-mode", "no"];
    let Some(redis) = redis_server::Server::start_with(None, &all) else { return };
    let far = redis.url().replace("127.0.0.1", &namespace.store().to_string());
    partitions("redis", &namespace, &redis.url(), &far);
}

#[test]
fn p3_a_server_that_is_cut_off_from_postgres_serves_nobody_who_has_left() {
    let _turn = turn();
    let Some(namespace) = Namespace::make() else { return };
    let Some(server) = sql_server::postgres::Server::start_for(NETWORK) else { return };
    let near = server.url("postgres");
    let far = near.replace("127.0.0.1", &namespace.store().to_string());
    partitions("postgres", &namespace, &near, &far);
}
