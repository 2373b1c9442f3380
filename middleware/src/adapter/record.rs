//! tower-sessions' data and ours: JSON values to values of a record and back, and the ticket by which a save knows
//! what its request had loaded. It knows no engine and keeps nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::ser::{Serialize, Serializer};
use serde_json::{Number, Value};
use sessile_engine::SessionId;
use sessile_engine::by_id::Draft;
use sessile_engine::value::ValueRef;

/// The data of a tower-sessions record.
pub(crate) type Data = HashMap<String, Value>;

/// Before the text of a number that is neither an integer of 64 bits nor a float. JSON has no bytes, so nothing
/// else is stored as bytes here. Such numbers exist with serde_json's `arbitrary_precision` only.
const NUMBER: &[u8] = b"json-number:";

/// A JSON value as a value of a record: every kind as itself, so that all of sessile can read it, and exact.
pub(super) struct Json<'a>(pub(super) &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Number(n) => number(n, serializer),
            Value::String(s) => serializer.serialize_str(s),
            Value::Array(items) => serializer.collect_seq(items.iter().map(Json)),
            Value::Object(map) => serializer.collect_map(map.iter().map(|(k, v)| (k, Json(v)))),
        }
    }
}

fn number<S: Serializer>(n: &Number, serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(u) = n.as_u64()
        && Number::from(u) == *n
    {
        return serializer.serialize_u64(u);
    }
    if let Some(i) = n.as_i64()
        && Number::from(i) == *n
    {
        return serializer.serialize_i64(i);
    }
    if let Some(f) = n.as_f64()
        && Number::from_f64(f).as_ref() == Some(n)
    {
        return serializer.serialize_f64(f);
    }
    serializer.serialize_bytes(&[NUMBER, n.to_string().as_bytes()].concat())
}

/// The JSON value that was stored. What JSON does not have, because the native API wrote it, appears as its JSON
/// view: bytes as base64, a moment as its microseconds, a float that is no number as null.
pub(super) fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Bool(b) => Value::Bool(b),
        ValueRef::I64(n) => Value::Number(n.into()),
        ValueRef::U64(n) => Value::Number(n.into()),
        ValueRef::F64(f) => Number::from_f64(f).map_or(Value::Null, Value::Number),
        ValueRef::Str(s) => Value::String(s.to_owned()),
        ValueRef::List(items) => items.iter().map(to_json).collect(),
        ValueRef::Map(map) => map.iter().map(|(k, v)| (k.to_owned(), to_json(v))).collect(),
        other => {
            let number = other
                .as_bytes()
                .and_then(|bytes| bytes.strip_prefix(NUMBER))
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            number.map_or_else(|| serde_json::to_value(other).unwrap_or_default(), Value::Number)
        }
    }
}

/// The key of the ticket in a loaded record's data. It is never stored; an application cannot hit it by chance.
pub(super) const TICKET: &str = "\0sessile";

/// What a loaded record remembers of its loading: which one it was, of which session, and a hash of every value.
///
/// It travels in the record's own data, because there is no other place behind the trait that is tied to one
/// request and needs no cleaning up. `Session::clear` removes it with the rest, and then everything counts as
/// changed, which is what clearing means.
pub(super) struct Ticket {
    pub(super) load: u64,
    pub(super) session: SessionId,
    base: HashMap<u64, u64>,
}

fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Ticket {
    /// Puts a ticket into `data`, whose values are those of `session` now.
    pub(super) fn attach(data: &mut Data, load: u64, session: &SessionId) {
        let mut numbers: Vec<Value> = Vec::with_capacity(5 + 2 * data.len());
        numbers.push(load.into());
        let words = session.as_bytes().as_chunks::<8>().0;
        numbers.extend(words.iter().map(|word| Value::from(u64::from_le_bytes(*word))));
        for (key, value) in data.iter().filter(|(key, _)| *key != TICKET) {
            numbers.extend([hash_of(key.as_str()), hash_of(value)].map(Value::from));
        }
        data.insert(TICKET.to_owned(), Value::Array(numbers));
    }

    /// The ticket in `data`. What is none, an application put there: as if it were not there.
    pub(super) fn of(data: &Data) -> Option<Self> {
        let numbers: Option<Vec<u64>> = data.get(TICKET)?.as_array()?.iter().map(Value::as_u64).collect();
        let numbers = numbers?;
        let (&[load, a, b, c, d], pairs) = numbers.split_first_chunk::<5>()?;
        let mut id = [0; 32];
        for (word, n) in id.as_chunks_mut::<8>().0.iter_mut().zip([a, b, c, d]) {
            *word = n.to_le_bytes();
        }
        let base = pairs.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect();
        Some(Self { load, session: SessionId::from_bytes(id), base })
    }

    /// The hash of what this request takes to be stored under `key`: what it saved last, or else loaded.
    fn known(&self, saved: &Saved, key: u64) -> Option<u64> {
        saved.get(&key).map_or_else(|| self.base.get(&key).copied(), |value| *value)
    }

    /// Takes out of `data` what the request had loaded and neither changed nor saved.
    pub(super) fn keep_own(&self, saved: &Saved, data: &mut Data) {
        data.retain(|key, value| {
            let hash = hash_of(key.as_str());
            saved.contains_key(&hash) || self.base.get(&hash) != Some(&hash_of(value))
        });
    }
}

/// What a request has saved: for the hash of each key it changed that of the value, or `None` for a removal.
pub(super) type Saved = HashMap<u64, Option<u64>>;

/// What a request made of a session's data.
pub(super) enum Changes<'d> {
    /// It is to be exactly this.
    All(&'d Data),
    /// These keys were set, and the keys with these hashes removed; the rest was not touched.
    Some {
        /// All data of the request.
        data: &'d Data,
        /// The keys that it set.
        set: Vec<&'d str>,
        /// Hashes of the keys that it removed.
        removed: HashSet<u64>,
    },
}

impl<'d> Changes<'d> {
    /// What of `data` differs from what was loaded with `ticket` and has been saved since.
    pub(super) fn since(ticket: Option<&Ticket>, saved: &Saved, data: &'d Data) -> Self {
        let Some(ticket) = ticket else { return Self::All(data) };
        let known = ticket.base.keys().chain(saved.keys()).copied();
        let mut removed: HashSet<u64> = known.filter(|key| ticket.known(saved, *key).is_some()).collect();
        let mut set = Vec::new();
        for (key, value) in data.iter().filter(|(key, _)| *key != TICKET) {
            let hash = hash_of(key.as_str());
            removed.remove(&hash);
            if ticket.known(saved, hash) != Some(hash_of(value)) {
                set.push(key.as_str());
            }
        }
        Self::Some { data, set, removed }
    }

    /// What is saved by them.
    pub(super) fn saved(&self) -> Saved {
        match self {
            Self::All(_) => Saved::new(),
            Self::Some { data, set, removed } => {
                let set = set.iter().map(|key| (hash_of(*key), data.get(*key).map(hash_of)));
                set.chain(removed.iter().map(|key| (*key, None))).collect()
            }
        }
    }

    /// Does the same to `draft`.
    pub(super) fn apply(&self, draft: &mut Draft<'_>) -> sessile_engine::Result<()> {
        let (Self::All(data) | Self::Some { data, .. }) = self;
        let is_over = |key: &str| match self {
            Self::All(data) => !data.contains_key(key),
            Self::Some { removed, .. } => removed.contains(&hash_of(key)),
        };
        let over: Vec<String> =
            draft.iter().filter(|(key, _)| is_over(key)).map(|(key, _)| key.to_owned()).collect();
        for key in over {
            draft.remove(&key);
        }
        let mut put = |key: &str| {
            let Some(value) = data.get(key) else { return Ok(()) };
            if draft.value(key).is_some_and(|present| to_json(present) == *value) {
                return Ok(());
            }
            draft.put(key, &Json(value))
        };
        match self {
            Self::All(data) => data.keys().filter(|key| *key != TICKET).try_for_each(|key| put(key)),
            Self::Some { set, .. } => set.iter().try_for_each(|key| put(key)),
        }
    }
}
