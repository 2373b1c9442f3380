//! What the documents look like. It never talks to a server.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Listed, Row, StoreError, StoreErrorKind};

use super::NAME;

/// A document has 16 MiB at most.
pub(super) const MAX_ROW_BYTES: usize = 15 << 20;
const MAX_OWNER: usize = 255;
/// What the ids of ticks begin with, and what is behind all of them.
pub(super) const TICKS: (&str, &str) = ("tick/", "tick0");

/// What stands under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Row(Row),
    /// A row that is there only if what stands under this id has moved to it.
    Pending(SessionId),
    /// What was here is there.
    Moved(SessionId),
    Damaged,
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() })
}

pub(super) fn key(id: &SessionId) -> Bson {
    binary(id.as_bytes())
}

/// The id that a value is; `None` for any other value.
pub(super) fn id_of(value: &Bson) -> Option<SessionId> {
    match value {
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }) => {
            Some(SessionId::from_bytes(bytes.as_slice().try_into().ok()?))
        }
        _ => None,
    }
}

/// The document of `row`; with `from` it is pending.
pub(super) fn encode(id: &SessionId, row: &Row, from: Option<&SessionId>) -> Document {
    let mut doc = doc! {
        "_id": key(id),
        "version": row.version.cast_signed(),
        "due": row.expires_at.cast_signed(),
        "record": binary(&row.bytes),
    };
    if let Some(owner) = &row.owner {
        doc.insert("owner", &**owner);
    }
    if let Some(from) = from {
        doc.insert("from", key(from));
    }
    doc
}

/// Whatever `doc` says of its id.
pub(super) fn state(mut doc: Document) -> State {
    if let Some(to) = doc.get("to") {
        return id_of(to).map_or(State::Damaged, State::Moved);
    }
    if let Some(from) = doc.get("from") {
        return id_of(from).map_or(State::Damaged, State::Pending);
    }
    row(&mut doc).map_or(State::Damaged, State::Row)
}

fn row(doc: &mut Document) -> Option<Row> {
    let owner = match doc.remove("owner") {
        None => None,
        Some(Bson::String(owner)) => Some(owner.into()),
        Some(_) => return None,
    };
    match (doc.remove("version"), doc.remove("due"), doc.remove("record")) {
        (
            Some(Bson::Int64(version)),
            Some(Bson::Int64(due)),
            Some(Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        ) => Some(Row { version: version.cast_unsigned(), expires_at: due.cast_unsigned(), owner, bytes }),
        _ => None,
    }
}

/// Selects the id if a row is there for everybody: not pending, and not moved away. A field that is not there equals null.
pub(super) fn settled(id: &SessionId) -> Document {
    doc! { "_id": key(id), "to": Bson::Null, "from": Bson::Null }
}

/// Selects all ids, from behind `after`; ticks are none.
pub(super) fn ids(after: Option<&SessionId>) -> Document {
    let last = binary(&[0xFF; 32]);
    match after {
        None => doc! { "$gte": binary(&[0; 32]), "$lte": last },
        Some(after) => doc! { "$gt": key(after), "$lte": last },
    }
}

/// Selects the times up to `now`, the earlier first. A time beyond 63 bits is negative here, and behind all others.
pub(super) fn due_by(now: u64) -> Vec<Document> {
    match i64::try_from(now) {
        Ok(now) => vec![doc! { "$gte": 0_i64, "$lte": now }],
        Err(_) => vec![doc! { "$gte": 0_i64 }, doc! { "$lt": 0_i64, "$lte": now.cast_signed() }],
    }
}

/// A time whose text is in the order of times.
pub(super) fn mark(time: u64) -> String {
    format!("{time:020}")
}

/// What a document of the index knows, for the sweep and for who looks why a change was refused.
pub(super) struct Head {
    pub(super) id: SessionId,
    pub(super) version: Option<u64>,
    pub(super) from: Option<SessionId>,
    pub(super) to: Option<SessionId>,
}

pub(super) fn head(doc: &Document) -> Option<Head> {
    let id = |name| doc.get(name).and_then(id_of);
    let (from, to) = (id("from"), id("to"));
    // What leads somewhere that cannot be read has no version that a change could match.
    let is_plain = doc.contains_key("from") == from.is_some() && doc.contains_key("to") == to.is_some();
    let version = match doc.get("version") {
        Some(Bson::Int64(version)) if is_plain => Some(version.cast_unsigned()),
        _ => None,
    };
    Some(Head { id: id("_id")?, version, from, to })
}

/// The fields of a [`Head`].
pub(super) fn head_fields() -> Document {
    doc! { "_id": 1, "version": 1, "from": 1, "to": 1 }
}

/// Refuses rows that the contract does not allow, before anything is sent.
pub(super) fn check(changes: &[Change]) -> Result<(), StoreError> {
    let too_large = |what: String| Err(StoreError::new(StoreErrorKind::TooLarge, NAME, what));
    for change in changes {
        let (Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. }) = change
        else {
            continue;
        };
        if row.owner.as_ref().is_some_and(|owner| owner.len() > MAX_OWNER) {
            return too_large(format!("an owner is longer than {MAX_OWNER} bytes"));
        }
        if row.bytes.len() > MAX_ROW_BYTES {
            return too_large(format!("a row of {} bytes is larger than {MAX_ROW_BYTES}", row.bytes.len()));
        }
    }
    Ok(())
}

/// A page of a listing.
#[derive(Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Listed>,
    pub(super) damaged: Vec<SessionId>,
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

    fn any_value() -> impl Strategy<Value = Bson> {
        prop_oneof![
            any::<i64>().prop_map(Bson::Int64),
            any::<i32>().prop_map(Bson::Int32),
            "[a-z]{0,3}".prop_map(Bson::String),
            Just(Bson::Null),
            proptest::collection::vec(any::<u8>(), 30..34).prop_map(|bytes| binary(&bytes)),
            Just(Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![0; 32] })),
        ]
    }

    proptest! {
        #[test]
        fn every_row_comes_back(row in any_row(), id: [u8; 32], from: [u8; 32]) {
            let (id, from) = (SessionId::from_bytes(id), SessionId::from_bytes(from));
            let bytes = encode(&id, &row, None).to_vec().unwrap();
            prop_assert_eq!(state(Document::from_reader(&bytes[..]).unwrap()), State::Row(row.clone()));
            let pending = encode(&id, &row, Some(&from));
            let head = head(&pending).unwrap();
            prop_assert_eq!((head.id, head.version, head.from, head.to), (id, Some(row.version), Some(from), None));
            prop_assert_eq!(state(pending), State::Pending(from));
        }

        #[test]
        fn any_document_is_damaged_or_what_a_writer_writes(
            fields in proptest::collection::hash_map(
                prop_oneof![Just("_id"), Just("version"), Just("due"), Just("record"), Just("owner"), Just("to"), Just("from")],
                any_value(),
                0..7,
            )
        ) {
            let doc: Document = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            if let (State::Row(row), Some(id)) = (state(doc.clone()), doc.get("_id").and_then(id_of)) {
                let written = encode(&id, &row, None);
                prop_assert!(written.iter().all(|(name, value)| doc.get(name) == Some(value)));
                prop_assert_eq!(written.len(), doc.len());
            }
        }

        #[test]
        fn marks_are_in_the_order_of_times(a: u64, b: u64) {
            prop_assert_eq!(mark(a).cmp(&mark(b)), a.cmp(&b));
            prop_assert_eq!(mark(a).parse::<u64>(), Ok(a));
        }

        #[test]
        fn what_is_due_is_selected(at: u64, now: u64) {
            let at_signed = at.cast_signed();
            let holds = |range: &Document| range.iter().all(|(op, bound)| {
                let Bson::Int64(bound) = bound else { return false };
                match op.as_str() {
                    "$gte" => at_signed >= *bound,
                    "$lte" => at_signed <= *bound,
                    "$lt" => at_signed < *bound,
                    _ => false,
                }
            });
            prop_assert_eq!(due_by(now).iter().filter(|range| holds(range)).count(), usize::from(at <= now));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let (id, from) = (SessionId::from_bytes([7; 32]), SessionId::from_bytes([8; 32]));
        let row = Row { version: 2, expires_at: u64::MAX, owner: Some("u".into()), bytes: vec![0xAB] };
        let wanted = doc! {
            "_id": binary(&[7; 32]),
            "version": 2_i64,
            "due": -1_i64,
            "record": binary(&[0xAB]),
            "owner": "u",
            "from": binary(&[8; 32]),
        };
        assert_eq!(encode(&id, &row, Some(&from)), wanted);
        assert_eq!(mark(5), "00000000000000000005");
    }
}
