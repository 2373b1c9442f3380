//! Rows L1 to L16 and C7: how sessions begin, go on and end, as a client sees it. L3 and L10 are races and are
//! proven by the schedule tests and `races.rs`; L12 and L13 are the application's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{Response, StatusCode};
use sessile::engine::store::fault::FaultOp;
use sessile::engine::store::{Change, MemoryStore, Store, StoreErrorKind};
use sessile::{Engine, Event, Session, SessionLayer};
use tempfile::TempDir;

use crate::support::*;

#[tokio::test]
async fn c7_a_cookie_that_is_kept_opens_nothing_after_the_deadline() {
    let rows = MemoryStore::new();
    let (builder, clock) = clocked();
    let engine = builder.lifetime(HOUR).open(rows.clone()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let kept = begin(&layer, "v").await;
    clock.advance(HOUR - Duration::from_millis(1));
    assert!(alive(&layer, &kept).await);
    engine.flush().await.unwrap();
    clock.advance(Duration::from_millis(1));
    assert!(!alive(&layer, &kept).await, "from memory");
    engine.close().await.unwrap();
    let again = Engine::builder().clock(clock).open(rows).unwrap();
    assert!(!alive(&SessionLayer::new(again), &kept).await, "from the store");
}

#[tokio::test]
async fn l1_an_id_that_was_not_issued_is_never_adopted() {
    let rows = MemoryStore::new();
    let (builder, told) = Told::by(Engine::builder());
    let engine = builder.open(rows.clone()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let ended = begin(&layer, "v").await;
    ask(&layer, &ended, async |s| {
        s.destroy().unwrap();
        ok()
    })
    .await;
    for planted in [stranger(), stranger(), ended] {
        let before = told.all().len();
        let response = ask(&layer, &planted, async |s| put(&s, "v")).await;
        assert_ne!(cookie(&response), planted);
        engine.flush().await.unwrap();
        let id = token(&planted).id();
        assert!(rows.load(&id).await.unwrap().is_none());
        assert!(!alive(&layer, &planted).await);
        let unknown = told.all().split_off(before);
        assert!(unknown.contains(&Event::Unknown { id }), "{unknown:?}");
    }
}

#[tokio::test]
async fn l2_a_login_changes_the_token_and_kills_the_old_one() {
    let layer = memory();
    let before = begin(&layer, "cart").await;
    for again in 0..3 {
        let now = login(&layer, &before, "user:42").await;
        assert_ne!(now, before);
        assert!(alive(&layer, &now).await && !alive(&layer, &before).await, "{again}");
        // Proving who one is once more, or gaining a right, is a login or a renewal as well.
        let next = login(&layer, &now, "user:42").await;
        let last = cookie(
            &ask(&layer, &next, async |s| {
                s.put("admin", &true).unwrap();
                s.renew().unwrap();
                ok()
            })
            .await,
        );
        assert!(!alive(&layer, &now).await && !alive(&layer, &next).await);
        assert!(alive(&layer, &last).await);
    }
}

#[tokio::test]
async fn l4_a_renewal_never_loses_the_session() {
    let (engine, orders) = over(Engine::builder(), &MemoryStore::new());
    let layer = SessionLayer::new(engine.clone());
    let first = begin(&layer, "v").await;
    engine.flush().await.unwrap();

    // The handler answers 500: the response is delivered, so the token in it is good.
    let response = ask(&layer, &first, async |s| {
        s.renew().unwrap();
        status(StatusCode::INTERNAL_SERVER_ERROR, "broken")
    })
    .await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (500, "broken"));
    let second = cookie(&response);
    assert_eq!(value(&layer, &second).await.as_deref(), Some("v"));
    assert!(!alive(&layer, &first).await);

    // The store fails in the middle of it: the response is replaced, and the token that the client has is good.
    for lost_answer in [false, true] {
        orders.apply_failing_commits(lost_answer);
        orders.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
        let response = ask(&layer, &second, async |s| {
            s.renew().unwrap();
            Response::new("renewed".to_owned())
        })
        .await;
        assert_eq!(response.status().as_u16(), 503, "{lost_answer}");
        assert_eq!(set(&response).len(), 0);
        assert_eq!(value(&layer, &second).await.as_deref(), Some("v"), "{lost_answer}");
        orders.heal();
        engine.flush().await.unwrap();
    }
    let last = cookie(
        &ask(&layer, &second, async |s| {
            s.renew().unwrap();
            ok()
        })
        .await,
    );
    assert_eq!(value(&layer, &last).await.as_deref(), Some("v"));
}

#[tokio::test]
async fn l5_an_idle_session_ends_and_its_use_is_rarely_written() {
    let (builder, clock) = clocked();
    let idle = 10 * MINUTE;
    let (engine, orders) = over(builder.idle_timeout(idle), &MemoryStore::new());
    let layer = SessionLayer::new(engine.clone());
    let used = begin(&layer, "v").await;
    engine.flush().await.unwrap();
    drop(orders.take_committed());
    // Ten idle periods of a request a second.
    for _ in 0..6_000 {
        clock.advance(SECOND);
        assert!(alive(&layer, &used).await);
        engine.flush().await.unwrap();
    }
    let writes: usize = orders.take_committed().iter().map(Vec::len).sum();
    // Noted every twentieth of the timeout, not 6,000 times.
    assert!((100..=200).contains(&writes), "{writes}");
    clock.advance(idle - Duration::from_millis(1));
    assert!(alive(&layer, &used).await);
    clock.advance(idle);
    assert!(!alive(&layer, &used).await);
}

#[tokio::test]
async fn l6_only_who_proves_who_they_are_gets_a_new_deadline() {
    let (builder, clock) = clocked();
    let engine = builder.lifetime(24 * HOUR).idle_timeout(HOUR).in_memory().unwrap();
    let layer = SessionLayer::new(engine);
    let mut now = login(&layer, "", "user:42").await;
    // A hundred new tokens for other reasons, and use at every quarter of an hour.
    for _ in 0..95 {
        clock.advance(15 * MINUTE);
        now = cookie(
            &ask(&layer, &now, async |s| {
                let deadline = s.deadline();
                s.rotate().unwrap();
                assert_eq!(s.deadline(), deadline);
                ok()
            })
            .await,
        );
    }
    clock.advance(14 * MINUTE);
    assert!(alive(&layer, &now).await);
    let renewed = login(&layer, &now, "user:42").await;
    clock.advance(MINUTE);
    assert!(alive(&layer, &renewed).await, "a login starts another day");

    // And without one, the day is over.
    let mut other = login(&layer, "", "user:43").await;
    for _ in 0..96 {
        assert!(alive(&layer, &other).await);
        clock.advance(15 * MINUTE);
        let response = ask(&layer, &other, async |s| {
            s.rotate().unwrap();
            ok()
        })
        .await;
        if !set(&response).is_empty() {
            other = cookie(&response);
        }
    }
    assert!(!alive(&layer, &other).await);
}

#[tokio::test]
async fn l7_a_token_is_replaced_by_age_and_the_old_one_dies_after_the_grace() {
    let (builder, clock) = clocked();
    let (builder, told) = Told::by(builder.rotate_every(15 * MINUTE).rotation_grace(10 * SECOND));
    let engine = builder.open(MemoryStore::new()).unwrap();
    let layer = SessionLayer::new(engine);
    let old = begin(&layer, "v").await;
    clock.advance(15 * MINUTE);
    // Two requests at the moment of rotation: both answered, one new token.
    let both = tokio::join!(ask(&layer, &old, read), ask(&layer, &old, read));
    assert_eq!((both.0.body().as_str(), both.1.body().as_str()), ("v", "v"));
    let new: Vec<_> = [&both.0, &both.1].into_iter().filter(|r| !set(r).is_empty()).map(cookie).collect();
    assert_eq!(new.len(), 1);
    clock.advance(10 * SECOND - Duration::from_millis(1));
    assert!(alive(&layer, &old).await);
    clock.advance(Duration::from_millis(1));
    let id = token(&old).id();
    assert_eq!(told.count(|e| *e == Event::Unknown { id }), 0);
    assert!(!alive(&layer, &old).await);
    assert_eq!(told.count(|e| *e == Event::Unknown { id }), 1, "who comes with it now is told of");
    assert!(alive(&layer, &new[0]).await);
}

async fn read(session: Session) -> Response<String> {
    Response::new(session.get::<String>("k").unwrap().unwrap_or_default())
}

#[tokio::test]
async fn l8_the_row_is_gone_when_the_answer_to_the_logout_is_there() {
    let rows = MemoryStore::new();
    let layer = SessionLayer::new(Engine::builder().open(rows.clone()).unwrap());
    for _ in 0..200 {
        let cookie = begin(&layer, "v").await;
        let response = ask(&layer, &cookie, async |s| {
            s.destroy().unwrap();
            ok()
        })
        .await;
        assert!(rows.load(&token(&cookie).id()).await.unwrap().is_none());
        assert!(set(&response)[0].starts_with("session=; "), "{:?}", set(&response));
    }
}

#[tokio::test]
async fn l9_one_request_logs_its_user_out_everywhere() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("sessions.redb");
    let engine = Engine::builder().open_redb(&path).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let mut theirs = Vec::new();
    for _ in 0..40 {
        theirs.push(login(&layer, "", "user:42").await);
    }
    let (here, other) = (login(&layer, "", "user:42").await, login(&layer, "", "user:43").await);
    let admin = engine.clone();
    let response = ask(&layer, &here, async |s| {
        let ended = admin.destroy_all("user:42", s.id().as_ref()).await.unwrap();
        Response::new(ended.to_string())
    })
    .await;
    assert_eq!(response.body(), "40");
    for cookie in &theirs {
        assert!(!alive(&layer, cookie).await);
    }
    assert!(alive(&layer, &here).await && alive(&layer, &other).await);
    engine.destroy_session(&token(&other).id()).await.unwrap();
    assert!(!alive(&layer, &other).await, "an administrator needs no more than the id");
    engine.close().await.unwrap();

    let engine = Engine::builder().open_redb(&path).unwrap();
    let layer = SessionLayer::new(engine.clone());
    for cookie in theirs.iter().chain([&other]) {
        assert!(!alive(&layer, cookie).await);
    }
    assert!(alive(&layer, &here).await);
    engine.close().await.unwrap();
}

#[tokio::test]
async fn l11_a_sensitive_route_asks_for_a_fresh_proof() {
    let (builder, clock) = clocked();
    let layer = SessionLayer::new(builder.in_memory().unwrap());
    let sensitive = async |s: Session| {
        if s.authenticated_within(5 * MINUTE) {
            ok()
        } else {
            status(StatusCode::UNAUTHORIZED, "who are you?")
        }
    };
    let stranger = begin(&layer, "v").await;
    assert_eq!(ask(&layer, &stranger, sensitive).await.status(), 401);
    let user = login(&layer, "", "user:42").await;
    clock.advance(5 * MINUTE - Duration::from_millis(1));
    assert_eq!(ask(&layer, &user, sensitive).await.status(), 200);
    let rotated = cookie(
        &ask(&layer, &user, async |s| {
            s.rotate().unwrap();
            ok()
        })
        .await,
    );
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&layer, &rotated, sensitive).await.status(), 401, "a new token proves nothing");
    let proven = login(&layer, &rotated, "user:42").await;
    assert_eq!(ask(&layer, &proven, sensitive).await.status(), 200);
}

#[tokio::test]
async fn l14_users_see_their_own_sessions_and_no_token() {
    let engine = Engine::builder().open(MemoryStore::new()).unwrap();
    let layer = SessionLayer::new(engine.clone());
    let mut cookies = Vec::new();
    for agent in ["phone", "laptop", "tablet"] {
        let mut request = request(&[]);
        request.headers_mut().insert(USER_AGENT, agent.parse().unwrap());
        let agent = request.headers()[USER_AGENT].to_str().unwrap().to_owned();
        let response = send(&layer, request, async |s| {
            s.login("user:42").await.unwrap();
            s.set_client_info(Some(&agent), Some("192.0.2.0/24")).unwrap();
            ok()
        })
        .await;
        cookies.push(cookie(&response));
    }
    login(&layer, "", "user:43").await;
    let response = ask(&layer, &cookies[1], async |s| {
        let mine = engine.sessions_of("user:42").await.unwrap();
        let lines = mine.iter().map(|i| {
            let here = if s.id() == Some(i.id) { " (here)" } else { "" };
            format!("{i:?}{here}\n")
        });
        Response::new(lines.collect())
    })
    .await;
    let body = response.body();
    assert_eq!(body.lines().count(), 3);
    for wanted in ["phone", "laptop", "tablet", "192.0.2.0/24", "created_at", "last_seen", "authenticated_at"]
    {
        assert!(body.contains(wanted), "{wanted}: {body}");
    }
    let here: Vec<_> = body.lines().filter(|l| l.ends_with("(here)")).collect();
    assert!(here.len() == 1 && here[0].contains("laptop"), "{body}");
    assert!(cookies.iter().all(|c| !body.contains(c.strip_prefix("session=").unwrap())));
}

#[tokio::test]
async fn l15_a_session_is_dead_before_its_observers_hear_of_it_and_whatever_they_do() {
    let told = Arc::new(AtomicUsize::new(0));
    let ends = Arc::clone(&told);
    let observer = move |event: &Event| {
        if matches!(event, Event::Destroyed { .. }) {
            ends.fetch_add(1, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("observer"));
        }
    };
    let layer = SessionLayer::new(Engine::builder().observer(observer).open(MemoryStore::new()).unwrap());
    for _ in 0..1_000 {
        let cookie = begin(&layer, "v").await;
        let response = ask(&layer, &cookie, async |s| {
            s.destroy().unwrap();
            Response::new("out".to_owned())
        })
        .await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "out"));
        assert!(!alive(&layer, &cookie).await);
    }
    assert_eq!(told.load(Ordering::SeqCst), 1_000);
}

#[tokio::test]
async fn l16_a_session_ends_at_its_own_deadline_whatever_the_settings_say_later() {
    for lifetime in [SECOND, 100 * HOUR] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("sessions.redb");
        let (builder, clock) = clocked();
        let engine = builder.lifetime(HOUR).open_redb(&path).unwrap();
        let old = begin(&SessionLayer::new(engine.clone()), "v").await;
        engine.close().await.unwrap();

        let builder = Engine::builder().clock(clock.clone()).lifetime(lifetime);
        let engine = builder.open_redb(&path).unwrap();
        let layer = SessionLayer::new(engine.clone());
        clock.advance(HOUR - Duration::from_millis(1));
        assert!(alive(&layer, &old).await, "{lifetime:?}");
        // The cookie of a token that keeps the deadline says the record's end too.
        let response = ask(&layer, &old, async |s| {
            s.rotate().unwrap();
            ok()
        })
        .await;
        assert!(set(&response)[0].contains("; Max-Age=1;"), "{:?}", set(&response));
        clock.advance(Duration::from_millis(1));
        assert!(!alive(&layer, &cookie(&response)).await, "{lifetime:?}");
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_write_is_counted_once() {
    // What `l5` counts: one change per commit of one session, or its figures would mean nothing.
    let (engine, orders) = over(Engine::builder(), &MemoryStore::new());
    let layer = SessionLayer::new(engine.clone());
    let cookie = begin(&layer, "v").await;
    engine.flush().await.unwrap();
    ask(&layer, &cookie, async |s| put(&s, "w")).await;
    engine.flush().await.unwrap();
    let all: Vec<Change> = orders.take_committed().into_iter().flatten().collect();
    assert!(matches!(&all[..], [Change::Insert { .. }, Change::Update { .. }]), "{all:?}");
}
