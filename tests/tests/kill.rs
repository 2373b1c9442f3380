//! kill -9 under load, again and again on one file: it opens, what is older than a window is there, and what
//! was destroyed or renewed stays dead.
//!
//! The oracle is in this process. Each session belongs to one client thread, which logs every operation with
//! the time of its answer. After a restart a session must be what *some prefix* of its log makes of it, and
//! the prefix must reach at least to the last operation that had to be durable:
//! - in a round with `--durability process` or `power`, everything answered;
//! - in one with `eventual` everything answered more than the slack before the kill, and everything up to an answered
//!   renewal or destruction, whenever that was.
//!
//! `SESSILE_KILL_ROUNDS` sets the rounds (10), `SESSILE_KILL_SLACK_MS` the slack (1000; the window is 50 ms, and
//! the summary says how old the oldest lost write really was), `SESSILE_SEED` repeats the choices of a run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the server is measured from outside, by the real clock")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use sessile_tests::{Client, Jar, Response, Rng, Server, Store};
use tempfile::TempDir;

const THREADS: u64 = 6;
const SESSIONS_PER_THREAD: usize = 8;
const KEYS: u64 = 4;

type State = BTreeMap<String, String>;

/// What an operation does to a session.
#[derive(Debug, Clone)]
enum Op {
    Put(String, String),
    Remove(String),
    Clear,
    Count,
    /// Changes nothing but the token.
    Renew,
}

impl Op {
    fn path(&self) -> String {
        match self {
            Self::Put(key, value) => format!("/put?key={key}&value={value}"),
            Self::Remove(key) => format!("/remove?key={key}"),
            Self::Clear => "/clear".to_owned(),
            Self::Count => "/count".to_owned(),
            Self::Renew => "/renew".to_owned(),
        }
    }

    fn apply(&self, state: &mut State) {
        match self {
            Self::Put(key, value) => drop(state.insert(key.clone(), value.clone())),
            Self::Remove(key) => drop(state.remove(key)),
            Self::Clear => state.clear(),
            Self::Count => {
                let n = state.get("count").map_or(0, |n| n.parse::<u64>().unwrap());
                state.insert("count".to_owned(), (n + 1).to_string());
            }
            Self::Renew => {}
        }
    }
}

/// A session as its client knows it.
struct Known {
    jar: Jar,
    /// What the last restart found.
    base: State,
    /// Whether `base` is on disk; a session made since the last restart has none.
    based: bool,
    /// The operations since, in order, with the time of the answer. Only the last one can lack it.
    log: Vec<(Op, Option<Instant>)>,
    /// A destruction was sent but not answered: alive and dead are both right.
    perhaps_dead: bool,
    /// The last operation is a renewal that was not answered: if it happened, nobody knows the new token.
    perhaps_renewed: bool,
}

/// One client's sessions, its generator, and the tokens that must be dead.
struct Worker {
    rng: Rng,
    /// Without renewals and destructions, which commit at once and take other writes along: only then does the
    /// loop measure the window.
    calm: bool,
    sessions: Vec<Known>,
    dead: Vec<Jar>,
    next_value: u64,
    tally: Tally,
}

#[derive(Default, Clone, Copy)]
struct Tally {
    answered: u64,
    destroyed: u64,
    renewed: u64,
    /// Answered operations that the kill undid.
    lost: u64,
    /// How long before the kill the oldest of them had been answered.
    oldest_lost: Duration,
    verified: u64,
}

impl Worker {
    /// Works until the server dies.
    fn work(&mut self, address: SocketAddr) {
        let mut client = Client::new(address);
        while let Ok(()) = self.step(&mut client) {}
    }

    fn step(&mut self, client: &mut Client) -> io::Result<()> {
        let choice = self.rng.between(0, 99);
        if self.sessions.len() < SESSIONS_PER_THREAD {
            return self.create(client);
        }
        let at = self.rng.index(self.sessions.len());
        match choice {
            0..8 if self.calm => self.operate(client, at, Op::Count),
            0..3 => self.destroy(client, at),
            3..8 => self.operate(client, at, Op::Renew),
            8..28 => self.operate(client, at, Op::Count),
            28..33 => {
                let key = self.key();
                self.operate(client, at, Op::Remove(key))
            }
            33..34 => self.operate(client, at, Op::Clear),
            _ => {
                let op = self.put();
                self.operate(client, at, op)
            }
        }
    }

    fn key(&mut self) -> String {
        format!("k{}", self.rng.between(0, KEYS - 1))
    }

    /// A put of a value that no other put ever uses.
    fn put(&mut self) -> Op {
        let key = self.key();
        self.next_value += 1;
        let padding = "x".repeat(usize::try_from(self.rng.between(0, 200)).unwrap());
        Op::Put(key, format!("v{}{padding}", self.next_value))
    }

    fn create(&mut self, client: &mut Client) -> io::Result<()> {
        client.jar = Jar::default();
        let op = self.put();
        // Without an answer nobody knows the token, so there is nothing to remember.
        answered(client.try_get(&op.path())?);
        assert!(client.jar.token().is_some(), "a new session came without a cookie");
        self.tally.answered += 1;
        self.sessions.push(Known {
            jar: client.jar.clone(),
            base: State::new(),
            based: false,
            log: vec![(op, Some(Instant::now()))],
            perhaps_dead: false,
            perhaps_renewed: false,
        });
        Ok(())
    }

    fn operate(&mut self, client: &mut Client, at: usize, op: Op) -> io::Result<()> {
        let session = &mut self.sessions[at];
        client.jar = session.jar.clone();
        let renewing = matches!(op, Op::Renew);
        let path = op.path();
        session.log.push((op, None));
        session.perhaps_renewed = renewing;
        answered(client.try_get(&path)?);
        session.log.last_mut().unwrap().1 = Some(Instant::now());
        session.perhaps_renewed = false;
        self.tally.answered += 1;
        if renewing {
            assert_ne!(client.jar, session.jar, "a renewal without a new token");
            self.dead.push(std::mem::replace(&mut session.jar, client.jar.clone()));
            self.tally.renewed += 1;
        } else {
            assert_eq!(client.jar, session.jar, "{path}: a live session was not recognized");
        }
        Ok(())
    }

    fn destroy(&mut self, client: &mut Client, at: usize) -> io::Result<()> {
        client.jar = self.sessions[at].jar.clone();
        self.sessions[at].perhaps_dead = true;
        answered(client.try_get("/destroy")?);
        self.tally.answered += 1;
        self.tally.destroyed += 1;
        self.dead.push(self.sessions.swap_remove(at).jar);
        Ok(())
    }

    /// Compares every session with what the restarted server has.
    fn verify(&mut self, address: SocketAddr, killed: Instant, slack: Option<Duration>) {
        let mut client = Client::new(address);
        for mut session in std::mem::take(&mut self.sessions) {
            let found = read(&mut client, &session.jar);
            let (lost, oldest) = check(&session, found.as_ref(), killed, slack);
            self.tally.verified += 1;
            self.tally.lost += lost;
            self.tally.oldest_lost = self.tally.oldest_lost.max(oldest);
            match found {
                Some(state) => {
                    session.base = state;
                    session.based = true;
                    session.log.clear();
                    session.perhaps_dead = false;
                    session.perhaps_renewed = false;
                    self.sessions.push(session);
                }
                // Dead for whatever reason: it must stay so.
                None => self.dead.push(session.jar),
            }
        }
        // All the tokens of this round, and a sample of older ones.
        let recent = self.dead.len().saturating_sub(100);
        for at in 0..self.dead.len() {
            if at >= recent || self.rng.between(0, 9) == 0 {
                let state = read(&mut client, &self.dead[at]);
                assert_eq!(state, None, "a destroyed or renewed session is back");
            }
        }
    }
}

/// An answer that arrived must be a 200.
fn answered(r: Response) {
    assert_eq!(r.status, 200, "{}", r.body);
}

/// All keys and values of the session, `None` if the token is of no session. An empty session that lives and a
/// dead one look alike through `/keys`; the deadline tells them apart.
fn read(client: &mut Client, jar: &Jar) -> Option<State> {
    client.jar = jar.clone();
    let alive = !client.get("/deadline").ok().is_empty();
    let keys: Vec<String> = serde_json::from_str(&client.get("/keys").ok()).unwrap();
    assert!(alive || keys.is_empty(), "a session with keys and no deadline");
    let state = keys
        .into_iter()
        .map(|key| {
            let value = client.get(&format!("/get?key={key}")).ok();
            (key, value)
        })
        .collect();
    assert_eq!(&client.jar, jar, "reading changed the cookie");
    alive.then_some(state)
}

/// Panics unless `found` is allowed; returns how many answered operations are lost, and the greatest age.
fn check(s: &Known, found: Option<&State>, killed: Instant, slack: Option<Duration>) -> (u64, Duration) {
    let age = |answer: &Option<Instant>| answer.map(|at| killed.saturating_duration_since(at));
    // The least prefix that must be there.
    let must = s
        .log
        .iter()
        .rposition(|(op, answer)| match (age(answer), slack) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(age), Some(slack)) => age > slack || matches!(op, Op::Renew),
        })
        .map_or(0, |at| at + 1);

    let kept = match found {
        None => {
            if s.perhaps_dead || s.perhaps_renewed {
                return (0, Duration::ZERO);
            }
            assert!(!s.based, "a session that was on disk is gone; log {:?}", ages(s, killed));
            assert_eq!(must, 0, "a session is gone that had to be durable; log {:?}", ages(s, killed));
            0
        }
        Some(found) => {
            let mut state = s.base.clone();
            let mut matching = (s.based && &state == found).then_some(0);
            for (at, (op, _)) in s.log.iter().enumerate() {
                op.apply(&mut state);
                if &state == found {
                    matching = Some(at + 1);
                }
            }
            let kept = matching.unwrap_or_else(|| {
                panic!("a state that never was: {found:?}\nbase {:?}\nlog {:?}", s.base, ages(s, killed))
            });
            assert!(kept >= must, "{kept} operations of {must} are there; log {:?}", ages(s, killed));
            kept
        }
    };
    let lost = s.log[kept..].iter().filter_map(|(_, answer)| age(answer));
    lost.fold((0, Duration::ZERO), |(n, oldest), age| (n + 1, oldest.max(age)))
}

/// The log for people: each operation, and how long before the kill it was answered.
fn ages(s: &Known, killed: Instant) -> Vec<String> {
    s.log
        .iter()
        .map(|(op, answer)| match answer {
            Some(at) => format!("{op:?} {:?} before", killed.saturating_duration_since(*at)),
            None => format!("{op:?} unanswered"),
        })
        .collect()
}

#[test]
fn kill_9_under_load_loses_no_more_than_a_window() {
    kill_loop(Store::Redb, sessile_tests::env_number("SESSILE_KILL_ROUNDS", 10));
}

#[test]
fn kill_9_under_load_on_sled_loses_no_more_than_a_window() {
    kill_loop(Store::Sled, sessile_tests::env_number("SESSILE_KILL_ROUNDS", 10));
}

fn kill_loop(store: fn(PathBuf) -> Store, rounds: u64) {
    let slack = Duration::from_millis(sessile_tests::env_number("SESSILE_KILL_SLACK_MS", 1000));
    let mut rng = Rng::announced("kill");
    let dir = TempDir::new().unwrap();
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|n| Worker {
            rng: rng.fork(n),
            calm: false,
            sessions: Vec::new(),
            dead: Vec::new(),
            next_value: n << 40,
            tally: Tally::default(),
        })
        .collect();

    let store = store(dir.path().join("sessions"));
    let kind = store.flag().split(':').next().unwrap_or_default().to_owned();
    let mut server = Server::start(store, &["--durability", "eventual"]);
    let level = |round: u64| ["eventual", "process", "power"][(round % 3) as usize];
    let mut eventual_rounds = 0;
    let mut slowest_start = Duration::ZERO;
    for round in 0..rounds {
        let eventual = level(round) == "eventual";
        eventual_rounds += u64::from(eventual);
        // Most kills come early; some rounds last long enough for writes that are older than the slack.
        let mut delay = Duration::from_millis(rng.between(5, 300));
        if round % 4 == 1 {
            delay += slack;
        }
        let address = server.address();
        let barrier = Barrier::new(workers.len() + 1);
        let killed = thread::scope(|scope| {
            for worker in &mut workers {
                let barrier = &barrier;
                worker.calm = round % 2 == 1;
                scope.spawn(move || {
                    barrier.wait();
                    worker.work(address);
                });
            }
            barrier.wait();
            thread::sleep(delay);
            let killed = Instant::now();
            let stderr = server.kill();
            assert!(!stderr.contains("panicked"), "{stderr}");
            killed
        });

        // The next round's mode is set at the restart, so verification runs in it; it only reads.
        let started = Instant::now();
        server.restart_with(&["--durability", level(round + 1)]);
        slowest_start = slowest_start.max(started.elapsed());
        let address = server.address();
        thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(move || worker.verify(address, killed, eventual.then_some(slack)));
            }
        });
    }

    let sum = |of: fn(&Tally) -> u64| workers.iter().map(|w| of(&w.tally)).sum::<u64>();
    let oldest = workers.iter().map(|w| w.tally.oldest_lost).max().unwrap_or_default();
    println!(
        "kill -9 on {kind}: {rounds} rounds ({eventual_rounds} with eventual durability, the rest with process and power in turn), {} answered operations, {} sessions \
         verified, {} destroyed and {} renewed tokens all dead, 0 wrong values; {} writes lost, the oldest {:.1} ms \
         before its kill; slowest restart {:.0} ms",
        sum(|t| t.answered),
        sum(|t| t.verified),
        sum(|t| t.destroyed),
        sum(|t| t.renewed),
        sum(|t| t.lost),
        oldest.as_secs_f64() * 1e3,
        slowest_start.as_secs_f64() * 1e3,
    );
    if rounds >= 3 {
        assert!(
            sum(|t| t.destroyed) > 0 && sum(|t| t.renewed) > 0,
            "the load was too light to show anything"
        );
    }
}

// ---- The oracle itself -----------------------------------------------------------------------------

fn known(log: Vec<(Op, Option<Instant>)>) -> Known {
    Known {
        jar: Jar::default(),
        base: State::new(),
        based: false,
        log,
        perhaps_dead: false,
        perhaps_renewed: false,
    }
}

fn put(value: &str) -> Op {
    Op::Put("k".to_owned(), value.to_owned())
}

fn state(value: &str) -> State {
    State::from([("k".to_owned(), value.to_owned())])
}

#[test]
fn the_oracle_allows_what_a_window_allows() {
    let start = Instant::now();
    let at = |ms| Some(start + Duration::from_millis(ms));
    let killed = start + Duration::from_secs(10);
    let slack = Some(Duration::from_secs(1));
    let s = known(vec![(put("a"), at(0)), (put("b"), at(9_500)), (put("c"), at(9_990)), (put("d"), None)]);
    assert_eq!(check(&s, Some(&state("d")), killed, slack), (0, Duration::ZERO));
    assert_eq!(check(&s, Some(&state("c")), killed, slack), (0, Duration::ZERO));
    assert_eq!(check(&s, Some(&state("b")), killed, slack), (1, Duration::from_millis(10)));
    assert_eq!(check(&s, Some(&state("a")), killed, slack), (2, Duration::from_millis(500)));
    assert_eq!(check(&s, Some(&state("c")), killed, None), (0, Duration::ZERO));
    let young = known(vec![(put("a"), at(9_900))]);
    assert_eq!(check(&young, None, killed, slack), (1, Duration::from_millis(100)));
}

#[test]
#[should_panic(expected = "a session is gone that had to be durable")]
fn the_oracle_refuses_a_lost_old_session() {
    let start = Instant::now();
    let s = known(vec![(put("a"), Some(start))]);
    check(&s, None, start + Duration::from_secs(2), Some(Duration::from_secs(1)));
}

#[test]
#[should_panic(expected = "1 operations of 2 are there")]
fn the_oracle_refuses_a_lost_write_under_power_durability() {
    let start = Instant::now();
    let s = known(vec![(put("a"), Some(start)), (put("b"), Some(start))]);
    check(&s, Some(&state("a")), start, None);
}

#[test]
#[should_panic(expected = "a state that never was")]
fn the_oracle_refuses_a_wrong_value() {
    let start = Instant::now();
    let s = known(vec![(put("a"), Some(start))]);
    check(&s, Some(&state("z")), start, Some(Duration::from_secs(1)));
}

#[test]
#[should_panic(expected = "1 operations of 3 are there")]
fn the_oracle_refuses_a_renewal_that_lost_what_came_before() {
    let start = Instant::now();
    let log =
        vec![(put("a"), Some(start)), (put("b"), Some(start)), (Op::Renew, Some(start)), (put("c"), None)];
    check(&known(log), Some(&state("a")), start, Some(Duration::from_secs(1)));
}
