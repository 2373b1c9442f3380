//! What the items look like, and under which conditions they are changed. It never talks to a server.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use sessile_engine::SessionId;
use sessile_engine::store::Row;

/// An item has 400 KB at most: names, key, owner and what the indexes hold of it included.
pub(super) const MAX_ROW_BYTES: usize = 390 << 10;

pub(super) const SHARD: &str = "shard";
pub(super) const ID: &str = "id";
pub(super) const VERSION: &str = "version";
pub(super) const DUE: &str = "due";
pub(super) const OWNER: &str = "owner";
const RECORD: &str = "record";
pub(super) const TTL: &str = "ttl";
pub(super) const TIME: &str = "time";
const QUARANTINED_AT: &str = "quarantined_at";

/// The indexes, each named like the attribute that it sorts by.
pub(super) const BY_DUE: &str = DUE;
pub(super) const BY_OWNER: &str = OWNER;

/// Commits at the same time raise different marks.
pub(super) const MARKS: usize = 16;

/// How long the server leaves a row alone after it is due, in s: longer than the sweep needs, and than clocks differ.
const TTL_LATER: u64 = 86_400;
/// The end of the year 9999, in s: what is due later is due never.
const TTL_ENDS: u64 = 253_402_300_799;

pub(super) type Item = HashMap<String, AttributeValue>;

/// What stands under an id is no row that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(n: u64) -> AttributeValue {
    AttributeValue::N(n.to_string())
}

/// The number that an attribute is; `None` for anything that [`number`] does not write.
fn number_of(value: Option<&AttributeValue>) -> Option<u64> {
    let n = value?.as_n().ok()?;
    n.parse::<u64>().ok().filter(|parsed| parsed.to_string() == *n)
}

/// Text of ids: in the order of the bytes, on every server.
pub(super) fn hex(id: &SessionId) -> String {
    id.as_bytes().iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The id that 64 digits are; `None` for anything that [`hex`] does not write.
pub(super) fn id_of(digits: &str) -> Option<SessionId> {
    let plain = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if digits.len() != 64 || !digits.bytes().all(plain) {
        return None;
    }
    let mut bytes = [0; 32];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(SessionId::from_bytes(bytes))
}

/// The sixteen shards, in the order of the ids that are in them.
pub(super) fn shards() -> impl Iterator<Item = String> {
    (0..16).map(|n| format!("{n:x}"))
}

/// The shard of an id: its first digit.
pub(super) fn shard(id: &SessionId) -> String {
    hex(id).chars().take(1).collect()
}

fn keys(shard: String, id: String) -> Item {
    HashMap::from([(SHARD.to_owned(), text(shard)), (ID.to_owned(), text(id))])
}

pub(super) fn key(id: &SessionId) -> Item {
    keys(shard(id), hex(id))
}

/// Each in a shard of its own.
pub(super) fn mark(slot: usize) -> Item {
    keys(format!("mark/{:x}", slot % MARKS), "mark".into())
}

pub(super) fn layout() -> Item {
    keys("layout".into(), "layout".into())
}

/// An owner's name as the index has it, where no text is empty.
pub(super) fn owner(name: &str) -> AttributeValue {
    text(format!("u{name}"))
}

pub(super) fn encode(id: &SessionId, row: &Row) -> Item {
    let mut item = key(id);
    item.insert(VERSION.into(), number(row.version));
    item.insert(DUE.into(), number(row.expires_at));
    item.insert(RECORD.into(), AttributeValue::B(Blob::new(row.bytes.clone())));
    if let Some(name) = &row.owner {
        item.insert(OWNER.into(), owner(name));
    }
    let ttl = row.expires_at.div_ceil(1000).saturating_add(TTL_LATER);
    if ttl <= TTL_ENDS {
        item.insert(TTL.into(), number(ttl));
    }
    item
}

/// The row that an item is. Attributes that are not ours are left aside.
pub(super) fn decode(item: &Item) -> Result<Row, Damaged> {
    let owner = match item.get(OWNER) {
        None => None,
        Some(owner) => {
            let owner = owner.as_s().ok().and_then(|owner| owner.strip_prefix('u'));
            Some(owner.ok_or(Damaged)?.into())
        }
    };
    let record = item.get(RECORD).and_then(|record| record.as_b().ok()).ok_or(Damaged)?;
    Ok(Row {
        version: version(item).ok_or(Damaged)?,
        expires_at: number_of(item.get(DUE)).ok_or(Damaged)?,
        owner,
        bytes: record.as_ref().to_vec(),
    })
}

pub(super) fn version(item: &Item) -> Option<u64> {
    number_of(item.get(VERSION))
}

pub(super) fn time(item: &Item) -> Option<u64> {
    number_of(item.get(TIME))
}

/// The id of a row; `None` for any other item.
pub(super) fn row_id(item: &Item) -> Option<SessionId> {
    id_of(item.get(ID)?.as_s().ok()?)
}

/// The time at which an item is in the index, and as what the index has it. What is no time of ours is due first.
pub(super) fn due(item: &Item) -> Option<(u64, AttributeValue)> {
    let due = item.get(DUE)?;
    Some((number_of(Some(due)).unwrap_or(0), due.clone()))
}

/// The copy of a damaged item, which no index of rows holds and the server does not remove.
pub(super) fn aside(id: &SessionId, item: &Item, now: u64) -> Item {
    let mut copy = item.clone();
    copy.extend(keys(format!("quarantine/{}", shard(id)), hex(id)));
    copy.remove(TTL);
    copy.insert(QUARANTINED_AT.into(), number(now));
    copy
}

/// What must be true of the item that a change meets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Only {
    pub(super) text: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: Item,
}

impl Only {
    fn new(text: &str, names: &[&str]) -> Self {
        // Several of the names are words of the server's.
        let names = names.iter().map(|name| (format!("#{name}"), (*name).to_owned())).collect();
        Self { text: text.to_owned(), names, values: HashMap::new() }
    }

    fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(format!(":{name}"), value);
        self
    }

    pub(super) fn absent() -> Self {
        Self::new("attribute_not_exists(#id)", &[ID])
    }

    /// A row, if `expected` is `None` of any version.
    pub(super) fn version(expected: Option<u64>) -> Self {
        match expected {
            Some(version) => Self::new("#version = :version", &[VERSION]).with(VERSION, number(version)),
            None => Self::new("attribute_exists(#version)", &[VERSION]),
        }
    }

    pub(super) fn due(at: AttributeValue) -> Self {
        Self::new("#due = :due", &[DUE]).with(DUE, at)
    }

    pub(super) fn before(time: u64) -> Self {
        Self::new("attribute_not_exists(#time) OR #time < :time", &[TIME]).with(TIME, number(time))
    }

    /// The very item, as far as it is ours.
    pub(super) fn same(item: &Item) -> Self {
        let names = [VERSION, DUE, OWNER, RECORD];
        let parts = names.map(|name| match item.get(name) {
            Some(_) => format!("#{name} = :{name}"),
            None => format!("attribute_not_exists(#{name})"),
        });
        let only = Self::new(&parts.join(" AND "), &names);
        let values = names.iter().filter_map(|name| Some((*name, item.get(*name)?.clone())));
        values.fold(only, |only, (name, value)| only.with(name, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_row() -> impl Strategy<Value = Row> {
        let owner = proptest::option::of("[a-zé:0-9]{0,60}").prop_map(|o| o.map(Into::into));
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<u64>(), any::<u64>(), owner, bytes).prop_map(|(version, expires_at, owner, bytes)| Row {
            version,
            expires_at,
            owner,
            bytes,
        })
    }

    fn any_value() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            any::<u64>().prop_map(number),
            "[-0-9.e]{0,4}".prop_map(AttributeValue::N),
            "[u-v]{0,3}".prop_map(text),
            any::<bool>().prop_map(AttributeValue::Null),
            proptest::collection::vec(any::<u8>(), 0..4)
                .prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
        ]
    }

    proptest! {
        #[test]
        fn every_row_comes_back(row in any_row(), id: [u8; 32]) {
            let id = SessionId::from_bytes(id);
            let item = encode(&id, &row);
            prop_assert_eq!(row_id(&item), Some(id));
            prop_assert_eq!(decode(&item), Ok(row));
        }

        #[test]
        fn any_item_is_damaged_or_what_a_writer_writes(
            fields in proptest::collection::hash_map(
                prop_oneof![Just(VERSION), Just(DUE), Just(RECORD), Just(OWNER), Just(TTL)],
                any_value(),
                0..6,
            )
        ) {
            let item: Item = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            if let Ok(row) = decode(&item) {
                let written = encode(&SessionId::from_bytes([0; 32]), &row);
                for name in [VERSION, DUE, RECORD, OWNER] {
                    prop_assert_eq!(item.get(name), written.get(name));
                }
            }
        }

        #[test]
        fn ids_are_in_the_order_of_their_texts(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (SessionId::from_bytes(a), SessionId::from_bytes(b));
            prop_assert_eq!(hex(&a).cmp(&hex(&b)), a.cmp(&b));
            prop_assert_eq!((shard(&a), hex(&a)).cmp(&(shard(&b), hex(&b))), a.cmp(&b));
            prop_assert!(shards().any(|shard| shard == super::shard(&a)));
        }

        #[test]
        fn any_text_is_no_id_or_what_a_writer_writes(digits in "[0-9a-fA-F+]{63,65}|é{32}") {
            if let Some(id) = id_of(&digits) {
                prop_assert_eq!(hex(&id), digits);
            }
        }

        #[test]
        fn the_server_removes_no_row_before_it_is_due(row in any_row()) {
            let item = encode(&SessionId::from_bytes([0; 32]), &row);
            if let Some(ttl) = number_of(item.get(TTL)) {
                prop_assert!(u128::from(ttl) * 1000 >= u128::from(row.expires_at));
            }
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = SessionId::from_bytes([0xA7; 32]);
        let row = Row { version: 2, expires_at: 1001, owner: Some("u".into()), bytes: vec![0xAB] };
        let mut item = encode(&id, &row);
        for (name, value) in [
            ("shard", text("a")),
            ("id", text("a7".repeat(32))),
            ("version", number(2)),
            ("due", number(1001)),
            ("owner", text("uu")),
            ("record", AttributeValue::B(Blob::new([0xAB]))),
            ("ttl", number(86_402)),
        ] {
            assert_eq!(item.remove(name), Some(value), "{name}");
        }
        assert!(item.is_empty());
        let ends = |ms| encode(&id, &Row { expires_at: ms, ..row.clone() }).remove(TTL);
        assert_eq!(ends(u64::MAX), None);
        assert_eq!(ends((TTL_ENDS - TTL_LATER) * 1000), Some(number(TTL_ENDS)));
        assert_eq!(mark(17), keys("mark/1".into(), "mark".into()));
    }

    #[test]
    fn a_copy_is_the_item_under_another_key() {
        let (id, row) = (
            SessionId::from_bytes([0xA7; 32]),
            Row { version: 2, expires_at: 1, owner: None, bytes: vec![] },
        );
        let copy = aside(&id, &encode(&id, &row), 5);
        assert_eq!(copy.get(SHARD), Some(&text("quarantine/a")));
        assert_eq!((decode(&copy), copy.get(TTL)), (Ok(row), None));
    }

    #[test]
    fn a_condition_names_what_is_not_there_too() {
        let id = SessionId::from_bytes([0; 32]);
        let row = Row { version: 2, expires_at: 1, owner: None, bytes: vec![1] };
        let only = Only::same(&encode(&id, &row));
        assert_eq!(
            only.text,
            "#version = :version AND #due = :due AND attribute_not_exists(#owner) AND #record = :record"
        );
        assert_eq!((only.names.len(), only.values.len()), (4, 3));
    }
}
