//! Rows H1 to H12: requests and responses. H4, H7, H8 and H9 are proven beside the middleware; H10 and H11 are
//! the application's.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, COOKIE, LOCATION, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue, Method, Response};
use sessile::engine::store::MemoryStore;
use sessile::{CacheControl, Engine, Session, SessionLayer};
use sessile_tests::Rng;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::*;
use crate::wire::{exchange, serve};

#[tokio::test]
async fn h1_whatever_a_handler_asks_of_its_session_varies_the_answer() {
    type Act = fn(&Session);
    let acts: &[(&str, Act)] = &[
        ("nothing", |_| ()),
        ("get", |s| drop(s.get::<u64>("k"))),
        ("exists", |s| _ = s.exists("k")),
        ("keys", |s| drop(s.keys())),
        ("snapshot", |s| drop(s.snapshot())),
        ("id", |s| _ = s.id()),
        ("owner", |s| drop(s.owner())),
        ("deadline", |s| _ = s.deadline()),
        ("last_seen", |s| _ = s.last_seen()),
        ("is_new", |s| _ = s.is_new()),
        ("flashes", |s| drop(s.flashes())),
        ("peek_flashes", |s| drop(s.peek_flashes())),
        ("authenticated_at", |s| _ = s.authenticated_at()),
        ("pop", |s| drop(s.pop::<String>("no such key"))),
        ("put", |s| s.put("k", "v").unwrap()),
        ("renew", |s| s.renew().unwrap()),
        ("destroy", |s| s.destroy().unwrap()),
    ];
    let layer = memory();
    for (name, act) in acts {
        for known in [false, true] {
            let cookie = if known { begin(&layer, "v").await } else { String::new() };
            for theirs in [None, Some("Accept-Encoding"), Some("cookie"), Some("*")] {
                let response = ask(&layer, &cookie, async |s| {
                    act(&s);
                    let mut response = ok();
                    if let Some(theirs) = theirs {
                        response.headers_mut().insert(VARY, HeaderValue::from_static(theirs));
                    }
                    response
                })
                .await;
                let wanted = match theirs {
                    None => "Cookie",
                    Some("Accept-Encoding") => "Accept-Encoding, Cookie",
                    Some(theirs) => theirs,
                };
                assert_eq!(lines(response.headers(), VARY), [wanted], "{name}, known: {known}");
            }
        }
    }
    // `untouched` is a look at the session like any other.
    let handler = service_fn(async |request: Req| {
        let _: Session = Session::untouched(&request).await.unwrap();
        Ok::<_, Infallible>(ok())
    });
    let response: Res = layer.layer(handler).oneshot(request(&[])).await.unwrap();
    assert_eq!(lines(response.headers(), VARY), ["Cookie"]);
}

/// A shared cache that keeps whatever it may, for as long as it likes.
struct Proxy {
    /// It follows RFC 9111 in that `no-cache="Set-Cookie"` keeps that field out of what it stores.
    qualified: bool,
    stored: Vec<(Option<HeaderValue>, HeaderMap, String)>,
    hits: usize,
}

impl Proxy {
    async fn get(&mut self, cookie: &str, origin: impl AsyncFn(Req) -> Res) -> Res {
        let request = request(&[cookie]);
        let key = request.headers().get(COOKIE).cloned();
        // Every response of these origins varies on the cookie, or it would be found whatever the cookie.
        let same = |(of, head, _): &&(Option<HeaderValue>, HeaderMap, String)| {
            !lines(head, VARY).iter().any(|v| v.eq_ignore_ascii_case("cookie")) || *of == key
        };
        if let Some((_, head, body)) = self.stored.iter().find(same) {
            self.hits += 1;
            let mut response = Response::new(body.clone());
            *response.headers_mut() = head.clone();
            return response;
        }
        let response = origin(request).await;
        let says = lines(response.headers(), CACHE_CONTROL).join(", ");
        let members: Vec<_> = says.split(',').map(str::trim).collect();
        if !["no-store", "private", "no-cache"].iter().any(|m| members.contains(m)) {
            let mut head = response.headers().clone();
            if self.qualified && members.contains(&"no-cache=\"Set-Cookie\"") {
                head.remove(SET_COOKIE);
            }
            self.stored.push((key, head, response.body().clone()));
        }
        response
    }
}

#[tokio::test]
async fn h2_no_cache_hands_one_users_cookie_to_another() {
    let users = Arc::new(AtomicU64::new(0));
    for (qualified, policy) in [
        (true, CacheControl::NoCacheSetCookie),
        (true, CacheControl::NoStore),
        (false, CacheControl::NoStore),
    ] {
        let layer = memory().cache_control(policy);
        let mut proxy = Proxy { qualified, stored: Vec::new(), hits: 0 };
        let mut rng = Rng::announced("h2_no_cache_hands_one_users_cookie_to_another");
        let mut known: Vec<(String, String)> = Vec::new();
        let mut given = Vec::new();
        for _ in 0..10_000 {
            let who = if known.is_empty() || rng.index(8) == 0 { None } else { Some(rng.index(known.len())) };
            let sent = who.map_or("", |i| known[i].0.as_str());
            let origin = async |request: Req| {
                send(&layer, request, async |s| {
                    let name = s.get::<String>("name").unwrap().unwrap_or_else(|| {
                        let name = format!("user {}", users.fetch_add(1, Ordering::SeqCst));
                        s.put("name", &name).unwrap();
                        name
                    });
                    Response::new(name)
                })
                .await
            };
            let response = proxy.get(sent, origin).await;
            match (who, set(&response).is_empty()) {
                (Some(i), nothing) => {
                    assert!(nothing);
                    assert_eq!(*response.body(), known[i].1, "another user's page");
                }
                (None, false) => {
                    let cookie = cookie(&response);
                    assert!(!given.contains(&cookie), "a cookie was given out twice ({policy:?})");
                    given.push(cookie.clone());
                    if known.len() < 200 {
                        known.push((cookie, response.body().clone()));
                    }
                }
                // The page of a newcomer was kept, without its cookie. That is what `NoStore` is for.
                (None, true) => assert_eq!(policy, CacheControl::NoCacheSetCookie),
            }
        }
        assert!(proxy.hits > 1_000, "the proxy does keep things: {}", proxy.hits);
    }
}

#[tokio::test]
async fn h2_a_cache_that_ignores_the_rules_would_be_caught() {
    // The same proxy, given what the layer never sends.
    let mut proxy = Proxy { qualified: false, stored: Vec::new(), hits: 0 };
    let layer = memory().cache_control(CacheControl::Keep);
    let origin = async |request: Req| send(&layer, request, async |s| put(&s, "v")).await;
    let first = cookie(&proxy.get("", origin).await);
    assert_eq!(cookie(&proxy.get("", origin).await), first);
}

#[tokio::test]
async fn h3_of_several_cookies_the_first_live_one_counts() {
    let layer = memory();
    let (real, other) = (begin(&layer, "real").await, begin(&layer, "other").await);
    let (bogus, malformed) = (stranger(), "session=nonsense".to_owned());
    let all = [real.as_str(), &bogus, &malformed, &other];
    let mut seen = 0;
    for subset in 1..16_usize {
        let chosen: Vec<&str> = (0..4).filter(|i| subset & (1 << i) != 0).map(|i| all[i]).collect();
        for order in permutations(&chosen) {
            let wanted = order.iter().find_map(|c| match *c {
                c if c == real => Some("real"),
                c if c == other => Some("other"),
                _ => None,
            });
            // All in one line, each in a line of its own, and the first alone.
            let joined = order.join("; ");
            let rest = order[1..].join(";");
            for lines in [vec![joined.as_str()], order.clone(), vec![order[0], &rest]] {
                let response = send(&layer, request(&lines), async |s| {
                    Response::new(s.get::<String>("k").unwrap().unwrap_or_default())
                })
                .await;
                assert_eq!(response.body(), wanted.unwrap_or_default(), "{lines:?}");
                assert_eq!(set(&response).len(), 0);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3 * 64);
}

fn permutations<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for i in 0..of.len() {
        let mut rest = of.to_vec();
        let first = rest.remove(i);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_more_cookies_than_the_budget_are_not_looked_at() {
    async fn who(session: Session) -> String {
        session.get::<String>("k").unwrap().unwrap_or_else(|| "nobody".to_owned())
    }
    let layer = memory();
    let real = begin(&layer, "real").await;
    let address = serve(Router::new().route("/", get(who)).layer(layer)).await;
    let many = |n: usize| (0..n).map(|i| format!("c{i}=1")).collect::<Vec<_>>().join("; ");
    for (cookies, wanted) in [
        (real.clone(), "real"),
        (format!("{}; {real}", many(63)), "real"),
        (format!("{}; {real}", many(64)), "nobody"),
        (format!("{real}; {}", many(64)), "nobody"),
        (format!("big={}; {real}", "x".repeat(16_000)), "real"),
        (format!("{real}; big={}", "x".repeat(17_000)), "nobody"),
        (format!("{real}; big={}", "x".repeat(300_000)), "nobody"),
    ] {
        let answer = exchange(address, &format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {cookies}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(wanted), "{} bytes: {answer}", cookies.len());
        assert!(!answer.contains("set-cookie"), "{answer}");
    }
    let beyond = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {real}; big={}\r\n", "x".repeat(1 << 20));
    let answer = exchange(address, &beyond).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn h6_one_cookie_whatever_the_response() {
    let layer = memory();
    for code in [200, 201, 204, 206, 301, 303, 304, 400, 401, 404, 416, 500, 503] {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS] {
            for act in ["read", "begin", "renew", "destroy"] {
                for theirs in [false, true] {
                    let known = if act == "begin" { String::new() } else { begin(&layer, "v").await };
                    let mut request = request(&[&known]);
                    *request.method_mut() = method.clone();
                    let response = send(&layer, request, async |s| {
                        match act {
                            "begin" => s.put("k", "v").unwrap(),
                            "renew" => s.renew().unwrap(),
                            "destroy" => s.destroy().unwrap(),
                            _ => assert!(s.exists("k")),
                        }
                        let mut response = ok();
                        *response.status_mut() = code.try_into().unwrap();
                        let head = response.headers_mut();
                        head.insert(LOCATION, HeaderValue::from_static("/"));
                        head.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                        head.append(SET_COOKIE, HeaderValue::from_static("a=1"));
                        if theirs && act != "read" {
                            head.append(SET_COOKIE, HeaderValue::from_static("session=theirs; Path=/x"));
                            head.append(SET_COOKIE, HeaderValue::from_static("session=again"));
                        }
                        head.append(SET_COOKIE, HeaderValue::from_static("sessions=2"));
                        response
                    })
                    .await;
                    assert_eq!(response.status().as_u16(), code);
                    let what = format!("{code} {method} {act} {theirs}");
                    let (ours, others): (Vec<_>, Vec<_>) =
                        set(&response).into_iter().partition(|l| l.starts_with("session="));
                    assert_eq!(others, ["a=1", "sessions=2"], "{what}");
                    assert_eq!(ours.len(), usize::from(act != "read"), "{what}: {ours:?}");
                    assert!(!ours.iter().any(|l| l.contains("theirs") || l.contains("again")), "{what}");
                    match act {
                        "begin" | "renew" => {
                            let new = ours[0].split(';').next().unwrap();
                            assert!(alive(&layer, new).await, "{what}");
                        }
                        "destroy" => assert!(ours[0].starts_with("session=; "), "{what}"),
                        _ => assert!(alive(&layer, &known).await, "{what}"),
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h12_panics_lose_nothing_and_block_nobody() {
    const SESSIONS: usize = 16;
    let engine = Engine::builder().open(MemoryStore::new()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let mut cookies = Vec::new();
    for _ in 0..SESSIONS {
        cookies.push(begin(&layer, "v").await);
    }
    let before = engine.stats().await;
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..SESSIONS).map(|_| AtomicU64::new(0)).collect());
    let mut rng = Rng::announced("h12_panics_lose_nothing_and_block_nobody");
    let mut tasks = Vec::new();
    for _ in 0..5_000 {
        // Known sessions count, renew and panic; every sixth request would begin one.
        let (which, steps) = (rng.index(SESSIONS), rng.index(4));
        let known = rng.index(6) != 0;
        let (layer, done) = (layer.clone(), Arc::clone(&done));
        let request = request(&[if known { &cookies[which] } else { "" }]);
        tasks.push(tokio::spawn(async move {
            let handler = service_fn(move |request: Req| {
                let done = Arc::clone(&done);
                async move {
                    let session: Session = Session::from_request(&request).await.unwrap();
                    for _ in 0..steps {
                        session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
                        if known {
                            done[which].fetch_add(1, Ordering::SeqCst);
                        }
                        tokio::task::yield_now().await;
                    }
                    session.renew().unwrap();
                    if steps == 3 {
                        // In the middle of an update, too.
                        let _ = session.update("n", |_: Option<u64>| -> u64 {
                            std::panic::resume_unwind(Box::new("handler"))
                        });
                    }
                    std::panic::resume_unwind(Box::new("handler"));
                    #[allow(unreachable_code, reason = "gives the block its type")]
                    Ok::<Res, Infallible>(ok())
                }
            });
            let mut service = layer.layer(handler);
            drop(service.call(request).await);
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap_err().is_panic());
    }
    for (cookie, done) in cookies.iter().zip(done.iter()) {
        let response =
            ask(&layer, cookie, async |s| Response::new(s.get::<u64>("n").unwrap().unwrap_or(0).to_string()))
                .await;
        assert_eq!(*response.body(), done.load(Ordering::SeqCst).to_string(), "what was done stands");
    }
    let after = engine.stats().await;
    assert_eq!(
        (after.created, after.renewed),
        (before.created, before.renewed),
        "nothing began or was renewed"
    );
    assert_eq!(after.cached, before.cached);
    engine.close().await.unwrap();
}
