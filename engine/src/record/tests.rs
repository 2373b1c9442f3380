//! Tests of records: every kind of damage, the limits, and the bytes of the format.

mod keyed;
mod model;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::layout::{
    BODY_ALIGN, FORMAT_VERSION, HEADER_LEN, KIND_AT, LAYOUT_AT, MAX_OWNER_BYTES, RESERVED_AT, TAG_AT,
    VERSION_AT, body_len,
};
use super::*;
use crate::error::ErrorKind;
use crate::token::SessionId;
use crate::value::tests::{any_value, raw_nest};
use crate::value::{Encoded, Timestamp, Value, decode};

const ID: SessionId = SessionId::from_bytes([7; 32]);

pub(crate) fn meta() -> Meta {
    Meta {
        version: 3,
        created_at: 1_700_000_000_000,
        last_seen: 1_700_000_000_001,
        deadline: 1_700_086_400_000,
        idle_timeout: NonZeroU64::new(1_200_000),
        authenticated_at: NonZeroU64::new(1_700_000_002_000),
        issued_at: 1_700_000_003_000,
        persistent: true,
        anonymous_idle: false,
    }
}

fn put(record: &Record, key: &str, value: impl Into<Value>) -> Record {
    record.put(&meta(), key, &Encoded::of(&value.into()).unwrap(), &Limits::default()).unwrap()
}

/// The reference session: user_id i64, name 20 B, role 8 B, csrf 32 B, last_page 60 B.
fn five_keys() -> Record {
    let record = put(&Record::empty(&meta()), "user_id", 42_i64);
    let record = put(&record, "name", "n".repeat(20).as_str());
    let record = put(&record, "role", "operator");
    let record = put(&record, "csrf", "c".repeat(32).as_str());
    put(&record, "last_page", "/".repeat(60).as_str())
}

/// A record with every kind in it.
fn all_kinds() -> Record {
    let nested = Value::Map(vec![
        ("null".into(), Value::Null),
        ("list".into(), Value::List(vec![true.into(), (-1).into(), 2_u8.into(), 0.5.into(), "ü".into()])),
        ("bytes".into(), Value::Bytes(vec![0, 255])),
        ("at".into(), Timestamp::from_micros(-5).into()),
        ("".into(), Value::List(vec![])),
    ]);
    let mut record = Record::empty(&meta()).with_owner(&meta(), Some("user:42"), &Limits::default()).unwrap();
    for (key, value) in [
        ("null", Value::Null),
        ("bool", true.into()),
        ("i64", i64::MIN.into()),
        ("u64", u64::MAX.into()),
        ("f64", 1.5.into()),
        ("str", "Grüße".into()),
        ("empty", "".into()),
        ("bytes", Value::Bytes(vec![1, 2, 3])),
        ("timestamp", Timestamp::from_micros(1_700_000_000_000_000).into()),
        ("list", Value::List(vec![nested.clone(), Value::List(vec![])])),
        ("map", nested),
    ] {
        record = put(&record, key, value);
    }
    record.put(&meta(), "archived", &Encoded::raw(Kind::Archived, &[9; 5]), &Limits::default()).unwrap()
}

fn samples() -> Vec<Record> {
    vec![Record::empty(&meta()), five_keys(), all_kinds()]
}

/// The envelope around any body, with the tag it needs.
fn sealed_as(id: &SessionId, body: &[u8]) -> Vec<u8> {
    let mut sealed = Record::empty(&meta()).seal(id);
    sealed.truncate(TAG_AT);
    let tag = seal::tag(id, &sealed, body);
    sealed.extend_from_slice(&tag.to_le_bytes());
    sealed.extend_from_slice(body);
    sealed
}

/// Does everything that can be done with a record that was opened.
fn exercise(record: &Record) {
    let keys: Vec<String> = record.keys().map(str::to_owned).collect();
    assert_eq!(keys.len(), record.len());
    assert_eq!(record.iter().count(), record.len());
    assert!(keys.is_sorted());
    for key in &keys {
        let value = record.get(key).expect("a listed key is there");
        let _ = value.to_value();
        let _ = decode::<Value>(value);
        let _ = decode::<BTreeMap<String, u64>>(value);
        let _ = serde_json::to_string(&value);
        let removed = record.remove(&record.meta(), key).expect("a listed key can be removed");
        assert_eq!(removed.len() + 1, record.len());
    }
    let _ = (record.owner(), format!("{record:?}"), record.with_meta(&meta()), record.cleared(&meta()));
    let more = record.put(&meta(), "zzz", &Encoded::of("new").unwrap(), &Limits::default());
    if let Ok(more) = more {
        assert_eq!(more.get("zzz").and_then(|v| v.as_str()), Some("new"));
        Record::open(&ID, &more.seal(&ID)).unwrap();
    }
}

/// A small generator (splitmix64) so that the corruptions are the same on every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One bit, byte, word, cut, extension or splice changed.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return bytes.push(self.next() as u8);
        }
        let at = self.below(bytes.len());
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => bytes.truncate(at),
            3 => (0..=self.below(40)).for_each(|_| bytes.push(self.next() as u8)),
            4 => {
                let to = at + self.below(bytes.len() - at);
                let piece = bytes[at..to].to_vec();
                let into = self.below(bytes.len() - piece.len());
                bytes[into..into + piece.len()].copy_from_slice(&piece);
            }
            _ => {
                let word = [0_u32, 1, 0xffff, u32::MAX, i32::MAX as u32, 300][self.below(6)];
                for (place, byte) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                    *place = byte;
                }
            }
        }
    }
}

#[test]
fn the_reference_session_is_small() {
    let record = five_keys();
    assert_eq!(record.byte_len(), 288);
    assert_eq!(record.byte_len(), 16 + body_len(5, 28 + 128));
    assert_eq!(size_of::<Record>(), size_of::<usize>());
    for record in samples() {
        assert_eq!(record.body().as_ptr().addr() % BODY_ALIGN, 0);
        assert_eq!(Record::open(&ID, &record.seal(&ID)).unwrap().body().as_ptr().addr() % BODY_ALIGN, 0);
    }
}

#[test]
fn a_record_is_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let record = five_keys();
    shared(&record);
    assert!(record.ptr_eq(&record.clone()));
    assert!(!record.ptr_eq(&five_keys()));
}

#[test]
fn metadata_comes_back() {
    let bare = Meta { idle_timeout: None, authenticated_at: None, persistent: false, ..meta() };
    for meta in [meta(), bare] {
        let record = five_keys().with_meta(&meta);
        let record = Record::open(&ID, &record.seal(&ID)).unwrap();
        assert_eq!(record.meta(), meta);
        assert_eq!(record.version(), meta.version);
        assert_eq!(record.last_seen(), meta.last_seen);
        assert_eq!(record.deadline(), meta.deadline);
        assert_eq!(record.idle_timeout_ms(), meta.idle_timeout.map_or(0, NonZeroU64::get));
        assert_eq!(record.authenticated_at(), meta.authenticated_at);
        assert_eq!(record.issued_at(), meta.issued_at);
        assert_eq!(record.len(), 5);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for record in samples() {
        let mut sealed = record.seal(&ID);
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::open(&ID, &sealed).is_err(), "bit {bit}");
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Record::open(&ID, &sealed).unwrap().body(), record.body());
    }
}

#[test]
fn random_damage_is_refused() {
    let mut rng = Rng(1);
    let sealed: Vec<_> = samples().iter().map(|record| record.seal(&ID)).collect();
    for round in 0..10_000 {
        let original = &sealed[round % sealed.len()];
        let mut bytes = original.clone();
        rng.damage(&mut bytes);
        assert!(bytes == *original || Record::open(&ID, &bytes).is_err(), "round {round}");
    }
}

#[test]
fn damage_under_a_right_tag_never_panics() {
    let mut rng = Rng(2);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..30_000 {
        let samples = samples_cached();
        let mut body = samples[round % samples.len()].clone();
        for _ in 0..=rng.below(3) {
            rng.damage(&mut body);
        }
        match Record::open(&ID, &sealed_as(&ID, &body)) {
            Ok(record) => {
                opened += 1;
                exercise(&record);
            }
            Err(OpenError::Structure(_)) => refused += 1,
            Err(other) => panic!("round {round}: {other}"),
        }
    }
    // Both paths were taken, or the test would prove nothing.
    assert!(opened > 1000 && refused > 1000, "{opened} opened, {refused} refused");
}

fn samples_cached() -> &'static [Vec<u8>] {
    static BODIES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    BODIES.get_or_init(|| samples().iter().map(|record| record.body().to_vec()).collect())
}

#[test]
fn a_record_is_bound_to_its_id() {
    let other = SessionId::from_bytes([8; 32]);
    let record = five_keys();
    assert_eq!(Record::open(&other, &record.seal(&ID)).err(), Some(OpenError::Tag));
    Record::open(&other, &record.seal(&other)).unwrap();
}

#[test]
fn foreign_envelopes_are_told_apart() {
    let sealed = five_keys().seal(&ID);
    let open_with = |at: usize, byte: u8| {
        let mut bytes = sealed.clone();
        bytes[at] = byte;
        Record::open(&ID, &bytes).unwrap_err()
    };
    assert_eq!(open_with(0, b'X'), OpenError::Magic);
    assert_eq!(open_with(VERSION_AT, FORMAT_VERSION + 1), OpenError::NewerFormat { found: 2 });
    assert_eq!(open_with(VERSION_AT, 0), OpenError::Magic);
    assert_eq!(open_with(LAYOUT_AT, 0), OpenError::Layout);
    assert_eq!(open_with(KIND_AT, 3), OpenError::Layout);
    // A kind with a key, and no key at hand.
    assert!(open_with(KIND_AT, 1).is_key() && open_with(KIND_AT, 2).is_key());
    assert_eq!(open_with(RESERVED_AT, 1), OpenError::Layout);
    assert_eq!(open_with(TAG_AT, !sealed[TAG_AT]), OpenError::Tag);
    for len in 0..HEADER_LEN {
        assert_eq!(Record::open(&ID, &sealed[..len]).err(), Some(OpenError::TooShort));
    }
    assert!(matches!(Record::open(&ID, &sealed_as(&ID, &[])).err(), Some(OpenError::Structure(_))));
}

#[test]
fn malformed_values_under_a_right_tag_are_refused() {
    for (kind, bytes) in [
        (Kind::Null, &[0][..]),
        (Kind::Bool, &[2]),
        (Kind::Bool, &[]),
        (Kind::I64, &[0; 7]),
        (Kind::F64, &[0; 9]),
        (Kind::Str, &[0xff]),
        (Kind::List, &[]),
        (Kind::List, &[1, 0, 0, 0]),
        (Kind::List, &[0, 0, 0, 0, 0]),
        (Kind::List, &[1, 0, 0, 0, 11]),
        (Kind::List, &[1, 0, 0, 0, Kind::Archived as u8, 0, 0, 0, 0]),
        (Kind::Map, &[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0]),
        (Kind::List, &raw_nest(32)),
    ] {
        let record = five_keys().put(&meta(), "k", &Encoded::raw(kind, bytes), &Limits::default()).unwrap();
        let error = Record::open(&ID, &record.seal(&ID)).err();
        assert!(matches!(error, Some(OpenError::Structure(_))), "{kind} {bytes:?}");
    }
    let deepest = five_keys().put(&meta(), "k", &Encoded::raw(Kind::List, &raw_nest(31)), &Limits::default());
    Record::open(&ID, &deepest.unwrap().seal(&ID)).unwrap();
}

#[test]
fn a_body_has_one_valid_form() {
    // Two slots, the heap "a1b2", four zeros, the root.
    let body = put(&put(&Record::empty(&meta()), "a", "1"), "b", "2").body().to_vec();
    Record::open(&ID, &sealed_as(&ID, &body)).unwrap();
    for (what, at, byte) in [
        ("equal keys", 18, b'a'),
        ("descending keys", 18, b'A'),
        ("a key that is no UTF-8", 18, 0xff),
        ("an empty key", 4, 0),
        ("a gap before the first key", 0, 1),
        ("a value that ends before it begins", 8, 0),
        ("an unknown kind", 6, 11),
        ("a slot's reserved byte", 7, 1),
        ("padding", 20, 1),
        ("an unknown flag", 72, 5),
        ("an owner over the first key", 76, 1),
        ("the root's reserved field", 78, 1),
    ] {
        let mut changed = body.clone();
        assert_ne!(changed[at], byte);
        changed[at] = byte;
        let error = Record::open(&ID, &sealed_as(&ID, &changed)).err();
        assert!(matches!(error, Some(OpenError::Structure(_))), "{what}");
    }
    assert!(Record::open(&ID, &sealed_as(&ID, &[&[0; 8], &body[..]].concat())).is_err());
}

#[test]
fn limits_hold_to_the_byte() {
    let value = Encoded::of("value").unwrap();
    let error = |result: crate::error::Result<Record>| {
        let error = result.unwrap_err();
        (error.kind(), error.to_string())
    };
    let record = five_keys();
    let limits = Limits::default();

    record.put(&meta(), &"k".repeat(256), &value, &limits).unwrap();
    let (kind, text) = error(record.put(&meta(), &"k".repeat(257), &value, &limits));
    assert_eq!(kind, ErrorKind::InvalidKey);
    assert!(text.contains("257") && text.contains("256") && text.contains("kkk"), "{text}");
    assert_eq!(error(record.put(&meta(), "", &value, &limits)).0, ErrorKind::InvalidKey);

    let few = Limits { max_keys: 6, ..limits };
    let six = record.put(&meta(), "six", &value, &few).unwrap();
    let (kind, text) = error(six.put(&meta(), "seven", &value, &few));
    assert_eq!(kind, ErrorKind::Limit);
    assert!(text.contains("seven") && text.contains('6'), "{text}");
    six.put(&meta(), "six", &value, &few).unwrap();

    let size = six.body().len();
    let exact = Limits { max_record_bytes: size, ..limits };
    record.put(&meta(), "six", &value, &exact).unwrap();
    let tight = Limits { max_record_bytes: size - 1, ..limits };
    let (kind, text) = error(record.put(&meta(), "six", &value, &tight));
    assert_eq!(kind, ErrorKind::Limit);
    assert!(
        text.contains("six")
            && text.contains(&size.to_string())
            && text.contains(&tight.max_record_bytes.to_string())
    );
    // A record over a lowered limit may be changed as long as it does not grow.
    six.put(&meta(), "six", &value, &tight).unwrap();

    let longest = "o".repeat(MAX_OWNER_BYTES);
    assert_eq!(record.with_owner(&meta(), Some(&longest), &limits).unwrap().owner(), Some(&*longest));
    assert_eq!(error(record.with_owner(&meta(), Some(&format!("{longest}o")), &limits)).0, ErrorKind::Limit);
    assert_eq!(error(record.with_owner(&meta(), Some(""), &limits)).0, ErrorKind::InvalidKey);
    assert_eq!(error(six.with_owner(&meta(), Some("long enough"), &tight)).0, ErrorKind::Limit);
    assert_eq!(record.byte_len(), five_keys().byte_len());
}

#[test]
fn debug_shows_no_value() {
    let record =
        put(&five_keys(), "secret", "hunter2").with_owner(&meta(), Some("alice"), &Limits::default());
    let text = format!("{:?}", record.unwrap());
    assert!(text.contains("secret") && text.contains("string, 7 bytes"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("alice"), "{text}");
}

#[test]
fn every_key_is_found_among_few_and_many_of_one_length_and_of_several() {
    let limits = Limits { max_keys: 300, ..Limits::default() };
    let of_one_length = |n: usize| format!("key_{n:03}");
    let of_several = |n: usize| format!("{n}{}", "k".repeat(n % 40));
    for name in [&of_one_length as &dyn Fn(usize) -> String, &of_several] {
        let mut record = Record::empty(&meta());
        for n in 0..160 {
            record = record.put(&meta(), &name(n), &Encoded::of(&n).unwrap(), &limits).unwrap();
            // Around the numbers at which the search changes its way.
            if ![0, 15, 16, 17, 49, 127, 128, 129, 159].contains(&n) {
                continue;
            }
            for other in 0..160 {
                let found = record.root().index(name(other).as_bytes());
                assert_eq!(found.is_some(), other <= n, "key {other} among {}", n + 1);
                let Some(found) = found else { continue };
                let slot = &record.root().slots()[found];
                assert_eq!(record.root().key(slot), name(other).as_bytes());
            }
            assert_eq!(record.root().index(b""), None);
            assert_eq!(record.root().index(b"key_00"), None);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::open(&ID, &body);
        if let Ok(record) = Record::open(&ID, &sealed_as(&ID, &body)) {
            exercise(&record);
        }
    }
}

/// Set `SESSILE_BLESS` to write the file anew: only for a new format version, under a new name.
#[test]
fn the_golden_file_pins_the_format() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record-v1.bin");
    let record = all_kinds();
    let sealed = record.seal(&ID);
    if std::env::var_os("SESSILE_BLESS").is_some() {
        std::fs::write(&path, &sealed).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert_eq!(sealed, golden, "the format changed without a new version");
    let opened = Record::open(&ID, &golden).unwrap();
    assert_eq!(opened.meta(), meta());
    assert_eq!(opened.owner(), Some("user:42"));
    assert!(
        opened
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_value()))
            .eq(record.iter().map(|(k, v)| (k.to_owned(), v.to_value())))
    );
    assert_eq!(opened.get("i64").unwrap().as_i64(), Some(i64::MIN));
    assert_eq!(opened.get("str").unwrap().as_str(), Some("Grüße"));
}
