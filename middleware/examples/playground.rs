//! The whole session API over HTTP, for curl, for browsers and for tests in any language.
//!
//! ```text
//! cargo run --release -p sessile --example playground
//! curl -i --cookie-jar cj --cookie cj localhost:4000/put
//! curl --cookie-jar cj --cookie cj localhost:4000/get
//! ```
//!
//! It owns the command line, the routes and the shutdown; everything about sessions is the library's.
//! Every route is a GET so that an address bar suffices. A real application changes state in POST only.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::engine::{Durability, Health, Status};
use sessile::{CookiePolicy, Engine, ErrorKind, Session, SessionLayer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower_http::catch_panic::CatchPanicLayer;

/// How long requests in flight may finish after the first SIGTERM or SIGINT.
const DRAIN: Duration = Duration::from_secs(5);
/// The longest wait that `/slow` and `/slow-get` accept.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// What an eventual engine may lose in a crash.
const WINDOW: Duration = Duration::from_millis(50);

// ---- The command line ------------------------------------------------------------------------------

/// Serve the whole session API of sessile over HTTP.
#[derive(Parser)]
#[command(name = "playground", version)]
struct Options {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Where sessions live: `memory` or `redb:PATH`.
    #[arg(long, value_name = "memory|redb:PATH", default_value = "redb:sessions.redb")]
    store: StoreOption,
    /// How long a session lives, used or not: `24h`, `20m`, `500ms`.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration, allow_hyphen_values = true)]
    lifetime: Duration,
    /// How long a session lives unused; without it idle sessions live as long as busy ones.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    idle: Option<Duration>,
    /// What an answered write survives: `eventual` may lose the last 50 ms, `power` loses nothing.
    #[arg(long, value_enum, default_value_t = DurabilityOption::Eventual)]
    durability: DurabilityOption,
    /// Memory for cached sessions: `64MiB`, `1GB`, or bytes.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,
    /// Send the cookie without `Secure`, for clients that refuse it over plain HTTP.
    #[arg(long)]
    insecure_http: bool,
}

#[derive(Clone)]
enum StoreOption {
    Memory,
    Redb(PathBuf),
}

impl FromStr for StoreOption {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.split_once(':') {
            None if s == "memory" => Ok(Self::Memory),
            Some(("redb", path)) if !path.is_empty() => Ok(Self::Redb(path.into())),
            _ => Err("expected `memory` or `redb:PATH`"),
        }
    }
}

impl fmt::Display for StoreOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redb(path) => write!(f, "redb:{}", path.display()),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum DurabilityOption {
    Eventual,
    Power,
}

impl fmt::Display for DurabilityOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eventual => write!(f, "eventual({}ms)", WINDOW.as_millis()),
            Self::Power => f.write_str("power"),
        }
    }
}

fn parse_duration(s: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        s.parse().map_err(|_| "expected a time like `24h`, `20m` or `500ms`".to_owned())?;
    match Duration::try_from(signed) {
        Ok(d) if !d.is_zero() => Ok(d),
        _ => Err("must be longer than zero".to_owned()),
    }
}

fn parse_size(s: &str) -> Result<usize, String> {
    let size: ByteSize = s.parse().map_err(|_| "expected a size like `64MiB`".to_owned())?;
    match usize::try_from(size.as_u64()) {
        Ok(n) if n > 0 => Ok(n),
        Ok(_) => Err("must be more than zero".to_owned()),
        Err(_) => Err("is more than this machine can address".to_owned()),
    }
}

// ---- Start and stop --------------------------------------------------------------------------------

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal arrives. The error is one line for people.
async fn run(options: Options) -> Result<(), String> {
    // Before anything can be answered, so that no early signal is missed. The handlers stay in place until
    // the process ends: a second signal changes nothing.
    let stop = stop_signal().map_err(|e| format!("cannot watch for signals: {e}"))?;

    // The port before the file: a taken port must not touch anybody's sessions.
    let listen = options.listen;
    let listener = TcpListener::bind(listen).await.map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    let address = listener.local_addr().map_err(|e| format!("cannot listen on {listen}: {e}"))?;

    let store = &options.store;
    let engine = open(&options).map_err(|e| format!("cannot open {store}: {e}"))?;
    let layer = session_layer(&engine, options.insecure_http)?;
    let app = routes(engine.clone(), layer);

    let durability = options.durability;
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "listening on http://{address} store={store} durability={durability}");
    let _ = stdout.flush();
    drop(stdout);

    serve(listener, app, stop).await.map_err(|e| format!("cannot serve: {e}"))?;
    // What requests have written since the last commit reaches the file here.
    engine.close().await.map_err(|e| format!("cannot write the last sessions to {store}: {e}"))
}

fn open(options: &Options) -> sessile::Result<Engine> {
    let mut builder = Engine::builder().lifetime(options.lifetime).idle_timeout(options.idle).durability(
        match options.durability {
            DurabilityOption::Eventual => Durability::Eventual { window: WINDOW },
            DurabilityOption::Power => Durability::PowerLoss,
        },
    );
    if let Some(bytes) = options.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    match &options.store {
        StoreOption::Memory => builder.in_memory(),
        StoreOption::Redb(path) => builder.open_redb(path),
    }
}

fn session_layer(engine: &Engine, insecure_http: bool) -> Result<SessionLayer, String> {
    let mut cookie = CookiePolicy::builder();
    if insecure_http {
        cookie = cookie.insecure_http();
    }
    let cookie = cookie.build().map_err(|e| format!("the cookie policy contradicts itself: {e}"))?;
    Ok(SessionLayer::new(engine.clone()).cookie(cookie))
}

/// A future that is ready at the first SIGTERM or SIGINT from now on.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves until `stop`, then lets requests in flight finish for at most [`DRAIN`].
async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopped, stopping) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop.await;
        let _ = stopped.send(());
    });
    let out_of_patience = async {
        let _ = stopping.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => result,
        () = out_of_patience => Ok(()),
    }
}

// ---- Routes ----------------------------------------------------------------------------------------

fn routes(engine: Engine, sessions: SessionLayer) -> Router {
    Router::new()
        .route("/put", get(put))
        .route("/get", get(read))
        .route("/pop", get(pop))
        .route("/remove", get(remove))
        .route("/exists", get(exists))
        .route("/keys", get(keys))
        .route("/clear", get(clear))
        .route("/count", get(count))
        .route("/renew", get(renew))
        .route("/destroy", get(destroy))
        .route("/deadline", get(deadline))
        .route("/status", get(status))
        .route("/slow", get(slow))
        .route("/slow-get", get(slow_get))
        .route("/panic", get(panic))
        .route("/fail", get(fail))
        .route("/stats", get(stats))
        .route("/healthz", get(healthz))
        .with_state(engine)
        // The last layer is the outermost. A panic must unwind through the session layer, which then
        // publishes nothing, and be turned into a 500 only outside it: caught further in, it would look
        // to the session layer like any other answer.
        .layer(sessions)
        .layer(CatchPanicLayer::new())
}

type Result<T, E = AppError> = std::result::Result<T, E>;

/// A session error as an answer.
struct AppError(sessile::Error);

impl From<sessile::Error> for AppError {
    fn from(e: sessile::Error) -> Self {
        Self(e)
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::InvalidKey => StatusCode::BAD_REQUEST,
            ErrorKind::TypeMismatch => StatusCode::CONFLICT,
            ErrorKind::Limit => StatusCode::PAYLOAD_TOO_LARGE,
            // Another request has logged this user out meanwhile; an application sends them to its login.
            ErrorKind::Revoked => StatusCode::GONE,
            ErrorKind::Store | ErrorKind::ReadOnly | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ if self.0.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{}\n", self.0)).into_response()
    }
}

/// `?key=`
#[derive(Deserialize)]
struct Key {
    #[serde(default = "default_key")]
    key: String,
}

/// `?key=&value=`
#[derive(Deserialize)]
struct Pair {
    #[serde(default = "default_key")]
    key: String,
    #[serde(default = "default_value")]
    value: String,
}

/// `?ms=`
#[derive(Deserialize)]
struct Wait {
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
    async fn wait(&self) {
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

async fn put(session: Session, Query(pair): Query<Pair>) -> Result<&'static str> {
    session.put(&pair.key, &pair.value)?;
    Ok("ok")
}

async fn read(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(text(session.get(&key)?))
}

async fn pop(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(text(session.pop(&key)?))
}

async fn remove(session: Session, Query(Key { key }): Query<Key>) -> Result<String> {
    Ok(session.remove(&key)?.to_string())
}

async fn exists(session: Session, Query(Key { key }): Query<Key>) -> String {
    session.exists(&key).to_string()
}

async fn keys(session: Session) -> Json<Vec<String>> {
    Json(session.keys())
}

async fn clear(session: Session) -> Result<&'static str> {
    session.clear()?;
    Ok("ok")
}

async fn count(session: Session) -> Result<String> {
    let count: i64 = session.update("count", |n: Option<i64>| n.unwrap_or(0).saturating_add(1))?;
    Ok(count.to_string())
}

async fn renew(session: Session) -> Result<&'static str> {
    session.renew()?;
    Ok("ok")
}

async fn destroy(session: Session) -> Result<&'static str> {
    session.destroy()?;
    Ok("ok")
}

async fn deadline(session: Session) -> String {
    let deadline = session.expires_at().and_then(|t| jiff::Timestamp::try_from(t).ok());
    deadline.map(|t| t.to_string()).unwrap_or_default()
}

async fn status(session: Session) -> &'static str {
    match session.status() {
        Status::Unmodified => "unmodified",
        Status::Modified => "modified",
        Status::Destroyed => "destroyed",
    }
}

async fn slow(session: Session, Query(wait): Query<Wait>, Query(pair): Query<Pair>) -> Result<&'static str> {
    wait.wait().await;
    session.put(&pair.key, &pair.value)?;
    Ok("ok")
}

async fn slow_get(
    session: Session,
    Query(wait): Query<Wait>,
    Query(Key { key }): Query<Key>,
) -> Result<String> {
    wait.wait().await;
    Ok(text(session.get(&key)?))
}

async fn panic(session: Session, Query(pair): Query<Pair>) -> Result<()> {
    session.put(&pair.key, &pair.value)?;
    panic!("the handler of /panic panics");
}

async fn fail(session: Session, Query(pair): Query<Pair>) -> Result<(StatusCode, &'static str)> {
    session.put(&pair.key, &pair.value)?;
    Ok((StatusCode::INTERNAL_SERVER_ERROR, "failed after the put"))
}

async fn stats(State(engine): State<Engine>) -> Json<Value> {
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

async fn healthz(State(engine): State<Engine>) -> (StatusCode, String) {
    let health = engine.health();
    let status = if health == Health::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.to_string())
}
