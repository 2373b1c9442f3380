//! Sessile, by its tower layer, as its README shows it.

use std::path::Path;
use std::time::Duration;

use sessile::engine::Durability;
use sessile::{Engine, Session, SessionLayer};
use tower_layer::Layer;

use crate::subject::{Drive, Req, Resp, Subject, Tower, count, popped, respond};
use crate::work::{CSRF, FLASH, NAME, ROLE, Work, deadline, more_keys, page};

/// An engine over a file in `dir`, with room for everything that a run puts into it.
pub fn engine(dir: &Path, file: &str, level: Durability, idle: bool) -> sessile::Result<Engine> {
    Engine::builder()
        .durability(level)
        .memory_limit(8 << 30)
        .idle_timeout(idle.then_some(Duration::from_secs(1800)))
        .open_redb(dir.join(file))
}

pub fn subject(name: &'static str, engine: Engine, touched: Engine) -> Box<dyn Subject> {
    driven(name, Drive::Poll, engine, touched)
}

/// As [`subject`], for a store that requests wait for.
pub fn driven(name: &'static str, drive: Drive, engine: Engine, touched: Engine) -> Box<dyn Subject> {
    let settled = engine.clone();
    let make = move |work| {
        let engine =
            if matches!(work, Work::Touch | Work::NewIdle(_)) { touched.clone() } else { engine.clone() };
        let handler = tower::service_fn(move |request: Req| async move { Ok(handle(work, request).await) });
        SessionLayer::new(engine).layer(handler)
    };
    let settle = move || drop(pollster::block_on(settled.checkpoint()));
    Box::new(Tower::new(name, drive, make).in_place().settle_by(settle))
}

pub async fn handle(work: Work, request: Req) -> Resp {
    if work == Work::Untouched {
        return respond(0);
    }
    let Ok(session) = <Session>::from_request(&request).await else { return failed() };
    act(work, &session).await.unwrap_or_else(|_| failed())
}

fn failed() -> Resp {
    let mut response = respond(0);
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

pub fn read(session: &Session) -> sessile::Result<u64> {
    let user = session.get::<i64>("user_id")?.unwrap_or(0);
    let role = session.get::<String>("role")?.unwrap_or_default();
    Ok(user.unsigned_abs() + role.len() as u64)
}

pub async fn act(work: Work, session: &Session) -> sessile::Result<Resp> {
    let mut seen = 0;
    match work {
        Work::Untouched => {}
        Work::Read | Work::Touch => seen = read(session)?,
        Work::ReadInPlace => {
            if let Some(snapshot) = session.snapshot() {
                let user = snapshot.i64("user_id")?.unwrap_or(0);
                seen = user.unsigned_abs() + snapshot.str("role")?.map_or(0, |role| role.len() as u64);
            }
        }
        Work::Write => {
            seen = read(session)?;
            session.put("last_page", page())?;
        }
        Work::New(keys) | Work::NewIdle(keys) | Work::NewShort(keys) => {
            if let Work::NewShort(_) = work {
                session.set_deadline(deadline())?;
            }
            session.transact(|tx| {
                tx.put("user_id", &4_711_i64)?;
                tx.put("name", NAME)?;
                tx.put("role", ROLE)?;
                tx.put("csrf", CSRF)?;
                tx.put("last_page", page())?;
                for (i, (key, text)) in more_keys(keys).enumerate() {
                    match text {
                        Some(text) => tx.put(key, text)?,
                        None => tx.put(key, &(i as u64))?,
                    }
                }
                Ok(())
            })?;
        }
        Work::PutFlash => session.put(FLASH, "your changes are saved")?,
        Work::Pop => return Ok(popped(session.pop::<String>(FLASH)?.is_some())),
        Work::SlowPop => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            return Ok(popped(session.pop::<String>(FLASH)?.is_some()));
        }
        Work::Renew => session.renew()?,
        Work::Destroy => session.destroy()?,
        Work::Count | Work::SlowCount => {
            if work == Work::SlowCount {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen = session.update("count", |n: Option<u64>| n.unwrap_or(0) + 1)?;
        }
        Work::ReadCount => return Ok(count(session.get("count")?.unwrap_or(0))),
    }
    Ok(respond(seen))
}
