//! Rows T4, T7 and T8: a whole life of sessions, and a search for its tokens in everything that is written
//! down, printed, counted or sent: raw, in base64 of either alphabet, in hexadecimal and as a list of numbers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sessile::engine::store::{RedbStore, Store};
use sessile::{
    AuditObserver, CookiePolicy, Engine, ErrorResponse, Event, HeaderTransport, Level, Session, SessionLayer,
    SessionTag, Token,
};
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::support::*;
use crate::wire::{exchange, serve};

// ---- everything that is traced -----------------------------------------------------------------------

/// All spans and events at every level. They come from all tests of this program, which does no harm.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Log {
    fn push(&self, line: Line) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&line.0);
        log.push('\n');
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        self.push(line);
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.push(line);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.push(line);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

// ---- everything that is counted ----------------------------------------------------------------------

#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    fn note(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{key:?} {key}"));
    }
}

impl Recorder for Names {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

// ---- the search --------------------------------------------------------------------------------------

/// Every form in which `token` could be found.
fn forms(token: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).unwrap();
    assert_eq!(raw.len(), 32);
    let hex = |upper: bool| -> String {
        raw.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect()
    };
    // Half of a token is as bad: a search for the first half of each form finds the whole as well.
    let list = format!("{:?}", &raw[..16]);
    vec![
        raw[..16].to_vec(),
        raw[16..].to_vec(),
        token.as_bytes()[..21].to_vec(),
        token.as_bytes()[22..].to_vec(),
        token.replace('-', "+").replace('_', "/").into_bytes()[..21].to_vec(),
        hex(false).into_bytes()[..32].to_vec(),
        hex(true).into_bytes()[..32].to_vec(),
        list.trim_matches(['[', ']']).as_bytes().to_vec(),
    ]
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}

fn assert_none(place: &str, bytes: &[u8], tokens: &[String]) {
    for token in tokens {
        for form in forms(token) {
            if let Some(at) = find(bytes, &form) {
                let around = &bytes[at.saturating_sub(60)..(at + 80).min(bytes.len())];
                panic!("{place} has a token: {}", String::from_utf8_lossy(around));
            }
        }
    }
}

#[test]
fn a_token_would_be_found_in_any_form() {
    let token = Token::generate().unwrap().encode().as_str().to_owned();
    for form in forms(&token) {
        let text = [b"before ".as_slice(), &form, b" after"].concat();
        let found = std::panic::catch_unwind(|| assert_none("here", &text, std::slice::from_ref(&token)));
        assert!(found.is_err(), "{}", String::from_utf8_lossy(&form));
    }
    assert_none("here", b"nothing", &[token]);
}

// ---- the life ----------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<String>>);

impl Printed {
    fn print(&self, what: &dyn Debug) {
        let _ = write!(self.0.lock().unwrap(), "{what:?}\n{what:#?}\n");
    }
    /// Whatever `Display` has to say.
    fn say(&self, what: &dyn std::fmt::Display) {
        let _ = writeln!(self.0.lock().unwrap(), "{what}");
    }
}

fn print_error(printed: &Printed, error: &sessile::Error) {
    printed.print(error);
    printed.say(error);
    printed.say(&error.http_text());
}

/// A request whose handler prints all it can get hold of. Gives the token that the response sets.
async fn step(layer: &SessionLayer, printed: &Printed, cookie: &str, act: impl AsyncFn(&Session)) -> String {
    let act = &act;
    let handler = service_fn(move |request: Req| async move {
        let load: sessile::Load = Session::from_request(&request);
        printed.print(&load);
        let session = load.await.unwrap();
        act(&session).await;
        for what in [&session as &dyn Debug, &session.clone().into_inner(), &session.snapshot()] {
            printed.print(what);
        }
        if let Some(snapshot) = session.snapshot() {
            printed.say(&snapshot.to_json());
            printed.say(&snapshot.to_json_with_owner());
        }
        printed.print(&session.revoked());
        printed.print(&session.changed());
        printed.print(&session.status());
        if let Some(id) = session.id() {
            printed.print(&id);
            printed.say(&id);
            printed.print(&SessionTag::of(&id));
            printed.say(&SessionTag::of(&id));
        }
        Ok::<_, Infallible>(ok())
    });
    let service = layer.layer(handler);
    printed.print(&service);
    let future = service.oneshot(request(&[cookie]));
    let response = future.await.unwrap();
    // `HeaderValue`s that hold a token are marked, so that whoever logs responses does not log them.
    printed.print(&response);
    let pair = set(&response).first().map_or("", |l| l.split(';').next().unwrap()).to_owned();
    pair.strip_prefix("session=").unwrap_or_default().to_owned()
}

fn file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one life, from beginning to end")]
async fn t4_t8_a_whole_life_leaves_no_token_behind() {
    let (log, names, printed) = (Log::default(), Names::default(), Printed::default());
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    metrics::set_global_recorder(names.clone()).unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("sessions.redb");
    let (builder, clock) = clocked();
    let printer = printed.clone();
    let observer = AuditObserver::new().and(move |event: &Event| printer.print(event));
    printed.print(&observer);
    let builder = builder
        .lifetime(24 * HOUR)
        .idle_timeout(HOUR)
        .rotate_every(15 * MINUTE)
        .max_record_bytes(4096)
        .memory_limit(512 << 10)
        .max_sessions_per_owner(3, sessile::OwnerLimit::DropOldest)
        .observer(observer);
    printed.print(&builder);
    let engine = builder.open_redb(&path).unwrap();
    let printer = printed.clone();
    let layer = SessionLayer::new(engine.clone()).cookie_for_request(move |head, cookie| {
        printer.print(&head);
        printer.print(cookie);
    });
    printed.print(&layer);
    printed.print(&CookiePolicy::default());
    printed.print(&SessionLayer::new(engine.clone()).header(HeaderTransport::default()));

    let mut tokens = Vec::new();
    let pair = |token: &str| format!("session={token}");
    macro_rules! step {
        ($cookie:expr, $act:expr) => {{
            let token = step(&layer, &printed, $cookie, $act).await;
            if !token.is_empty() {
                tokens.push(token.clone());
            }
            token
        }};
    }
    let write = async |s: &Session| s.put("k", "a value to be found").unwrap();
    let nothing = async |s: &Session| assert!(!s.exists("k"));
    // Begun, used, renewed, logged in, rotated by itself, persisted otherwise, destroyed.
    let first = step!("", write);
    let renewed = step!(&pair(&first), async |s| s.renew().unwrap());
    let user = step!(&pair(&renewed), async |s| {
        s.login("user:42").await.unwrap();
        s.set_client_info(Some("browser"), Some("192.0.2.1")).unwrap();
        s.flash(Level::Info, "welcome").unwrap();
        s.sync().await.unwrap();
    });
    clock.advance(15 * MINUTE);
    let rotated = step!(&pair(&user), async |s| drop(s.flashes().unwrap()));
    let kept = step!(&pair(&rotated), async |s| s.remember_me(false).unwrap());
    assert_eq!(kept, rotated, "the same token, told again");
    // Given out early, for a body; and one that is refused.
    let issued = step!("", async |s| {
        s.put("k", "v").unwrap();
        let issue = s.issue().unwrap().unwrap();
        printed.print(&issue);
        printed.print(&issue.token);
        printed.print(&issue.token.encode());
        print_error(&printed, &s.put("big", &"x".repeat(1 << 20)).unwrap_err());
        print_error(&printed, &s.get::<u64>("k").unwrap_err());
    });
    assert_eq!(issued, "");
    // Merged, planted, malformed, too many, expired.
    let other = step!("", async |s| s.put("other", "v").unwrap());
    step!(&pair(&rotated), async |s| {
        printed.print(&s.merge(&token(&pair(&other))).await.unwrap());
    });
    let planted = Token::generate().unwrap().encode().as_str().to_owned();
    tokens.push(planted.clone());
    step!(&pair(&planted), nothing);
    step!(&format!("{}; {}", pair(&planted), pair(&rotated)), async |s| assert!(s.exists("k")));
    step!(&format!("session={}x", &planted[1..]), nothing);
    step!(&format!("{}; a={}", pair(&planted), "b".repeat(20_000)), nothing);
    let idle = step!("", write);
    clock.advance(HOUR);
    step!(&pair(&idle), nothing);
    // Enough for the cache to be written out; then by owner, by id, one after another, and the limit of owners.
    for i in 0..150 {
        step!("", async |s| s.put("k", &format!("{i}{}", "y".repeat(2000))).unwrap());
    }
    for _ in 0..5 {
        step!("", async |s| s.login("user:42").await.unwrap());
    }
    printed.print(&engine.sessions_of("user:42").await.unwrap());
    let page = engine.iterate(None, 10).await.unwrap();
    printed.print(&page);
    let opened = engine.open(&page.sessions[0].0.id).await.unwrap().unwrap();
    printed.print(&opened);
    printed.print(&opened.commit());
    engine.destroy_session(&page.sessions[0].0.id).await.unwrap();
    engine.destroy_all("user:42", None).await.unwrap();
    let last = step!("", write);
    step!(&pair(&last), async |s| s.destroy().unwrap());
    step!("", write);
    let direct = engine.session(None).await.unwrap();
    direct.put("k", "v").unwrap();
    let delivery = direct.commit().await.unwrap();
    printed.print(&delivery);
    printed.print(&engine);
    printed.print(&engine.stats().await);
    printed.print(&engine.health());

    engine.flush().await.unwrap();
    let open = file(&path);
    engine.close().await.unwrap();
    print_error(&printed, &engine.session(None).await.unwrap_err());
    let closed = file(&path);

    // What a store is given, and what it shows of itself.
    let store = RedbStore::open(&path).unwrap();
    printed.print(&store);
    printed.print(&Store::list(&store, None, 1000).await.unwrap());
    drop(store);
    printed.print(&Engine::builder().open_redb(dir.path()).map(drop).unwrap_err());

    assert!(tokens.len() > 160, "{}", tokens.len());
    let traced = log.0.lock().unwrap().clone();
    let printed = printed.0.lock().unwrap().clone();
    let counted = names.0.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n");
    // The places are the right ones: each has what it should have.
    for event in ["created", "renewed", "destroyed", "revoked", "expired", "evicted", "unknown", "ambiguous"]
    {
        assert!(traced.contains(&format!("event=\"{event}\"")), "{event}");
    }
    assert!(traced.contains("event=\"malformed\"") && traced.contains("event=\"over_budget\""));
    assert!(counted.contains("sessile_events_total"), "{counted}");
    assert!(printed.contains("Sensitive") && printed.contains("Token(…)"));
    for bytes in [&open, &closed] {
        assert!(find(bytes, b"a value to be found").is_some(), "values are readable in the file");
    }
    for (place, bytes) in [
        ("the log", traced.as_bytes()),
        ("the metrics", counted.as_bytes()),
        ("what was printed", printed.as_bytes()),
    ] {
        assert_none(place, bytes, &tokens);
    }
    // The file is searched for a sample: each search takes a while.
    let sample: Vec<String> = tokens.iter().take(14).chain(tokens.iter().rev().take(8)).cloned().collect();
    assert_none("the open file", &open, &sample);
    assert_none("the closed file", &closed, &sample);
}

// ---- what is sent ------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn t7_no_answer_has_a_token_outside_set_cookie() {
    async fn begin(session: Session) -> Result<String, ErrorResponse> {
        session.put("k", "v")?;
        Ok(format!("{session:?} {:?}", session.id()))
    }
    async fn renew(session: Session) -> Result<String, ErrorResponse> {
        session.renew()?;
        Ok(session.snapshot().map(|s| s.to_json()).unwrap_or_default())
    }
    async fn login(session: Session) -> Result<&'static str, ErrorResponse> {
        session.login("user:42").await?;
        Ok("in")
    }
    async fn list(State(engine): State<Engine>) -> Result<String, ErrorResponse> {
        let all = engine.sessions_of("user:42").await?;
        Ok(all.iter().map(|i| format!("{i:?} {}\n", i.id)).collect())
    }
    async fn fail(session: Session) -> Result<(), ErrorResponse> {
        Ok(session.put("k", &"x".repeat(1 << 20))?)
    }
    async fn end(session: Session) -> Result<(), ErrorResponse> {
        Ok(session.destroy()?)
    }
    let engine = Engine::builder().in_memory().unwrap();
    let app = Router::new()
        .route("/begin", get(begin))
        .route("/renew", get(renew))
        .route("/login", get(login))
        .route("/list", get(list))
        .route("/fail", get(fail))
        .route("/end", get(end))
        .layer(SessionLayer::new(engine.clone()))
        .with_state(engine);
    let address = serve(app).await;
    let mut tokens: Vec<String> = Vec::new();
    let mut seen = 0;
    for _ in 0..20 {
        let mut cookie = String::new();
        for path in
            ["begin", "list", "login", "list", "renew", "fail", "begin", "list", "nowhere", "end", "end"]
        {
            let head = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n");
            let answer = exchange(address, &head).await;
            let (ours, rest): (Vec<_>, Vec<_>) =
                answer.split("\r\n").partition(|l| l.starts_with("set-cookie: session="));
            assert!(ours.len() <= 1, "{answer}");
            if let Some(line) = ours.first() {
                let token = line["set-cookie: session=".len()..].split(';').next().unwrap();
                cookie = format!("session={token}");
                if !token.is_empty() {
                    tokens.push(token.to_owned());
                    seen += 1;
                }
            }
            assert_none("the answer", rest.join("\r\n").as_bytes(), &tokens);
        }
    }
    assert_eq!(seen, 60, "begun, logged in, renewed");
}
