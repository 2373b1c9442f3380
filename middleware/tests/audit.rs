//! The audit log and the metrics over a whole life of sessions: each event is there, and neither they, nor
//! anything else that is traced or printed, holds a token or an id.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]
#![cfg(feature = "metrics")]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sessile::engine::Durability;
use sessile::engine::clock::ManualClock;
use sessile::{
    AuditObserver, CookiePolicy, Engine, Event, HeaderTransport, Health, Session, SessionId, SessionLayer,
    SessionTag, Token,
};
use support::Fragile;
use tower::{Layer, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span;

type Req = Request<String>;
type Res = Response<String>;

// ---- everything that is traced -----------------------------------------------------------------------

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        self.push(line.0);
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.push(line.0);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let meta = event.metadata();
        let mut line = Line(format!("{} {}", meta.level(), meta.target()));
        event.record(&mut line);
        self.push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// The audit lines about `event`.
    fn audit(&self, event: &str) -> Vec<String> {
        let wanted = format!("event=\"{event}\"");
        let lines = self.0.lock().unwrap();
        let ours = |l: &&String| l.contains(" sessile::audit ") && l.contains(&wanted);
        lines.iter().filter(ours).cloned().collect()
    }
}

// ---- everything that is counted ----------------------------------------------------------------------

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

struct Samples(Arc<AtomicU64>);

impl metrics::HistogramFn for Samples {
    fn record(&self, value: f64) {
        assert!(value.is_finite());
        self.0.fetch_add(1, SeqCst);
    }
}

impl Counts {
    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(key.to_string()).or_default())
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Samples(self.cell(key))))
    }
}

// ---- the life ----------------------------------------------------------------------------------------

#[derive(Default)]
struct Seen {
    tokens: Mutex<Vec<String>>,
    ids: Mutex<Vec<SessionId>>,
    printed: Mutex<String>,
}

impl Seen {
    fn print(&self, what: &dyn Debug) {
        let _ = write!(self.printed.lock().unwrap(), "{what:?}\n{what:#?}\n");
    }

    fn token(&self, text: &str) {
        let token = Token::parse(text.as_bytes()).unwrap();
        self.ids.lock().unwrap().push(token.id());
        self.tokens.lock().unwrap().push(text.to_owned());
        self.print(&token);
        self.print(&token.encode());
        self.print(&token.id());
        self.print(&SessionTag::of(&token.id()));
    }
}

struct Life {
    layer: SessionLayer,
    seen: Arc<Seen>,
}

impl Life {
    /// Runs `act` in a request with these cookies, and gives the `name=value` that the response sets.
    async fn request(&self, cookie: &str, act: impl Fn(&Session) + Clone) -> String {
        let seen = Arc::clone(&self.seen);
        let handler = move |request: Req| {
            let (act, seen) = (act.clone(), Arc::clone(&seen));
            async move {
                let load: sessile::Load = Session::from_request(&request);
                seen.print(&load);
                match load.await {
                    Ok(session) => {
                        act(&session);
                        seen.print(&session);
                        seen.print(&session.snapshot());
                        seen.print(&session.clone().into_inner());
                    }
                    Err(rejection) => seen.print(&rejection),
                }
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        };
        let request = Request::builder().header(COOKIE, cookie).body(String::new()).unwrap();
        let service = self.layer.layer(service_fn(handler));
        let future = service.oneshot(request);
        let response: Res = future.await.unwrap();
        self.seen.print(&response);
        let Some(line) = response.headers().get(SET_COOKIE) else { return String::new() };
        let pair = line.to_str().unwrap().split(';').next().unwrap().to_owned();
        if let Some(token) = pair.strip_prefix("session=").filter(|t| !t.is_empty()) {
            self.seen.token(token);
        }
        pair
    }
}

const MEMORY: usize = 128 << 10;

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one life, from beginning to end")]
async fn a_whole_life_is_audited_and_counted_and_nothing_secret_is_said() {
    let (log, counts) = (Log::default(), Counts::default());
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    metrics::set_global_recorder(counts.clone()).unwrap();
    let seen = Arc::new(Seen::default());
    let clock = ManualClock::new(1_700_000_000_000);
    let store = Fragile::new();
    let told = Arc::new(AtomicU64::new(0));
    let also = Arc::clone(&told);
    let printer = Arc::clone(&seen);
    let observer = AuditObserver::new().and(move |event: &Event| {
        printer.print(event);
        also.fetch_add(1, SeqCst);
    });
    seen.print(&observer);
    let builder = Engine::builder()
        .clock(clock.clone())
        .lifetime(Duration::from_secs(3600))
        .idle_timeout(Duration::from_secs(600))
        .durability(Durability::PowerLoss)
        .memory_limit(MEMORY)
        .observer(observer);
    seen.print(&builder);
    let engine = builder.open(store.clone()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    seen.print(&layer.layer(()));
    seen.print(&layer);
    seen.print(&CookiePolicy::default());
    seen.print(&HeaderTransport::default());
    let life = Life { layer, seen: Arc::clone(&seen) };
    let put = |s: &Session| s.put("k", "v").unwrap();
    let look = |s: &Session| assert_eq!(s.get::<String>("k").unwrap(), None);
    let use_it = |s: &Session| assert_eq!(s.get::<String>("k").unwrap().as_deref(), Some("v"));

    // created, renewed, destroyed, unknown
    let first = life.request("", put).await;
    let second = life.request(&first, |s| s.renew().unwrap()).await;
    life.request(&first, look).await;
    life.request(&second, |s| s.destroy().unwrap()).await;
    life.request(&second, look).await;
    // ambiguous, malformed, over budget
    let third = life.request("", put).await;
    life.request(&format!("{first}; {third}"), use_it).await;
    life.request("session=nonsense", look).await;
    life.request(&format!("a={}", "b".repeat(20_000)), look).await;
    // revoked by id
    let id = *seen.ids.lock().unwrap().last().unwrap();
    engine.destroy_session(&id).await.unwrap();
    life.request(&third, look).await;
    // expired, both ways
    let idle = life.request("", put).await;
    clock.advance(Duration::from_secs(600));
    life.request(&idle, look).await;
    let busy = life.request("", put).await;
    for _ in 0..7 {
        clock.advance(Duration::from_secs(500));
        life.request(&busy, use_it).await;
    }
    clock.advance(Duration::from_secs(100));
    life.request(&busy, look).await;
    // limit
    life.request("", |s| drop(s.put("k", &"x".repeat(1 << 20)).unwrap_err())).await;
    // evicted
    let cold = life.request("", put).await;
    for _ in 0..100 {
        life.request("", |s| s.put("k", &"x".repeat(4096)).unwrap()).await;
    }
    // loaded back, then damaged
    life.request(&cold, use_it).await;
    let rotten = life.request("", put).await;
    for _ in 0..100 {
        life.request("", |s| s.put("k", &"x".repeat(4096)).unwrap()).await;
    }
    store.damage(true);
    life.request(&rotten, look).await;
    store.damage(false);
    // the store goes away and comes back
    store.take_down(true);
    life.request("", put).await;
    assert!(matches!(engine.health(), Health::Degraded { .. }));
    seen.print(&engine);
    let stranger = Token::generate().unwrap().encode().as_str().to_owned();
    seen.token(&stranger);
    life.request(&format!("session={stranger}"), |_| ()).await;
    store.take_down(false);
    while engine.health() != Health::Ok {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen.print(&engine.stats().await);
    engine.close().await.unwrap();

    let some = |event: &str| {
        let lines = log.audit(event);
        assert!(!lines.is_empty(), "{event}: {:#?}", log.0.lock().unwrap());
        lines
    };
    let tag = |pair: &str| {
        let token = Token::parse(pair.strip_prefix("session=").unwrap().as_bytes()).unwrap();
        SessionTag::of(&token.id()).to_string()
    };
    let says = |event: &str, what: &[String]| {
        let found = some(event).iter().any(|line| what.iter().all(|w| line.contains(w)));
        assert!(found, "{event} {what:?}: {:#?}", log.audit(event));
    };
    says("created", &[format!("session={}", tag(&first)), "INFO".into()]);
    says("renewed", &[format!("session={}", tag(&second)), format!("was={}", tag(&first))]);
    says("destroyed", &[format!("session={}", tag(&second)), "by=\"holder\"".into()]);
    says("unknown", &[format!("session={}", tag(&first))]);
    says("ambiguous", &["tokens=2".into()]);
    says("revoked", &[format!("session={}", tag(&third)), "by=\"id\"".into()]);
    says("expired", &[format!("session={}", tag(&idle)), "by=\"idle\"".into()]);
    says("expired", &[format!("session={}", tag(&busy)), "by=\"deadline\"".into()]);
    says("evicted", &[format!("session={}", tag(&cold))]);
    says("corrupt", &[format!("session={}", tag(&rotten)), "ERROR".into()]);
    says("limit", &["kind=\"record\"".into()]);
    says("store_down", &["gone for lunch".into()]);
    for event in ["malformed", "over_budget", "store_up"] {
        assert_eq!(some(event).len(), 1, "{event}");
    }

    // Each line is counted once, under its name.
    let counted = counts.0.lock().unwrap();
    let total = |event: &str| -> u64 {
        let label = format!("event = {event}");
        let ours =
            counted.iter().filter(|(k, _)| k.starts_with("Key(sessile_events_total") && k.contains(&label));
        ours.map(|(_, n)| n.load(SeqCst)).sum()
    };
    for event in [
        "created",
        "renewed",
        "destroyed",
        "revoked",
        "expired",
        "evicted",
        "unknown",
        "malformed",
        "ambiguous",
        "over_budget",
        "limit",
        "corrupt",
        "store_down",
        "store_up",
    ] {
        assert_eq!(total(event), log.audit(event).len() as u64, "{event}: {:#?}", counted.keys());
    }
    for waits in ["sessile_load_wait_seconds", "sessile_commit_wait_seconds"] {
        let n: u64 = counted.iter().filter(|(k, _)| k.contains(waits)).map(|(_, n)| n.load(SeqCst)).sum();
        assert!(n > 0, "{waits}: {:#?}", counted.keys());
    }
    assert!(told.load(SeqCst) > 200, "the next observer is told as well");

    // And nothing is said that must not be.
    let printed = seen.printed.lock().unwrap();
    let lines = log.0.lock().unwrap().join("\n");
    let names: Vec<&str> = counted.keys().map(String::as_str).collect();
    let (tokens, ids) = (seen.tokens.lock().unwrap(), seen.ids.lock().unwrap());
    assert!(tokens.len() > 200);
    for (place, text) in [("log", lines.as_str()), ("metrics", &names.join("\n")), ("Debug", &printed)] {
        for token in tokens.iter() {
            assert_no(place, text, token);
            assert_no(place, text, &token.replace('-', "+").replace('_', "/"));
        }
        for id in ids.iter() {
            let hex = id.to_string();
            // `Debug` of an id shows eight digits; logs and metrics show none of it.
            assert_no(place, text, hex.get(..if place == "Debug" { 9 } else { 8 }).unwrap());
            assert_no(place, text, &format!("{:?}", id.as_bytes().get(..8).unwrap()).replace(['[', ']'], ""));
        }
    }
}

fn assert_no(place: &str, text: &str, secret: &str) {
    let Some(at) = text.find(secret) else { return };
    let line = text.get(..at).map_or(0, |t| t.rfind('\n').map_or(0, |n| n + 1));
    panic!(
        "{place} says {secret}: {}",
        text.get(line..).unwrap_or_default().lines().next().unwrap_or_default()
    );
}

#[test]
fn a_secret_would_be_found() {
    let found = std::panic::catch_unwind(|| assert_no("log", "a\nb tok c\nd", "tok"));
    assert!(found.is_err());
    assert_no("log", "a\nb", "tok");
}
