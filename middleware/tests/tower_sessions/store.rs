//! The store below tower-sessions' `Session`: races, expiry, values, restarts. Included by the test of each
//! version.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sessile::adapter::TowerSessionsStore;
use sessile::engine::clock::ManualClock;
use sessile::{Durability, Engine};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::ts::session::{Id, Record};
use crate::ts::session_store::{Error, ExpiredDeletion};
use crate::ts::{Expiry, Session, SessionStore};

fn memory() -> Arc<TowerSessionsStore> {
    Arc::new(TowerSessionsStore::new(Engine::builder().in_memory().unwrap()))
}

/// A store over a file, whose saves are on the disk when they return.
fn file(dir: &TempDir) -> Arc<TowerSessionsStore> {
    let engine = Engine::builder().durability(Durability::PowerLoss).open_redb(dir.path().join("s.redb"));
    Arc::new(TowerSessionsStore::new(engine.unwrap()))
}

fn record(data: &[(&str, Value)]) -> Record {
    Record {
        id: Id::default(),
        data: data.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        expiry_date: OffsetDateTime::now_utc() + Duration::HOUR,
    }
}

/// A stored session's id.
async fn stored(store: &TowerSessionsStore, data: &[(&str, Value)]) -> Id {
    let mut record = record(data);
    store.create(&mut record).await.unwrap();
    record.id
}

/// A request's handle that has loaded the session.
async fn request(store: &Arc<TowerSessionsStore>, id: Id) -> Session {
    let session = Session::new(Some(id), store.clone(), None);
    session.get_value("").await.unwrap();
    session
}

/// What is stored now, without the loading note.
async fn data(store: &TowerSessionsStore, id: Id) -> Option<HashMap<String, Value>> {
    let record = store.load(&id).await.unwrap()?;
    Some(record.data.into_iter().filter(|(key, _)| !key.starts_with('\0')).collect())
}

fn map(data: &[(&str, Value)]) -> Option<HashMap<String, Value>> {
    Some(data.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
}

fn assert_ended<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
}

#[tokio::test]
async fn what_is_created_is_loaded_until_it_is_deleted() {
    let dir = TempDir::new().unwrap();
    for store in [memory(), file(&dir)] {
        let id = stored(&store, &[("a", json!(1))]).await;
        assert_eq!(data(&store, id).await, map(&[("a", json!(1))]));
        let loaded = store.load(&id).await.unwrap().unwrap();
        assert_eq!(loaded.id, id);
        let left = loaded.expiry_date - OffsetDateTime::now_utc();
        assert!(left > Duration::minutes(50) && left <= Duration::HOUR);
        store.delete(&id).await.unwrap();
        assert_eq!(data(&store, id).await, None);
        // Deleting what is gone is fine.
        store.delete(&id).await.unwrap();
        store.delete(&Id::default()).await.unwrap();
        store.delete_expired().await.unwrap();
    }
}

#[tokio::test]
async fn create_never_takes_an_id_over() {
    let store = memory();
    let id = stored(&store, &[("a", json!(1))]).await;
    let mut other = record(&[("b", json!(2))]);
    other.id = id;
    store.create(&mut other).await.unwrap();
    assert_ne!(other.id, id);
    assert_eq!(data(&store, id).await, map(&[("a", json!(1))]));
    assert_eq!(data(&store, other.id).await, map(&[("b", json!(2))]));
}

#[tokio::test]
async fn save_creates_nothing() {
    let store = memory();
    let record = record(&[("a", json!(1))]);
    assert_ended(store.save(&record).await);
    assert_eq!(data(&store, record.id).await, None);
    // Clearing before anything is loaded must not adopt the client's id either.
    let session = Session::new(Some(record.id), store.clone(), None);
    session.clear().await;
    session.insert("a", 1).await.unwrap();
    assert_ended(session.save().await);
    assert_eq!(data(&store, record.id).await, None);
}

#[tokio::test]
async fn different_keys_of_concurrent_requests_survive() {
    let store = memory();
    let id = stored(&store, &[("kept", json!(0)), ("gone", json!(0)), ("both", json!(0))]).await;
    let (a, b) = (request(&store, id).await, request(&store, id).await);
    a.insert("a", 1).await.unwrap();
    a.insert("both", "a").await.unwrap();
    b.insert("b", 2).await.unwrap();
    b.remove_value("gone").await.unwrap();
    b.insert("both", "b").await.unwrap();
    b.save().await.unwrap();
    a.save().await.unwrap();
    let all = [("kept", json!(0)), ("a", json!(1)), ("b", json!(2)), ("both", json!("a"))];
    assert_eq!(data(&store, id).await, map(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_of_many_parallel_requests_survive() {
    let dir = TempDir::new().unwrap();
    for store in [memory(), file(&dir)] {
        let id = stored(&store, &[]).await;
        let tasks: Vec<_> = (0..32)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let session = request(&store, id).await;
                    tokio::task::yield_now().await;
                    session.insert(&format!("k{n}"), n).await.unwrap();
                    session.save().await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(data(&store, id).await.unwrap().len(), 32);
    }
}

#[tokio::test]
async fn a_request_that_saves_several_times_has_its_latest_values_stored() {
    let store = memory();
    let id = stored(&store, &[("x", json!(1)), ("y", json!(1))]).await;
    let session = request(&store, id).await;
    // Back to what was loaded.
    session.insert("x", 2).await.unwrap();
    session.remove_value("y").await.unwrap();
    session.insert("z", 3).await.unwrap();
    session.save().await.unwrap();
    session.insert("x", 1).await.unwrap();
    session.insert("y", 1).await.unwrap();
    session.remove_value("z").await.unwrap();
    session.save().await.unwrap();
    assert_eq!(data(&store, id).await, map(&[("x", json!(1)), ("y", json!(1))]));
    // And what it does not touch between two saves is not written again.
    session.insert("x", 5).await.unwrap();
    session.save().await.unwrap();
    let other = request(&store, id).await;
    other.insert("x", 6).await.unwrap();
    other.save().await.unwrap();
    session.insert("y", 7).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(data(&store, id).await, map(&[("x", json!(6)), ("y", json!(7))]));
}

#[tokio::test]
async fn a_request_that_creates_and_saves_again_overwrites_nobody() {
    let store = memory();
    let session = Session::new(None, store.clone(), None);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    let other = request(&store, id).await;
    other.insert("a", 2).await.unwrap();
    other.save().await.unwrap();
    session.insert("b", 3).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(data(&store, id).await, map(&[("a", json!(2)), ("b", json!(3))]));
}

#[tokio::test]
async fn clear_means_everything() {
    let store = memory();
    let id = stored(&store, &[("a", json!(1))]).await;
    let (a, b) = (request(&store, id).await, request(&store, id).await);
    b.insert("b", 2).await.unwrap();
    b.save().await.unwrap();
    a.clear().await;
    a.insert("c", 3).await.unwrap();
    a.save().await.unwrap();
    assert_eq!(data(&store, id).await, map(&[("c", json!(3))]));
}

#[tokio::test]
async fn a_stale_save_does_not_bring_a_flushed_session_back() {
    let dir = TempDir::new().unwrap();
    for store in [memory(), file(&dir)] {
        let id = stored(&store, &[("user", json!("ann"))]).await;
        let (slow, logout) = (request(&store, id).await, request(&store, id).await);
        slow.insert("seen", true).await.unwrap();
        logout.flush().await.unwrap();
        assert_ended(slow.save().await);
        assert_eq!(data(&store, id).await, None);
    }
}

#[tokio::test]
async fn a_stale_save_under_a_cycled_id_reaches_neither_session() {
    let dir = TempDir::new().unwrap();
    for store in [memory(), file(&dir)] {
        let id = stored(&store, &[("cart", json!(3))]).await;
        let (slow, login) = (request(&store, id).await, request(&store, id).await);
        login.cycle_id().await.unwrap();
        login.insert("user", "ann").await.unwrap();
        login.save().await.unwrap();
        let new = login.id().unwrap();
        assert_ne!(new, id);
        slow.insert("cart", 4).await.unwrap();
        assert_ended(slow.save().await);
        assert_eq!(data(&store, id).await, None);
        assert_eq!(data(&store, new).await, map(&[("cart", json!(3)), ("user", json!("ann"))]));
    }
}

#[tokio::test]
async fn a_session_that_was_logged_out_is_not_cycled_back() {
    for logout_first in [true, false] {
        let store = memory();
        let id = stored(&store, &[("user", json!("ann"))]).await;
        let (slow, logout) = (request(&store, id).await, request(&store, id).await);
        slow.insert("mine", 1).await.unwrap();
        if logout_first {
            logout.flush().await.unwrap();
            slow.cycle_id().await.unwrap();
        } else {
            slow.cycle_id().await.unwrap();
            logout.flush().await.unwrap();
        }
        slow.save().await.unwrap();
        // What the request wrote itself begins a session; what it had read is gone with the logout.
        assert_eq!(data(&store, slow.id().unwrap()).await, map(&[("mine", json!(1))]));
        assert_eq!(slow.get_value("user").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_revoked_session_is_not_cycled_back() {
    let store = memory();
    let id = stored(&store, &[("user", json!("ann"))]).await;
    let slow = request(&store, id).await;
    store.engine().destroy_session(&TowerSessionsStore::session_id(id.0)).await.unwrap();
    slow.cycle_id().await.unwrap();
    slow.save().await.unwrap();
    assert_eq!(data(&store, slow.id().unwrap()).await, map(&[]));
}

#[tokio::test]
async fn two_requests_that_cycle_one_session_both_keep_its_data() {
    let store = memory();
    let id = stored(&store, &[("cart", json!(3))]).await;
    let (a, b) = (request(&store, id).await, request(&store, id).await);
    a.cycle_id().await.unwrap();
    a.save().await.unwrap();
    b.cycle_id().await.unwrap();
    b.save().await.unwrap();
    assert_ne!(a.id(), b.id());
    for session in [&a, &b] {
        assert_eq!(data(&store, session.id().unwrap()).await, map(&[("cart", json!(3))]));
    }
    // But not once the first of them has been logged out.
    let (c, d) = (request(&store, a.id().unwrap()).await, request(&store, a.id().unwrap()).await);
    c.cycle_id().await.unwrap();
    c.save().await.unwrap();
    c.flush().await.unwrap();
    d.cycle_id().await.unwrap();
    d.save().await.unwrap();
    assert_eq!(data(&store, d.id().unwrap()).await, map(&[]));
}

#[tokio::test]
async fn under_cycling_the_old_session_lives_until_the_new_one_is_stored() {
    let dir = TempDir::new().unwrap();
    for store in [memory(), file(&dir)] {
        let id = stored(&store, &[("cart", json!(3))]).await;
        let (login, other) = (request(&store, id).await, request(&store, id).await);
        store.cycling(login.cycle_id()).await.unwrap();
        assert_eq!(data(&store, id).await, map(&[("cart", json!(3))]));
        other.insert("other", 1).await.unwrap();
        other.save().await.unwrap();
        login.insert("user", "ann").await.unwrap();
        login.save().await.unwrap();
        let new = login.id().unwrap();
        assert_eq!(data(&store, id).await, None);
        let all = [("cart", json!(3)), ("other", json!(1)), ("user", json!("ann"))];
        assert_eq!(data(&store, new).await, map(&all));
        // The handle goes on with what is stored.
        login.insert("later", 2).await.unwrap();
        login.save().await.unwrap();
        assert_eq!(data(&store, new).await.unwrap().len(), 4);
        // A save by somebody who still has the old id reaches neither.
        other.insert("other", 9).await.unwrap();
        assert_ended(other.save().await);
    }
}

#[tokio::test]
async fn under_cycling_a_request_that_fails_changes_nothing_and_a_logout_wins() {
    let store = memory();
    let id = stored(&store, &[("cart", json!(3))]).await;
    let failed = request(&store, id).await;
    store.cycling(failed.cycle_id()).await.unwrap();
    failed.insert("user", "ann").await.unwrap();
    drop(failed);
    assert_eq!(data(&store, id).await, map(&[("cart", json!(3))]));

    // A value that cannot be stored costs nothing either.
    let failed = request(&store, id).await;
    store.cycling(failed.cycle_id()).await.unwrap();
    failed.insert("big", "x".repeat(1 << 20)).await.unwrap();
    failed.save().await.unwrap_err();
    assert_eq!(data(&store, id).await, map(&[("cart", json!(3))]));

    let (login, logout) = (request(&store, id).await, request(&store, id).await);
    store.cycling(login.cycle_id()).await.unwrap();
    logout.flush().await.unwrap();
    login.insert("user", "ann").await.unwrap();
    login.save().await.unwrap();
    assert_eq!(data(&store, id).await, None);
    assert_eq!(data(&store, login.id().unwrap()).await, map(&[("user", json!("ann"))]));
}

#[tokio::test]
async fn the_expiry_of_the_last_save_decides() {
    let start = OffsetDateTime::now_utc();
    let clock = ManualClock::new(u64::try_from(start.unix_timestamp_nanos() / 1_000_000).unwrap());
    let engine = Engine::builder().clock(clock.clone()).in_memory().unwrap();
    let store = Arc::new(TowerSessionsStore::new(engine));
    let id = stored(&store, &[("a", json!(1))]).await;
    let mut loaded = store.load(&id).await.unwrap().unwrap();
    // Later than the engine's own lifetime of a day.
    loaded.expiry_date = start + Duration::days(10);
    store.save(&loaded).await.unwrap();
    clock.advance((Duration::days(10) - Duration::seconds(1)).unsigned_abs());
    assert!(data(&store, id).await.is_some());
    // Earlier than before.
    loaded.expiry_date = start + Duration::days(10);
    store.save(&loaded).await.unwrap();
    clock.advance(Duration::seconds(1).unsigned_abs());
    assert!(data(&store, id).await.is_none());
    assert_ended(store.save(&loaded).await);

    let session = Session::new(None, store.clone(), None);
    session.insert("a", 1).await.unwrap();
    session.set_expiry(Some(Expiry::AtDateTime(start)));
    session.save().await.unwrap();
    assert!(data(&store, session.id().unwrap()).await.is_none());
}

#[tokio::test]
async fn an_idle_timeout_of_the_engine_counts_loads() {
    let start = OffsetDateTime::now_utc();
    let clock = ManualClock::new(u64::try_from(start.unix_timestamp_nanos() / 1_000_000).unwrap());
    let engine = Engine::builder()
        .clock(clock.clone())
        .idle_timeout(Duration::minutes(10).unsigned_abs())
        .in_memory()
        .unwrap();
    let store = TowerSessionsStore::new(engine);
    let id = stored(&store, &[("a", json!(1))]).await;
    for _ in 0..5 {
        clock.advance(Duration::minutes(9).unsigned_abs());
        assert!(data(&store, id).await.is_some());
    }
    clock.advance(Duration::minutes(10).unsigned_abs());
    assert!(data(&store, id).await.is_none());
}

#[tokio::test]
async fn sessions_and_deletions_survive_a_restart_and_no_file_holds_an_id() {
    let dir = TempDir::new().unwrap();
    let store = file(&dir);
    let (kept, dead) =
        (stored(&store, &[("a", json!([1, null]))]).await, stored(&store, &[("b", json!(2))]).await);
    let cycled = request(&store, stored(&store, &[("c", json!(3))]).await).await;
    let old = cycled.id().unwrap();
    cycled.cycle_id().await.unwrap();
    cycled.save().await.unwrap();
    store.delete(&dead).await.unwrap();
    store.engine().close().await.unwrap();
    let new = cycled.id().unwrap();
    drop((store, cycled));

    let bytes = std::fs::read(dir.path().join("s.redb")).unwrap();
    for id in [kept, dead, old, new] {
        assert!(!bytes.windows(16).any(|w| w == id.0.to_le_bytes()), "the file holds an id");
        assert!(!bytes.windows(22).any(|w| w == id.to_string().as_bytes()), "the file holds an id");
    }
    let hash = TowerSessionsStore::session_id(kept.0);
    assert!(bytes.windows(32).any(|w| w == hash.as_bytes()), "the file does hold the hash");

    let store = file(&dir);
    assert_eq!(data(&store, kept).await, map(&[("a", json!([1, null]))]));
    assert_eq!(data(&store, new).await, map(&[("c", json!(3))]));
    assert_eq!(data(&store, dead).await, None);
    assert_eq!(data(&store, old).await, None);
}

#[tokio::test]
async fn values_are_stored_as_what_they_are_and_the_owner_with_them() {
    let engine = Engine::builder().in_memory().unwrap();
    let store = TowerSessionsStore::with_owner(engine.clone(), |data| {
        Some(format!("user:{}", data.get("user")?.as_u64()?))
    });
    let id = stored(&store, &[("name", json!("ann")), ("n", json!(7)), ("neg", json!(-7))]).await;
    let id_there = TowerSessionsStore::session_id(id.0);
    let loaded = engine.by_id().load(&id_there).await.unwrap().unwrap();
    assert_eq!(loaded.snapshot.str("name").unwrap(), Some("ann"));
    assert_eq!(loaded.snapshot.u64("n").unwrap(), Some(7));
    assert_eq!(loaded.snapshot.i64("neg").unwrap(), Some(-7));
    assert_eq!(loaded.snapshot.len(), 3, "the loading note is not stored");
    assert_eq!(loaded.snapshot.owner(), None);

    let mut record = store.load(&id).await.unwrap().unwrap();
    record.data.insert("user".into(), json!(42));
    store.save(&record).await.unwrap();
    let loaded = engine.by_id().load(&id_there).await.unwrap().unwrap();
    assert_eq!(loaded.snapshot.owner(), Some("user:42"));
    let shown = format!("{store:?}");
    assert!(!shown.contains(&id.to_string()) && !shown.contains(&id.0.to_string()));
}

#[tokio::test]
async fn what_the_engine_cannot_hold_is_an_error() {
    let store = memory();
    for data in [("", json!(1)), ("k", json!("x".repeat(1 << 20)))] {
        let error = store.create(&mut record(&[data])).await.unwrap_err();
        assert!(matches!(error, Error::Encode(_)), "{error}");
    }
    store.engine().close().await.unwrap();
    let error = store.load(&Id::default()).await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same, also in its bits: `-0.0` equals `0.0`.
fn assert_exact(left: &Value, right: &Value) {
    assert_eq!(left, right);
    assert_eq!(left.to_string(), right.to_string());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_json_value_comes_back_as_it_was(value in any_json()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let store = memory();
            let id = stored(&store, &[("v", value.clone())]).await;
            assert_exact(&data(&store, id).await.unwrap()["v"], &value);
        });
    }
}

#[tokio::test]
async fn numbers_at_the_edges_come_back_as_they_were() {
    let text = "[0, -0.0, 1.0, 1e300, 5e-324, 9223372036854775807, -9223372036854775808, \
                18446744073709551615, 18446744073709551616, -9223372036854775809, 0.1, 1e400]";
    // Without serde_json's arbitrary precision the last is no number.
    let value: Value = serde_json::from_str(text)
        .unwrap_or_else(|_| serde_json::from_str(&text.replace(", 1e400", "")).unwrap());
    let store = memory();
    let id = stored(&store, &[("v", value.clone())]).await;
    assert_exact(&data(&store, id).await.unwrap()["v"], &value);
}
