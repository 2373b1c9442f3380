//! The JSON view.

use std::collections::BTreeMap;

use serde_json::json;
use sessile_engine::clock::ManualClock;
use sessile_engine::value::Timestamp;
use sessile_engine::{Engine, Level};

use super::{begin, memory};

#[test]
fn the_view_shows_everything_but_the_owner() {
    let engine = Engine::builder().clock(ManualClock::new(1_800_000_000_000)).in_memory().unwrap();
    let session = begin(&engine, None);
    session.set_owner(Some("user:\"42\"")).unwrap();
    session.put("null", &()).unwrap();
    session.put("bool", &true).unwrap();
    session.put("int", &i64::MIN).unwrap();
    session.put("big", &u64::MAX).unwrap();
    session.put("float", &1.0).unwrap();
    session.put("nan", &f64::NAN).unwrap();
    session.put("tiny", &5e-324).unwrap();
    session.put("text", "\"\\/\n\r\t\u{8}\u{0}\u{7f}\u{2028}</script>&ü🦀").unwrap();
    session.put("ключ \"", &BTreeMap::from([("a\"b", vec![1, 2])])).unwrap();
    session.put_bytes("bytes", &[1, 2, 255]).unwrap();
    session.put("at", &Timestamp::from_micros(-1)).unwrap();
    session.put_archived("archive", &7_u64).unwrap();
    session.put("empty", &(Vec::<u8>::new(), BTreeMap::<u8, u8>::new())).unwrap();
    session.flash(Level::Info, "hi").unwrap();
    let snapshot = session.snapshot().unwrap();
    let text = snapshot.to_json();
    assert!(text.is_ascii() || !text.contains(['<', '>', '&', '\u{2028}', '\n']), "{text}");
    let view: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        view["data"],
        json!({
            "null": null, "bool": true, "int": i64::MIN, "big": u64::MAX, "float": 1.0, "nan": null, "tiny": 5e-324,
            "text": "\"\\/\n\r\t\u{8}\u{0}\u{7f}\u{2028}</script>&ü🦀",
            "ключ \"": {"a\"b": [1, 2]},
            "bytes": {"bytes": "AQL/"},
            "at": "1969-12-31T23:59:59.999999Z",
            "archive": {"archived": 8},
            "empty": [[], {}],
            "sessile.flash": [["info", "", "hi"]],
        })
    );
    assert_eq!(view["created_at"], "2027-01-15T08:00:00Z");
    assert_eq!(view["persistent"], session.snapshot().map(|_| view["persistent"].clone()).unwrap());
    assert_eq!(view["authenticated_at"], json!(null));
    assert_eq!(view.get("owner"), None);
    assert!(!text.contains("42"));
    assert_eq!(serde_json::to_value(&snapshot).unwrap(), view, "Serialize shows the same");
    let with_owner: serde_json::Value = serde_json::from_str(&snapshot.to_json_with_owner()).unwrap();
    assert_eq!(with_owner["owner"], "user:\"42\"");
}

#[test]
fn a_view_without_data_is_json_too() {
    let engine = memory();
    let session = begin(&engine, None);
    session.put("k", &1).unwrap();
    session.clear().unwrap();
    let snapshot = session.snapshot().unwrap();
    let view: serde_json::Value = serde_json::from_str(&snapshot.to_json_with_owner()).unwrap();
    assert_eq!((&view["data"], &view["owner"]), (&json!({}), &json!(null)));
}

#[test]
fn moments_are_rfc_3339() {
    for (micros, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00Z"),
        (4_107_542_399_000_000, "2100-02-28T23:59:59Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00Z"),
        (1_500_000, "1970-01-01T00:00:01.5Z"),
        (1_000_001, "1970-01-01T00:00:01.000001Z"),
        (-62_167_219_200_000_000, "0000-01-01T00:00:00Z"),
        (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
        (253_402_300_800_000_000, "+010000-01-01T00:00:00Z"),
        (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
        (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
    ] {
        assert_eq!(Timestamp::from_micros(micros).to_string(), text);
    }
}
