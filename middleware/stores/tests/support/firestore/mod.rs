//! A test double of Firestore, which is in no package registry: an HTTP server on the loopback that keeps documents in memory.
//! It was written from the reference of Google's REST API v1, not from the store, and refuses what the reference does not
//! have: unknown fields, wrong names, queries that need an index of their own. `tests/firestore/double.rs` holds it to that
//! reference, and to Google's emulator where there is one. How the service locks, what it charges and how fast it is, it
//! cannot show. `SESSILE_TEST_FIRESTORE` names an emulator or another server.

mod database;
pub mod emulator;
mod http;
pub mod metadata;
mod query;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value as Json, json};

use self::database::Database;
use self::http::{Answer, Listener, Question, Reply};

pub const PROJECT: &str = "sessile-test";
/// The tokens that are taken from the beginning.
pub const OWNER: &str = "owner";
/// By the page on quotas.
const LARGEST_REQUEST: usize = 10 << 20;

type Result<T> = std::result::Result<T, Refusal>;

/// The codes of Google's services, and the HTTP statuses that go with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    FailedPrecondition,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    Aborted,
    AlreadyExists,
    ResourceExhausted,
    Internal,
    Unimplemented,
    Unavailable,
}

impl Code {
    fn parts(self) -> (u16, &'static str) {
        match self {
            Self::InvalidArgument => (400, "INVALID_ARGUMENT"),
            Self::FailedPrecondition => (400, "FAILED_PRECONDITION"),
            Self::Unauthenticated => (401, "UNAUTHENTICATED"),
            Self::PermissionDenied => (403, "PERMISSION_DENIED"),
            Self::NotFound => (404, "NOT_FOUND"),
            Self::Aborted => (409, "ABORTED"),
            Self::AlreadyExists => (409, "ALREADY_EXISTS"),
            Self::ResourceExhausted => (429, "RESOURCE_EXHAUSTED"),
            Self::Internal => (500, "INTERNAL"),
            Self::Unimplemented => (501, "UNIMPLEMENTED"),
            Self::Unavailable => (503, "UNAVAILABLE"),
        }
    }
}

#[derive(Debug)]
pub struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    fn of(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T> {
    Err(Refusal::of(code, message))
}

/// What goes wrong with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused, and nothing is done.
    Refuse(Code),
    /// The connection ends before anything is done.
    CloseBefore,
    /// All is done, but nobody is told.
    CloseAfter,
    /// It is done when [`Server::release`] is called.
    Late,
    /// Half of the answer comes; the rest when [`Server::release`] is called.
    Half,
    /// Somebody else answers, who is not the service.
    Stranger,
}

pub struct Server {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    /// By the name that ends with `/documents`.
    databases: Mutex<HashMap<String, Database>>,
    tokens: Mutex<Vec<String>>,
    faults: Mutex<HashMap<&'static str, Vec<Fault>>>,
    /// Questions that were asked, by what is behind the colon.
    counts: Mutex<HashMap<String, u64>>,
    held: Mutex<bool>,
    released: Condvar,
}

/// The name of a database of the double.
pub fn root(database: &str) -> String {
    format!("projects/{PROJECT}/databases/{database}/documents")
}

impl Server {
    /// With the databases `(default)` and `other`.
    pub fn start() -> Self {
        let databases = ["(default)", "other"].map(|name| (root(name), Database::default()));
        let state = Arc::new(State {
            databases: Mutex::new(databases.into()),
            tokens: Mutex::new(vec![OWNER.to_owned()]),
            faults: Mutex::default(),
            counts: Mutex::default(),
            held: Mutex::new(false),
            released: Condvar::new(),
        });
        let answering = Arc::clone(&state);
        Self { listener: Listener::start(move |question| State::answer(&answering, question)), state }
    }

    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.listener.port())
    }

    pub fn url(&self) -> String {
        format!("firestore://{PROJECT}?emulator={}", self.authority())
    }

    /// Takes these tokens from now on, and no others.
    pub fn takes(&self, tokens: &[&str]) {
        *self.state.tokens.lock().unwrap() = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    /// Lets the next `times` questions of that kind go wrong.
    pub fn fault(&self, verb: &'static str, fault: Fault, times: usize) {
        if matches!(fault, Fault::Half | Fault::Late) {
            *self.state.held.lock().unwrap() = true;
        }
        let mut faults = self.state.faults.lock().unwrap();
        faults.entry(verb).or_default().extend(std::iter::repeat_n(fault, times));
    }

    /// Whether no fault is left.
    pub fn is_sound(&self) -> bool {
        self.state.faults.lock().unwrap().values().all(Vec::is_empty)
    }

    pub fn release(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.released.notify_all();
    }

    /// How often a kind of question was asked, refused ones too.
    pub fn count(&self, verb: &str) -> u64 {
        self.state.counts.lock().unwrap().get(verb).copied().unwrap_or(0)
    }

    /// Connections that were made, ended ones too.
    pub fn connections(&self) -> u64 {
        self.listener.connections()
    }

    pub fn kill_connections(&self) {
        self.listener.kill_connections();
    }

    /// Ends all connections, and takes no other until [`resume`](Self::resume).
    pub fn kill(&self) {
        self.listener.kill();
    }

    pub fn resume(&self) {
        self.listener.resume();
    }

    /// Asks behind the store's back.
    pub fn ask(&self, verb: &str, body: &Json) -> (u16, Json) {
        let root = format!("/v1/{}", root("(default)"));
        let (status, body) = self
            .state
            .run(&root, verb, body.to_string().as_bytes())
            .map_or_else(|refusal| (refusal.code.parts().0, refusal.written()), |answer| (200, answer));
        (status, body)
    }

    /// The paths of all documents of a database whose path begins so.
    pub fn paths(&self, database: &str, begin: &str) -> Vec<String> {
        let databases = self.state.databases.lock().unwrap();
        databases[&root(database)].documents.keys().filter(|path| path.starts_with(begin)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.release();
    }
}

impl Refusal {
    fn written(&self) -> Json {
        let (status, code) = self.code.parts();
        json!({"error": {"code": status, "message": self.message, "status": code}})
    }
}

fn read<T: for<'a> serde::Deserialize<'a>>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::of(Code::InvalidArgument, format!("Invalid JSON payload received. {e}")))
}

impl State {
    fn answer(self: &Arc<Self>, question: &Question) -> Reply {
        let (root, verb) = question.path.rsplit_once(':').unwrap_or((&question.path, ""));
        *self.counts.lock().unwrap().entry(verb.to_owned()).or_default() += 1;
        let fault = self.faults.lock().unwrap().get_mut(verb).and_then(Vec::pop);
        if fault == Some(Fault::CloseBefore) {
            return Reply::Close;
        }
        if fault == Some(Fault::Stranger) {
            return Reply::Answer(Answer {
                status: 200,
                head: Vec::new(),
                body: "<html>Welcome</html>".into(),
            });
        }
        if fault == Some(Fault::Late) {
            self.wait();
        }
        let told = match fault {
            Some(Fault::Refuse(code)) => refuse(code, "as the test wants it"),
            _ => self.allowed(question).and_then(|()| self.run(root, verb, &question.body)),
        };
        let (status, body) = match told {
            Ok(body) => (200, body),
            // Answers that are lists tell an error in a list.
            Err(refusal) if verb != "commit" => (refusal.code.parts().0, json!([refusal.written()])),
            Err(refusal) => (refusal.code.parts().0, refusal.written()),
        };
        let head = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
        let answer = Answer { status, head, body: body.to_string() };
        match fault {
            Some(Fault::CloseAfter) => Reply::Close,
            Some(Fault::Half) => {
                let state = Arc::clone(self);
                Reply::Half(answer, Box::new(move || state.wait()))
            }
            _ => Reply::Answer(answer),
        }
    }

    fn wait(&self) {
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
    }

    fn allowed(&self, question: &Question) -> Result<()> {
        let token = question.head.get("authorization").and_then(|token| token.strip_prefix("Bearer "));
        let tokens = self.tokens.lock().unwrap();
        match token {
            Some(token) if tokens.iter().any(|known| known == token) => {}
            Some(_) => {
                return refuse(Code::Unauthenticated, "Request had invalid authentication credentials.");
            }
            None => return refuse(Code::PermissionDenied, "Missing or insufficient permissions."),
        }
        if question.method != "POST" {
            return refuse(Code::NotFound, "not a method of the double");
        }
        if question.head.get("content-type").is_none_or(|kind| kind != "application/json") {
            return refuse(Code::InvalidArgument, "the body is not said to be JSON");
        }
        Ok(())
    }

    fn run(&self, path: &str, verb: &str, body: &[u8]) -> Result<Json> {
        if body.len() > LARGEST_REQUEST {
            let what = format!("Request payload size exceeds the limit: {LARGEST_REQUEST} bytes.");
            return refuse(Code::InvalidArgument, what);
        }
        let root = path.strip_prefix("/v1/").unwrap_or_default();
        let mut databases = self.databases.lock().unwrap();
        if !root.starts_with(&format!("projects/{PROJECT}/")) {
            return refuse(Code::PermissionDenied, "Missing or insufficient permissions.");
        }
        let Some(database) = databases.get_mut(root) else {
            return refuse(Code::NotFound, format!("The database of {root} does not exist."));
        };
        match verb {
            "commit" => database.commit(root, read(body)?),
            "batchGet" => database.batch_get(root, &read(body)?),
            "runQuery" => query::run(database, root, read(body)?),
            "runAggregationQuery" => query::count(database, root, read(body)?),
            _ => refuse(Code::Unimplemented, format!("the double has no {verb}")),
        }
    }
}
