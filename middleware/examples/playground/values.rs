//! The routes over values, life and the engine's state that need no login. Each is one call of the session.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::engine::{Health, Status};
use sessile::{Engine, Session};

use crate::error::Result;

/// The longest wait that `/slow`, `/slow-get` and `/stream` accept.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// `?key=`
#[derive(Deserialize)]
pub(crate) struct Key {
    #[serde(default = "default_key")]
    pub(crate) key: String,
}

/// `?key=&value=`
#[derive(Deserialize)]
pub(crate) struct Pair {
    #[serde(default = "default_key")]
    pub(crate) key: String,
    #[serde(default = "default_value")]
    pub(crate) value: String,
}

/// `?ms=`
#[derive(Deserialize)]
pub(crate) struct Wait {
    #[serde(default)]
    ms: u64,
}

fn default_key() -> String {
    "message".to_owned()
}

fn default_value() -> String {
    "Hello from a session!".to_owned()
}

impl Wait {
    pub(crate) async fn wait(&self) {
        tokio::time::sleep(Duration::from_millis(self.ms).min(MAX_WAIT)).await;
    }
}

/// A stored value as text: a string as it is, anything else as JSON, nothing as nothing.
fn text(value: Option<Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(s)) => s,
        Some(other) => other.to_string(),
    }
}

pub(crate) async fn put(session: Session, Query(pair): Query<Pair>) -> Result<&'static str> {
    session.put(&pair.key, &pair.value)?;
    Ok("ok")
}

pub(crate) async fn read(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(text(session.get(&key)?))
}

pub(crate) async fn pop(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(text(session.pop_stored(&key).await?))
}

pub(crate) async fn remove(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(session.remove(&key)?.to_string())
}

pub(crate) async fn exists(session: Session, Query(Key { key }): Query<Key>) -> String {
    session.exists(&key).to_string()
}

pub(crate) async fn keys(session: Session) -> Json<Vec<String>> {
    Json(session.keys())
}

pub(crate) async fn clear(session: Session) -> Result<&'static str> {
    session.clear()?;
    Ok("ok")
}

pub(crate) async fn count(session: Session) -> Result<String> {
    let count: i64 =
        session.update_stored("count", |n: Option<i64>| n.unwrap_or(0).saturating_add(1)).await?;
    Ok(count.to_string())
}

pub(crate) async fn renew(session: Session) -> Result<&'static str> {
    session.renew()?;
    Ok("ok")
}

pub(crate) async fn destroy(session: Session) -> Result<&'static str> {
    session.destroy()?;
    Ok("ok")
}

pub(crate) async fn deadline(session: Session) -> String {
    let deadline = session.expires_at().and_then(|t| jiff::Timestamp::try_from(t).ok());
    deadline.map(|t| t.to_string()).unwrap_or_default()
}

pub(crate) async fn status(session: Session) -> &'static str {
    match session.status() {
        Status::Unmodified => "unmodified",
        Status::Modified => "modified",
        Status::Destroyed => "destroyed",
    }
}

pub(crate) async fn slow(
    session: Session,
    Query(wait): Query<Wait>,
    Query(pair): Query<Pair>,
) -> Result<&'static str> {
    wait.wait().await;
    session.put(&pair.key, &pair.value)?;
    Ok("ok")
}

pub(crate) async fn slow_get(
    session: Session,
    Query(wait): Query<Wait>,
    Query(Key { key }): Query<Key>,
) -> Result<String> {
    wait.wait().await;
    Ok(text(session.get(&key)?))
}

pub(crate) async fn panic(session: Session, Query(pair): Query<Pair>) -> Result<()> {
    session.put(&pair.key, &pair.value)?;
    panic!("the handler of /panic panics");
}

pub(crate) async fn fail(session: Session, Query(pair): Query<Pair>) -> Result<(StatusCode, &'static str)> {
    session.put(&pair.key, &pair.value)?;
    Ok((StatusCode::INTERNAL_SERVER_ERROR, "failed after the put"))
}

pub(crate) async fn stats(State(engine): State<Engine>) -> Json<Value> {
    let stats = engine.stats().await;
    Json(json!({
        "cached": stats.cached,
        "memory_bytes": stats.memory_bytes,
        "stored": stats.stored,
        "dirty": stats.dirty,
        "hits": stats.hits,
        "misses": stats.misses,
        "created": stats.created,
        "renewed": stats.renewed,
        "destroyed": stats.destroyed,
        "revoked": stats.revoked,
        "expired": stats.expired,
        "expired_rows": stats.expired_rows,
        "evicted": stats.evicted,
        "quarantined": stats.quarantined,
        "commits": stats.commits,
        "committed_changes": stats.committed_changes,
        "commit_failures": stats.commit_failures,
    }))
}

pub(crate) async fn healthz(State(engine): State<Engine>) -> (StatusCode, String) {
    let health = engine.health();
    let status = if health == Health::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.to_string())
}
