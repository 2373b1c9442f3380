//! The layer around plain tower services and axum routers: what reaches the client, and what does not.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE, VARY};
use http::{HeaderMap, Request, Response};
use sessile::engine::clock::ManualClock;
use sessile::{
    CacheControl, CookiePolicy, Engine, ErrorKind, Session, SessionLayer, SessionRejection, Token,
};
use tower::{Layer, Service, ServiceExt, service_fn};

type Req = Request<String>;
type Res = Response<String>;

enum Admin {}

fn engine() -> Engine {
    Engine::builder().in_memory().unwrap()
}

fn request(cookies: &[&str]) -> Req {
    let mut request = Request::new(String::new());
    for cookie in cookies {
        request.headers_mut().append(COOKIE, cookie.parse().unwrap());
    }
    request
}

fn lines(headers: &HeaderMap, name: http::HeaderName) -> Vec<&str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

/// The `name=value` pairs that the response sets.
fn set(response: &Res) -> Vec<&str> {
    lines(response.headers(), SET_COOKIE).into_iter().map(|l| l.split(';').next().unwrap()).collect()
}

async fn session(request: &Req) -> Session {
    Session::from_request(request).await.unwrap()
}

async fn send<F, R>(layer: &SessionLayer, handler: F, cookies: &[&str]) -> Res
where
    F: Fn(Req) -> R + Clone,
    R: Future<Output = Result<Res, Infallible>>,
{
    layer.layer(service_fn(handler)).oneshot(request(cookies)).await.unwrap()
}

/// Counts its calls in the session and answers with the count.
async fn count(request: Req) -> Result<Res, Infallible> {
    let session = session(&request).await;
    let n = session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
    Ok(Response::new(n.to_string()))
}

async fn read(request: Req) -> Result<Res, Infallible> {
    let n = session(&request).await.get::<u64>("n").unwrap();
    Ok(Response::new(format!("{n:?}")))
}

#[tokio::test]
async fn a_route_that_does_not_ask_is_left_as_it_is() {
    let layer = SessionLayer::new(engine());
    let handler = async |_: Req| {
        let response = Response::builder().header(VARY, "Origin").header(SET_COOKIE, "session=mine");
        Ok(response.body(String::new()).unwrap())
    };
    let response = send(&layer, handler, &["session=nonsense"]).await;
    assert_eq!(response.headers().len(), 2);
    assert_eq!(response.headers()[VARY], "Origin");
    assert_eq!(set(&response), ["session=mine"]);
}

#[tokio::test]
async fn the_first_write_sets_one_cookie_and_reading_sets_none() {
    let layer = SessionLayer::new(engine());
    let nothing = send(&layer, read, &[]).await;
    assert_eq!((nothing.body().as_str(), set(&nothing).len()), ("None", 0));
    assert_eq!(nothing.headers()[VARY], "Cookie");
    assert!(!nothing.headers().contains_key(CACHE_CONTROL));

    let first = send(&layer, count, &[]).await;
    assert_eq!(first.body(), "1");
    assert_eq!(first.headers()[CACHE_CONTROL], "no-cache=\"Set-Cookie\"");
    assert!(first.headers()[SET_COOKIE].is_sensitive());
    let line = first.headers()[SET_COOKIE].to_str().unwrap();
    assert!(line.contains("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=86"), "{line}");
    assert!(line.contains("; Expires="), "{line}");
    let cookie = set(&first)[0];

    let again = send(&layer, count, &[cookie]).await;
    assert_eq!((again.body().as_str(), set(&again).len()), ("2", 0));
    let seen = send(&layer, read, &["other=1", cookie]).await;
    assert_eq!((seen.body().as_str(), set(&seen).len()), ("Some(2)", 0));
    assert_eq!(lines(seen.headers(), VARY), ["Cookie"]);
}

#[tokio::test]
async fn a_policy_decides_name_attributes_and_cache_control() {
    let policy = CookiePolicy::builder().name("__Host-id").persistent(false).build().unwrap();
    let layer = SessionLayer::new(engine()).cookie(policy).cache_control(CacheControl::NoStore);
    let first = send(&layer, count, &[]).await;
    assert_eq!(first.headers()[CACHE_CONTROL], "no-store");
    let line = first.headers()[SET_COOKIE].to_str().unwrap();
    assert!(
        line.starts_with("__Host-id=") && line.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"),
        "{line}"
    );
}

#[tokio::test]
async fn a_cookie_of_our_name_that_the_handler_wrote_gives_way() {
    let layer = SessionLayer::new(engine());
    let handler = async |request: Req| {
        session(&request).await.put("k", "v").unwrap();
        let response = Response::builder()
            .header(SET_COOKIE, "a=1")
            .header(SET_COOKIE, "session=mine")
            .header(SET_COOKIE, "b=2");
        Ok(response.body(String::new()).unwrap())
    };
    let response = send(&layer, handler, &[]).await;
    let set = set(&response);
    assert_eq!((set.len(), set[0], set[1]), (3, "a=1", "b=2"));
    assert!(set[2].starts_with("session=") && set[2] != "session=mine");
}

#[tokio::test]
async fn the_live_cookie_is_found_among_planted_ones() {
    let layer = SessionLayer::new(engine());
    let first = send(&layer, count, &[]).await;
    let real = set(&first)[0];
    let unknown: Vec<String> =
        (0..3).map(|_| format!("session={}", Token::generate().unwrap().encode().as_str())).collect();
    for at in 0..=3 {
        let mut all: Vec<&str> = unknown.iter().map(String::as_str).collect();
        all.insert(at, real);
        for cookies in [vec![all.join("; ")], all.iter().map(ToString::to_string).collect()] {
            let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
            let response = send(&layer, read, &cookies).await;
            assert_eq!(response.body(), "Some(1)", "{at}");
        }
    }
    let mut flood: Vec<&str> = unknown.iter().map(String::as_str).collect();
    let last = format!("session={}", Token::generate().unwrap().encode().as_str());
    flood.extend([last.as_str(), real]);
    assert_eq!(send(&layer, read, &flood).await.body(), "None", "the fifth value is not tried");
}

#[tokio::test]
async fn a_token_that_was_never_issued_is_not_adopted() {
    let layer = SessionLayer::new(engine());
    let planted = format!("session={}", Token::generate().unwrap().encode().as_str());
    let big = format!("session={}", "A".repeat(20_000));
    for cookie in [planted.as_str(), "session=", "session=%00", "session=\"\"", &big] {
        let response = send(&layer, count, &[cookie]).await;
        assert_eq!(response.body(), "1");
        assert_ne!(set(&response), [cookie]);
        assert_eq!(set(&response).len(), 1);
    }
}

#[tokio::test]
async fn destroy_removes_the_cookie_and_renew_replaces_it() {
    let layer = SessionLayer::new(engine());
    let first = send(&layer, count, &[]).await;
    let old = set(&first)[0];
    let renewed = send(
        &layer,
        async |request: Req| {
            session(&request).await.renew().unwrap();
            Ok(Response::new(String::new()))
        },
        &[old],
    )
    .await;
    let new = set(&renewed)[0];
    assert_ne!(new, old);
    assert_eq!(send(&layer, read, &[old]).await.body(), "None");
    assert_eq!(send(&layer, read, &[new]).await.body(), "Some(1)");
    let destroyed = send(
        &layer,
        async |request: Req| {
            session(&request).await.destroy().unwrap();
            Ok(Response::new(String::new()))
        },
        &[new],
    )
    .await;
    assert_eq!(
        lines(destroyed.headers(), SET_COOKIE),
        [
            "session=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        ]
    );
    assert_eq!(send(&layer, read, &[new]).await.body(), "None");
}

#[tokio::test]
async fn two_markers_have_two_sessions() {
    let shop = SessionLayer::new(engine());
    let cookie = CookiePolicy::builder().name("admin").build().unwrap();
    let admin = SessionLayer::new(engine()).cookie(cookie).marker::<Admin>();
    let handler = async |request: Req| {
        let shop: Session = Session::from_request(&request).await.unwrap();
        let admin: Session<Admin> = Session::from_request(&request).await.unwrap();
        let seen = (admin.get::<String>("who").unwrap(), shop.get::<String>("who").unwrap());
        shop.put("who", "customer").unwrap();
        admin.put("who", "root").unwrap();
        Ok::<_, Infallible>(Response::new(format!("{seen:?}")))
    };
    let service = shop.layer(admin.layer(service_fn(handler)));
    let first = service.clone().oneshot(request(&[])).await.unwrap();
    let cookies = set(&first);
    assert_eq!(cookies.len(), 2);
    assert!(
        cookies[0].starts_with("admin=") && cookies[1].starts_with("session="),
        "the inner head comes first"
    );
    assert_eq!(lines(first.headers(), VARY), ["Cookie"]);
    assert_eq!(lines(first.headers(), CACHE_CONTROL), ["no-cache=\"Set-Cookie\""]);
    let second = service.oneshot(request(&cookies)).await.unwrap();
    assert_eq!(second.body(), "(Some(\"root\"), Some(\"customer\"))");
    assert_eq!(set(&second).len(), 0);
}

#[tokio::test]
async fn the_same_layer_twice_serves_one_session() {
    for between_asks in [false, true] {
        for built_apart in [false, true] {
            let engine = engine();
            let outer = SessionLayer::new(engine.clone());
            let inner = if built_apart { SessionLayer::new(engine) } else { outer.clone() };
            let inside = inner.layer(service_fn(count));
            let between = service_fn(move |request: Req| {
                let inside = inside.clone();
                async move {
                    if between_asks {
                        session(&request).await.put("n", &10u64).unwrap();
                    }
                    inside.oneshot(request).await
                }
            });
            let service = outer.layer(between);
            let first = service.clone().oneshot(request(&[])).await.unwrap();
            assert_eq!(first.body(), if between_asks { "11" } else { "1" });
            assert_eq!(set(&first).len(), 1, "asks: {between_asks}, apart: {built_apart}");
            assert_eq!(lines(first.headers(), VARY), ["Cookie"]);
            assert_eq!(lines(first.headers(), CACHE_CONTROL), ["no-cache=\"Set-Cookie\""]);
            let second = service.oneshot(request(&set(&first))).await.unwrap();
            assert_eq!(second.body(), if between_asks { "11" } else { "2" });
            assert_eq!(set(&second).len(), 0);
        }
    }
}

#[tokio::test]
async fn a_request_made_inside_a_handler_is_not_lent_the_handlers_session() {
    let layer = SessionLayer::new(engine());
    let (alice, bob) = (send(&layer, count, &[]).await, send(&layer, count, &[]).await);
    let (alice, bob) = (set(&alice)[0].to_owned(), set(&bob)[0].to_owned());
    let inside = layer.layer(service_fn(read));
    let handler = async |request: Req| {
        session(&request).await.put("n", &100u64).unwrap();
        let mut other = Req::default();
        other.headers_mut().insert(COOKIE, bob.parse().unwrap());
        inside.clone().oneshot(other).await
    };
    let response = send(&layer, handler, &[&alice]).await;
    assert_eq!(response.body(), "Some(1)", "bob's, not alice's");
    assert_eq!(send(&layer, read, &[&alice]).await.body(), "Some(100)");
}

#[tokio::test]
async fn a_panic_publishes_no_session_and_leaves_no_scope() {
    let layer = SessionLayer::new(engine());
    let handler = async |request: Req| -> Result<Res, Infallible> {
        session(&request).await.put("k", "v").unwrap();
        std::panic::resume_unwind(Box::new("handler"))
    };
    for _ in 0..3 {
        let mut service = layer.layer(service_fn(handler));
        let mut future = pin!(service.call(request(&[])));
        let mut cx = Context::from_waker(Waker::noop());
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx).is_ready()));
        assert!(result.is_err());
        assert!(Session::<sessile::Main>::current().is_none());
    }
    assert_eq!(send(&layer, count, &[]).await.body(), "1");
}

#[tokio::test]
async fn a_dropped_request_renews_nothing() {
    let layer = SessionLayer::new(engine());
    let first = send(&layer, count, &[]).await;
    let cookie = set(&first)[0];
    let handler = async |request: Req| -> Result<Res, Infallible> {
        session(&request).await.renew().unwrap();
        std::future::pending().await
    };
    {
        let mut service = layer.layer(service_fn(handler));
        let mut future = pin!(service.call(request(&[cookie])));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        assert!(Session::<sessile::Main>::current().is_none(), "between polls nobody is inside");
    }
    assert_eq!(send(&layer, read, &[cookie]).await.body(), "Some(1)");
}

#[tokio::test]
async fn an_error_of_the_service_passes_through_and_commits_nothing() {
    let layer = SessionLayer::new(engine());
    let first = send(&layer, count, &[]).await;
    let cookie = set(&first)[0];
    let failing = service_fn(async |request: Req| {
        session(&request).await.renew().unwrap();
        Err::<Res, _>("broken")
    });
    assert_eq!(layer.layer(failing).oneshot(request(&[cookie])).await.unwrap_err(), "broken");
    assert_eq!(send(&layer, read, &[cookie]).await.body(), "Some(1)");
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    struct Busy;
    impl Service<Req> for Busy {
        type Response = Res;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Res, &'static str>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Err("busy"))
        }
        fn call(&mut self, _: Req) -> Self::Future {
            std::future::ready(Err("called"))
        }
    }
    let mut service = SessionLayer::new(engine()).layer(Busy);
    assert_eq!(service.ready().await.err(), Some("busy"));
}

#[tokio::test]
async fn all_extractions_of_a_request_give_one_session() {
    let layer = SessionLayer::new(engine());
    let handler = async |request: Req| {
        assert!(Session::<sessile::Main>::current().is_none());
        let (a, b) = tokio::join!(session(&request), session(&request));
        a.put("k", &7u8).unwrap();
        assert_eq!(b.get::<u8>("k").unwrap(), Some(7));
        assert_eq!(session(&request).await.get::<u8>("k").unwrap(), Some(7));
        let current = Session::<sessile::Main>::current().unwrap();
        assert_eq!(current.get::<u8>("k").unwrap(), Some(7));
        Ok(Response::new(String::new()))
    };
    assert_eq!(set(&send(&layer, handler, &[]).await).len(), 1);
}

#[tokio::test]
async fn another_task_needs_the_handle_and_gets_the_session_with_it() {
    let handler = async |request: Req| {
        let task = tokio::spawn(async move {
            let session: Session = Session::from_request(&request).await?;
            session.put("k", "v").unwrap();
            Ok::<_, SessionRejection>(())
        });
        Ok(Response::new(match task.await.unwrap() {
            Ok(()) => "ok".to_owned(),
            Err(rejection) => rejection.body_text().to_owned(),
        }))
    };
    let without = send(&SessionLayer::new(engine()), handler, &[]).await;
    assert!(without.body().starts_with("session layer missing"), "{}", without.body());
    assert_eq!(set(&without).len(), 0);
    let with = send(&SessionLayer::new(engine()).request_extension(true), handler, &[]).await;
    assert_eq!((with.body().as_str(), set(&with).len()), ("ok", 1));
    assert_eq!(with.headers()[VARY], "Cookie");
}

#[tokio::test]
async fn a_load_that_waits_elsewhere_ends_in_a_rejection() {
    let layer = SessionLayer::new(engine());
    let handler = async |request: Req| {
        let load: sessile::Load = Session::from_request(&request);
        Ok(Response::new(match tokio::spawn(load).await.unwrap() {
            Ok(session) => session.put("k", "v").map(|()| "put".to_owned()).unwrap(),
            Err(rejection) => {
                assert!(matches!(rejection, SessionRejection::MissingLayer(_)));
                "rejected".to_owned()
            }
        }))
    };
    // A token that is not in memory has to be looked for; what needs no looking for is the request's at once.
    let unknown = format!("session={}", "A".repeat(43));
    assert_eq!(send(&layer, handler, &[&unknown]).await.body(), "rejected");
    let immediate = send(&layer, handler, &[]).await;
    assert_eq!((immediate.body().as_str(), set(&immediate).len()), ("put", 1));
}

#[tokio::test]
async fn a_request_can_look_without_using_the_session() {
    const IDLE: Duration = Duration::from_secs(60);
    for (touches, alive) in [(true, true), (false, false)] {
        let clock = ManualClock::new(1_800_000_000_000);
        let engine = Engine::builder().clock(clock.clone()).idle_timeout(IDLE).in_memory().unwrap();
        let layer = SessionLayer::new(engine);
        let cookie = set(&send(&layer, count, &[]).await)[0].to_owned();
        let handler = move |request: Req| async move {
            let load: sessile::Load =
                if touches { Session::from_request(&request) } else { Session::untouched(&request) };
            Ok(Response::new(load.await.unwrap().get::<u64>("n").unwrap().unwrap_or(0).to_string()))
        };
        clock.advance(IDLE / 2);
        assert_eq!(send(&layer, handler, &[&cookie]).await.body(), "1", "it is there to be looked at");
        clock.advance(IDLE / 2);
        assert_eq!(send(&layer, handler, &[&cookie]).await.body() == "1", alive, "touches: {touches}");
    }
}

#[tokio::test]
async fn what_is_first_asked_for_after_the_head_can_read_but_not_begin() {
    let layer = SessionLayer::new(engine()).request_extension(true);
    let first = send(&layer, count, &[]).await;
    let cookie = set(&first)[0].to_owned();
    for (cookies, known) in [(vec![], false), (vec![cookie.as_str()], true)] {
        let kept = Mutex::new(None);
        let handler = async |request: Req| {
            *kept.lock().unwrap() = Some(request);
            Ok(Response::new(String::new()))
        };
        let response = send(&layer, handler, &cookies).await;
        assert!(!response.headers().contains_key(VARY));
        let session = session(&kept.into_inner().unwrap().unwrap()).await;
        assert_eq!(session.get::<u64>("n").unwrap(), known.then_some(1));
        let put = session.put("late", &1u8);
        assert_eq!(put.err().map(|e| e.kind()), (!known).then_some(ErrorKind::HeadSent));
    }
}

#[cfg(feature = "axum")]
mod axum_extractor {
    //! The same through axum's router.

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;

    use super::*;

    async fn hits(session: Session) -> Result<String, sessile::ErrorResponse> {
        Ok(session.update("hits", |n: Option<u64>| n.unwrap_or(0) + 1)?.to_string())
    }

    async fn optional(session: Option<Session>) -> String {
        session.is_some().to_string()
    }

    async fn ask(app: &Router, path: &str, cookie: &str) -> (u16, String, HeaderMap) {
        let request = Request::builder().uri(path).header(COOKIE, cookie).body(Body::empty()).unwrap();
        let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), head.headers)
    }

    #[tokio::test]
    async fn a_handler_counts_and_a_missing_layer_is_a_clear_500() {
        let bare = Router::new().route("/", get(hits)).route("/optional", get(optional));
        let app = bare.clone().layer(SessionLayer::new(engine()));
        let (status, body, headers) = ask(&app, "/", "").await;
        assert_eq!((status, body.as_str()), (200, "1"));
        let cookie = headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let (_, body, headers) = ask(&app, "/", &cookie).await;
        assert_eq!(body, "2");
        assert!(!headers.contains_key(SET_COOKIE));
        assert_eq!(ask(&app, "/optional", "").await.1, "true");

        let (status, body, _) = ask(&bare, "/", "").await;
        assert_eq!(status, 500);
        assert!(body.starts_with("session layer missing"), "{body}");
        assert_eq!(ask(&bare, "/optional", "").await.1, "false");
    }
}
