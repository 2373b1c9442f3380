//! Tests of values: round trips, serde's shapes, what must be refused.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{self, MAX_DEPTH};
use super::*;
use crate::error::ErrorKind;

/// Any tree of values.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        any::<f64>().prop_map(Value::F64),
        ".{0,24}".prop_map(Value::Str),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        any::<i64>().prop_map(|n| Value::Timestamp(Timestamp::from_micros(n))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            proptest::collection::vec((".{0,8}", inner), 0..6).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn any_tree_comes_back(value in any_value()) {
        let encoded = Encoded::of(&value).unwrap();
        prop_assert_eq!(encoded.kind(), value.kind());
        prop_assert_eq!(wire::validate(encoded.kind(), encoded.bytes()), Ok(()));
        prop_assert_eq!(encoded.as_value_ref().to_value(), value.clone());
        prop_assert_eq!(decode::<Value>(encoded.as_value_ref()).unwrap(), value);
        let again = Encoded::of(&encoded.as_value_ref()).unwrap();
        prop_assert_eq!(again.bytes(), encoded.bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(number in 0_u8..12, bytes in proptest::collection::vec(0_u8..12, 0..60)) {
        if let Some(kind) = Kind::from_u8(number) {
            let valid = wire::validate(kind, &bytes).is_ok();
            if let Ok(value) = wire::read(kind, &bytes) {
                let tree = value.to_value();
                let read = decode::<Value>(value);
                if valid && kind != Kind::Archived {
                    let encoded = Encoded::of(&tree).unwrap();
                    prop_assert_eq!(encoded.bytes(), &bytes[..]);
                    prop_assert_eq!(read.unwrap(), tree);
                }
            }
        }
    }

    #[test]
    fn a_cut_or_longer_container_is_refused(value in any_value(), at in any::<prop::sample::Index>()) {
        let list = Encoded::of(&Value::List(vec![value])).unwrap();
        let cut = at.index(list.bytes().len());
        prop_assert!(wire::validate(Kind::List, &list.bytes()[..cut]).is_err());
        let longer = [list.bytes(), &[0]].concat();
        prop_assert!(wire::validate(Kind::List, &longer).is_err());
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, kind: Kind) {
    let encoded = Encoded::of(value).unwrap();
    assert_eq!(encoded.kind(), kind, "{value:?}");
    assert_eq!(wire::validate(kind, encoded.bytes()), Ok(()));
    assert_eq!(&decode::<T>(encoded.as_value_ref()).unwrap(), value);
    let nested = Encoded::of(&vec![Some(value)]).unwrap();
    assert_eq!(wire::validate(Kind::List, nested.bytes()), Ok(()));
    assert_eq!(decode::<Vec<Option<T>>>(nested.as_value_ref()).unwrap()[0].as_ref(), Some(value));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(u32),
    Tuple(i8, String),
    Struct { a: bool, b: Option<Box<Shape>> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cart {
    id: UserId,
    items: Vec<(String, u16)>,
    note: Option<String>,
    prices: BTreeMap<String, f64>,
    at: Timestamp,
    unit: (),
}

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Clone, Copy, Serialize, Deserialize)]
struct UserId(u64);

#[derive(Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Role {
    Admin,
}

#[test]
fn serde_shapes_come_back() {
    round_trip(&true, Kind::Bool);
    round_trip(&i64::MIN, Kind::I64);
    round_trip(&i8::MIN, Kind::I64);
    round_trip(&u64::MAX, Kind::U64);
    round_trip(&7_u8, Kind::U64);
    round_trip(&1.5_f32, Kind::F64);
    round_trip(&f64::INFINITY, Kind::F64);
    round_trip(&'ß', Kind::Str);
    round_trip(&"text".to_owned(), Kind::Str);
    round_trip(&i128::from(i64::MIN), Kind::I64);
    round_trip(&u128::from(u64::MAX), Kind::U64);
    round_trip(&UserId(9), Kind::U64);
    round_trip(&(1_u8, "two".to_owned()), Kind::List);
    round_trip(&"::1".parse::<IpAddr>().unwrap(), Kind::Str);
    round_trip(&Duration::from_millis(1500), Kind::Map);
    round_trip(&Shape::Unit, Kind::Str);
    round_trip(&Shape::Newtype(1), Kind::Map);
    round_trip(&Shape::Tuple(-1, "x".into()), Kind::Map);
    round_trip(&Shape::Struct { a: true, b: Some(Box::new(Shape::Unit)) }, Kind::Map);
    round_trip(&HashMap::from([(-4_i32, 'a')]), Kind::Map);
    round_trip(&HashMap::from([('k', 1)]), Kind::Map);
    round_trip(&HashMap::from([(Role::Admin, 1)]), Kind::Map);
    round_trip(&BTreeMap::from([(UserId(u64::MAX), vec![0_u8; 3])]), Kind::Map);
    round_trip(&Timestamp::from_micros(-1), Kind::Timestamp);
    let cart = Cart {
        id: UserId(1),
        items: vec![("tea".into(), 2), ("".into(), 0)],
        note: None,
        prices: BTreeMap::from([("tea".into(), 2.5)]),
        at: Timestamp::from_micros(5),
        unit: (),
    };
    round_trip(&cart, Kind::Map);
    let encoded = Encoded::of(&cart).unwrap();
    let ValueRef::Map(map) = encoded.as_value_ref() else { panic!("no map") };
    assert_eq!(map.get("at").unwrap().kind(), Kind::Timestamp);
    assert!(map.get("absent").is_none());
    assert_eq!(decode::<Value>(encoded.as_value_ref()).unwrap(), encoded.as_value_ref().to_value());
}

#[test]
fn none_is_null() {
    assert_eq!(Encoded::of(&None::<u8>).unwrap().kind(), Kind::Null);
    assert_eq!(Encoded::of(&()).unwrap().kind(), Kind::Null);
    assert_eq!(decode::<Option<u8>>(ValueRef::Null).unwrap(), None);
    decode::<()>(ValueRef::Null).unwrap();
    assert!(decode::<u8>(ValueRef::Null).is_err());
}

#[test]
fn integers_convert_where_they_fit() {
    assert_eq!(decode::<i64>(ValueRef::U64(5)).unwrap(), 5);
    assert_eq!(decode::<u8>(ValueRef::I64(5)).unwrap(), 5);
    assert!(decode::<u8>(ValueRef::I64(-5)).is_err());
    assert!(decode::<u8>(ValueRef::U64(256)).is_err());
    assert!(decode::<i64>(ValueRef::U64(u64::MAX)).is_err());
    assert_eq!(ValueRef::U64(u64::MAX).as_i64(), None);
    assert_eq!(ValueRef::I64(-1).as_u64(), None);
    assert_eq!(ValueRef::I64(1).as_u64(), Some(1));
    assert_eq!(ValueRef::I64(1).as_f64(), None);
}

#[test]
fn strings_and_bytes_are_borrowed() {
    #[derive(Deserialize)]
    struct Borrowed<'a> {
        name: &'a str,
        #[serde(borrow)]
        cow: Cow<'a, str>,
        raw: &'a [u8],
    }
    let value = Value::Map(vec![
        ("name".into(), "n".into()),
        ("cow".into(), "c".into()),
        ("raw".into(), Value::Bytes(vec![1, 2])),
    ]);
    let encoded = Encoded::of(&value).unwrap();
    let read: Borrowed<'_> = decode(encoded.as_value_ref()).unwrap();
    assert_eq!((read.name, read.raw), ("n", &[1_u8, 2][..]));
    assert_eq!(read.cow, "c");
    let inside = encoded.bytes().as_ptr_range();
    assert!(inside.contains(&read.name.as_ptr()) && inside.contains(&read.raw.as_ptr()));
    assert_eq!(decode::<Vec<u8>>(ValueRef::Bytes(&[1, 2])).unwrap(), [1, 2]);
}

#[test]
fn a_mismatch_names_type_and_kind_but_no_content() {
    let secret = Encoded::of("hunter2").unwrap();
    for error in [
        decode::<u32>(secret.as_value_ref()).unwrap_err(),
        decode::<Shape>(secret.as_value_ref()).unwrap_err(),
        decode::<Timestamp>(secret.as_value_ref()).unwrap_err(),
        decode::<Vec<u8>>(secret.as_value_ref()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        let text = format!("{error} {error:?}");
        assert!(text.contains("found string"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let text = decode::<u32>(secret.as_value_ref()).unwrap_err().to_string();
    assert!(text.contains("wanted u32"), "{text}");
    assert!(text.contains("expected u32"), "{text}");
}

#[test]
fn what_has_no_encoding_is_refused() {
    let kind = |result: crate::error::Result<Encoded>| result.unwrap_err().kind();
    assert_eq!(kind(Encoded::of(&u128::MAX)), ErrorKind::Serialize);
    assert_eq!(kind(Encoded::of(&i128::MIN)), ErrorKind::Serialize);
    assert_eq!(kind(Encoded::of(&HashMap::from([(true, 1)]))), ErrorKind::Serialize);
    assert_eq!(kind(Encoded::of(&HashMap::from([((1, 2), 1)]))), ErrorKind::Serialize);
    assert_eq!(kind(Encoded::of(&HashMap::from([(Some(1), 1)]))), ErrorKind::Serialize);

    struct Failing;
    impl Serialize for Failing {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("the reason"))
        }
    }
    let error = Encoded::of(&vec![Failing]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Serialize);
    assert!(error.to_string().contains("the reason"));

    let huge = vec![0_u8; crate::record::MAX_BODY_BYTES + 1];
    assert_eq!(kind(Encoded::of(&Value::Bytes(huge))), ErrorKind::Limit);
}

/// A value inside this many lists.
fn nest(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, level| {
        if level % 2 == 0 { Value::List(vec![inner]) } else { Value::Map(vec![("k".into(), inner)]) }
    })
}

#[test]
fn depth_is_limited_when_written() {
    let deepest = Encoded::of(&nest(MAX_DEPTH)).unwrap();
    assert_eq!(wire::validate(deepest.kind(), deepest.bytes()), Ok(()));
    assert_eq!(decode::<Value>(deepest.as_value_ref()).unwrap(), nest(MAX_DEPTH));
    assert_eq!(Encoded::of(&nest(MAX_DEPTH + 1)).unwrap_err().kind(), ErrorKind::Limit);

    #[derive(Serialize)]
    struct Chain(Vec<Chain>);
    let chain = (0..200).fold(Chain(vec![]), |inner, _| Chain(vec![inner]));
    assert_eq!(Encoded::of(&chain).unwrap_err().kind(), ErrorKind::Limit);
}

/// The bytes of a list inside this many further lists.
pub(crate) fn raw_nest(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        bytes.extend_from_slice(&[1, 0, 0, 0, Kind::List as u8]);
    }
    bytes.extend_from_slice(&[0, 0, 0, 0]);
    bytes
}

#[test]
fn depth_is_limited_when_validated() {
    assert_eq!(wire::validate(Kind::List, &raw_nest(MAX_DEPTH - 1)), Ok(()));
    assert!(wire::validate(Kind::List, &raw_nest(MAX_DEPTH)).is_err());
    assert!(wire::validate(Kind::List, &raw_nest(100_000)).is_err());
}

#[test]
fn small_values_take_no_allocation() {
    assert!(!Encoded::of(&"x".repeat(64)).unwrap().spilled());
    assert!(Encoded::of(&"x".repeat(65)).unwrap().spilled());
}

#[test]
fn moments_convert() {
    for micros in [0, 1, -1, 1_700_000_000_000_000, -1_000_001] {
        let stamp = Timestamp::from_micros(micros);
        assert_eq!(Timestamp::from(SystemTime::from(stamp)), stamp);
    }
    let _ = SystemTime::from(Timestamp::from_micros(i64::MIN));
    let _ = SystemTime::from(Timestamp::from_micros(i64::MAX));
    assert_eq!(decode::<i64>(ValueRef::Timestamp(Timestamp::from_micros(3))).unwrap(), 3);
    assert!(decode::<Timestamp>(ValueRef::I64(3)).is_err());
}

#[test]
fn listings_are_json() {
    let value = Value::Map(vec![
        ("bytes".into(), Value::Bytes(vec![0xff, 0xfe])),
        ("at".into(), Timestamp::from_micros(5).into()),
        ("list".into(), vec![Value::from(1_u8), Value::from(-1), Value::from(None::<bool>)].into()),
    ]);
    let json = r#"{"bytes":"//4=","at":5,"list":[1,-1,null]}"#;
    assert_eq!(serde_json::to_string(&value).unwrap(), json);
    let encoded = Encoded::of(&value).unwrap();
    assert_eq!(serde_json::to_string(&encoded.as_value_ref()).unwrap(), json);
    let back: Value = serde_json::from_str(r#"{"a":[1,-1,2.5,"x",null,true]}"#).unwrap();
    assert_eq!(
        back,
        Value::Map(vec![(
            "a".into(),
            Value::List(vec![
                1_u64.into(),
                (-1_i64).into(),
                2.5.into(),
                "x".into(),
                Value::Null,
                true.into()
            ])
        )])
    );
    let json: serde_json::Value = decode(encoded.as_value_ref()).unwrap_or_default();
    assert!(json.is_null(), "bytes have no JSON form: {json}");
}
