//! The routes over flash messages, how long a session lives, and where its data goes: one call of the session each.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::{Conflicts, Level, Merged, Session, SessionId, Token};

use crate::App;
use crate::error::{AppError, Result};
use crate::options::TransportOption;

// ---- Flash messages --------------------------------------------------------------------------------

/// `?message=&level=&name=&to=`
#[derive(Deserialize)]
pub(crate) struct Message {
    message: String,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    to: Option<String>,
}

pub(crate) async fn flash(session: Session, Query(query): Query<Message>) -> Result<Response> {
    let level: Level = query.level.as_deref().unwrap_or("info").parse().map_err(AppError::bad)?;
    let to = query.to.map(local_path).transpose()?;
    session.flash_to(&query.name, level, &query.message)?;
    Ok(match to {
        None => "ok".into_response(),
        Some(path) => (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response(),
    })
}

/// A path of this server, so that nobody is led elsewhere.
fn local_path(path: String) -> Result<String> {
    let local = path.starts_with('/') && !path.starts_with("//");
    if local && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        Ok(path)
    } else {
        Err(AppError::bad("`to` must be a path of this server"))
    }
}

/// `?name=&peek=`
#[derive(Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    peek: bool,
}

pub(crate) async fn flashes(session: Session, Query(which): Query<Which>) -> Result<Json<Vec<Value>>> {
    let messages = match (&which.name, which.peek) {
        (_, true) => {
            let mut all = session.peek_flashes()?;
            all.retain(|flash| which.name.as_ref().is_none_or(|name| *name == flash.name));
            all
        }
        (Some(name), false) => session.flashes_of(name)?,
        (None, false) => session.flashes()?,
    };
    let shown = messages
        .into_iter()
        .map(|flash| json!({ "level": flash.level, "message": flash.text, "name": flash.name }))
        .collect();
    Ok(Json(shown))
}

// ---- Times -----------------------------------------------------------------------------------------

/// `?on=`
#[derive(Deserialize)]
pub(crate) struct On {
    on: bool,
}

pub(crate) async fn remember(session: Session, Query(On { on }): Query<On>) -> Result<&'static str> {
    session.remember_me(on)?;
    Ok("ok")
}

/// `?secs=` of `/idle`: a number, or `none`.
#[derive(Deserialize)]
pub(crate) struct Idle {
    secs: String,
}

pub(crate) async fn idle(session: Session, Query(Idle { secs }): Query<Idle>) -> Result<&'static str> {
    let idle = match secs.as_str() {
        "none" => None,
        secs => Some(secs.parse().map_err(|_| AppError::bad("`secs` must be a whole number or `none`"))?),
    };
    session.set_idle_timeout(idle.map(Duration::from_secs))?;
    Ok("ok")
}

/// `?secs=`
#[derive(Deserialize)]
pub(crate) struct Seconds {
    secs: i64,
}

#[expect(clippy::disallowed_methods, reason = "seconds from now are seconds from the client's now")]
pub(crate) async fn set_deadline(
    session: Session,
    Query(Seconds { secs }): Query<Seconds>,
) -> Result<&'static str> {
    if secs == 0 {
        // By the time it is looked at it has passed, or is still this millisecond: the same answer in any case.
        return Err(AppError::bad("`secs` must not be 0"));
    }
    let now = SystemTime::now();
    let distance = Duration::from_secs(secs.unsigned_abs());
    let deadline = if secs < 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
    session.set_deadline(deadline.ok_or_else(|| AppError::bad("`secs` is too far away"))?)?;
    Ok("ok")
}

pub(crate) async fn rotate(session: Session) -> Result<&'static str> {
    session.rotate()?;
    Ok("ok")
}

// ---- Data and token --------------------------------------------------------------------------------

/// `?token=&keep=`
#[derive(Deserialize)]
pub(crate) struct Other {
    token: String,
    #[serde(default)]
    keep: Keep,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keep {
    #[default]
    Theirs,
    Ours,
}

pub(crate) async fn merge(session: Session, Query(other): Query<Other>) -> Result<&'static str> {
    let Some(token) = Token::parse(other.token.as_bytes()) else {
        return Err(AppError::bad("`token` is not the token of any session"));
    };
    let conflicts = match other.keep {
        Keep::Theirs => Conflicts::Theirs,
        Keep::Ours => Conflicts::Ours,
    };
    Ok(match session.merge_with(&token, conflicts).await? {
        Merged::Done { .. } => "done",
        Merged::Same => "same",
        _ => "absent",
    })
}

pub(crate) async fn as_json(session: Session) -> Json<Value> {
    Json(session.snapshot().map_or(Value::Null, |snapshot| json!(snapshot)))
}

/// `?new=`
#[derive(Deserialize)]
pub(crate) struct New {
    #[serde(default)]
    new: bool,
}

/// The client's own token, for clients that keep it themselves and for the tests of `/merge`.
pub(crate) async fn token(
    State(app): State<App>,
    headers: HeaderMap,
    session: Session,
    Query(New { new }): Query<New>,
) -> Result<Response> {
    let issued = if new && session.id().is_none() {
        session.put("via", "token")?;
        session.issue()?
    } else {
        None
    };
    let token = match issued {
        Some(issue) => Some(issue.token),
        None => session.id().and_then(|id| presented(&app, &headers, &id)),
    };
    let text = token.map(|token| token.encode().as_str().to_owned()).unwrap_or_default();
    Ok(([(CACHE_CONTROL, "no-store")], text).into_response())
}

/// The token of `headers` that opened the session called `id`.
fn presented(app: &App, headers: &HeaderMap, id: &SessionId) -> Option<Token> {
    let mut tokens: Vec<Token> = match app.transport {
        TransportOption::Cookie => headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|&b| b == b';'))
            .filter_map(|pair| {
                let pair = pair.trim_ascii();
                pair.strip_prefix(app.cookie_name.as_bytes())?.strip_prefix(b"=").and_then(Token::parse)
            })
            .collect(),
        TransportOption::Header => {
            let own = headers.get_all("x-session-token").iter().map(|value| value.as_bytes());
            let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
                let (scheme, credentials) = value.as_bytes().split_at_checked("bearer ".len())?;
                scheme.eq_ignore_ascii_case(b"bearer ").then_some(credentials)
            });
            own.chain(bearer).filter_map(|text| Token::parse(text.trim_ascii())).collect()
        }
    };
    // None has the id while the grace of a rotation lasts; then a single one must be the old token.
    let at = tokens.iter().position(|token| token.id() == *id).or((tokens.len() == 1).then_some(0))?;
    Some(tokens.swap_remove(at))
}
