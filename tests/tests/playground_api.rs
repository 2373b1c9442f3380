//! The playground's routes over flash messages, times, merging, owners, streams and transports, as clients see them,
//! over real sockets.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "the server is measured from outside, by the real clock")]

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

// ---- Flash messages --------------------------------------------------------------------------------

#[test]
fn flash_messages_are_read_once_in_order() {
    let server = memory(&[]);
    let mut c = server.client();
    assert_eq!(c.get("/flashes").ok(), "[]");
    assert!(c.jar.token().is_none(), "reading begins nothing");
    c.get("/flash?message=Saved.&level=success").ok();
    c.get("/flash?message=Hello").ok();
    c.get("/flash?message=Wrong&level=error&name=form").ok();
    let all = r#"[{"level":"success","message":"Saved.","name":""},{"level":"info","message":"Hello","name":""},{"level":"error","message":"Wrong","name":"form"}]"#;
    assert_eq!(c.get("/flashes?peek=true").ok(), all);
    assert_eq!(c.get("/flashes?name=form").ok(), r#"[{"level":"error","message":"Wrong","name":"form"}]"#);
    let rest = json_of(&mut c, "/flashes");
    assert_eq!(rest.as_array().unwrap().len(), 2);
    assert_eq!(c.get("/flashes").ok(), "[]");
}

#[test]
fn a_flash_message_survives_its_redirect() {
    let server = memory(&[]);
    let mut c = server.client();
    let response = c.get("/flash?message=Moved&to=/flashes");
    assert_eq!((response.status, response.all("location").collect()), (303, vec!["/flashes"]));
    assert_eq!(json_of(&mut c, "/flashes")[0]["message"], "Moved");
    for path in ["/flash", "/flash?message=a&level=loud"] {
        assert_refused(&mut c, path, 400);
    }
    for to in ["//evil.example", "https://evil.example", "/%5Cevil.example", "/a%0D%0Ab", ""] {
        assert_refused(&mut c, &format!("/flash?message=a&to={to}"), 400);
    }
    assert_eq!(c.get("/flashes").ok(), "[]", "a refused message is not kept");
}

// ---- Times -----------------------------------------------------------------------------------------

#[test]
fn remember_chooses_between_a_persistent_and_a_browser_session_cookie() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    let cookie = c.get("/remember?on=false").set_cookie().unwrap();
    assert_eq!((max_age(&cookie), cookie.attribute("expires")), (None, None));
    assert_eq!(Some(&*cookie.value), c.jar.token());
    assert_eq!(c.get("/remember?on=false").set_cookie(), None, "nothing changed");
    let cookie = c.get("/remember?on=true").set_cookie().unwrap();
    assert!(max_age(&cookie).unwrap() > 86_000 && cookie.attribute("expires").is_some());
    assert_eq!(c.get("/get").ok(), "Hello from a session!");
    for path in ["/remember", "/remember?on=maybe"] {
        assert_refused(&mut c, path, 400);
    }
}

#[test]
fn persist_false_is_the_default_of_new_sessions_only() {
    let server = memory(&["--persist", "false"]);
    let mut c = server.client();
    let cookie = c.get("/put").set_cookie().unwrap();
    assert_eq!((max_age(&cookie), cookie.attribute("expires")), (None, None));
    let cookie = c.get("/remember?on=true").set_cookie().unwrap();
    assert!(max_age(&cookie).is_some());
}

#[test]
fn idle_sets_and_removes_the_idle_timeout() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    c.get("/idle?secs=600").ok();
    assert!((500..=600).contains(&seconds_until_the_end(&mut c)));
    c.get("/idle?secs=none").ok();
    assert!(seconds_until_the_end(&mut c) > 80_000);
    for path in ["/idle", "/idle?secs=", "/idle?secs=0", "/idle?secs=-1", "/idle?secs=soon"] {
        assert_refused(&mut c, path, 400);
    }
    c.get("/idle?secs=1").ok();
    // Longer than the timeout can only be too long.
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(c.get("/get").ok(), "");
}

#[test]
fn set_deadline_moves_the_end_and_tells_the_client_if_it_is_later() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    assert_eq!(c.get("/set-deadline?secs=600").set_cookie(), None);
    assert!((500..=600).contains(&seconds_until_the_end(&mut c)));
    let cookie = c.get("/set-deadline?secs=7200").set_cookie().unwrap();
    // Rounded up, from a deadline by the wall clock to the engine's time.
    let age = max_age(&cookie).unwrap();
    assert!((7000..=7201).contains(&age), "{age}");
    for secs in ["", "0", "-5", "soon", "9223372036854775807", "-9223372036854775808", "999999999999"] {
        assert_refused(&mut c, &format!("/set-deadline?secs={secs}"), 400);
    }
    assert!(seconds_until_the_end(&mut c) > 7000, "a refused deadline changes nothing");
}

#[test]
fn json_shows_the_session_with_sorted_keys() {
    let server = memory(&[]);
    let mut c = server.client();
    assert_eq!(c.get("/json").ok(), "null");
    c.get("/put?key=name&value=ada").ok();
    let text = c.get("/json").ok();
    let keys = keys_in_order(&text);
    assert_eq!(
        keys,
        [
            "authenticated_at",
            "created_at",
            "data",
            "deadline",
            "idle_timeout",
            "last_seen",
            "persistent",
            "version"
        ]
    );
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["data"], json!({ "name": "ada" }));
    assert_eq!(json["authenticated_at"], Value::Null);
}

// ---- Tokens ----------------------------------------------------------------------------------------

#[test]
fn a_token_is_shown_only_with_show_token() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    let response = c.get("/token");
    assert_eq!((response.status, &*response.body), (404, ""));

    let server = memory(&["--show-token"]);
    let mut c = server.client();
    assert_eq!(c.get("/token").ok(), "", "no session, no token");
    assert!(c.jar.token().is_none());
    let response = c.get("/token?new=true");
    assert_eq!(response.set_cookie(), None, "the body has it");
    assert_eq!(response.all("cache-control").collect::<Vec<_>>(), ["no-store"]);
    let mut c = Client::with(server.address(), Jar::with(&response.ok()));
    assert_eq!(c.get("/keys").ok(), r#"["via"]"#, "the token is in service");
    let response = c.get("/token?new=true");
    assert_eq!(Some(&*response.ok()), c.jar.token(), "it has a session already");

    // Among several, the one that opened the session.
    let token = c.jar.token().unwrap().to_owned();
    let planted = format!("session={}; session={token}", "A".repeat(43));
    assert_eq!(c.raw("/token", &[("cookie", &planted)]).ok(), token);
}

#[test]
fn merge_moves_the_data_and_ends_the_other_session() {
    let server = memory(&["--show-token"]);
    let mut before = server.client();
    before.get("/put?key=cart&value=three").ok();
    before.get("/put?key=name&value=theirs").ok();
    let token = before.get("/token").ok();

    let mut after = server.client();
    after.get("/put?key=name&value=ours").ok();
    let path = format!("/merge?token={token}");
    assert_eq!(after.get(&path).ok(), "done");
    assert_eq!(after.get("/get?key=cart").ok(), "three");
    assert_eq!(after.get("/get?key=name").ok(), "theirs");
    assert_eq!(before.get("/keys").ok(), "[]", "the other session is over");
    assert_eq!(after.get(&path).ok(), "absent");
    let own = after.get("/token").ok();
    assert_eq!(after.get(&format!("/merge?token={own}")).ok(), "same");

    let mut other = server.client();
    other.get("/put?key=name&value=others").ok();
    let token = other.get("/token").ok();
    assert_eq!(after.get(&format!("/merge?token={token}&keep=ours")).ok(), "done");
    assert_eq!(after.get("/get?key=name").ok(), "theirs");

    // Into a session that the merge begins.
    let mut fresh = server.client();
    let response = fresh.get(&format!("/merge?token={own}"));
    assert!(response.set_cookie().is_some());
    assert_eq!(response.ok(), "done");
    assert_eq!(fresh.get("/get?key=cart").ok(), "three");

    for path in ["/merge", "/merge?token=", "/merge?token=abc", &format!("/merge?token={own}&keep=both")] {
        assert_refused(&mut fresh, path, 400);
    }
}

#[test]
fn rotate_keeps_the_deadline_and_gives_the_old_token_a_grace() {
    let server = memory(&["--show-token"]);
    let mut c = server.client();
    c.get("/put").ok();
    c.get("/set-deadline?secs=600").ok();
    let mut old = c.clone_jar();
    let cookie = c.get("/rotate").set_cookie().unwrap();
    assert_ne!(Some(&*cookie.value), old.jar.token());
    assert!(seconds_until_the_end(&mut c) <= 600);
    assert_eq!(c.get("/get").ok(), "Hello from a session!");
    // Either within the grace, or after it on a machine that stood still for 10 s.
    let shown = old.get("/token").ok();
    assert!(shown.is_empty() || Some(&*shown) == old.jar.token());
    c.get("/destroy").ok();
    assert_eq!(old.get("/get").ok(), "", "a logout ends the grace");
}

#[test]
fn rotate_every_so_often_gives_a_new_token_by_itself() {
    let server = memory(&["--rotate", "1"]);
    let mut c = server.client();
    c.get("/put").ok();
    let old = c.jar.clone();
    thread::sleep(Duration::from_millis(1100));
    let cookie = c.get("/get").set_cookie().expect("the token is older than a second");
    assert_ne!(Some(&*cookie.value), old.token());
    assert_eq!(c.get("/get").ok(), "Hello from a session!");
}

// ---- Owners ----------------------------------------------------------------------------------------

#[test]
fn login_renews_and_lists_the_session_with_what_the_client_says() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put?key=cart&value=three").ok();
    let mut old = c.clone_jar();
    let cookie =
        c.raw("/login?owner=ada", &[("cookie", &c.jar.header().unwrap()), ("user-agent", "tests/1")]);
    c.jar.apply(&cookie);
    assert_ne!(cookie.set_cookie().unwrap().value, old.jar.token().unwrap());
    assert_eq!(old.get("/keys").ok(), "[]", "no fixation");
    assert_eq!(c.get("/get?key=cart").ok(), "three");

    let text = c.get("/sessions").ok();
    let one = text.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
    assert_eq!(
        keys_in_order(one),
        [
            "authenticated_at",
            "created_at",
            "current",
            "expires_at",
            "id",
            "ip",
            "last_seen",
            "owner",
            "user_agent"
        ]
    );
    let session: Value = serde_json::from_str(one).unwrap();
    assert_eq!(session["owner"], "ada");
    assert_eq!(session["current"], true);
    assert_eq!((&session["ip"], &session["user_agent"]), (&json!("127.0.0.1"), &json!("tests/1")));
    assert_eq!(session["id"].as_str().unwrap().len(), 64);
    session["authenticated_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();

    let mut c = server.client();
    for path in ["/login", "/login?owner="] {
        assert_refused(&mut c, path, 400);
    }
    assert_refused(&mut c, &format!("/login?owner={}", "x".repeat(300)), 413);
    assert!(c.jar.token().is_none());
}

#[test]
fn sessions_lists_the_owners_and_marks_the_current_one() {
    let server = memory(&[]);
    let (mut one, mut two) = (logged_in(&server, "ada"), logged_in(&server, "ada"));
    let mut bob = logged_in(&server, "bob");
    let ids = BTreeSet::from([id_of(&mut one), id_of(&mut two)]);
    assert_eq!(ids.len(), 2, "each client's own is marked");
    for c in [&mut one, &mut two] {
        let listed: BTreeSet<String> = json_of(c, "/sessions")
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, ids);
    }
    assert_eq!(json_of(&mut bob, "/sessions").as_array().unwrap().len(), 1);
    for path in ["/sessions", "/logout-everywhere", &format!("/revoke?id={}", "0".repeat(64))] {
        assert_refused(&mut server.client(), path, 403);
    }
}

#[test]
fn revoke_ends_ones_own_sessions_and_nobody_elses() {
    let server = memory(&[]);
    let (mut one, mut two) = (logged_in(&server, "ada"), logged_in(&server, "ada"));
    let mut bob = logged_in(&server, "bob");
    let foreign = id_of(&mut bob);
    assert_refused(&mut one, &format!("/revoke?id={foreign}"), 403);
    assert_refused(&mut one, &format!("/revoke?id={}", "0".repeat(64)), 403);
    for id in ["", "abc", &foreign.to_uppercase()] {
        assert_refused(&mut one, &format!("/revoke?id={id}"), 400);
    }
    assert_eq!(id_of(&mut bob), foreign, "bob is still there");

    let id = id_of(&mut two);
    assert_eq!(one.get(&format!("/revoke?id={id}")).ok(), "ok");
    assert_eq!(two.get("/sessions").status, 403);
    assert_eq!(json_of(&mut one, "/sessions").as_array().unwrap().len(), 1);
    assert_refused(&mut one, &format!("/revoke?id={id}"), 403);

    let id = id_of(&mut one);
    let response = one.get(&format!("/revoke?id={id}"));
    assert!(response.set_cookie().unwrap().is_removal(), "revoking the current one is a logout");
}

#[test]
fn logout_everywhere_ends_all_sessions_of_the_owner_for_good() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start(Store::Redb(dir.path().join("s.redb")), &[]);
    let mut clients: Vec<Client> = (0..4).map(|_| logged_in(&server, "ada")).collect();
    let mut bob = logged_in(&server, "bob");

    assert_eq!(clients[0].get("/logout-everywhere?keep=true").ok(), "3");
    assert_eq!(clients[0].get("/sessions").status, 200, "this one was kept");
    assert!(clients[1..].iter_mut().all(|c| c.get("/sessions").status == 403));

    clients[1] = logged_in(&server, "ada");
    let response = clients[0].get("/logout-everywhere");
    assert!(response.set_cookie().unwrap().is_removal());
    assert_eq!(response.ok(), "2");

    server.kill();
    server.restart();
    for c in &mut clients {
        c.move_to(server.address());
        assert_eq!(c.get("/sessions").status, 403);
    }
    bob.move_to(server.address());
    assert_eq!(bob.get("/put").status, 200);
}

#[test]
fn a_login_beyond_the_limit_is_refused_or_drops_the_oldest() {
    let server = memory(&["--max-sessions", "2"]);
    let (mut one, _two) = (logged_in(&server, "ada"), logged_in(&server, "ada"));
    let mut three = server.client();
    assert_refused(&mut three, "/login?owner=ada", 403);
    assert!(three.jar.token().is_none(), "a refused login begins nothing");
    three.get("/login?owner=bob").ok();
    one.get("/destroy").ok();
    logged_in(&server, "ada");

    let server = memory(&["--max-sessions", "2", "--when-full", "drop-oldest"]);
    let mut clients: Vec<Client> = (0..3)
        .map(|_| {
            // So that one is the oldest.
            thread::sleep(Duration::from_millis(5));
            logged_in(&server, "ada")
        })
        .collect();
    let alive: Vec<bool> = clients.iter_mut().map(|c| c.get("/sessions").status == 200).collect();
    assert_eq!(alive, [false, true, true]);
}

#[test]
fn iterate_gives_every_session_once_in_pages() {
    let dir = TempDir::new().unwrap();
    for store in [Store::Memory, Store::Redb(dir.path().join("s.redb"))] {
        let server = Server::start(store, &[]);
        let mut ids = BTreeSet::new();
        for i in 0..23 {
            let mut c = logged_in(&server, &format!("user{i}"));
            c.get("/put?key=a&value=b").ok();
            assert!(ids.insert(id_of(&mut c)));
        }
        let mut c = server.client();
        let (mut after, mut seen, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let text = c.get(&format!("/iterate?limit=7{after}")).ok();
            assert_eq!(keys_in_order(&text), ["next", "sessions"]);
            let page: Value = serde_json::from_str(&text).unwrap();
            let sessions = page["sessions"].as_array().unwrap();
            assert!(sessions.len() <= 7);
            for session in sessions {
                assert_eq!(session["keys"], json!(["a", "sessile.client"]));
                assert!(session["owner"].as_str().unwrap().starts_with("user"));
                seen.push(session["id"].as_str().unwrap().to_owned());
            }
            pages += 1;
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert!(pages >= 4);
        assert_eq!(seen.len(), ids.len(), "each once");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids);
        assert_eq!(json_of(&mut c, "/iterate")["sessions"].as_array().unwrap().len(), 20);
        assert!(c.jar.token().is_none());
        for path in ["/iterate?limit=0", "/iterate?limit=1001", "/iterate?limit=x", "/iterate?after=abc"] {
            assert_refused(&mut c, path, 400);
        }
    }
}

// ---- Streams ---------------------------------------------------------------------------------------

fn data(events: &mut Stream) -> Value {
    let event = events.event().unwrap();
    assert_eq!(event.name, "changed");
    serde_json::from_str::<Value>(&event.data).unwrap()["data"].clone()
}

#[test]
fn events_tell_changes_and_a_logout_everywhere() {
    let server = memory(&[]);
    assert_eq!(server.client().get("/events").status, 204);
    let (mut c, mut phone) = (logged_in(&server, "ada"), logged_in(&server, "ada"));
    let mut tab = c.clone_jar();
    let mut events = Stream::open(&mut tab, "/events");
    assert_eq!(events.head.status, 200);
    assert_eq!(events.head.all("content-type").collect::<Vec<_>>(), ["text/event-stream"]);
    for n in 1..4 {
        c.get("/count").ok();
        assert_eq!(data(&mut events)["count"], n);
    }
    // Another client, another session, one owner.
    assert_eq!(phone.get("/logout-everywhere").ok(), "2");
    let last = events.event().unwrap();
    assert_eq!((&*last.name, &*last.data), ("revoked", "revoked"));
    assert_eq!(events.event(), None, "the stream ends");
    assert_eq!(tab.get("/events").status, 204, "a browser that reconnects is told to stop");
}

#[test]
fn events_say_how_the_session_ended() {
    let server = memory(&[]);
    for (path, word) in [("/destroy", "destroyed"), ("/renew", "renewed"), ("/login?owner=ada", "renewed")] {
        let mut c = server.client();
        c.get("/put").ok();
        let mut events = Stream::open(&mut c.clone_jar(), "/events");
        c.get(path).ok();
        let mut last = events.event().unwrap();
        if last.name == "changed" {
            // The owner is given before the token is swapped.
            last = events.event().unwrap();
        }
        assert_eq!((&*last.name, &*last.data), ("revoked", word), "{path}");
        assert_eq!(events.event(), None);
    }
    let mut c = server.client();
    c.get("/put").ok();
    c.get("/set-deadline?secs=1").ok();
    let mut events = Stream::open(&mut c, "/events");
    if events.head.status == 200 {
        let last = events.event().unwrap();
        assert_eq!((&*last.name, &*last.data), ("revoked", "expired"));
    }
}

#[test]
fn a_rotation_is_no_end_for_the_events() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    let mut events = Stream::open(&mut c.clone_jar(), "/events");
    c.get("/rotate").ok();
    c.get("/count").ok();
    assert_eq!(data(&mut events)["count"], 1);
}

#[test]
fn streams_end_when_the_server_stops() {
    let mut server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    let (mut socket, _) = websocket(&server, &c.jar);
    let mut events = Stream::open(&mut c.clone_jar(), "/events");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(events.event(), None, "without an event: the session lives");
    let closed = loop {
        match socket.read() {
            Ok(Message::Close(frame)) => break frame,
            Ok(_) => {}
            // The process may be gone before it has said so.
            Err(_) => break None,
        }
    };
    assert!(closed.is_none_or(|frame| frame.code == CloseCode::Away));
    assert!(server.wait().success());
}

/// A WebSocket of `/ws`, and the cookie of its handshake.
fn websocket(server: &Server, jar: &Jar) -> (WebSocket<TcpStream>, Option<SetCookie>) {
    let tcp = TcpStream::connect(server.address()).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let mut request = format!("ws://{}/ws", server.address()).into_client_request().unwrap();
    if let Some(cookie) = jar.header() {
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
    }
    let (socket, response) = tungstenite::client(request, tcp).unwrap();
    let cookie = response.headers().get("set-cookie").and_then(|v| SetCookie::parse(v.to_str().unwrap()));
    (socket, cookie)
}

fn say(socket: &mut WebSocket<TcpStream>, text: &str) -> String {
    socket.send(Message::text(text)).unwrap();
    socket.read().unwrap().into_text().unwrap().as_str().to_owned()
}

#[test]
fn a_websocket_echoes_and_counts_in_the_session() {
    let server = memory(&[]);
    let (mut socket, cookie) = websocket(&server, &Jar::default());
    let mut c = Client::with(server.address(), Jar::with(&cookie.expect("it began the session").value));
    assert_eq!(say(&mut socket, "hello"), r#"{"count":1,"message":"hello"}"#);
    assert_eq!(say(&mut socket, "a\"b"), r#"{"count":2,"message":"a\"b"}"#);
    let (mut second, cookie) = websocket(&server, &c.jar);
    assert_eq!(cookie, None);
    assert_eq!(say(&mut second, "x"), r#"{"count":3,"message":"x"}"#);
    assert_eq!(c.get("/get?key=messages").ok(), "3");

    c.get("/destroy").ok();
    for mut socket in [socket, second] {
        let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("a close frame") };
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Policy, "destroyed"));
    }

    let mut c = server.client();
    c.get("/put?key=messages&value=text").ok();
    let response = c.raw("/ws", &[("cookie", &c.jar.header().unwrap())]);
    assert!((400..500).contains(&response.status), "no handshake: {}", response.status);
}

#[test]
fn a_stream_writes_after_its_head() {
    let server = memory(&[]);
    let mut c = server.client();
    c.get("/put").ok();
    let mut stream = Stream::open(&mut c.clone_jar(), "/stream?ms=1&key=late&value=x");
    assert_eq!(stream.chunk().as_deref(), Some("begun\n"));
    assert_eq!(stream.chunk().as_deref(), Some("written\n"));
    assert_eq!(stream.chunk(), None);
    assert_eq!(c.get("/get?key=late").ok(), "x");

    // The head is there while the body still waits: it waits for a minute.
    let mut stream = Stream::open(&mut c.clone_jar(), "/stream?ms=60000");
    assert_eq!(stream.chunk().as_deref(), Some("begun\n"));
    drop(stream);

    // Ended in between: the late write is refused, and brings nothing back.
    let mut stream = Stream::open(&mut c.clone_jar(), "/stream?ms=500&key=late&value=y");
    assert_eq!(stream.chunk().as_deref(), Some("begun\n"));
    let old = c.jar.clone();
    c.get("/renew").ok();
    let line = stream.chunk().unwrap();
    assert!(line == "written\n" || line.starts_with("refused: "), "{line}");
    assert_eq!(Client::with(server.address(), old).get("/keys").ok(), "[]");
    assert_eq!(c.get("/get?key=late").ok(), if line == "written\n" { "y" } else { "x" });

    // Too late to begin one.
    let mut stream = Stream::open(&mut server.client(), "/stream");
    assert_eq!(stream.head.set_cookie(), None);
    assert_eq!(stream.chunk().as_deref(), Some("begun\n"));
    assert!(stream.chunk().unwrap().starts_with("refused: "));
}

// ---- Flags -----------------------------------------------------------------------------------------

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
