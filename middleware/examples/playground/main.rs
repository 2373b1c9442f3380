//! The whole session API over HTTP, for curl, for browsers and for tests in any language.
//!
//! ```text
//! cargo run --release -p sessile --example playground
//! curl -i --cookie-jar cj --cookie cj localhost:4000/put
//! curl --cookie-jar cj --cookie cj localhost:4000/get
//! ```
//!
//! Here are the command line, the list of routes and the shutdown; everything about sessions is the library's.
//! Every route is a GET so that an address bar suffices. A real application changes state in POST only, and shows
//! `/stats` and `/iterate` to nobody but its operators.
//!
//! # Routes
//! | route | answer |
//! |---|---|
//! | `/put?key=&value=` | `ok`; `key` is `message` here and below unless given |
//! | `/get?key=`, `/pop?key=` | the value, or nothing |
//! | `/remove?key=`, `/exists?key=` | `true` or `false` |
//! | `/keys` | JSON: the keys, sorted |
//! | `/clear`, `/renew`, `/rotate`, `/destroy` | `ok` |
//! | `/count` | one more than before, kept under `count` |
//! | `/deadline` | when the session ends if it is not used again, RFC 3339 |
//! | `/status` | `unmodified`, `modified` or `destroyed` |
//! | `/json` | JSON: the session as `Snapshot::to_json` shows it, keys sorted; `null` without one |
//! | `/slow?ms=&key=&value=`, `/slow-get?ms=&key=` | as `/put` and `/get`, after a wait of at most a minute |
//! | `/flash?message=&level=&name=&to=` | `ok`, or a redirect to the path `to`; `level` is `info` unless given |
//! | `/flashes?name=&peek=true` | JSON: a list of messages, see below; they are gone then unless only peeked at |
//! | `/remember?on=true\|false` | `ok`: whether the browser keeps the cookie when it is closed |
//! | `/idle?secs=N\|none`, `/set-deadline?secs=N` | `ok`: the idle timeout; the end, in seconds from now |
//! | `/merge?token=&keep=theirs\|ours` | `done`, `absent` or `same`; `theirs` unless given |
//! | `/login?owner=` | `ok`; also notes the client's address and program |
//! | `/sessions` | JSON: the owner's sessions by age, see below |
//! | `/revoke?id=` | `ok`; 403 unless the session is the owner's |
//! | `/logout-everywhere?keep=true` | the number of the owner's sessions that ended; with `keep`, all but this one |
//! | `/token?new=true` | the token that the request presented; with `new`, one of a new session if it had none. 404 without `--show-token` |
//! | `/events` | server-sent events, see below; 204 without a session |
//! | `/ws` | WebSocket: `{"count":1,"message":"hello"}` for `hello`; counts under `messages` |
//! | `/stream?ms=&key=&value=` | a line `begun`, then, after the put, a line `written` or `refused: …` |
//! | `/iterate?after=&limit=` | JSON: a page of all sessions, see below; `limit` is 20 unless given, at most 1000 |
//! | `/panic`, `/fail` | put, then panic or answer 500 |
//! | `/stats`, `/healthz` | JSON: the engine's counters; its health, 503 unless it is well |
//!
//! Routes that ask for an owner answer 403 when nobody is logged in. Errors are one line of plain text: 400 for
//! what makes no sense, 403 for what is not allowed, 409 for a value of another type, 410 for a session that
//! another request has ended, 413 for what is too large, 503 while the store is down.
//!
//! # JSON
//! Keys are sorted. Times are RFC 3339 in UTC; what is not known is `null`.
//! - A message: `level`, `message`, `name`.
//! - A session: `authenticated_at`, `created_at`, `expires_at`, `id`, `ip`, `last_seen`, `owner`, `user_agent`; in
//!   `/sessions` also `current`, in `/iterate` also `keys`.
//! - A page: `next`, to be passed as `after`, `null` on the last one; `sessions`.
//! - `/json` and the data of `changed`: `authenticated_at`, `created_at`, `data`, `deadline`, `idle_timeout`,
//!   `last_seen`, `persistent`, `version`.
//!
//! # Events
//! `/events` sends `event: changed` with the session as JSON, once per change; changes that follow each other quickly
//! may be told as one. At its end it sends `event: revoked` with `destroyed`, `renewed`, `expired` or
//! `revoked`, and nothing more. `/ws` closes with code 1008 and the same words. When the server stops, both
//! end without.

mod error;
mod life;
mod live;
mod options;
mod owner;
mod values;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use sessile::{AuditObserver, CookiePolicy, Durability, Engine, HeaderTransport, OwnerLimit, SessionLayer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::live::Stopping;
use crate::options::{DurabilityOption, FullOption, Options, StoreOption, TransportOption, WINDOW};

/// How long requests in flight may finish after the first SIGTERM or SIGINT.
const DRAIN: Duration = Duration::from_secs(5);

// ---- Start and stop --------------------------------------------------------------------------------

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::from_command_line()).await {
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
    let engine = open(&options).await.map_err(|e| format!("cannot open {store}: {e}"))?;
    // Not before: a start that fails says one line and no more.
    log_to_stderr(options.log);
    let layer = session_layer(&engine, &options)?;
    let (stopping, stopped) = watch::channel(false);
    let app = routes(&options, layer, App::new(&engine, &options, stopped));

    let durability = options.durability;
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "listening on http://{address} store={store} durability={durability}");
    let _ = stdout.flush();
    drop(stdout);

    serve(listener, app, stop, stopping).await.map_err(|e| format!("cannot serve: {e}"))?;
    // What requests have written since the last commit reaches the file here.
    engine.close().await.map_err(|e| format!("cannot write the last sessions to {store}: {e}"))
}

#[cfg_attr(
    not(any(
        feature = "redis",
        feature = "postgres",
        feature = "mysql",
        feature = "mssql",
        feature = "sqlite",
        feature = "etcd",
        feature = "consul",
        feature = "mongodb",
        feature = "dynamodb",
        feature = "firestore",
        feature = "memcached"
    )),
    expect(clippy::unused_async, reason = "only servers have to be waited for")
)]
async fn open(options: &Options) -> sessile::Result<Engine> {
    let mut builder = Engine::builder()
        .lifetime(options.lifetime)
        .idle_timeout(options.idle)
        .durability(match options.durability {
            DurabilityOption::Eventual => Durability::Eventual { window: WINDOW },
            DurabilityOption::Process => Durability::ProcessCrash { window: WINDOW },
            DurabilityOption::Power => Durability::PowerLoss,
        })
        .persistent(options.persist)
        .rotate_every(options.rotate.map(Duration::from_secs))
        .observer(AuditObserver::new());
    if let Some(bytes) = options.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    if let Some(n) = options.max_sessions {
        let policy = match options.when_full {
            FullOption::Refuse => OwnerLimit::Refuse,
            FullOption::DropOldest => OwnerLimit::DropOldest,
        };
        builder = builder.max_sessions_per_owner(usize::try_from(n).unwrap_or(usize::MAX), policy);
    }
    match &options.store {
        StoreOption::Memory => builder.in_memory(),
        StoreOption::Redb(path) => builder.open_redb(path),
        #[cfg(feature = "sled")]
        StoreOption::Sled(path) => builder.open_sled(path),
        #[cfg(any(
            feature = "redis",
            feature = "postgres",
            feature = "mysql",
            feature = "mssql",
            feature = "sqlite",
            feature = "etcd",
            feature = "consul",
            feature = "mongodb",
            feature = "dynamodb",
            feature = "firestore",
            feature = "memcached"
        ))]
        StoreOption::Remote(url) => sessile::stores::open(builder, url).await,
    }
}

/// What sessile says, the audit log included, and nothing of other crates: they do not know which headers are
/// secret.
fn log_to_stderr(level: LevelFilter) {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr);
    let sessile = Targets::new().with_target("sessile", level);
    tracing_subscriber::registry().with(lines.with_filter(sessile)).init();
}

fn session_layer(engine: &Engine, options: &Options) -> Result<SessionLayer, String> {
    let layer = SessionLayer::new(engine.clone());
    if options.transport == TransportOption::Header {
        return Ok(layer.header(HeaderTransport::default()));
    }
    let mut cookie = CookiePolicy::builder();
    if let Some(name) = &options.cookie_name {
        cookie = cookie.name(name.clone());
    }
    if options.insecure_http {
        cookie = cookie.insecure_http();
    }
    let cookie = cookie.build().map_err(|e| format!("the cookie policy contradicts itself: {e}"))?;
    Ok(layer.cookie(cookie))
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
    stopping: watch::Sender<bool>,
) -> io::Result<()> {
    let (stopped, drain) = tokio::sync::oneshot::channel();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop.await;
        // Endless responses end by themselves.
        stopping.send_replace(true);
        let _ = stopped.send(());
    });
    let out_of_patience = async {
        let _ = drain.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => result,
        () = out_of_patience => Ok(()),
    }
}

// ---- Routes ----------------------------------------------------------------------------------------

/// What handlers share.
#[derive(Clone)]
struct App {
    engine: Engine,
    stopping: Stopping,
    transport: TransportOption,
    cookie_name: String,
}

impl App {
    fn new(engine: &Engine, options: &Options, stopping: watch::Receiver<bool>) -> Self {
        Self {
            engine: engine.clone(),
            stopping: Stopping(stopping),
            transport: options.transport,
            cookie_name: options.cookie_name.clone().unwrap_or_else(|| "session".to_owned()),
        }
    }
}

impl FromRef<App> for Engine {
    fn from_ref(app: &App) -> Self {
        app.engine.clone()
    }
}

impl FromRef<App> for Stopping {
    fn from_ref(app: &App) -> Self {
        app.stopping.clone()
    }
}

fn routes(options: &Options, sessions: SessionLayer, app: App) -> Router {
    let mut routes = Router::new()
        .route("/put", get(values::put))
        .route("/get", get(values::read))
        .route("/pop", get(values::pop))
        .route("/remove", get(values::remove))
        .route("/exists", get(values::exists))
        .route("/keys", get(values::keys))
        .route("/clear", get(values::clear))
        .route("/count", get(values::count))
        .route("/renew", get(values::renew))
        .route("/destroy", get(values::destroy))
        .route("/deadline", get(values::deadline))
        .route("/status", get(values::status))
        .route("/slow", get(values::slow))
        .route("/slow-get", get(values::slow_get))
        .route("/panic", get(values::panic))
        .route("/fail", get(values::fail))
        .route("/stats", get(values::stats))
        .route("/healthz", get(values::healthz))
        .route("/flash", get(life::flash))
        .route("/flashes", get(life::flashes))
        .route("/remember", get(life::remember))
        .route("/idle", get(life::idle))
        .route("/set-deadline", get(life::set_deadline))
        .route("/rotate", get(life::rotate))
        .route("/merge", get(life::merge))
        .route("/json", get(life::as_json))
        .route("/login", get(owner::login))
        .route("/sessions", get(owner::sessions))
        .route("/revoke", get(owner::revoke))
        .route("/logout-everywhere", get(owner::logout_everywhere))
        .route("/iterate", get(owner::iterate))
        .route("/events", get(live::events))
        .route("/ws", get(live::ws))
        .route("/stream", get(live::stream));
    if options.show_token {
        routes = routes.route("/token", get(life::token));
    }
    routes
        .with_state(app)
        // The last layer is the outermost. A panic must unwind through the session layer, which then
        // publishes nothing, and be turned into a 500 only outside it: caught further in, it would look
        // to the session layer like any other answer.
        .layer(sessions)
        .layer(CatchPanicLayer::new())
}
