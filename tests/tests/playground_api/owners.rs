//! Logins, an owner's sessions, and all sessions.

use super::*;

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
