//! Flash messages, times, tokens and merging.

use super::*;

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
