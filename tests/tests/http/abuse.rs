//! Rows D1 to D8: what a client can make the server spend. D3, D7 and D8 are proven beside the engine.

use std::time::Duration;

use http::Response;
use sessile::engine::store::MemoryStore;
use sessile::engine::store::fault::FaultOp;
use sessile::{Engine, ErrorKind, Event, SessionLayer};

use crate::support::*;

#[tokio::test]
async fn d1_strangers_who_write_nothing_leave_nothing() {
    let rows = MemoryStore::new();
    let (engine, orders) = over(Engine::builder(), &rows);
    let layer = SessionLayer::new(engine.clone());
    let before = engine.stats().await;
    for i in 0..50_000 {
        let response = ask(&layer, &stranger(), async |s| {
            match i % 8 {
                0 => s.destroy().unwrap(),
                1 => s.renew().unwrap(),
                2 => s.rotate().unwrap(),
                3 => s.clear().unwrap(),
                4 => drop(s.remove("k").unwrap()),
                5 => drop(s.flashes().unwrap()),
                6 => drop(s.pop::<u64>("k").unwrap()),
                _ => assert!(!s.exists("k")),
            }
            ok()
        })
        .await;
        assert_eq!(set(&response).len(), 0);
    }
    engine.flush().await.unwrap();
    let after = engine.stats().await;
    assert_eq!((after.cached, after.created, after.dirty), (0, 0, 0));
    assert_eq!(after.memory_bytes, before.memory_bytes);
    assert_eq!((rows.len(), orders.committed().len()), (0, 0));
    assert_eq!(orders.calls(FaultOp::Load), 50_000, "each was looked for once");
}

#[tokio::test]
async fn d2_a_flood_of_strangers_costs_no_owner_a_session() {
    const LIMIT: usize = 1 << 20;
    let builder = Engine::builder().max_record_bytes(4096).memory_limit(LIMIT);
    let engine = builder.in_memory().unwrap();
    let layer = SessionLayer::new(engine.clone());
    let mut owned = Vec::new();
    for i in 0..300 {
        owned.push(login(&layer, "", &format!("user:{i}")).await);
    }
    let mut refused = 0;
    for i in 0..20_000 {
        let response = ask(&layer, "", async |s| put(&s, &"x".repeat(i % 500))).await;
        refused += usize::from(response.status() == 503);
        assert!(matches!(response.status().as_u16(), 200 | 503), "{}", response.status());
        assert!(set(&response).len() == usize::from(response.status() == 200));
        if i % 100 == 0 {
            // Owners come in all the time.
            owned.push(login(&layer, "", &format!("late:{i}")).await);
        }
    }
    assert!(refused > 10_000, "{refused}");
    let stats = engine.stats().await;
    assert!(stats.memory_bytes <= LIMIT as u64, "{stats:?}");
    for cookie in &owned {
        assert!(alive(&layer, cookie).await);
    }

    // Strangers come and go faster than owners.
    let (builder, clock) = clocked();
    let engine = builder.anonymous_idle_timeout(15 * MINUTE).in_memory().unwrap();
    let layer = SessionLayer::new(engine);
    let (stranger, owner) = (begin(&layer, "v").await, login(&layer, "", "user:1").await);
    clock.advance(15 * MINUTE);
    assert!(!alive(&layer, &stranger).await && alive(&layer, &owner).await);
}

#[tokio::test]
async fn d3_the_call_that_would_exceed_a_limit_fails_and_the_rest_stands() {
    let layer = memory();
    let cookie = begin(&layer, "v").await;
    let response = ask(&layer, &cookie, async |s| {
        let kind = |r: sessile::Result<()>| r.unwrap_err().kind();
        assert_eq!(kind(s.put("big", &"x".repeat(64 << 10))), ErrorKind::Limit);
        s.put(&"k".repeat(256), &1).unwrap();
        assert_eq!(kind(s.put(&"k".repeat(257), &1)), ErrorKind::InvalidKey);
        // To the byte: the largest value that goes in, and one more.
        let fits = |n: usize| s.put("big", &"x".repeat(n)).is_ok();
        let (mut low, mut high) = (0, 64 << 10);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if fits(middle) { low = middle } else { high = middle }
        }
        assert!(low > 60 << 10 && fits(low) && !fits(low + 1));
        assert_eq!(s.get::<String>("big").unwrap().unwrap().len(), low, "the refusal changed nothing");
        ok()
    })
    .await;
    assert_eq!(response.status(), 200);
    assert_eq!(value(&layer, &cookie).await.as_deref(), Some("v"));
}

#[tokio::test]
async fn d4_a_record_has_so_few_keys_that_no_choice_of_them_is_costly() {
    // Keys are sorted and found by comparison; nothing hashes them, so there is nothing to make collide. What a
    // client chooses may at most be long, and many.
    let layer = memory();
    let cookie = begin(&layer, "v").await;
    let response = ask(&layer, &cookie, async |s| {
        let mut n = 1;
        let error = loop {
            match s.put(&format!("key{n}"), &1) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Limit);
        Response::new(format!("{n} {}", s.keys().len()))
    })
    .await;
    assert_eq!(response.body(), "1024 1024");
}

#[tokio::test]
async fn d5_every_guess_is_told() {
    let (builder, told) = Told::by(Engine::builder());
    let layer = SessionLayer::new(builder.open(MemoryStore::new()).unwrap());
    let guesses: Vec<String> = (0..100).map(|_| stranger()).collect();
    for guess in &guesses {
        assert!(!alive(&layer, guess).await);
    }
    for guess in &guesses {
        let id = token(guess).id();
        assert_eq!(told.count(|event| *event == Event::Unknown { id }), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d6_a_thousand_requests_on_one_session_all_get_through() {
    let engine = Engine::builder().open(MemoryStore::new()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let cookie = begin(&layer, "v").await;
    let mut tasks = Vec::new();
    for i in 0..1_000_u64 {
        let (layer, cookie) = (layer.clone(), cookie.clone());
        tasks.push(tokio::spawn(async move {
            use tower::{Layer as _, ServiceExt as _};
            let handler = tower::service_fn(move |request: Req| async move {
                let session: sessile::Session = sessile::Session::from_request(&request).await.unwrap();
                session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
                tokio::task::yield_now().await;
                session.put(&format!("k{}", i % 100), &i).unwrap();
                session.transact(|tx| tx.put("last", &i)).unwrap();
                Ok::<_, std::convert::Infallible>(ok())
            });
            layer.layer(handler).oneshot(request(&[&cookie])).await.unwrap().status()
        }));
    }
    // Not a measure: a limit by which a deadlock is told from work.
    let all = async {
        for task in tasks {
            assert_eq!(task.await.unwrap(), 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("requests on one session are stuck");
    let response = ask(&layer, &cookie, async |s| {
        Response::new(format!("{:?} {}", s.get::<u64>("n").unwrap(), s.keys().len()))
    })
    .await;
    assert_eq!(response.body(), "Some(1000) 103");
    engine.close().await.unwrap();
}
