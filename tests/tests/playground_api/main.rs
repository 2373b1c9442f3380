//! The playground's routes over flash messages, times, merging, owners, streams and transports, as clients see them,
//! over real sockets.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the server is measured from outside, by the real clock")]

mod owners;
mod streams;
mod values;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sessile_tests::jar::SetCookie;
use sessile_tests::{Client, Jar, Server, Store, Stream, server};
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

const LIMIT: Duration = Duration::from_secs(30);

fn memory(flags: &[&str]) -> Server {
    Server::start(Store::Memory, flags)
}

fn json_of(client: &mut Client, path: &str) -> Value {
    serde_json::from_str(&client.get(path).ok()).unwrap()
}

/// The keys of a JSON object, in the order sent.
fn keys_in_order(object: &str) -> Vec<String> {
    let mut keys: Vec<(usize, String)> = serde_json::from_str::<serde_json::Map<String, Value>>(object)
        .unwrap()
        .into_iter()
        .map(|(key, _)| (object.find(&format!("\"{key}\":")).unwrap(), key))
        .collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

/// A refusal: the status and one line of plain text.
fn assert_refused(client: &mut Client, path: &str, status: u16) {
    let response = client.get(path);
    assert_eq!(response.status, status, "{path}: {}", response.body);
    assert_eq!(response.body.trim_end().lines().count(), 1, "{path}: {:?}", response.body);
    assert!(response.all("content-type").any(|t| t.starts_with("text/plain")), "{path}");
    assert_eq!(response.set_cookie(), None, "{path}");
}

fn logged_in(server: &Server, owner: &str) -> Client {
    let mut c = server.client();
    c.get(&format!("/login?owner={owner}")).ok();
    c
}

/// The id of this client's session.
fn id_of(client: &mut Client) -> String {
    let sessions = json_of(client, "/sessions");
    let current: Vec<&Value> = sessions.as_array().unwrap().iter().filter(|s| s["current"] == true).collect();
    assert_eq!(current.len(), 1, "{sessions}");
    current[0]["id"].as_str().unwrap().to_owned()
}

fn seconds_until_the_end(client: &mut Client) -> i64 {
    let deadline: jiff::Timestamp = client.get("/deadline").ok().parse().unwrap();
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
    deadline.duration_since(now).as_secs()
}

fn max_age(cookie: &SetCookie) -> Option<u64> {
    cookie.attribute("max-age").map(|age| age.parse().unwrap())
}

#[test]
fn with_the_header_transport_tokens_travel_in_headers_both_ways() {
    let server = memory(&["--transport", "header", "--show-token"]);
    let mut c = server.client();
    let response = c.raw("/put?key=a&value=b", &[]);
    assert_eq!(response.all("set-cookie").count(), 0);
    let token = response.all("x-session-token").next().unwrap().to_owned();
    assert_eq!(token.len(), 43);
    let bearer = format!("Bearer {token}");
    for header in [("x-session-token", &*token), ("authorization", &*bearer)] {
        let response = c.raw("/get?key=a", &[header]);
        assert_eq!(response.all("x-session-token").count(), 0, "the client has it already");
        assert_eq!(response.ok(), "b");
        assert_eq!(c.raw("/token", &[header]).ok(), token);
    }
    assert_eq!(c.raw("/get?key=a", &[("cookie", &format!("session={token}"))]).ok(), "");

    let own = [("x-session-token", &*token)];
    let renewed = c.raw("/login?owner=ada", &own).all("x-session-token").next().unwrap().to_owned();
    assert_ne!(renewed, token);
    assert_eq!(c.raw("/get?key=a", &own).ok(), "");
    let own = [("x-session-token", &*renewed)];
    assert_eq!(c.raw("/sessions", &own).status, 200);
    let response = c.raw("/destroy", &own);
    assert_eq!(response.all("x-session-token").collect::<Vec<_>>(), [""]);
    assert_eq!(c.raw("/get?key=a", &own).ok(), "");

    let token = c.raw("/token?new=true", &[]).ok();
    assert_eq!(c.raw("/keys", &[("x-session-token", &token)]).ok(), r#"["via"]"#);
}

#[test]
fn the_cookie_has_the_name_asked_for() {
    let server = memory(&["--cookie-name", "__Host-id", "--show-token"]);
    let mut c = server.client();
    let response = c.raw("/put", &[]);
    let cookie = response.all("set-cookie").next().unwrap();
    let token = cookie.strip_prefix("__Host-id=").unwrap().split(';').next().unwrap();
    let header = format!("__Host-id={token}");
    assert_eq!(c.raw("/get", &[("cookie", &header)]).ok(), "Hello from a session!");
    assert_eq!(c.raw("/token", &[("cookie", &header)]).ok(), token);
    assert_eq!(c.raw("/get", &[("cookie", &format!("session={token}"))]).ok(), "");
}

#[test]
fn bad_flags_are_named_with_exit_code_2() {
    for (args, name) in [
        (&["--transport", "smoke"][..], "--transport"),
        (&["--cookie-name", "a b"], "--cookie-name"),
        (&["--cookie-name", ""], "--cookie-name"),
        (&["--cookie-name", "id", "--transport", "header"], "--cookie-name"),
        (&["--persist", "maybe"], "--persist"),
        (&["--rotate", "0"], "--rotate"),
        (&["--max-sessions", "0"], "--max-sessions"),
        (&["--when-full", "cry"], "--when-full"),
        (&["--log", "loud"], "--log"),
    ] {
        let ended = server::run(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(name), "{args:?}: {}", ended.stderr);
    }
    let ended = server::run(&[
        "--listen",
        "127.0.0.1:0",
        "--store",
        "memory",
        "--cookie-name",
        "__Host-id",
        "--insecure-http",
    ]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("prefix"), "{}", ended.stderr);
}

#[test]
fn the_audit_log_tells_what_happened_and_no_secret() {
    let mut server = memory(&["--show-token", "--log", "trace"]);
    let mut secrets = Vec::new();
    let (mut one, mut two) = (logged_in(&server, "ada"), logged_in(&server, "ada"));
    for c in [&mut one, &mut two] {
        secrets.push(c.get("/token").ok());
        secrets.push(id_of(c));
    }
    one.get("/put?key=cart&value=a-value-of-the-user").ok();
    secrets.push("a-value-of-the-user".to_owned());
    one.get("/renew").ok();
    secrets.push(one.get("/token").ok());
    two.get("/logout-everywhere").ok();
    one.get("/get").ok();
    let mut stranger = server.client();
    stranger.raw("/get", &[("cookie", "session=short")]);
    let log = server.kill();
    for event in ["created", "renewed", "destroyed", "revoked", "unknown", "malformed"] {
        assert!(log.contains(&format!("event=\"{event}\"")), "{event} in {log}");
    }
    for secret in secrets {
        assert!(!secret.is_empty() && !log.contains(&secret), "a secret in {log}");
    }

    let mut server = memory(&["--log", "off"]);
    logged_in(&server, "ada");
    assert_eq!(server.kill(), "");
}
