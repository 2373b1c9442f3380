//! The channel between the nodes is cut; the store's server stands still, dies, and comes back empty or not.

use std::time::{Duration, Instant};

use crate::nodes::{Nodes, Visitor, turn};
use crate::redis_server;

/// Until all nodes answer again.
fn recovered(session: &mut Visitor, nodes: usize) {
    let start = Instant::now();
    for node in 0..nodes {
        while session.try_get(node, "/get?key=user").map_or(500, |response| response.status) != 200 {
            assert!(start.elapsed() < Duration::from_secs(60), "node {node} never recovers");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn logged_in(nodes: &Nodes, name: &str) -> Visitor {
    let mut user = nodes.client();
    user.sure(0, &format!("/put?key=user&value={name}"));
    for node in 0..nodes.servers.len() {
        assert_eq!(user.sure(node, "/get?key=user"), name);
    }
    user
}

#[test]
fn p3_a_logout_is_honoured_when_the_channel_is_cut() {
    let _turn = turn();
    let Some(redis) = redis_server::Server::start() else { return };
    let nodes = Nodes::start(&redis.url(), &[]);
    for round in 0..5 {
        let mut user = logged_in(&nodes, "ann");
        let mut thief = user.again();
        // Every connection, those with the notices among them.
        let _: redis::Value = redis.ask(&["CLIENT", "KILL", "TYPE", "NORMAL"]);
        recovered(&mut user, 3);
        user.sure(round % 3, "/destroy");
        let answered = Instant::now();
        for node in 0..3 {
            while !thief.sure(node, "/get?key=user").is_empty() {
                assert!(answered.elapsed() < Duration::from_secs(60), "never honoured on node {node}");
            }
        }
    }
}

#[test]
fn a_server_that_comes_back_empty_has_logged_everybody_out() {
    let _turn = turn();
    let Some(mut redis) = redis_server::Server::start() else { return };
    let nodes = Nodes::start(&redis.url(), &[]);
    let mut user = logged_in(&nodes, "ann");
    redis.restart();
    recovered(&mut user, 3);
    let start = Instant::now();
    for node in 0..3 {
        while !user.sure(node, "/get?key=user").is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "node {node} serves what is not stored");
        }
    }
    let mut user = logged_in(&nodes, "bob");
    assert_eq!(user.sure(2, "/get?key=user"), "bob");
}

#[test]
fn p10_a_server_that_dies_loses_nothing_that_was_answered() {
    let _turn = turn();
    let Some(mut redis) =
        redis_server::Server::start_with(None, &["--appendonly", "yes", "--appendfsync", "always"])
    else {
        return;
    };
    let nodes = Nodes::start(&redis.url(), &[]);
    let mut user = logged_in(&nodes, "ann");
    let (mut answered, mut refused) = (vec!["user".to_owned()], 0);
    for round in 0..3 {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut mine = user.again();
                let start = Instant::now();
                let (mut answered, mut refused, mut n) = (Vec::new(), 0, 0);
                while start.elapsed() < Duration::from_secs(3) {
                    n += 1;
                    let key = format!("{round}-{n}");
                    match mine.try_get(n % 3, &format!("/put?key={key}&value=1")) {
                        Ok(response) if response.status == 200 => answered.push(key),
                        // Never an empty session in place of an error.
                        Ok(response) => {
                            assert!(matches!(response.status, 500 | 503), "{response:?}");
                            refused += 1;
                        }
                        Err(_) => refused += 1,
                    }
                    if answered.len() > 250 {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                (answered, refused)
            });
            std::thread::sleep(Duration::from_millis(700));
            redis.kill();
            std::thread::sleep(Duration::from_millis(500));
            redis.restart();
            let (keys, no) = writer.join().unwrap();
            answered.extend(keys);
            refused += no;
        });
        recovered(&mut user, 3);
    }
    let found: Vec<String> = serde_json::from_str(&user.sure(1, "/keys")).unwrap();
    let lost: Vec<_> = answered.iter().filter(|key| !found.contains(key)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    println!(
        "three nodes on redis, killed 3 times: {} answered writes all there, {refused} refused meanwhile",
        answered.len()
    );
}

#[test]
fn a_server_that_stands_still_is_waited_for_no_longer_than_the_deadline() {
    let _turn = turn();
    let Some(redis) = redis_server::Server::start() else { return };
    let nodes = Nodes::start(&redis.url(), &[]);
    let mut user = logged_in(&nodes, "ann");
    redis.freeze(true);
    // Believed until the silence is noticed, then an error, never an empty session.
    let start = Instant::now();
    let mut failed = 0;
    while failed < 3 {
        let response = user.get(failed % 3, "/get?key=user");
        match response.status {
            200 => assert_eq!(response.ok(), "ann"),
            status => {
                assert!(matches!(status, 500 | 503), "{status}");
                failed += 1;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(60), "served without the store");
    }
    redis.freeze(false);
    recovered(&mut user, 3);
    assert_eq!(user.sure(1, "/get?key=user"), "ann");
}
