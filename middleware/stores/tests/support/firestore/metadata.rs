//! A double of the metadata server of Google's platforms, by its documentation: one path, a header that both sides must send,
//! and tokens that it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::http::{Answer, Listener, Question, Reply};

const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

pub struct Metadata {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    given: AtomicU64,
    behaviour: Mutex<Behaviour>,
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// With the token `token-N`, for the N-th, which lasts so many seconds.
    Gives(u64),
    Status(u16),
    /// Without the header that says who it is.
    Nameless,
    /// With something else than a token.
    Nonsense,
    Closes,
}

impl Metadata {
    pub fn start() -> Self {
        let state =
            Arc::new(State { given: AtomicU64::new(0), behaviour: Mutex::new(Behaviour::Gives(3600)) });
        let answering = Arc::clone(&state);
        Self { listener: Listener::start(move |question| answering.answer(question)), state }
    }

    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.listener.port())
    }

    /// Tokens that were given.
    pub fn given(&self) -> u64 {
        self.state.given.load(Ordering::Acquire)
    }

    pub fn behaves(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }
}

impl State {
    fn answer(&self, question: &Question) -> Reply {
        let behaviour = *self.behaviour.lock().unwrap();
        let named = vec![("metadata-flavor", "Google".to_owned())];
        let answer = |status, head, body| Reply::Answer(Answer { status, head, body });
        if question.method != "GET" || question.path != PATH {
            return answer(404, named, String::new());
        }
        if question.head.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return answer(403, named, "Missing Metadata-Flavor:Google header.".into());
        }
        let lasts = match behaviour {
            Behaviour::Closes => return Reply::Close,
            Behaviour::Status(status) => return answer(status, named, String::new()),
            Behaviour::Nonsense => {
                return answer(200, named, r#"{"access_token": 7, "s3cret": true}"#.into());
            }
            Behaviour::Gives(lasts) => lasts,
            Behaviour::Nameless => 3600,
        };
        let n = self.given.fetch_add(1, Ordering::AcqRel) + 1;
        let token =
            json!({"access_token": format!("token-{n}"), "expires_in": lasts, "token_type": "Bearer"});
        let head = if behaviour == Behaviour::Nameless { Vec::new() } else { named };
        answer(200, head, token.to_string())
    }
}
