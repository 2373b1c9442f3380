//! What a session may hold, as its only client knows it. A write that was answered with 200 is there until a later one
//! replaces it. One that was not, with 503 or because the server was killed, may be there or not.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use sessile_tests::{Client, Jar, Rng};

const SESSIONS: usize = 6;
const KEYS: u64 = 4;

/// One key of a session.
#[derive(Debug, Default, Clone)]
struct Register {
    /// The last value that was answered for.
    acked: Option<String>,
    /// Values sent since, without such an answer.
    perhaps: Vec<String>,
}

impl Register {
    fn allows(&self, found: Option<&str>) -> bool {
        found == self.acked.as_deref() || found.is_some_and(|found| self.perhaps.iter().any(|p| p == found))
    }
}

/// A session of one client.
#[derive(Debug, Clone)]
struct Known {
    jar: Jar,
    keys: BTreeMap<String, Register>,
    /// Something that ends it, or its token, was sent and not answered for.
    perhaps_over: bool,
}

/// One client's sessions, and the tokens that must be dead.
pub(crate) struct Worker {
    rng: Rng,
    sessions: Vec<Known>,
    dead: Vec<Jar>,
    next_value: u64,
    /// Whether no answer but 200 is allowed.
    pub(crate) must_work: bool,
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) verified: u64,
}

impl Worker {
    pub(crate) fn new(rng: Rng, n: u64) -> Self {
        Self {
            rng,
            sessions: Vec::new(),
            dead: Vec::new(),
            next_value: n << 40,
            must_work: false,
            answered: 0,
            refused: 0,
            verified: 0,
        }
    }

    /// Works until the server is gone, or for `steps` requests.
    pub(crate) fn work(&mut self, address: SocketAddr, steps: usize) {
        let mut client = Client::new(address);
        for _ in 0..steps {
            if self.step(&mut client).is_err() {
                return;
            }
        }
    }

    /// Whether the request was carried out; else it may have been.
    fn send(&mut self, client: &mut Client, path: &str) -> io::Result<Option<String>> {
        let response = client.try_get(path)?;
        match response.status {
            200 => {
                self.answered += 1;
                Ok(Some(response.body))
            }
            503 => {
                assert!(!self.must_work, "{path}: {}", response.body);
                self.refused += 1;
                Ok(None)
            }
            other => panic!("{path}: {other} {}", response.body),
        }
    }

    fn value(&mut self) -> (String, String, String) {
        let key = format!("k{}", self.rng.between(0, KEYS - 1));
        self.next_value += 1;
        let padding = "x".repeat(usize::try_from(self.rng.between(0, 300)).unwrap());
        let value = format!("v{}{padding}", self.next_value);
        let path = format!("/put?key={key}&value={value}");
        (key, value, path)
    }

    fn step(&mut self, client: &mut Client) -> io::Result<()> {
        if self.sessions.len() < SESSIONS {
            client.jar = Jar::default();
            let (key, value, path) = self.value();
            if self.send(client, &path)?.is_some() {
                assert!(client.jar.token().is_some(), "a new session came without a cookie");
                let register = Register { acked: Some(value), perhaps: Vec::new() };
                let keys = BTreeMap::from([(key, register)]);
                self.sessions.push(Known { jar: client.jar.clone(), keys, perhaps_over: false });
            }
            return Ok(());
        }
        let at = self.rng.index(self.sessions.len());
        let before = self.sessions[at].jar.clone();
        client.jar = before.clone();
        match self.rng.between(0, 99) {
            0..4 => {
                self.sessions[at].perhaps_over = true;
                if self.send(client, "/destroy")?.is_some() {
                    self.sessions.swap_remove(at);
                    self.dead.push(before);
                }
            }
            4..9 => {
                let was_in_doubt = std::mem::replace(&mut self.sessions[at].perhaps_over, true);
                if self.send(client, "/renew")?.is_some() && !was_in_doubt {
                    let session = &mut self.sessions[at];
                    assert_ne!(client.jar, before, "a renewal without a new token: {session:?}");
                    session.jar = client.jar.clone();
                    session.perhaps_over = false;
                    self.dead.push(before);
                }
            }
            9..40 => {
                let key = format!("k{}", self.rng.between(0, KEYS - 1));
                if let Some(found) = self.send(client, &format!("/get?key={key}"))? {
                    let session = &self.sessions[at];
                    let found = (!found.is_empty()).then_some(&*found);
                    let allowed = session.keys.get(&key).map_or(found.is_none(), |r| r.allows(found));
                    assert!(
                        allowed || (session.perhaps_over && found.is_none()),
                        "{key} is {found:?}: {session:?}"
                    );
                }
            }
            _ => {
                let (key, value, path) = self.value();
                let register = self.sessions[at].keys.entry(key.clone()).or_default();
                register.perhaps.push(value.clone());
                if self.send(client, &path)?.is_some() && !self.sessions[at].is_over(&before, client) {
                    self.sessions[at].keys.insert(key, Register { acked: Some(value), perhaps: Vec::new() });
                }
            }
        }
        // One that is in doubt makes room for another, and is looked at in the end.
        if self.sessions.len() == SESSIONS && self.sessions.iter().all(|s| s.perhaps_over) {
            self.sessions.clear();
        }
        Ok(())
    }

    /// Compares every session with what a server without faults has.
    pub(crate) fn verify(&mut self, address: SocketAddr) {
        let mut client = Client::new(address);
        for mut session in std::mem::take(&mut self.sessions) {
            client.jar = session.jar.clone();
            let alive = !client.get("/deadline").ok().is_empty();
            self.verified += 1;
            if !alive {
                assert!(session.perhaps_over, "a session is gone: {session:?}");
                continue;
            }
            let mut found = BTreeMap::new();
            for key in (0..KEYS).map(|n| format!("k{n}")) {
                let value = client.get(&format!("/get?key={key}")).ok();
                let value = (!value.is_empty()).then_some(value);
                let allowed = session
                    .keys
                    .get(&key)
                    .map_or(value.is_none(), |register| register.allows(value.as_deref()));
                assert!(allowed, "{key} is {value:?}: {session:?}");
                found.insert(key, Register { acked: value, perhaps: Vec::new() });
            }
            assert_eq!(client.jar, session.jar, "reading changed the cookie");
            if !session.perhaps_over {
                session.keys = found;
                self.sessions.push(session);
            }
        }
        for dead in self.dead.iter().rev().take(50) {
            client.jar = dead.clone();
            assert_eq!(client.get("/deadline").ok(), "", "a destroyed or renewed session is back");
        }
    }
}

impl Known {
    /// Whether a request found the session gone and began another one, which may be only after something that could have
    /// ended it.
    fn is_over(&self, before: &Jar, client: &Client) -> bool {
        let is_other = client.jar != *before;
        assert!(self.perhaps_over || !is_other, "a live session was not recognized: {self:?}");
        is_other
    }
}
