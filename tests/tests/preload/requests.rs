//! Requests to a server whose disk is recorded, and what must come of them when the power goes at some point of the record:
//! what was answered by then is there, what was not begun is not.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use sessile_tests::{Client, Jar, Rng};

const SESSIONS: usize = 5;

/// How far the record was when a request was sent and when it was answered.
#[derive(Debug, Clone, Copy)]
struct Span {
    begun: u64,
    answered: u64,
}

#[derive(Debug)]
struct Put {
    key: String,
    value: String,
    span: Span,
}

#[derive(Debug)]
struct Session {
    /// Its tokens one after the other, each with the request that brought it.
    tokens: Vec<(Jar, Span)>,
    puts: Vec<Put>,
    destroyed: Option<Span>,
}

/// Says how far the record is: no less than what has been done, and before a request no more.
pub(crate) type Progress = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One client, and all it was told.
pub(crate) struct Worker {
    rng: Rng,
    progress: Progress,
    sessions: Vec<Session>,
    next_value: u64,
}

impl Worker {
    pub(crate) fn new(rng: Rng, n: u64, progress: Progress) -> Self {
        Self { rng, progress, sessions: Vec::new(), next_value: n << 40 }
    }

    fn now(&self) -> u64 {
        (self.progress)()
    }

    fn send(&self, client: &mut Client, path: &str) -> io::Result<Span> {
        let begun = self.now();
        let response = client.try_get(path)?;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        Ok(Span { begun, answered: self.now() })
    }

    fn put(&mut self) -> (String, String, String) {
        self.next_value += 1;
        let key = format!("k{}", self.rng.between(0, 3));
        let padding = "x".repeat(usize::try_from(self.rng.between(0, 900)).unwrap());
        let value = format!("v{}{padding}", self.next_value);
        let path = format!("/put?key={key}&value={value}");
        (key, value, path)
    }

    /// Makes `steps` requests, all of which must succeed.
    pub(crate) fn work(&mut self, address: SocketAddr, steps: usize) {
        let mut client = Client::new(address);
        for _ in 0..steps {
            let live: Vec<usize> =
                (0..self.sessions.len()).filter(|at| self.sessions[*at].destroyed.is_none()).collect();
            if live.len() < SESSIONS {
                client.jar = Jar::default();
                let (key, value, path) = self.put();
                let span = self.send(&mut client, &path).unwrap();
                self.sessions.push(Session {
                    tokens: vec![(client.jar.clone(), span)],
                    puts: vec![Put { key, value, span }],
                    destroyed: None,
                });
                continue;
            }
            let at = live[self.rng.index(live.len())];
            client.jar = self.sessions[at].tokens.last().unwrap().0.clone();
            match self.rng.between(0, 99) {
                0..4 => {
                    let span = self.send(&mut client, "/destroy").unwrap();
                    self.sessions[at].destroyed = Some(span);
                }
                4..10 => {
                    let span = self.send(&mut client, "/renew").unwrap();
                    self.sessions[at].tokens.push((client.jar.clone(), span));
                }
                _ => {
                    let (key, value, path) = self.put();
                    let span = self.send(&mut client, &path).unwrap();
                    self.sessions[at].puts.push(Put { key, value, span });
                }
            }
        }
    }

    /// Compares a server with what may be there if the power went when the record was at `at`. Returns the number of
    /// sessions.
    pub(crate) fn verify(&self, address: SocketAddr, at: u64) -> u64 {
        let mut client = Client::new(address);
        let mut verified = 0;
        for session in self.sessions.iter().filter(|session| session.tokens[0].1.begun <= at) {
            let mut alive: Vec<(usize, BTreeMap<String, String>)> = Vec::new();
            for (n, (jar, _)) in session.tokens.iter().enumerate().filter(|(_, (_, span))| span.begun <= at) {
                client.jar = jar.clone();
                let shown: serde_json::Value = serde_json::from_str(&client.get("/json").ok()).unwrap();
                if let Some(data) = shown.get("data").and_then(|data| data.as_object()) {
                    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                    alive.push((n, data.iter().map(|(key, value)| (key.clone(), text(value))).collect()));
                }
            }
            verified += 1;
            let answered = |span: &Span| span.answered <= at;
            // The newest token that was answered for, and those that may have replaced it.
            let newest = session.tokens.iter().rposition(|(_, span)| answered(span));
            let about = || format!("cut at {at}: {session:#?}, alive {alive:?}");
            assert!(alive.len() <= 1, "two tokens are alive; {}", about());
            match (&session.destroyed, alive.first()) {
                (Some(end), Some(_)) => assert!(!answered(end), "a destroyed session is back; {}", about()),
                (end, None) => assert!(
                    newest.is_none() || end.is_some_and(|end| end.begun <= at),
                    "a session is gone; {}",
                    about()
                ),
                (None, Some(_)) => {}
            }
            let Some((n, data)) = alive.first() else { continue };
            assert!(newest.is_none_or(|newest| newest <= *n), "an old token is alive; {}", about());
            for key in (0..4).map(|n| format!("k{n}")) {
                let puts: Vec<&Put> =
                    session.puts.iter().filter(|p| p.key == key && p.span.begun <= at).collect();
                let must = puts.iter().rposition(|put| answered(&put.span));
                let found = data.get(&key);
                let allowed = puts[must.unwrap_or(0)..].iter().any(|put| Some(&put.value) == found)
                    || (must.is_none() && found.is_none());
                assert!(allowed, "{key} is {found:?}; {}", about());
            }
        }
        verified
    }
}
