//! The routes that go on after their response head: server-sent events, a WebSocket and a late write. All of them
//! end when the session does, and when the server stops.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use sessile::{Changed, Ended, Revoked, Session, Snapshot, Untouched};
use tokio::sync::watch;

use crate::error::Result;
use crate::values::{Pair, Wait};

/// Where `/ws` counts.
const MESSAGES: &str = "messages";

/// Tells that the server is about to stop.
#[derive(Clone)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

impl Stopping {
    async fn wait(&mut self) {
        // An error is a sender that is gone, and with it the server.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

fn name_of(ended: Ended) -> &'static str {
    match ended {
        Ended::Destroyed => "destroyed",
        Ended::Renewed => "renewed",
        Ended::Expired => "expired",
        Ended::Revoked => "revoked",
        Ended::Closed => "closed",
        _ => "ended",
    }
}

// ---- Server-sent events ----------------------------------------------------------------------------

struct Events {
    changed: Changed,
    revoked: Revoked,
    stopping: Stopping,
}

fn changed(snapshot: &Snapshot) -> Event {
    Event::default().event("changed").data(json!(snapshot).to_string())
}

/// The next event, and where the one after it comes from.
async fn next(events: Option<Events>) -> Option<(Result<Event, Infallible>, Option<Events>)> {
    let mut events = events?;
    let ended = tokio::select! {
        biased;
        ended = &mut events.revoked => ended,
        changed = &mut events.changed => match changed {
            Some(snapshot) => return Some((Ok(self::changed(&snapshot)), Some(events))),
            None => (&mut events.revoked).await,
        },
        () = events.stopping.wait() => Ended::Closed,
    };
    // The client shall come back to the next server with the session that it still has.
    if ended == Ended::Closed {
        return None;
    }
    Some((Ok(Event::default().event("revoked").data(name_of(ended))), None))
}

/// A browser reconnects by itself, which is no use of the session, and stops at a 204.
pub(crate) async fn events(State(stopping): State<Stopping>, Untouched(session): Untouched) -> Response {
    if session.id().is_none() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let events = Events { changed: session.changed(), revoked: session.revoked(), stopping };
    Sse::new(stream::unfold(Some(events), next)).keep_alive(KeepAlive::default()).into_response()
}

// ---- WebSocket -------------------------------------------------------------------------------------

pub(crate) async fn ws(
    upgrade: WebSocketUpgrade,
    State(stopping): State<Stopping>,
    session: Session,
) -> Result<Response> {
    // Before the head, which carries the token if this begins the session.
    session.update(MESSAGES, |n: Option<u64>| n.unwrap_or(0))?;
    Ok(upgrade.on_upgrade(|socket| echo(socket, session, stopping)))
}

async fn echo(mut socket: WebSocket, session: Session, mut stopping: Stopping) {
    let mut revoked = session.revoked();
    let (code, reason) = loop {
        let message = tokio::select! {
            biased;
            ended = &mut revoked => break (close_code::POLICY, name_of(ended).to_owned()),
            () = stopping.wait() => break (close_code::AWAY, "stopping".to_owned()),
            message = socket.recv() => message,
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Binary(_))) => break (close_code::UNSUPPORTED, "text only".to_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
        };
        let count = match session.update(MESSAGES, |n: Option<u64>| n.unwrap_or(0).saturating_add(1)) {
            Ok(count) => count,
            // Ended since the message came; the next turn says how.
            Err(e) if e.is_revoked() => continue,
            Err(e) => break (close_code::ERROR, format!("{:?}", e.kind())),
        };
        let reply = json!({ "count": count, "message": text.as_str() }).to_string();
        if socket.send(Message::text(reply)).await.is_err() {
            return;
        }
    };
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

// ---- A late write ----------------------------------------------------------------------------------

/// The head goes out at once; the session is written from the body.
pub(crate) async fn stream(
    session: Session,
    Query(wait): Query<Wait>,
    Query(pair): Query<Pair>,
) -> impl IntoResponse {
    let late = async move {
        wait.wait().await;
        match session.put(&pair.key, &pair.value) {
            Ok(()) => "written\n".to_owned(),
            Err(e) => format!("refused: {e}\n"),
        }
    };
    let lines = stream::once(async { "begun\n".to_owned() }).chain(stream::once(late));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(lines.map(Ok::<_, Infallible>)))
}
