//! Tokens in headers, in bodies and in transports of the application: what comes in, what goes out, and that
//! the promises about delivery hold for each.

#![allow(clippy::unwrap_used, reason = "a failure is what a test reports by panicking")]

use std::convert::Infallible;
use std::future::Future;
use std::sync::Mutex;

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE, VARY};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use sessile::engine::{Durability, Issue};
use sessile::{
    CacheControl, ConfigErrorKind, Engine, ErrorKind, HeaderTransport, InBody, Presented, RequestHead,
    Session, SessionLayer, SessionRejection, Token, Transport,
};
use tower::{Layer, ServiceExt, service_fn};

type Req = Request<String>;
type Res = Response<String>;

const NAME: &str = "x-session-token";

fn engine() -> Engine {
    Engine::builder().in_memory().unwrap()
}

fn request(headers: &[(&str, &str)]) -> Req {
    let mut request = Request::new(String::new());
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    request
}

async fn send<F, R>(layer: &SessionLayer, handler: F, headers: &[(&str, &str)]) -> Res
where
    F: Fn(Req) -> R + Clone,
    R: Future<Output = Result<Res, Infallible>>,
{
    layer.layer(service_fn(handler)).oneshot(request(headers)).await.unwrap()
}

fn token_of(response: &Res) -> &str {
    response.headers()[NAME].to_str().unwrap()
}

async fn session(request: &Req) -> Session {
    Session::from_request(request).await.unwrap()
}

async fn count(request: Req) -> Result<Res, Infallible> {
    let n = session(&request).await.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
    Ok(Response::new(n.to_string()))
}

async fn read(request: Req) -> Result<Res, Infallible> {
    Ok(Response::new(format!("{:?}", session(&request).await.get::<u64>("n").unwrap())))
}

async fn renew(request: Req) -> Result<Res, Infallible> {
    session(&request).await.renew().unwrap();
    Ok(Response::new(String::new()))
}

async fn destroy(request: Req) -> Result<Res, Infallible> {
    session(&request).await.destroy().unwrap();
    Ok(Response::new(String::new()))
}

// ---- headers -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_header_carries_the_token_both_ways_and_no_cookie_is_set() {
    let layer = SessionLayer::new(engine()).header(HeaderTransport::default());
    let first = send(&layer, count, &[]).await;
    let token = token_of(&first);
    assert!(Token::parse(token.as_bytes()).is_some());
    assert!(first.headers()[NAME].is_sensitive());
    assert_eq!(first.headers()[CACHE_CONTROL], "no-store");
    assert_eq!(first.headers()[VARY], "x-session-token, authorization");
    assert!(!first.headers().contains_key(SET_COOKIE));

    let bearer = format!("Bearer {token}");
    let odd = format!("bEARER   {token}");
    for headers in [[(NAME, token)], [("authorization", &bearer)], [("authorization", &odd)]] {
        let response = send(&layer, read, &headers).await;
        assert_eq!(response.body(), "Some(1)", "{headers:?}");
        assert!(!response.headers().contains_key(NAME), "nothing changed, nothing to tell");
        assert!(!response.headers().contains_key(CACHE_CONTROL));
    }
    let cookie = format!("session={token}");
    let basic = format!("Basic {token}");
    let glued = format!("Bearer{token}");
    for headers in [[("cookie", &cookie)], [("authorization", &basic)], [("authorization", &glued)]] {
        let headers = headers.map(|(n, v)| (n, v.as_str()));
        assert_eq!(send(&layer, read, &headers).await.body(), "None", "{headers:?}");
    }
}

#[tokio::test]
async fn renewal_replaces_the_header_and_destruction_empties_it() {
    let layer = SessionLayer::new(engine()).header(HeaderTransport::default());
    let first = send(&layer, count, &[]).await;
    let old = token_of(&first);
    let renewed = send(&layer, renew, &[(NAME, old)]).await;
    let new = token_of(&renewed);
    assert_ne!(new, old);
    assert_eq!(send(&layer, read, &[(NAME, old)]).await.body(), "None");
    let gone = send(&layer, destroy, &[(NAME, new)]).await;
    assert_eq!(token_of(&gone), "");
    assert_eq!(gone.headers()[CACHE_CONTROL], "no-store");
    assert_eq!(send(&layer, read, &[(NAME, new)]).await.body(), "None");
}

#[tokio::test]
async fn no_store_joins_what_the_handler_says_unless_it_is_to_be_kept() {
    let handler = async |request: Req| {
        session(&request).await.put("k", &1).unwrap();
        Ok(Response::builder().header(CACHE_CONTROL, "private, max-age=5").body(String::new()).unwrap())
    };
    let layer = SessionLayer::new(engine()).header(HeaderTransport::default());
    let response = send(&layer, handler, &[]).await;
    assert_eq!(response.headers()[CACHE_CONTROL], "private, max-age=5, no-store");
    let response = send(&layer.cache_control(CacheControl::Keep), handler, &[]).await;
    assert_eq!(response.headers()[CACHE_CONTROL], "private, max-age=5");
}

#[tokio::test]
async fn planted_tokens_do_not_hide_the_live_one_and_a_flood_is_cut() {
    let layer = SessionLayer::new(engine()).header(HeaderTransport::default());
    let first = send(&layer, count, &[]).await;
    let live = token_of(&first);
    let other: Vec<_> = (0..4).map(|_| Token::generate().unwrap().encode().as_str().to_owned()).collect();
    let response = send(&layer, read, &[(NAME, "x"), (NAME, &other[0]), (NAME, live)]).await;
    assert_eq!(response.body(), "Some(1)");
    let mut flood: Vec<_> = other.iter().map(|t| (NAME, t.as_str())).collect();
    flood.push((NAME, live));
    assert_eq!(send(&layer, read, &flood).await.body(), "None", "the fifth is not tried");
}

#[tokio::test]
async fn another_name_and_no_bearer() {
    let header = HeaderTransport::named("X-Api-Session").unwrap().bearer(false);
    let layer = SessionLayer::new(engine()).header(header);
    let first = send(&layer, count, &[]).await;
    let token = first.headers()["x-api-session"].to_str().unwrap();
    assert_eq!(first.headers()[VARY], "x-api-session");
    assert_eq!(send(&layer, read, &[("x-api-session", token)]).await.body(), "Some(1)");
    assert_eq!(send(&layer, read, &[("authorization", &format!("Bearer {token}"))]).await.body(), "None");
    for name in ["", "a b", "Cookie", "set-cookie", "AUTHORIZATION", "content-length"] {
        assert_eq!(HeaderTransport::named(name).unwrap_err().kind(), ConfigErrorKind::Header, "{name}");
    }
}

// ---- bodies ------------------------------------------------------------------------------------------

/// Reads the token from the request's body and answers with the one to use from now on.
async fn in_body(request: Req, act: impl Fn(&Session)) -> Result<Res, Infallible> {
    let token = Token::parse(request.body().as_bytes());
    let session: Session = Session::from_token(token.as_ref()).await.unwrap();
    act(&session);
    let issued = session.issue().unwrap();
    let again = session.issue().unwrap();
    let text = |issue: Option<Issue>| issue.map(|i| i.token.encode().as_str().to_owned()).unwrap_or_default();
    let (text, again) = (text(issued), text(again));
    assert_eq!(text, again, "asking twice gives the same token");
    Ok(Response::new(text))
}

async fn exchange(layer: &SessionLayer, body: &str, act: impl Fn(&Session) + Clone) -> Res {
    let handler = move |request: Req| {
        let act = act.clone();
        async move { in_body(request, act).await }
    };
    let mut request = request(&[]);
    body.clone_into(request.body_mut());
    layer.layer(service_fn(handler)).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn bodies_carry_tokens_through_a_whole_life() {
    let layer = SessionLayer::new(engine()).transport(InBody);
    let first = exchange(&layer, "", |s| s.put("n", &1u64).unwrap()).await;
    let token = first.body().clone();
    assert!(first.headers().is_empty(), "neither Vary nor a token: {:?}", first.headers());
    let same = exchange(&layer, &token, |s| assert_eq!(s.get::<u64>("n").unwrap(), Some(1))).await;
    assert_eq!(same.body(), "", "the token stays valid");
    let renewed = exchange(&layer, &token, |s| s.renew().unwrap()).await;
    assert_ne!(renewed.body(), &token);
    exchange(&layer, &token, |s| assert_eq!(s.get::<u64>("n").unwrap(), None)).await;
    exchange(&layer, renewed.body(), |s| assert_eq!(s.get::<u64>("n").unwrap(), Some(1))).await;
    exchange(&layer, renewed.body(), |s| s.destroy().unwrap()).await;
    exchange(&layer, renewed.body(), |s| assert_eq!(s.get::<u64>("n").unwrap(), None)).await;
}

#[tokio::test]
async fn with_a_cookie_layer_the_token_that_was_taken_is_not_set_as_well() {
    let layer = SessionLayer::new(engine());
    let handler = async |request: Req| {
        let session = session(&request).await;
        session.put("n", &1u64).unwrap();
        Ok(Response::new(session.issue().unwrap().unwrap().token.encode().as_str().to_owned()))
    };
    let response = send(&layer, handler, &[]).await;
    assert!(!response.headers().contains_key(SET_COOKIE));
    let cookie = format!("session={}", response.body());
    assert_eq!(send(&layer, read, &[("cookie", &cookie)]).await.body(), "Some(1)");
}

#[tokio::test]
async fn a_token_given_out_is_in_service_only_after_the_head() {
    let engine = engine();
    let layer = SessionLayer::new(engine.clone());
    let first = send(&layer, count, &[]).await;
    let old = first.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let given = Mutex::new(Vec::new());
    let handler = async |request: Req| -> Result<Res, &'static str> {
        let session = session(&request).await;
        if session.id().is_some() {
            session.renew().unwrap();
        } else {
            session.put("n", &9u64).unwrap();
        }
        given.lock().unwrap().push(session.issue().unwrap().unwrap().token);
        Err("the response never leaves")
    };
    for cookies in [vec![], vec![("cookie", old.as_str())]] {
        layer.layer(service_fn(handler)).oneshot(request(&cookies)).await.unwrap_err();
    }
    for token in given.into_inner().unwrap() {
        assert!(engine.session(Some(&token)).await.unwrap().id().is_none(), "no orphan, no swap");
    }
    assert_eq!(send(&layer, read, &[("cookie", &old)]).await.body(), "Some(1)", "the old token works");
}

#[tokio::test]
async fn a_renewal_that_lost_the_race_delivers_no_dead_token() {
    for handed in [false, true] {
        let layer = SessionLayer::new(engine());
        let first = send(&layer, count, &[]).await;
        let cookie = first.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let winner = layer.clone();
        let handler = async |request: Req| {
            let mine = session(&request).await;
            mine.renew().unwrap();
            if handed {
                mine.issue().unwrap().unwrap();
            }
            let mut other = Request::new(String::new());
            other.headers_mut().insert(COOKIE, request.headers()[COOKIE].clone());
            // On another task, so that it is another request and not a nested one.
            let won = tokio::spawn(winner.layer(service_fn(renew)).oneshot(other)).await.unwrap().unwrap();
            assert!(won.headers().contains_key(SET_COOKIE));
            Ok(Response::new("mine".to_owned()))
        };
        let lost = send(&layer, handler, &[("cookie", &cookie)]).await;
        assert!(!lost.headers().contains_key(SET_COOKIE));
        assert_eq!(lost.status().as_u16(), if handed { 503 } else { 200 });
        assert_eq!(lost.body() == "mine", !handed);
    }
}

#[tokio::test]
async fn what_cannot_be_issued_says_so() {
    let engine = engine();
    let session = engine.session(None).await.unwrap();
    assert!(session.issue().unwrap().is_none(), "nothing was written");
    session.put("k", &1).unwrap();
    let first = session.issue().unwrap().unwrap();
    session.destroy().unwrap();
    assert!(session.issue().unwrap().is_none());
    session.put("k", &2).unwrap();
    let second = session.issue().unwrap().unwrap();
    assert_ne!(first.token.id(), second.token.id(), "another session, another token");
    session.commit().await.unwrap();
    assert_eq!(session.issue().unwrap_err().kind(), ErrorKind::HeadSent);
    assert!(engine.session(Some(&first.token)).await.unwrap().id().is_none());
    assert!(engine.session(Some(&second.token)).await.unwrap().id().is_some());
}

#[tokio::test]
async fn from_token_comes_first_or_not_at_all() {
    let engine = engine();
    let layer = SessionLayer::new(engine.clone());
    let handler = async |request: Req| {
        let loaded = session(&request).await;
        loaded.put("n", &1u64).unwrap();
        let other = Token::generate().unwrap();
        for token in [None, Some(&other)] {
            let load: sessile::Load = Session::from_token(token);
            assert!(matches!(load.await.unwrap_err(), SessionRejection::AlreadyLoaded));
        }
        let token = loaded.issue().unwrap().unwrap().token;
        let load: sessile::Load = Session::from_token(Some(&token));
        assert_eq!(load.await.unwrap().get::<u64>("n").unwrap(), Some(1), "the same one is fine");
        Ok(Response::new(String::new()))
    };
    send(&layer, handler, &[]).await;
    let outside: sessile::Load = Session::from_token(None);
    assert!(matches!(outside.await.unwrap_err(), SessionRejection::MissingLayer(_)));
}

// ---- the application's own ---------------------------------------------------------------------------

/// Takes the token from the query and gives it out in an extension.
struct Query;

#[derive(Clone)]
struct Out(Option<String>);

impl Transport for Query {
    fn find(&self, request: RequestHead<'_>, found: &mut Presented) {
        let query = request.uri().query().unwrap_or_default();
        found.offer(query.as_bytes());
        found.offer(query.as_bytes());
        assert!(found.len() <= 1, "the same token counts once");
    }
    fn issue(&self, issue: &Issue, response: &mut Parts) {
        response.extensions.insert(Out(Some(issue.token.encode().as_str().to_owned())));
    }
    fn remove(&self, response: &mut Parts) {
        response.extensions.insert(Out(None));
    }
    fn vary(&self) -> &[HeaderName] {
        &[]
    }
}

#[tokio::test]
async fn a_transport_of_the_application_sees_heads_and_serves_nested_layers() {
    let layer = SessionLayer::new(engine()).transport(Query);
    let nested = layer.layer(layer.layer(service_fn(count)));
    let first = nested.clone().oneshot(request(&[])).await.unwrap();
    let token = first.extensions().get::<Out>().unwrap().0.clone().unwrap();
    assert_eq!(first.headers()[CACHE_CONTROL], HeaderValue::from_static("no-store"));
    let mut again = request(&[("authorization", "Bearer nonsense")]);
    *again.uri_mut() = format!("/?{token}").parse().unwrap();
    assert!(again.headers().contains_key(AUTHORIZATION));
    let second = nested.oneshot(again).await.unwrap();
    assert_eq!(second.body(), "2");
    assert!(second.extensions().get::<Out>().is_none() && second.headers().is_empty());
}

#[tokio::test]
async fn a_waiting_commit_delivers_what_was_given_out() {
    let store = sessile::engine::store::MemoryStore::new();
    let engine = Engine::builder().durability(Durability::PowerLoss).open(store).unwrap();
    let layer = SessionLayer::new(engine).transport(InBody);
    let first = exchange(&layer, "", |s| s.put("n", &1u64).unwrap()).await;
    let renewed = exchange(&layer, first.body(), |s| s.renew().unwrap()).await;
    exchange(&layer, first.body(), |s| assert_eq!(s.get::<u64>("n").unwrap(), None)).await;
    exchange(&layer, renewed.body(), |s| assert_eq!(s.get::<u64>("n").unwrap(), Some(1))).await;
}

enum Api {}

#[tokio::test]
async fn a_cookie_and_a_header_layer_live_on_one_request() {
    let engine = engine();
    let browser = SessionLayer::new(engine.clone());
    let api = SessionLayer::new(engine).header(HeaderTransport::default()).marker::<Api>();
    let handler = async |request: Req| {
        let browser: Session = Session::from_request(&request).await.unwrap();
        let api: Session<Api> = Session::from_request(&request).await.unwrap();
        let seen = (browser.get::<u8>("k").unwrap(), api.get::<u8>("k").unwrap());
        browser.put("k", &1u8).unwrap();
        api.put("k", &2u8).unwrap();
        Ok::<_, Infallible>(Response::new(format!("{seen:?}")))
    };
    let service = browser.layer(api.layer(service_fn(handler)));
    let first = service.clone().oneshot(request(&[])).await.unwrap();
    assert_eq!(first.headers()[CACHE_CONTROL], "no-store", "the stronger of the two, once");
    assert_eq!(first.headers()[VARY], "x-session-token, authorization, Cookie");
    let cookie = first.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    let second = service.oneshot(request(&[("cookie", cookie), (NAME, token_of(&first))])).await.unwrap();
    assert_eq!(second.body(), "(Some(1), Some(2))");
    assert!(!second.headers().contains_key(NAME) && !second.headers().contains_key(SET_COOKIE));
}

#[tokio::test]
async fn the_same_engine_behind_another_transport_is_another_layer() {
    let engine = engine();
    let outer = SessionLayer::new(engine.clone());
    let inner = SessionLayer::new(engine).header(HeaderTransport::default());
    let inside = inner.layer(service_fn(count));
    let between = service_fn(move |request: Req| {
        let inside = inside.clone();
        async move {
            session(&request).await.put("n", &10u64).unwrap();
            inside.oneshot(request).await
        }
    });
    let response = outer.layer(between).oneshot(request(&[])).await.unwrap();
    assert_eq!(response.body(), "1", "the inner layer's own session");
    assert!(response.headers().contains_key(NAME) && response.headers().contains_key(SET_COOKIE));
}
