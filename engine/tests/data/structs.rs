//! Structs whose fields are keys.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sessile_engine::value::{Timestamp, Value};
use sessile_engine::{Engine, ErrorKind, Level, Status};

use super::{begin, fresh, issued, kind, memory, race};

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Profile {
    name: String,
    age: u8,
    theme: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(rename = "seen-at")]
    seen_at: Option<Timestamp>,
    nothing: (),
}

fn profile() -> Profile {
    Profile {
        name: "ann".into(),
        age: 7,
        theme: Some("dark".into()),
        tags: vec!["a".into()],
        seen_at: Some(Timestamp::from_micros(5)),
        nothing: (),
    }
}

#[test]
fn each_field_is_a_key_and_other_keys_stay() {
    let engine = memory();
    let session = begin(&engine, Some(&fresh(&engine)));
    assert_eq!(session.get_struct::<Profile>().unwrap(), None);
    session.put_struct(&profile()).unwrap();
    assert_eq!(session.keys(), ["age", "k", "name", "nothing", "seen-at", "tags", "theme"]);
    assert_eq!(session.get_struct().unwrap(), Some(profile()));
    assert_eq!(session.get::<u8>("age").unwrap(), Some(7));

    let bare = Profile { theme: None, seen_at: None, ..profile() };
    session.put_struct(&bare).unwrap();
    assert_eq!(session.keys(), ["age", "k", "name", "nothing", "tags"], "what is `None` is gone");
    assert_eq!(session.get_struct().unwrap(), Some(bare.clone()));
    session.remove("tags").unwrap();
    assert_eq!(session.get_struct().unwrap(), Some(Profile { tags: vec![], ..bare }), "serde's default");
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("name", "ann").unwrap();
    let error = session.get_struct::<Profile>().unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::MissingField, Some("age")));
    session.put("age", "seven").unwrap();
    let error = session.get_struct::<Profile>().unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::TypeMismatch, Some("age")));
    assert!(!error.to_string().contains("seven"), "no value is shown: {error}");
    // A field missing inside a value is that value's fault.
    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Outer {
        name: Inner,
    }
    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Inner {
        first: String,
    }
    session.put("name", &BTreeMap::from([("last", "x")])).unwrap();
    let error = session.get_struct::<Outer>().unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::TypeMismatch, Some("name")));
    assert!(error.to_string().contains("first"), "{error}");
}

#[test]
fn what_has_no_named_fields_is_refused() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Pair(u8, u8);
    #[derive(Serialize, Deserialize, Debug)]
    struct Unit;
    #[derive(Serialize, Deserialize, Debug)]
    enum Choice {
        A { x: u8 },
    }
    let engine = memory();
    let session = begin(&engine, None);
    assert_eq!(kind(session.put_struct(&5)), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct("x")), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct(&[1, 2])), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct(&Pair(1, 2))), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct(&Unit)), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct(&Choice::A { x: 1 })), ErrorKind::Serialize);
    assert_eq!(kind(session.put_struct(&Some(profile()))), ErrorKind::Serialize);
    assert_eq!(session.id(), None, "a refused struct begins no session");
    session.put("x", &1).unwrap();
    assert_eq!(kind(session.get_struct::<u8>()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get_struct::<Vec<u8>>()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get_struct::<Pair>()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get_struct::<Unit>()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get_struct::<Choice>()), ErrorKind::TypeMismatch);
    assert_eq!(kind(session.get_struct::<Option<Profile>>()), ErrorKind::TypeMismatch);
}

#[test]
fn maps_newtypes_and_flattened_structs_are_fields_too() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct New(Profile);
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Flat {
        id: u64,
        #[serde(flatten)]
        rest: HashMap<String, u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<u8>,
    }
    let engine = memory();
    let session = begin(&engine, None);
    session.put_struct(&New(profile())).unwrap();
    assert_eq!(session.get_struct().unwrap(), Some(New(profile())));
    session.clear().unwrap();

    session.flash(Level::Info, "not an entry").unwrap();
    assert_eq!(session.get_struct::<BTreeMap<String, u8>>().unwrap(), None);
    session.put_struct(&BTreeMap::from([("a", Some(1)), ("b", None)])).unwrap();
    assert_eq!(session.get_struct().unwrap(), Some(BTreeMap::from([("a".to_owned(), 1)])));
    assert_eq!(session.get_struct::<Value>().unwrap(), Some(Value::Map(vec![("a".into(), 1_i32.into())])));
    session.put_struct(&BTreeMap::from([(7, 8)])).unwrap();
    assert_eq!(session.get::<u8>("7").unwrap(), Some(8), "integers become strings, as in nested maps");
    session.clear().unwrap();

    let flat = Flat { id: 1, rest: HashMap::from([("x".into(), 2)]), skipped: None };
    session.put_struct(&flat).unwrap();
    assert_eq!(session.keys(), ["id", "x"]);
    assert_eq!(session.get_struct().unwrap(), Some(flat));
    assert_eq!(kind(session.put_struct(&BTreeMap::from([("sessile.flash", 1)]))), ErrorKind::InvalidKey);
    assert_eq!(kind(session.put_struct(&BTreeMap::from([("", 1)]))), ErrorKind::InvalidKey);
}

#[test]
fn a_refused_field_changes_nothing_and_only_the_result_is_limited() {
    let engine = Engine::builder().max_record_bytes(1024).in_memory().unwrap();
    let session = begin(&engine, None);
    session.put_struct(&BTreeMap::from([("a", "x".repeat(600)), ("b", String::new())])).unwrap();
    // In between there would be twice 600 bytes.
    session.put_struct(&BTreeMap::from([("b", "x".repeat(600)), ("a", String::new())])).unwrap();
    session.put_struct(&BTreeMap::from([("a", "x".repeat(600)), ("b", String::new())])).unwrap();
    let more = BTreeMap::from([("a", String::from("new")), ("c", "x".repeat(2000))]);
    assert_eq!(kind(session.put_struct(&more)), ErrorKind::Limit);
    assert_eq!(session.get::<String>("a").unwrap().unwrap().len(), 600);
    assert!(!session.exists("c"));
}

#[test]
fn a_skipped_field_is_removed() {
    #[derive(Serialize)]
    struct Skips {
        id: u64,
        #[serde(skip_serializing_if = "String::is_empty")]
        note: String,
    }
    let engine = memory();
    let session = begin(&engine, None);
    session.put_struct(&Skips { id: 1, note: "x".into() }).unwrap();
    assert_eq!(session.keys(), ["id", "note"]);
    session.put_struct(&Skips { id: 1, note: String::new() }).unwrap();
    assert_eq!(session.keys(), ["id"]);
}

#[test]
fn what_is_stored_already_is_not_written_again() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put_struct(&BTreeMap::from([("zero", Some(0.0)), ("none", None)])).unwrap();
    let token = issued(&session);
    let session = begin(&engine, Some(&token));
    session.put_struct(&BTreeMap::from([("zero", Some(0.0)), ("none", None)])).unwrap();
    assert_eq!(session.status(), Status::Unmodified);
    session.put_struct(&BTreeMap::from([("zero", -0.0)])).unwrap();
    assert_eq!(session.status(), Status::Modified);
    assert!(session.get::<f64>("zero").unwrap().unwrap().is_sign_negative());

    let empty = begin(&engine, None);
    empty.put_struct(&BTreeMap::from([("none", None::<u8>)])).unwrap();
    assert_eq!(empty.status(), Status::Unmodified);
    assert_eq!(empty.id(), None, "removing nothing begins no session");
}

#[test]
fn structs_are_read_and_written_whole() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Twins {
        left: u64,
        right: u64,
        odd: Option<u64>,
    }
    let twins = |n: u64| Twins { left: n, right: n, odd: (n % 2 == 1).then_some(n) };
    let engine = memory();
    let token = fresh(&engine);
    begin(&engine, Some(&token)).put_struct(&twins(0)).unwrap();
    race(&engine, &token, 8, |i, session| {
        for n in 0..200 {
            if i % 2 == 0 {
                session.put_struct(&twins(n)).unwrap();
            } else {
                let read: Twins = session.get_struct().unwrap().unwrap();
                assert_eq!(read, twins(read.left));
            }
        }
    });
    begin(&engine, Some(&token)).put_struct(&twins(0)).unwrap();
    race(&engine, &token, 8, |_, session| {
        for _ in 0..50 {
            session.update_struct(|old: Option<Twins>| twins(old.unwrap().left + 1)).unwrap();
        }
    });
    assert_eq!(begin(&engine, Some(&token)).get_struct().unwrap(), Some(twins(400)));
}
