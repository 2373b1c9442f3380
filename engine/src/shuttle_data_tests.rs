//! Schedule tests of what sessions hold: flash messages and structs under every interleaving. See `shuttle_tests`
//! for how to run them.

use std::sync::{Arc, Mutex};

use shuttle::future::block_on;
use shuttle::thread;

use crate::{Delivery, Engine, Level, Session, Token};

fn check(test: impl Fn() + Send + Sync + 'static) {
    let schedules = std::env::var("SESSILE_SCHEDULES").ok().and_then(|s| s.parse().ok()).unwrap_or(10_000);
    shuttle::check_random(test, schedules);
}

fn open(engine: &Engine, token: &Token) -> Session {
    block_on(engine.session(Some(token))).expect("loads")
}

/// A session with the messages `0` and `1`, the second for `name`.
fn flashed(engine: &Engine) -> Arc<Token> {
    let session = block_on(engine.session(None)).expect("begins");
    session.flash(Level::Info, "0").expect("flashes");
    session.flash_to("name", Level::Info, "1").expect("flashes");
    match block_on(session.commit()).expect("commits") {
        Delivery::Issue(issue) => Arc::new(issue.token),
        other => panic!("expected a token, got {other:?}"),
    }
}

#[test]
fn shuttle_each_flash_is_delivered_exactly_once() {
    check(|| {
        let engine = Engine::builder().manual().in_memory().expect("opens");
        let token = flashed(&engine);
        // Outside of the schedule: only what the sessions do may interleave.
        let got = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (engine, token, got) = (engine.clone(), token.clone(), got.clone());
                thread::spawn(move || {
                    let session = open(&engine, &token);
                    let taken = match i {
                        0 => return session.flash(Level::Warning, "2").expect("flashes"),
                        1 => session.flashes_of("name"),
                        _ => session.flashes(),
                    };
                    let taken = taken.expect("takes");
                    got.lock().expect("locks").extend(taken.into_iter().map(|f| f.text));
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().expect("joins"));
        let rest = open(&engine, &token).flashes().expect("takes");
        let mut got = got.lock().expect("locks").clone();
        got.extend(rest.into_iter().map(|f| f.text));
        got.sort();
        assert_eq!(got, ["0", "1", "2"]);
    });
}

#[test]
fn shuttle_structs_are_read_and_written_whole() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Twins {
        left: u32,
        right: u32,
    }
    check(|| {
        let engine = Engine::builder().manual().in_memory().expect("opens");
        let token = flashed(&engine);
        let threads: Vec<_> = (1..=2)
            .map(|n| {
                let (engine, token) = (engine.clone(), token.clone());
                thread::spawn(move || {
                    let session = open(&engine, &token);
                    session.put_struct(&Twins { left: n, right: n }).expect("puts");
                    session
                        .update_struct(|old: Option<Twins>| {
                            let old = old.expect("it is there");
                            Twins { left: old.left + 10, right: old.right + 10 }
                        })
                        .expect("updates");
                })
            })
            .collect();
        let session = open(&engine, &token);
        if let Some(read) = session.get_struct::<Twins>().expect("reads") {
            assert_eq!(read.left, read.right);
        }
        threads.into_iter().for_each(|t| t.join().expect("joins"));
        let last = session.get_struct::<Twins>().expect("reads").expect("it is there");
        assert_eq!(last.left, last.right);
        assert!(last.left > 10, "no update is lost");
    });
}
