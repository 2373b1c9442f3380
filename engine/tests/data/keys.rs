//! Typed keys and the calls for common types.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use sessile_engine::value::{Bytes, Timestamp, Value};
use sessile_engine::{ErrorKind, Namespace, SessionKey};

use super::{begin, fresh, kind, memory, race};

const NAME: SessionKey<String> = SessionKey::new("name");
const VISITS: SessionKey<u32> = SessionKey::new("visits");
const ACME: Namespace = Namespace::new("acme");
const STATE: SessionKey<Vec<u8>> = ACME.key("state");

#[test]
fn a_typed_key_is_its_name_and_its_type() {
    let engine = memory();
    let session = begin(&engine, None);
    assert_eq!(NAME.get(&session).unwrap(), None);
    NAME.put(&session, "ann").unwrap();
    NAME.put(&session, &"bob".to_owned()).unwrap();
    VISITS.put(&session, &3).unwrap();
    assert_eq!(session.get::<String>("name").unwrap().as_deref(), Some("bob"));
    assert_eq!(VISITS.update(&session, |n| n.unwrap_or(0) + 1).unwrap(), 4);
    assert_eq!(VISITS.get_or(&session, 9).unwrap(), 4);
    assert!(VISITS.exists(&session));
    assert!(VISITS.remove(&session).unwrap());
    assert_eq!(VISITS.get_or(&session, 9).unwrap(), 9);
    assert_eq!(VISITS.get_or_default(&session).unwrap(), 0);
    session.put("visits", "many").unwrap();
    assert_eq!(kind(VISITS.pop(&session)), ErrorKind::TypeMismatch);
    assert!(session.exists("visits"), "a pop of the wrong type deletes nothing");
    assert_eq!(NAME.pop(&session).unwrap().as_deref(), Some("bob"));
    assert!(!NAME.exists(&session));
}

#[test]
fn typed_keys_work_in_transactions_and_snapshots() {
    let engine = memory();
    let session = begin(&engine, None);
    session
        .transact(|tx| {
            NAME.put_in(tx, "ann")?;
            assert!(NAME.exists_in(tx));
            assert_eq!(NAME.get_in(tx)?.as_deref(), Some("ann"));
            VISITS.put_in(tx, &1)?;
            assert_eq!(VISITS.pop_in(tx)?, Some(1));
            STATE.put_in(tx, &[1_u8, 2][..])?;
            assert!(!VISITS.remove_in(tx));
            Ok(())
        })
        .unwrap();
    let snapshot = session.snapshot().unwrap();
    assert_eq!(NAME.get_in(&snapshot).unwrap().as_deref(), Some("ann"));
    assert!(!VISITS.exists_in(&snapshot));
    session.put("visits", "many").unwrap();
    let snapshot = session.snapshot().unwrap();
    let error = VISITS.get_in(&snapshot).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::TypeMismatch, Some("visits")));
    assert_eq!(session.keys(), ["acme.state", "name", "visits"]);
}

#[test]
fn names_are_borrowed_unless_there_is_a_namespace() {
    assert!(matches!(NAME.name(), Cow::Borrowed("name")));
    assert_eq!(STATE.name(), "acme.state");
    assert_eq!(format!("{VISITS:?}"), "SessionKey<u32>(\"visits\")");
}

#[test]
fn bad_names_are_refused() {
    fn panics<T>(f: impl FnOnce() -> T + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(f).is_err()
    }
    let long: &'static str = Box::leak("x".repeat(257).into_boxed_str());
    assert!(panics(|| SessionKey::<u8>::new("")));
    assert!(panics(move || SessionKey::<u8>::new(long)));
    assert!(panics(|| SessionKey::<u8>::new("sessile.flash")));
    assert!(panics(|| Namespace::new("sessile").key::<u8>("flash")));
    assert!(panics(|| Namespace::new("sessile.x").key::<u8>("flash")));
    assert!(panics(|| Namespace::new("").key::<u8>("flash")));
    assert!(panics(move || Namespace::new("a").key::<u8>(&long[..255])));
    let longest = SessionKey::<u8>::new(&long[..256]);
    let engine = memory();
    let session = begin(&engine, None);
    longest.put(&session, &1).unwrap();
    assert_eq!(Namespace::new("a").key::<u8>(&long[..254]).name().len(), 256);
    assert!(SessionKey::<u8>::new("sessile").name() == "sessile", "a key of its own is free");
}

#[test]
fn the_types_of_other_libraries_getters_have_calls_of_their_own() {
    let engine = memory();
    let session = begin(&engine, None);
    let noon = SystemTime::UNIX_EPOCH + Duration::from_micros(1_800_000_000_123_456);
    session.put("string", "s").unwrap();
    session.put("bool", &true).unwrap();
    session.put("int", &-7_i32).unwrap();
    session.put("float", &0.5).unwrap();
    session.put("time", &Timestamp::from(noon)).unwrap();
    session.put_bytes("bytes", &[0, 255]).unwrap();
    session.put("bytes too", &Bytes::from(vec![0, 255])).unwrap();

    assert_eq!(session.get_or_default::<String>("string").unwrap(), "s");
    assert_eq!(session.get_or_default::<String>("none").unwrap(), "");
    assert!(session.get_or_default::<bool>("bool").unwrap());
    assert_eq!(session.get_or::<i64>("int", 0).unwrap(), -7);
    assert_eq!(session.get_or::<i64>("none", 5).unwrap(), 5);
    assert_eq!(kind(session.get_or_default::<u64>("int")), ErrorKind::TypeMismatch, "never a silent zero");
    assert_eq!(session.get_or("float", 0.0).unwrap(), 0.5);
    assert_eq!(session.get::<Timestamp>("time").unwrap().map(SystemTime::from), Some(noon));
    assert_eq!(kind(session.get::<Timestamp>("int")), ErrorKind::TypeMismatch);
    for key in ["bytes", "bytes too"] {
        assert_eq!(session.get::<Bytes>(key).unwrap().as_deref(), Some(&[0, 255][..]));
        assert_eq!(session.get::<Value>(key).unwrap(), Some(Value::Bytes(vec![0, 255])));
        assert_eq!(session.get::<Vec<u8>>(key).unwrap(), Some(vec![0, 255]));
    }
    assert_eq!(kind(session.get::<Bytes>("string")), ErrorKind::TypeMismatch);
    let snapshot = session.snapshot().unwrap();
    assert_eq!(snapshot.bytes("bytes").unwrap(), Some(&[0, 255][..]));
    assert_eq!(snapshot.timestamp("time").unwrap(), Some(noon.into()));
    assert_eq!(kind(snapshot.timestamp("int")), ErrorKind::TypeMismatch);
    assert_eq!(session.pop::<Timestamp>("time").unwrap(), Some(noon.into()));
    assert_eq!(session.pop::<Bytes>("bytes").unwrap().map(Bytes::into_vec), Some(vec![0, 255]));
}

#[test]
fn bytes_are_base64_in_json_and_bytes_nested() {
    let bytes = Bytes::from(vec![1, 2, 255]);
    let json = serde_json::to_string(&bytes).unwrap();
    assert_eq!(json, "\"AQL/\"");
    assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), bytes);
    assert!(serde_json::from_str::<Bytes>("\"%\"").is_err());
    let engine = memory();
    let session = begin(&engine, None);
    session.put("list", &vec![Some(bytes.clone()), None]).unwrap();
    assert_eq!(session.get("list").unwrap(), Some(vec![Some(bytes.clone()), None]));
    assert_eq!(format!("{bytes:?}"), "Bytes(3)");
}

#[test]
fn updates_by_typed_keys_lose_nothing() {
    let engine = memory();
    let token = fresh(&engine);
    race(&engine, &token, 16, |_, session| {
        for _ in 0..50 {
            VISITS.update(&session, |n| n.unwrap_or(0) + 1).unwrap();
        }
    });
    assert_eq!(VISITS.get(&begin(&engine, Some(&token))).unwrap(), Some(16 * 50));
}
