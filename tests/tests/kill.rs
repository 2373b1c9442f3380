//! kill -9 under load, again and again on one file: it opens, what is older than a window is there, and what
//! was destroyed or renewed stays dead. After a share of the kills the next start is killed too, once or several times,
//! before, while or after it opens the file.
//!
//! The oracle is in this process (`sessile_tests::oracle`). Each session belongs to one client thread, which logs every
//! operation with the time of its answer. What must be durable at a kill:
//! - in a round with `--durability process` or `power`, everything answered;
//! - in one with `eventual` everything answered more than the slack before the kill, and everything up to an answered
//!   renewal or destruction, whenever that was.
//!
//! A start that was killed has answered nothing, so it may change nothing.
//!
//! `SESSILE_KILL_ROUNDS` sets the rounds for each store (50), `SESSILE_KILL_STARTS` after how many of a hundred of them
//! starts are killed too (34), `SESSILE_KILL_SLACK_MS` the slack (2000; the window is 50 ms, and the summary says how old
//! the oldest lost write really was), `SESSILE_SEED` repeats the choices of a run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the server is measured from outside, by the real clock")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use sessile_tests::oracle::{Known, Op, State};
use sessile_tests::{Client, Jar, Response, Rng, Server, Store};
use tempfile::TempDir;

const THREADS: u64 = 6;
const SESSIONS_PER_THREAD: usize = 8;
const KEYS: u64 = 4;
/// Tokens that died in earlier rounds, tried by each thread after each kill.
const OLDER_TOKENS: usize = 10;
/// Starts killed one after another, at most.
const KILLED_STARTS: u64 = 3;
/// Until a start has been measured.
const LONGEST_USUAL_START: Duration = Duration::from_millis(100);

/// One client's sessions, its generator, and the tokens that must be dead.
struct Worker {
    rng: Rng,
    /// Without renewals and destructions, which commit at once and take other writes along: only then does the
    /// loop measure the window.
    calm: bool,
    sessions: Vec<Known>,
    dead: Vec<Jar>,
    /// How many of them earlier rounds have looked at.
    buried: usize,
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
    /// Requests with the token of a dead session.
    looks_at_dead: u64,
}

/// Starts that were killed.
#[derive(Default)]
struct Again {
    rounds: u64,
    starts: u64,
    /// Those that had begun to serve.
    ready: u64,
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
        self.sessions.push(Known::new(client.jar.clone(), vec![(op, Some(Instant::now()))]));
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
            let (lost, oldest) = session.check(found.as_ref(), killed, slack);
            self.tally.verified += 1;
            self.tally.lost += lost;
            self.tally.oldest_lost = self.tally.oldest_lost.max(oldest);
            match found {
                Some(state) => {
                    session.rebase(state);
                    self.sessions.push(session);
                }
                // Dead for whatever reason: it must stay so.
                None => self.dead.push(session.jar),
            }
        }
        // All the tokens of this round, and a sample of older ones.
        let older = self.buried;
        let sample: Vec<usize> = match older {
            0 => Vec::new(),
            _ => (0..OLDER_TOKENS).map(|_| self.rng.index(older)).collect(),
        };
        for at in (older..self.dead.len()).chain(sample) {
            let state = read(&mut client, &self.dead[at]);
            assert_eq!(state, None, "a destroyed or renewed session is back");
            self.tally.looks_at_dead += 1;
        }
        self.buried = self.dead.len();
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

#[test]
fn kill_9_under_load_loses_no_more_than_a_window() {
    kill_loop(Store::Redb, sessile_tests::env_number("SESSILE_KILL_ROUNDS", 50));
}

#[test]
fn kill_9_under_load_on_sled_loses_no_more_than_a_window() {
    kill_loop(Store::Sled, sessile_tests::env_number("SESSILE_KILL_ROUNDS", 50));
}

fn kill_loop(store: fn(PathBuf) -> Store, rounds: u64) {
    let slack = Duration::from_millis(sessile_tests::env_number("SESSILE_KILL_SLACK_MS", 2000));
    let mut rng = Rng::announced("kill");
    let dir = TempDir::new().unwrap();
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|n| Worker {
            rng: rng.fork(n),
            calm: false,
            sessions: Vec::new(),
            dead: Vec::new(),
            buried: 0,
            next_value: n << 40,
            tally: Tally::default(),
        })
        .collect();

    let starts = sessile_tests::env_number("SESSILE_KILL_STARTS", 34);
    let mut again = Again::default();
    let store = store(dir.path().join("sessions"));
    let kind = store.flag().split(':').next().unwrap_or_default().to_owned();
    let mut server = Server::start(store, &["--durability", "eventual"]);
    let mut usual_start = LONGEST_USUAL_START;
    let level = |round: u64| ["eventual", "process", "power"][(round % 3) as usize];
    let mut eventual_rounds = 0;
    let mut slowest_start = Duration::ZERO;
    for round in 0..rounds {
        let eventual = level(round) == "eventual";
        eventual_rounds += u64::from(eventual);
        // Most kills come early; some rounds last long enough for writes that are older than the slack. Ten has no factor
        // in common with the three levels, so each level has such rounds.
        let mut delay = Duration::from_micros(rng.between(2_000, 150_000));
        if round % 10 == 1 {
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
        if rng.between(1, 100) <= starts {
            again.rounds += 1;
            for _ in 0..rng.between(1, KILLED_STARTS) {
                let flags = ["--durability", level(rng.between(0, 2))];
                // From before the file is opened to a while after.
                let most = u64::try_from(usual_start.as_micros()).unwrap() * 3 / 2;
                let delay = Duration::from_micros(rng.between(0, most));
                let start = Server::interrupted(server.store(), &flags, delay);
                assert!(!start.stderr.contains("panicked"), "{}", start.stderr);
                again.starts += 1;
                again.ready += u64::from(start.ready);
            }
        }
        let started = Instant::now();
        server.restart_with(&["--durability", level(round + 1)]);
        let start = started.elapsed();
        slowest_start = slowest_start.max(start);
        // Of the quicker ones: a start that the machine held up says nothing of the next.
        usual_start = usual_start.min(start * 2);
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
         before its kill; slowest restart {:.0} ms; after {} of the kills {} starts killed too, {} of them before they were ready; \
         {} requests with dead tokens",
        sum(|t| t.answered),
        sum(|t| t.verified),
        sum(|t| t.destroyed),
        sum(|t| t.renewed),
        sum(|t| t.lost),
        oldest.as_secs_f64() * 1e3,
        slowest_start.as_secs_f64() * 1e3,
        again.rounds,
        again.starts,
        again.starts - again.ready,
        sum(|t| t.looks_at_dead),
    );
    if rounds >= 3 {
        assert!(
            sum(|t| t.destroyed) > 0 && sum(|t| t.renewed) > 0,
            "the load was too light to show anything"
        );
    }
    if rounds >= 50 && starts >= 34 {
        assert!(again.starts > 0, "no start was killed");
    }
}
