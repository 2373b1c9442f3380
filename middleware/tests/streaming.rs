//! Responses that do not end with their head, over real sockets: streams, server-sent events, WebSockets,
//! interim responses, bodiless responses, and clients that hang up.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]
#![cfg(feature = "axum")]

#[path = "support/wire.rs"]
mod wire;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response, Sse, sse};
use axum::routing::{get, post};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use sessile::{Engine, ErrorKind, ErrorResponse, Session, SessionLayer};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use wire::{Wire, serve, soon};

fn layer() -> SessionLayer {
    SessionLayer::new(Engine::builder().in_memory().unwrap())
}

async fn hits(session: Session) -> Result<String, ErrorResponse> {
    Ok(session.update("hits", |n: Option<u64>| n.unwrap_or(0) + 1)?.to_string())
}

async fn peek(Path(key): Path<String>, session: Session) -> Result<String, ErrorResponse> {
    Ok(format!("{:?}", session.get::<u64>(&key)?))
}

fn common() -> Router {
    Router::new().route("/hits", get(hits)).route("/peek/{key}", get(peek))
}

/// What the test and a handler's body say to each other.
struct Line<T> {
    to_body: mpsc::UnboundedSender<T>,
    body: Mutex<Option<mpsc::UnboundedReceiver<T>>>,
    said: mpsc::UnboundedSender<String>,
    hear: Mutex<mpsc::UnboundedReceiver<String>>,
}

impl<T> Line<T> {
    fn new() -> Arc<Self> {
        let (to_body, body) = mpsc::unbounded_channel();
        let (said, hear) = mpsc::unbounded_channel();
        Arc::new(Self { to_body, body: Mutex::new(Some(body)), said, hear: Mutex::new(hear) })
    }

    async fn hear(&self) -> String {
        soon(async { self.hear.lock().await.recv().await }).await.unwrap()
    }
}

/// Streams what the test sends; each chunk is written to the session as well, and what came of it reported.
async fn stream_of(State(line): State<Arc<Line<String>>>, session: Session) -> Response {
    struct Hangup(mpsc::UnboundedSender<String>);
    impl Drop for Hangup {
        fn drop(&mut self) {
            let _ = self.0.send("dropped".to_owned());
        }
    }
    let chunks = UnboundedReceiverStream::new(line.body.lock().await.take().unwrap());
    let (said, hangup) = (line.said.clone(), Hangup(line.said.clone()));
    let body = chunks.map(move |chunk| {
        let _ = &hangup;
        let late = session.put("late", &chunk.len()).map_err(|e| e.kind());
        let _ = said.send(format!("{late:?}"));
        Ok::<_, Infallible>(Bytes::from(chunk))
    });
    Body::from_stream(body).into_response()
}

fn streaming(line: &Arc<Line<String>>) -> Router {
    Router::new().route("/stream", get(stream_of)).with_state(Arc::clone(line)).merge(common())
}

#[tokio::test]
async fn a_body_is_never_buffered_and_late_writes_persist() {
    let line = Line::new();
    let at = serve(streaming(&line).layer(layer())).await;
    let cookie = wire::get(at, "/hits", "").await.0.cookie();
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/stream", &[&format!("Cookie: {cookie}")]).await;
    let head = wire.head().await;
    assert_eq!((head.status, head.all("set-cookie").len()), (200, 0), "the head comes before any chunk");
    assert_eq!(head.all("vary"), ["Cookie"]);
    for chunk in ["one", "three"] {
        line.to_body.send(chunk.to_owned()).unwrap();
        // The next chunk does not exist yet.
        assert_eq!(wire.chunk().await, chunk);
        assert_eq!(line.hear().await, "Ok(())");
        let (_, late) = wire::get(at, "/peek/late", &cookie).await;
        assert_eq!(late, format!("Some({})", chunk.len()), "another request sees it while the stream runs");
    }
}

#[tokio::test]
async fn a_session_cannot_begin_after_its_head() {
    let line = Line::new();
    let at = serve(streaming(&line).layer(layer())).await;
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/stream", &[]).await;
    assert_eq!(wire.head().await.all("set-cookie").len(), 0);
    line.to_body.send("chunk".to_owned()).unwrap();
    assert_eq!(wire.chunk().await, "chunk");
    assert_eq!(line.hear().await, format!("Err({:?})", ErrorKind::HeadSent));
}

#[tokio::test]
async fn a_client_that_hangs_up_in_the_middle_loses_nothing_that_was_written() {
    let line = Line::new();
    let at = serve(streaming(&line).layer(layer())).await;
    let cookie = wire::get(at, "/hits", "").await.0.cookie();
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/stream", &[&format!("Cookie: {cookie}")]).await;
    wire.head().await;
    line.to_body.send("first".to_owned()).unwrap();
    wire.chunk().await;
    assert_eq!(line.hear().await, "Ok(())");
    wire.reset();
    loop {
        // A write finds out about the reset; how many it takes is the kernel's business.
        let _ = line.to_body.send("more".to_owned());
        if line.hear().await == "dropped" {
            break;
        }
    }
    assert_ne!(wire::get(at, "/peek/late", &cookie).await.1, "None");
    assert_eq!(wire::get(at, "/hits", &cookie).await.1, "2", "the session goes on");
}

#[tokio::test]
async fn server_sent_events_see_what_other_requests_do() {
    async fn events(State(line): State<Arc<Line<()>>>, session: Session) -> impl IntoResponse {
        let ticks = UnboundedReceiverStream::new(line.body.lock().await.take().unwrap());
        Sse::new(ticks.map(move |()| {
            let hits = session.get::<u64>("hits").unwrap().unwrap_or(0);
            Ok::<_, Infallible>(sse::Event::default().data(hits.to_string()))
        }))
    }
    let line = Line::new();
    let routes = Router::new().route("/events", get(events)).with_state(Arc::clone(&line)).merge(common());
    let at = serve(routes.layer(layer())).await;
    let cookie = wire::get(at, "/hits", "").await.0.cookie();
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/events", &[&format!("Cookie: {cookie}")]).await;
    let head = wire.head().await;
    assert_eq!(head.all("content-type"), ["text/event-stream"]);
    for hits in 2..5 {
        wire::get(at, "/hits", &cookie).await;
        line.to_body.send(()).unwrap();
        assert_eq!(wire.chunk().await, format!("data: {hits}\n\n"));
    }
}

#[tokio::test]
async fn a_websocket_gets_its_cookie_with_the_upgrade_and_counts_in_the_session() {
    async fn ws(upgrade: WebSocketUpgrade, session: Session) -> Result<Response, ErrorResponse> {
        session.put("messages", &0u64)?;
        Ok(upgrade.on_upgrade(async move |mut socket| {
            while let Some(Ok(Message::Text(_))) = socket.recv().await {
                let n = session.update("messages", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
                socket.send(Message::text(n.to_string())).await.unwrap();
            }
        }))
    }
    let at = serve(Router::new().route("/ws", get(ws)).merge(common()).layer(layer())).await;
    let tcp = soon(TcpStream::connect(at)).await.unwrap();
    let (mut socket, response) =
        soon(tokio_tungstenite::client_async(format!("ws://{at}/ws"), tcp)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let line = response.headers()["set-cookie"].to_str().unwrap();
    let cookie = line.split(';').next().unwrap().to_owned();
    for n in 1..4u64 {
        soon(socket.send("hello".into())).await.unwrap();
        let reply = soon(socket.next()).await.unwrap().unwrap();
        assert_eq!(reply.into_text().unwrap().as_str(), n.to_string());
        assert_eq!(wire::get(at, "/peek/messages", &cookie).await.1, format!("Some({n})"));
    }
}

#[tokio::test]
async fn an_interim_response_carries_nothing_and_the_final_one_everything() {
    async fn upload(session: Session, body: Bytes) -> Result<String, ErrorResponse> {
        session.put("bytes", &body.len())?;
        Ok("done".to_owned())
    }
    let at = serve(Router::new().route("/upload", post(upload)).merge(common()).layer(layer())).await;
    let mut wire = Wire::to(at).await;
    wire.ask("POST", "/upload", &["Content-Length: 5", "Expect: 100-continue"]).await;
    let interim = wire.head().await;
    assert_eq!((interim.status, interim.all("set-cookie").len(), interim.all("vary").len()), (100, 0, 0));
    wire.send("12345").await;
    let head = wire.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(wire::get(at, "/peek/bytes", &head.cookie()).await.1, "Some(5)");
}

#[tokio::test]
async fn bodiless_responses_carry_the_same_headers() {
    async fn unmodified(session: Session) -> Result<StatusCode, ErrorResponse> {
        session.put("seen", &1)?;
        Ok(StatusCode::NOT_MODIFIED)
    }
    let at = serve(Router::new().route("/304", get(unmodified)).merge(common()).layer(layer())).await;
    let mut wire = Wire::to(at).await;
    // All on one connection: a body where none may be would be taken for the next head.
    for (method, path, status) in [("HEAD", "/hits", 200), ("GET", "/304", 304), ("HEAD", "/hits", 200)] {
        wire.ask(method, path, &[]).await;
        let head = wire.head().await;
        assert_eq!(head.status, status);
        assert_eq!(head.all("vary"), ["Cookie"]);
        assert_eq!(head.all("cache-control"), ["no-cache=\"Set-Cookie\""]);
        let key = if status == 304 { "/peek/seen" } else { "/peek/hits" };
        assert_eq!(wire::get(at, key, &head.cookie()).await.1, "Some(1)");
    }
}

#[tokio::test]
async fn a_redirect_carries_the_cookie() {
    async fn away(session: Session) -> Result<impl IntoResponse, ErrorResponse> {
        session.put("from", &3u64)?;
        Ok(axum::response::Redirect::to("/peek/from"))
    }
    let at = serve(Router::new().route("/away", get(away)).merge(common()).layer(layer())).await;
    let (head, _) = wire::get(at, "/away", "").await;
    assert_eq!((head.status, head.all("location")), (303, vec!["/peek/from"]));
    assert_eq!(wire::get(at, "/peek/from", &head.cookie()).await.1, "Some(3)");
}

#[tokio::test]
async fn an_endless_body_does_not_keep_the_head_back() {
    async fn endless(session: Session) -> Result<Response, ErrorResponse> {
        session.put("k", &1)?;
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"tick"))]);
        Ok(Body::from_stream(first.chain(stream::pending())).into_response())
    }
    let at = serve(Router::new().route("/endless", get(endless)).merge(common()).layer(layer())).await;
    let mut wire = Wire::to(at).await;
    wire.ask("GET", "/endless", &[]).await;
    let cookie = wire.head().await.cookie();
    assert_eq!(wire.chunk().await, "tick");
    assert_eq!(wire::get(at, "/peek/k", &cookie).await.1, "Some(1)", "published while the body still runs");
}
