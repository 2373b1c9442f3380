//! What a session can hold and how it is asked for: typed keys, structs, archives, flash messages, JSON.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod archived;
mod flash;
mod json;
mod keys;
mod structs;

use std::sync::Barrier;

use pollster::block_on;
use sessile_engine::{Delivery, Engine, ErrorKind, Result, Session, Token};

fn memory() -> Engine {
    Engine::builder().in_memory().unwrap()
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn issued(session: &Session) -> Token {
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A published session with `k = "v"`.
fn fresh(engine: &Engine) -> Token {
    let session = begin(engine, None);
    session.put("k", "v").unwrap();
    issued(&session)
}

fn kind<T: std::fmt::Debug>(r: Result<T>) -> ErrorKind {
    r.unwrap_err().kind()
}

/// Runs `f` in as many requests on one session, all at once.
fn race(engine: &Engine, token: &Token, threads: usize, f: impl Fn(usize, Session) + Sync) {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (barrier, f) = (&barrier, &f);
            scope.spawn(move || {
                let session = begin(engine, Some(token));
                barrier.wait();
                f(i, session);
            });
        }
    });
}
