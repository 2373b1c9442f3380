//! What the documents look like, their names, and the writes and questions that are made of them. It never talks to a server.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sessile_engine::SessionId;
use sessile_engine::store::Row;

/// A document has 1 MiB at most, its name, the names of its fields and the owner included.
pub(super) const MAX_ROW_BYTES: usize = 1020 << 10;
/// Commits at the same time raise different marks: a document takes few writes a second.
pub(super) const MARKS: usize = 32;

/// How much later than a row is due its document may be removed by a TTL policy, in ms: a difference between the clocks of
/// Google and of the engine does no harm.
const TTL_AFTER: u64 = 300_000;
/// The end of the year 9999, in ms: what a timestamp can say.
const LAST_TIMESTAMP: u64 = 253_402_300_799_999;
const HEX: &[u8; 16] = b"0123456789abcdef";

pub(super) type Fields = Map<String, Value>;

/// A document as the service gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) name: String,
    #[serde(default)]
    pub(super) fields: Fields,
    /// When it was last changed: what the next write is compared with.
    pub(super) update_time: String,
}

/// The document holds no row that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// How documents are called.
pub(super) struct Names {
    /// `projects/P/databases/D/documents`
    root: String,
    collection: String,
}

impl Names {
    pub(super) fn new(project: &str, database: &str, collection: &str) -> Self {
        let root = format!("projects/{project}/databases/{database}/documents");
        Self { root, collection: collection.to_owned() }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn row(&self, id: &SessionId) -> String {
        format!("{}/{}/{}", self.root, self.collection, hex(id))
    }

    /// The id that a document of the rows is called by.
    pub(super) fn id_of(&self, name: &str) -> Option<SessionId> {
        let name = name.strip_prefix(&self.root)?.strip_prefix('/')?.strip_prefix(&self.collection)?;
        unhex(name.strip_prefix('/')?)
    }

    pub(super) fn quarantined(&self, id: &SessionId) -> String {
        format!("{}/{}_quarantine/{}", self.root, self.collection, hex(id))
    }

    pub(super) fn layout(&self) -> String {
        format!("{}/{}_meta/layout", self.root, self.collection)
    }

    pub(super) fn mark(&self, slot: usize) -> String {
        format!("{}/{}_meta/mark-{:02}", self.root, self.collection, slot % MARKS)
    }

    /// Rows that are due by `now`, the longest due first: their names, without what they hold.
    pub(super) fn due_by(&self, now: u64, limit: usize) -> Value {
        json!({"structuredQuery": {
            "from": [{"collectionId": self.collection}],
            "select": {"fields": [{"fieldPath": "due"}]},
            "where": field("due", "LESS_THAN_OR_EQUAL", json!({"stringValue": time(now)})),
            "orderBy": [{"field": {"fieldPath": "due"}, "direction": "ASCENDING"}],
            "limit": limit,
        }})
    }

    /// Rows in the order of their ids, from behind `after`; only those of an owner, if there is one.
    pub(super) fn page(&self, owner: Option<&str>, after: Option<&str>, limit: usize) -> Value {
        let mut query = json!({
            "from": [{"collectionId": self.collection}],
            "orderBy": [{"field": {"fieldPath": "__name__"}, "direction": "ASCENDING"}],
            "limit": limit,
        });
        if let Some(owner) = owner {
            query["where"] = field("owner", "EQUAL", json!({"stringValue": owner}));
        }
        if let Some(after) = after {
            query["startAt"] = json!({"values": [{"referenceValue": after}], "before": false});
        }
        json!({ "structuredQuery": query })
    }

    pub(super) fn count(&self) -> Value {
        json!({"structuredAggregationQuery": {
            "structuredQuery": {"from": [{"collectionId": self.collection}]},
            "aggregations": [{"alias": "rows", "count": {}}],
        }})
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one; the service compares.
    pub(super) fn raise(&self, slot: usize, mark: u64) -> Value {
        json!({
            "update": {"name": self.mark(slot), "fields": {}},
            "updateMask": {"fieldPaths": []},
            "updateTransforms": [{"fieldPath": "time", "maximum": integer(shifted(mark))}],
        })
    }
}

fn field(path: &str, op: &str, value: Value) -> Value {
    json!({"fieldFilter": {"field": {"fieldPath": path}, "op": op, "value": value}})
}

/// A document that must not exist yet.
pub(super) fn create(name: String, fields: Fields) -> Value {
    json!({"update": {"name": name, "fields": fields}, "currentDocument": {"exists": false}})
}

/// A document that has not changed since `at`.
pub(super) fn replace(name: String, fields: Fields, at: &str) -> Value {
    json!({"update": {"name": name, "fields": fields}, "currentDocument": {"updateTime": at}})
}

/// A row that is put aside, with what it holds.
pub(super) fn put_aside(names: &Names, id: &SessionId, mut fields: Fields, now: u64) -> Value {
    fields.insert("quarantined_at".to_owned(), json!({"stringValue": time(now)}));
    // A policy would remove it otherwise.
    fields.remove("ttl");
    json!({"update": {"name": names.quarantined(id), "fields": fields}})
}

/// Removes a document that has not changed since `at`.
pub(super) fn remove(name: &str, at: &str) -> Value {
    json!({"delete": name, "currentDocument": {"updateTime": at}})
}

fn hex(id: &SessionId) -> String {
    let digit = |n: u8| char::from(HEX.get(usize::from(n)).copied().unwrap_or(b'?'));
    id.as_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Only what [`hex`] writes: another spelling would be another document.
fn unhex(name: &str) -> Option<SessionId> {
    let mut bytes = [0; 32];
    if name.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(name.as_bytes().chunks_exact(2)) {
        for digit in pair {
            let value = HEX.iter().position(|known| known == digit)?;
            *byte = (*byte << 4) | u8::try_from(value).ok()?;
        }
    }
    Some(SessionId::from_bytes(bytes))
}

/// A time whose text is in the order of times.
pub(super) fn time(ms: u64) -> String {
    format!("{ms:020}")
}

/// Numbers of the service have 63 bits and a sign; shifted, all times are in their order.
fn shifted(mark: u64) -> i64 {
    (mark ^ (1 << 63)).cast_signed()
}

/// The time of a mark; a damaged one counts as 0: it is a floor for clocks that went backward.
pub(super) fn mark_of(fields: &Fields) -> u64 {
    integer_of(fields.get("time")).map_or(0, |time| time.cast_unsigned() ^ (1 << 63))
}

pub(super) fn integer(n: i64) -> Value {
    json!({"integerValue": n.to_string()})
}

pub(super) fn integer_of(value: Option<&Value>) -> Option<i64> {
    value?.get("integerValue")?.as_str()?.parse().ok()
}

/// The fields of `row`.
pub(super) fn fields(row: &Row) -> Fields {
    let mut fields = Fields::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("version", integer(row.version.cast_signed()));
    set("due", json!({"stringValue": time(row.expires_at)}));
    set("record", json!({"bytesValue": STANDARD.encode(&row.bytes)}));
    if let Some(owner) = &row.owner {
        set("owner", json!({"stringValue": &**owner}));
    }
    if let Some(ttl) = timestamp(row.expires_at.saturating_add(TTL_AFTER)) {
        set("ttl", json!({"timestampValue": ttl}));
    }
    fields
}

/// Reads what [`fields`] wrote. `ttl` is Google's to read.
pub(super) fn row(fields: &Fields) -> Result<Row, Damaged> {
    let text = |name: &str, kind: &str| fields.get(name)?.get(kind)?.as_str();
    let owner = match fields.get("owner") {
        None => None,
        Some(_) => Some(text("owner", "stringValue").ok_or(Damaged)?.into()),
    };
    let due =
        text("due", "stringValue").filter(|due| due.len() == 20 && due.bytes().all(|c| c.is_ascii_digit()));
    Ok(Row {
        version: integer_of(fields.get("version")).ok_or(Damaged)?.cast_unsigned(),
        expires_at: due.and_then(|due| due.parse().ok()).ok_or(Damaged)?,
        owner,
        bytes: STANDARD.decode(text("record", "bytesValue").ok_or(Damaged)?).map_err(|_| Damaged)?,
    })
}

/// `2014-10-02T15:01:23.045Z`; `None` behind the year 9999.
fn timestamp(ms: u64) -> Option<String> {
    let ms = Some(ms).filter(|ms| *ms <= LAST_TIMESTAMP)?;
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Years of 400 have 146,097 days, and begin in March: the day that may be missing is their last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    let mut out = String::with_capacity(24);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
        .ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_row() -> impl Strategy<Value = Row> {
        let owner = proptest::option::of("[a-zé\0:0-9]{0,60}").prop_map(|o| o.map(Into::into));
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<u64>(), any::<u64>(), owner, bytes).prop_map(|(version, expires_at, owner, bytes)| Row {
            version,
            expires_at,
            owner,
            bytes,
        })
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let kinds = prop_oneof![
            Just("integerValue"),
            Just("stringValue"),
            Just("bytesValue"),
            Just("timestampValue"),
            Just("nonsense")
        ];
        let contents = prop_oneof![
            any::<i64>().prop_map(|n| json!(n.to_string())),
            any::<u64>().prop_map(|n| json!(time(n))),
            any::<i64>().prop_map(|n| json!(n)),
            "[a-zA-Z0-9+/=]{0,8}".prop_map(|text| json!(text)),
            Just(json!(null)),
            Just(json!({})),
        ];
        prop_oneof![(kinds, contents.clone()).prop_map(|(kind, content)| json!({ kind: content })), contents]
    }

    proptest! {
        #[test]
        fn every_row_comes_back(any in any_row(), id: [u8; 32]) {
            let written = serde_json::to_vec(&fields(&any)).unwrap();
            prop_assert_eq!(row(&serde_json::from_slice(&written).unwrap()), Ok(any));
            let names = Names::new("p", "(default)", "c");
            let id = SessionId::from_bytes(id);
            prop_assert_eq!(names.id_of(&names.row(&id)), Some(id));
        }

        #[test]
        fn any_document_is_damaged_or_what_a_writer_writes(
            any in proptest::collection::hash_map(
                prop_oneof![Just("version"), Just("due"), Just("record"), Just("owner"), Just("ttl")],
                any_value(),
                0..6,
            )
        ) {
            let mut any: Fields = any.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            if let Ok(row) = row(&any) {
                let mut written = fields(&row);
                for fields in [&mut written, &mut any] {
                    fields.remove("ttl");
                }
                for name in ["due", "owner"] {
                    prop_assert_eq!(written.get(name), any.get(name));
                }
                prop_assert_eq!(written.len(), any.len());
            }
        }

        #[test]
        fn times_and_marks_are_in_their_order(a: u64, b: u64) {
            prop_assert_eq!(time(a).cmp(&time(b)), a.cmp(&b));
            prop_assert_eq!(shifted(a).cmp(&shifted(b)), a.cmp(&b));
            let mark: Fields = [("time".to_owned(), integer(shifted(a)))].into_iter().collect();
            prop_assert_eq!(mark_of(&mark), a);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let row = Row { version: u64::MAX, expires_at: 5, owner: Some("u".into()), bytes: vec![0xAB] };
        let wanted = json!({
            "version": {"integerValue": "-1"},
            "due": {"stringValue": "00000000000000000005"},
            "record": {"bytesValue": "qw=="},
            "owner": {"stringValue": "u"},
            "ttl": {"timestampValue": "1970-01-01T00:05:00.005Z"},
        });
        assert_eq!(Value::Object(fields(&row)), wanted);
        let names = Names::new("shop", "(default)", "sessile_sessions");
        let id = SessionId::from_bytes([0xA7; 32]);
        let name = names.row(&id);
        let wanted =
            format!("projects/shop/databases/(default)/documents/sessile_sessions/{}", "a7".repeat(32));
        assert_eq!(name, wanted);
        assert_eq!(names.id_of(&name.replace("a7", "A7")), None);
        assert_eq!(names.id_of(&name.replace("_sessions/", "_sessions_meta/")), None);
        assert_eq!(
            names.mark(33),
            "projects/shop/databases/(default)/documents/sessile_sessions_meta/mark-01"
        );
    }

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for (ms, wanted) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_412_262_083_045, "2014-10-02T15:01:23.045Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_TIMESTAMP, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(ms).as_deref(), Some(wanted));
        }
        assert_eq!(timestamp(LAST_TIMESTAMP + 1), None);
    }
}
