//! The cookie rows of the security checklist (C1–C11) as clients see them, and the hook that changes a cookie
//! for one request. The rules themselves are tested in `src/cookie/policy/tests.rs`.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::convert::Infallible;
use std::time::Duration;

use http::header::{COOKIE, HOST, SET_COOKIE};
use http::{Request, Response};
use sessile::{CookiePolicy, Engine, SameSite, Session, SessionLayer, Token};
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<String>;
type Res = Response<String>;

fn engine() -> Engine {
    Engine::builder().in_memory().unwrap()
}

async fn write(request: Req) -> Result<Res, Infallible> {
    let session: Session = Session::from_request(&request).await.unwrap();
    session.put("k", "v").unwrap();
    Ok(Response::new("written".to_owned()))
}

async fn destroy(request: Req) -> Result<Res, Infallible> {
    let session: Session = Session::from_request(&request).await.unwrap();
    session.destroy().unwrap();
    Ok(Response::new(String::new()))
}

fn request(host: &str, path: &str, cookie: &str) -> Req {
    Request::builder().uri(path).header(HOST, host).header(COOKIE, cookie).body(String::new()).unwrap()
}

/// The cookie line after name and value, and the `name=value` pair.
fn cookie(response: &Res) -> (String, String) {
    let line = response.headers()[SET_COOKIE].to_str().unwrap();
    let (pair, rest) = line.split_once("; ").unwrap();
    (rest.to_owned(), pair.to_owned())
}

async fn written(layer: SessionLayer, host: &str, path: &str) -> (String, String) {
    cookie(&layer.layer(service_fn(write)).oneshot(request(host, path, "")).await.unwrap())
}

fn with(policy: sessile::CookiePolicyBuilder) -> SessionLayer {
    SessionLayer::new(engine()).cookie(policy.build().unwrap())
}

#[tokio::test]
async fn c1_c3_c4_c11_the_default_cookie_is_secure_http_only_lax_and_neutral() {
    let (rest, pair) = written(SessionLayer::new(engine()), "x", "/").await;
    assert!(rest.starts_with("Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="), "{rest}");
    assert!(pair.starts_with("session=") && !rest.contains("Domain"));
}

#[tokio::test]
async fn c2_c5_prefixed_and_partitioned_cookies_carry_what_they_need() {
    for name in ["__Host-id", "__Secure-id", "__Http-id", "__Host-Http-id"] {
        let (rest, pair) = written(with(CookiePolicy::builder().name(name).partitioned()), "x", "/").await;
        assert!(pair.starts_with(name), "{pair}");
        assert!(rest.starts_with("Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned"), "{rest}");
    }
}

#[tokio::test]
async fn c6_max_age_is_whole_seconds_between_one_and_400_days() {
    let day = Duration::from_secs(86_400);
    for (lifetime, low, high) in [
        (Duration::from_millis(1500), 1, 2),
        (day * 400, 34_559_900, 34_560_000),
        (day * 401, 34_560_000, 34_560_000),
        (day * 36_500, 34_560_000, 34_560_000),
    ] {
        let layer = SessionLayer::new(Engine::builder().lifetime(lifetime).in_memory().unwrap());
        let (rest, _) = written(layer, "x", "/").await;
        let age = rest.split("; ").find_map(|a| a.strip_prefix("Max-Age=")).unwrap();
        let age: u64 = age.parse().unwrap();
        assert!((low..=high).contains(&age), "{lifetime:?}: {age}");
    }
}

#[tokio::test]
async fn c8_a_browser_session_cookie_names_no_time() {
    let (rest, _) = written(with(CookiePolicy::builder().persistent(false)), "x", "/").await;
    assert_eq!(rest, "Path=/; Secure; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn c9_the_largest_cookie_is_far_below_the_limit() {
    let policy = CookiePolicy::builder()
        .name("n".repeat(64))
        .path(format!("/{}", "p".repeat(1023)))
        .domain(format!("{}.example", ["d".repeat(60).as_str(); 4].join(".")));
    let (rest, pair) = written(with(policy), "x", "/").await;
    assert!(pair.len() <= 4096, "RFC 6265bis counts name and value");
    assert!(rest.split("; ").all(|a| a.len() <= 1024 + "Domain=".len()));
}

#[tokio::test]
async fn c10_the_removal_has_the_attributes_of_the_cookie() {
    let policies = [
        CookiePolicy::builder(),
        CookiePolicy::builder().name("__Host-Http-id").partitioned(),
        CookiePolicy::builder().path("/shop").domain("example.com").same_site(SameSite::Strict),
        CookiePolicy::builder().insecure_http().insecure_script_access(),
    ];
    for policy in policies {
        let layer = with(policy.persistent(false));
        let (set, pair) = written(layer.clone(), "x", "/").await;
        let removed = layer.layer(service_fn(destroy)).oneshot(request("x", "/", &pair)).await.unwrap();
        let (removal, empty) = cookie(&removed);
        assert_eq!(removal, format!("{set}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"));
        assert!(empty.ends_with('='), "{empty}");
    }
}

// ---- the hook ----------------------------------------------------------------------------------------

fn per_request(layer: SessionLayer) -> SessionLayer {
    layer.cookie_for_request(|request, cookie| {
        match (request.host(), request.uri().path()) {
            (Some("localhost" | "[::1]"), _) => cookie.insecure_http(),
            (_, "/widget") => cookie.same_site(SameSite::None).partitioned(true).persistent(false),
            (Some("a.example"), _) => cookie.domain(Some("a.example")).persistent(false),
            (_, "/bad-path") => cookie.path("nowhere"),
            (_, "/bad-domain") => cookie.domain(Some("a\r\nSet-Cookie: x=y")),
            (_, "/bad-none") => cookie.same_site(SameSite::None).insecure_http(),
            _ => cookie,
        };
    })
}

#[tokio::test]
async fn the_hook_decides_by_host_and_path_and_its_removal_matches() {
    let layer = per_request(SessionLayer::new(engine()));
    for (host, path, wanted) in [
        ("localhost:3000", "/", "Path=/; HttpOnly; SameSite=Lax; Max-Age="),
        ("[::1]", "/", "Path=/; HttpOnly; SameSite=Lax; Max-Age="),
        ("[::1]:3000", "/", "Path=/; HttpOnly; SameSite=Lax; Max-Age="),
        ("b.example", "/widget", "Path=/; Secure; HttpOnly; SameSite=None; Partitioned"),
        ("a.example", "/", "Path=/; Domain=a.example; Secure; HttpOnly; SameSite=Lax"),
        ("b.example", "/", "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="),
    ] {
        let (set, pair) = written(layer.clone(), host, path).await;
        assert!(set.starts_with(wanted), "{host}{path}: {set}");
        let removed = layer.layer(service_fn(destroy)).oneshot(request(host, path, &pair)).await.unwrap();
        let attributes = wanted.trim_end_matches("; Max-Age=");
        assert!(cookie(&removed).0.starts_with(attributes), "{host}{path}");
    }
}

#[tokio::test]
async fn a_hook_that_breaks_a_rule_fails_closed() {
    let engine = engine();
    let strict = CookiePolicy::builder().name("__Host-id").build().unwrap();
    let plain = per_request(SessionLayer::new(engine.clone()));
    let host = per_request(SessionLayer::new(engine.clone()).cookie(strict));
    for (layer, at, path) in [
        (&plain, "b.example", "/bad-path"),
        (&plain, "b.example", "/bad-domain"),
        (&plain, "b.example", "/bad-none"),
        (&host, "localhost", "/"),
        (&host, "a.example", "/"),
    ] {
        let before = engine.stats().await.created;
        let response = layer.layer(service_fn(write)).oneshot(request(at, path, "")).await.unwrap();
        assert_eq!(response.status().as_u16(), 500, "{at}{path}");
        assert_eq!(response.body(), "the session cookie is misconfigured\n");
        assert!(!response.headers().contains_key(SET_COOKIE));
        assert_eq!(engine.stats().await.created, before, "no session was published");
    }
    let untouched = service_fn(async |_: Req| Ok::<_, Infallible>(Response::new("fine".to_owned())));
    let response = plain.layer(untouched).oneshot(request("b.example", "/bad-path", "")).await.unwrap();
    assert_eq!(response.body(), "fine", "who uses no session needs no cookie");
}

#[tokio::test]
async fn c7_an_unknown_cookie_is_nobody_whatever_the_browser_kept() {
    let layer = SessionLayer::new(engine());
    let stale = format!("session={}", Token::generate().unwrap().encode().as_str());
    let response = layer.layer(service_fn(destroy)).oneshot(request("x", "/", &stale)).await.unwrap();
    assert!(!response.headers().contains_key(SET_COOKIE));
}
