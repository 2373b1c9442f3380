//! axum_session with its sessions in memory, by its default configuration.

use std::time::Duration;

use axum_session::{Session, SessionConfig, SessionLayer, SessionNullPool, SessionStore};
use tower_layer::Layer;

use crate::subject::{Drive, Req, Resp, Subject, Tower, count, popped, respond};
use crate::work::{CSRF, FLASH, NAME, ROLE, Work, more_keys, page};

pub type Store = SessionStore<SessionNullPool>;

pub fn store() -> Result<Store, axum_session::SessionError> {
    pollster::block_on(Store::new(None, SessionConfig::default()))
}

pub fn subject(store: Store) -> Box<dyn Subject> {
    let make = move |work| {
        let handler = tower::service_fn(move |request: Req| async move { Ok(handle(work, request).await) });
        SessionLayer::new(store.clone()).layer(handler)
    };
    Box::new(Tower::new("axum_session", Drive::Poll, make))
}

pub async fn handle(work: Work, request: Req) -> Resp {
    if work == Work::Untouched {
        return respond(0);
    }
    // What its extractor does.
    let Some(session) = request.extensions().get::<Session<SessionNullPool>>().cloned() else {
        let mut response = respond(0);
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    };
    act(work, &session).await
}

pub fn read(session: &Session<SessionNullPool>) -> u64 {
    let user = session.get::<i64>("user_id").unwrap_or(0);
    let role = session.get::<String>("role").unwrap_or_default();
    user.unsigned_abs() + role.len() as u64
}

pub async fn act(work: Work, session: &Session<SessionNullPool>) -> Resp {
    let mut seen = 0;
    match work {
        Work::Untouched | Work::ReadInPlace => {}
        Work::Read | Work::Touch => seen = read(session),
        Work::Write => {
            seen = read(session);
            session.set("last_page", page());
        }
        Work::New(keys) | Work::NewIdle(keys) | Work::NewShort(keys) => {
            session.set("user_id", 4_711_i64);
            session.set("name", NAME);
            session.set("role", ROLE);
            session.set("csrf", CSRF);
            session.set("last_page", page());
            for (i, (key, text)) in more_keys(keys).enumerate() {
                match text {
                    Some(text) => session.set(key, text),
                    None => session.set(key, i as u64),
                }
            }
        }
        Work::PutFlash => session.set(FLASH, "your changes are saved"),
        Work::Pop => return popped(session.get_remove::<String>(FLASH).is_some()),
        Work::SlowPop => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return popped(session.get_remove::<String>(FLASH).is_some());
        }
        Work::Renew => session.renew(),
        Work::Destroy => session.destroy(),
        Work::Count | Work::SlowCount => {
            let n = session.get::<u64>("count").unwrap_or(0);
            if work == Work::SlowCount {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            session.set("count", n + 1);
        }
        Work::ReadCount => return count(session.get("count").unwrap_or(0)),
    }
    respond(seen)
}
