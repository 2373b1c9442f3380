//! Tests of archives: their place while a record changes around them, and that no bytes make a read misbehave.

use proptest::prelude::*;
use rkyv::{Archive, Serialize};

use super::*;
use crate::SessionId;
use crate::record::{Limits, Meta, Record};
use crate::value::ValueRef;

#[derive(Archive, Serialize, Debug, Clone, PartialEq)]
#[rkyv(compare(PartialEq), derive(Debug))]
struct Cart {
    total: u64,
    items: Vec<(String, f64)>,
    note: Option<Box<str>>,
    paid: bool,
    letter: char,
}

#[derive(Archive, Serialize)]
struct Wide(Vec<u128>);

/// A list whose checks recurse.
#[derive(Archive, Serialize)]
#[rkyv(
    bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)),
    serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source),
)]
struct Node {
    #[rkyv(omit_bounds)]
    next: Option<Box<Node>>,
}

fn cart() -> Cart {
    Cart {
        total: 3,
        items: vec![("apple".into(), 1.5), (String::from("a pear of more than fifteen bytes"), -0.0)],
        note: Some("x".into()),
        paid: true,
        letter: 'ü',
    }
}

fn meta() -> Meta {
    Meta {
        version: 1,
        created_at: 1,
        last_seen: 1,
        deadline: u64::MAX,
        idle_timeout: None,
        authenticated_at: None,
        issued_at: 1,
        anonymous_idle: false,
        persistent: false,
    }
}

fn archive_in(record: &Record, key: &str) -> Vec<u8> {
    match record.get(key) {
        Some(ValueRef::Archived(bytes)) => bytes.to_vec(),
        other => panic!("expected an archive, got {other:?}"),
    }
}

fn read_from<'a>(record: &'a Record, key: &str) -> Result<&'a ArchivedCart> {
    match record.get(key) {
        Some(ValueRef::Archived(bytes)) => read::<Cart>(bytes),
        other => panic!("expected an archive, got {other:?}"),
    }
}

/// A change of a record that moves what is in it.
#[derive(Debug, Clone)]
enum Step {
    Put(String, Vec<u8>),
    Archive(String),
    Remove(String),
    Owner(Option<String>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || "[a-h]{1,3}";
    let step = prop_oneof![
        3 => (key(), proptest::collection::vec(any::<u8>(), 0..30)).prop_map(|(k, v)| Step::Put(k, v)),
        2 => key().prop_map(Step::Archive),
        2 => key().prop_map(Step::Remove),
        1 => proptest::option::of("[a-z]{1,9}").prop_map(Step::Owner),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn an_archive_stays_readable_in_place_whatever_changes_around_it(steps in steps()) {
        let (limits, id) = (Limits::default(), SessionId::from_bytes([7; 32]));
        let mut record = Record::empty(&meta());
        let mut archives = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Put(key, bytes) => {
                    record = record.put(&meta(), &key, &Encoded::raw(Kind::Bytes, &bytes), &limits).unwrap();
                    archives.remove(&key);
                }
                Step::Archive(key) => {
                    record = record.put(&meta(), &key, &encode(&cart()).unwrap(), &limits).unwrap();
                    archives.insert(key);
                }
                Step::Remove(key) => {
                    record = record.remove(&meta(), &key).unwrap_or(record);
                    archives.remove(&key);
                }
                Step::Owner(owner) => record = record.with_owner(&meta(), owner.as_deref(), &limits).unwrap(),
                Step::Reopen => record = Record::open(&id, &record.with_meta(&meta()).seal(&id)).unwrap(),
            }
            for key in &archives {
                let read = read_from(&record, key).unwrap();
                prop_assert!(*read == cart());
                let archive = archive_in(&record, key);
                let pad = usize::from(archive[PAD_AT]);
                prop_assert!(archive[FIXED..FIXED + pad].iter().all(|b| *b == 0));
                prop_assert!(archive[archive.len() - (MAX_PAD - pad)..].iter().all(|b| *b == 0));
            }
        }
    }

    #[test]
    fn any_bytes_with_the_right_tag_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        from in 0_usize..8,
    ) {
        let mut value = type_tag::<Cart>().to_vec();
        value.extend_from_slice(&bytes);
        let mut memory = AlignedVec::<16>::new();
        memory.extend_from_slice(&vec![0; from]);
        memory.extend_from_slice(&value);
        place(&mut memory[from..], from);
        if let Ok(read) = read::<Cart>(&memory[from..]) {
            let _ = format!("{read:?}");
        }
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0_usize..40,
        from in 0_usize..16,
    ) {
        let mut value = encode(&cart()).unwrap().bytes().to_vec();
        let mut memory = AlignedVec::<16>::new();
        memory.extend_from_slice(&vec![0; from]);
        if from < 8 {
            place(&mut value, from);
        }
        let len = value.len();
        for (at, byte) in damage {
            value[TAG_LEN + at.index(len - TAG_LEN)] = byte;
        }
        value.truncate(value.len() - cut);
        memory.extend_from_slice(&value);
        if let Ok(read) = read::<Cart>(&memory[from..]) {
            let _ = format!("{read:?}");
        }
    }
}

#[test]
fn the_wrong_place_is_refused() {
    let value = encode(&cart()).unwrap();
    let mut memory = AlignedVec::<16>::new();
    memory.extend_from_slice(value.bytes());
    assert_eq!(
        read::<Cart>(&memory).unwrap_err().kind(),
        ErrorKind::TypeMismatch,
        "9 bytes behind a multiple of 8"
    );
    place(&mut memory, 0);
    assert!(*read::<Cart>(&memory).unwrap() == cart());
    place(&mut memory, 1);
    assert_eq!(read::<Cart>(&memory).unwrap_err().kind(), ErrorKind::TypeMismatch);
}

#[test]
fn what_cannot_be_kept_aligned_or_checked_is_refused_when_it_is_stored() {
    assert_eq!(encode(&Wide(vec![1])).unwrap_err().kind(), ErrorKind::Serialize);
    assert_eq!(encode(&1_u128).unwrap_err().kind(), ErrorKind::Serialize);
    let chain = |links| (0..links).fold(Node { next: None }, |node, _| Node { next: Some(Box::new(node)) });
    assert!(encode(&chain(200)).is_ok());
    assert_eq!(encode(&chain(300)).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn types_are_told_apart_by_name_and_layout() {
    mod other {
        use rkyv::{Archive, Serialize};
        #[derive(Archive, Serialize)]
        #[rkyv(derive(Debug))]
        pub(super) struct Id(pub(super) u64);
    }
    #[derive(Archive, Serialize)]
    struct Id(u64);

    let mut value = AlignedVec::<16>::new();
    value.extend_from_slice(encode(&Id(5)).unwrap().bytes());
    place(&mut value, 0);
    assert_eq!(read::<Id>(&value).unwrap().0, 5);
    let error = read::<other::Id>(&value).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
    assert_eq!(encode(&other::Id(5)).unwrap().bytes().len(), value.len());
    assert!(read::<u64>(&value).is_err());
}

#[test]
fn values_without_bytes_and_zero_sized_archives_are_fine() {
    assert!(read::<()>(&[]).is_err());
    place(&mut [], 3);
    place(&mut [255; 16], 3);
    let record = Record::empty(&meta()).put(&meta(), "k", &encode(&()).unwrap(), &Limits::default()).unwrap();
    let Some(ValueRef::Archived(bytes)) = record.get("k") else { panic!("it is there") };
    assert!(read::<()>(bytes).is_ok());
}
