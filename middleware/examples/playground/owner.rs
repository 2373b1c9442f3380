//! The routes of somebody who is logged in, over their sessions on all devices, and the one over everybody's.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::{Engine, Session, SessionId, SessionInfo};

use crate::error::{AppError, Result};

/// Sessions that a page of `/iterate` has unless it is asked for more or fewer, and at most.
const PAGE: usize = 20;
const MAX_PAGE: usize = 1000;

fn moment(at: std::time::SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(at).ok().map(|t| t.to_string())
}

/// A listed session. The keys are sorted by serde_json.
fn shown(info: &SessionInfo) -> Value {
    json!({
        "authenticated_at": info.authenticated_at.and_then(moment),
        "created_at": moment(info.created_at),
        "expires_at": moment(info.expires_at),
        "id": info.id,
        "ip": info.ip,
        "last_seen": moment(info.last_seen),
        "owner": info.owner,
        "user_agent": info.user_agent,
    })
}

/// Whose session this is; an error if it is nobody's.
fn owner_of(session: &Session) -> Result<String> {
    session.owner().ok_or_else(|| AppError::forbidden("nobody is logged in: see /login"))
}

fn parse_id(text: &str) -> Result<SessionId> {
    text.parse().map_err(AppError::bad)
}

/// `?owner=`
#[derive(Deserialize)]
pub(crate) struct Owner {
    owner: String,
}

pub(crate) async fn login(
    session: Session,
    headers: HeaderMap,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    Query(Owner { owner }): Query<Owner>,
) -> Result<&'static str> {
    session.login(&owner).await?;
    let program = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    session.set_client_info(program, Some(&client.ip().to_string()))?;
    Ok("ok")
}

pub(crate) async fn sessions(State(engine): State<Engine>, session: Session) -> Result<Json<Vec<Value>>> {
    let mut all = engine.sessions_of(&owner_of(&session)?).await?;
    all.sort_by_key(|info| (info.created_at, info.id));
    let current = session.id();
    let marked = all.iter().map(|info| {
        let mut shown = shown(info);
        shown["current"] = (Some(info.id) == current).into();
        shown
    });
    Ok(Json(marked.collect()))
}

/// `?id=`
#[derive(Deserialize)]
pub(crate) struct Id {
    id: String,
}

pub(crate) async fn revoke(
    State(engine): State<Engine>,
    session: Session,
    Query(Id { id }): Query<Id>,
) -> Result<&'static str> {
    let id = parse_id(&id)?;
    let owner = owner_of(&session)?;
    if session.id() == Some(id) {
        // Takes the client's token back as well.
        session.destroy()?;
        return Ok("ok");
    }
    // Sessions of others and sessions that do not exist get the same answer.
    if !engine.sessions_of(&owner).await?.iter().any(|info| info.id == id) {
        return Err(AppError::forbidden("that is no session of yours"));
    }
    engine.destroy_session(&id).await?;
    Ok("ok")
}

/// `?keep=`
#[derive(Deserialize)]
pub(crate) struct Keep {
    #[serde(default)]
    keep: bool,
}

/// Answers with the number of sessions that it ended.
pub(crate) async fn logout_everywhere(
    State(engine): State<Engine>,
    session: Session,
    Query(Keep { keep }): Query<Keep>,
) -> Result<String> {
    let owner = owner_of(&session)?;
    if keep {
        return Ok(engine.destroy_all(&owner, session.id().as_ref()).await?.to_string());
    }
    // First, so that the response takes the client's token back. If another request has renewed or ended the session
    // meanwhile, the owner is still to be logged out.
    let own = match session.destroy() {
        Ok(()) => 1,
        Err(e) if e.is_revoked() => 0,
        Err(e) => return Err(e.into()),
    };
    let others = engine.destroy_all(&owner, None).await?;
    Ok((own + others).to_string())
}

/// `?after=&limit=`
#[derive(Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    after: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    PAGE
}

pub(crate) async fn iterate(State(engine): State<Engine>, Query(page): Query<Page>) -> Result<Json<Value>> {
    if !(1..=MAX_PAGE).contains(&page.limit) {
        return Err(AppError::bad(format_args!("`limit` must be from 1 to {MAX_PAGE}")));
    }
    let after = page.after.as_deref().map(parse_id).transpose()?;
    let page = engine.iterate(after, page.limit).await?;
    let sessions: Vec<Value> = page
        .sessions
        .iter()
        .map(|(info, snapshot)| {
            let mut shown = shown(info);
            shown["keys"] = snapshot.iter().map(|(key, _)| key).collect();
            shown
        })
        .collect();
    Ok(Json(json!({ "next": page.next, "sessions": sessions })))
}
