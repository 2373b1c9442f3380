//! Server-sent events, WebSockets and late writes.

use super::*;

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
