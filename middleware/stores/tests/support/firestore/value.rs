//! Values as the reference of Firestore's REST API says they are written, sized and ordered (`Value`, `Document`). It knows
//! no documents.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::{Code, Refusal, Result, refuse};

/// 1 MiB - 89 bytes.
const LONGEST: usize = 1_048_487;
/// Of texts and bytes, so much is considered by queries.
const CONSIDERED: usize = 1500;
/// Microseconds of the years 1 to 9999.
const TIMES: std::ops::RangeInclusive<i128> = -62_135_596_800_000_000..=253_402_300_799_999_999;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    /// Microseconds since 1970.
    Timestamp(i128),
    String(String),
    Bytes(Vec<u8>),
    Reference(String),
    Array(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

fn invalid<T>(what: impl Into<String>) -> Result<T> {
    refuse(Code::InvalidArgument, what)
}

impl Value {
    pub fn read(json: &Json) -> Result<Self> {
        let Some(object) = json.as_object().filter(|object| object.len() == 1) else {
            return invalid("a Value has exactly one of its fields");
        };
        let (kind, content) = object.iter().next().unwrap();
        let text =
            || content.as_str().map(str::to_owned).ok_or_else(|| Refusal::of(Code::InvalidArgument, kind));
        Ok(match &**kind {
            "nullValue" if content.is_null() => Self::Null,
            "booleanValue" => match content.as_bool() {
                Some(value) => Self::Boolean(value),
                None => return invalid("booleanValue"),
            },
            // As proto3 writes int64: in quotes; without, where it is no more than JSON's numbers hold.
            "integerValue" => match content {
                Json::String(digits) => match digits.parse() {
                    Ok(value) => Self::Integer(value),
                    Err(_) => return invalid("integerValue"),
                },
                _ => match content.as_i64().filter(|n| n.unsigned_abs() <= 1 << 53) {
                    Some(value) => Self::Integer(value),
                    None => return invalid("integerValue"),
                },
            },
            "doubleValue" => match content.as_f64() {
                Some(value) => Self::Double(value),
                None => return invalid("doubleValue"),
            },
            "timestampValue" => Self::Timestamp(timestamp(&text()?)?),
            "stringValue" => {
                let text = text()?;
                if text.len() > LONGEST {
                    return invalid(format!("a string is longer than {LONGEST} bytes"));
                }
                Self::String(text)
            }
            "bytesValue" => match STANDARD.decode(text()?) {
                Ok(bytes) if bytes.len() > LONGEST => {
                    return invalid(format!("a value is longer than {LONGEST} bytes"));
                }
                Ok(bytes) => Self::Bytes(bytes),
                Err(_) => return invalid("bytesValue"),
            },
            "referenceValue" => Self::Reference(text()?),
            "arrayValue" => {
                let values = list(content, "values")?.iter().map(Self::read).collect::<Result<Vec<_>>>()?;
                if values.iter().any(|value| matches!(value, Self::Array(_))) {
                    return invalid("an array in an array");
                }
                Self::Array(values)
            }
            "mapValue" => match content.as_object() {
                Some(map) if map.keys().all(|name| name == "fields") => {
                    Self::Map(fields(map.get("fields").unwrap_or(&json!({})))?)
                }
                _ => return invalid("mapValue"),
            },
            "geoPointValue" => return refuse(Code::Unimplemented, "the double has no geo points"),
            _ => return invalid(format!("unknown field {kind} in a Value")),
        })
    }

    pub fn written(&self) -> Json {
        match self {
            Self::Null => json!({ "nullValue": null }),
            Self::Boolean(value) => json!({ "booleanValue": value }),
            Self::Integer(value) => json!({ "integerValue": value.to_string() }),
            Self::Double(value) => json!({ "doubleValue": value }),
            Self::Timestamp(micros) => json!({ "timestampValue": timestamp_written(*micros) }),
            Self::String(value) => json!({ "stringValue": value }),
            Self::Bytes(value) => json!({ "bytesValue": STANDARD.encode(value) }),
            Self::Reference(value) => json!({ "referenceValue": value }),
            Self::Array(values) => {
                json!({"arrayValue": {"values": values.iter().map(Self::written).collect::<Vec<_>>()}})
            }
            Self::Map(map) => json!({"mapValue": {"fields": fields_written(map)}}),
        }
    }

    /// By the page on storage sizes.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) => 1,
            Self::Integer(_) | Self::Double(_) | Self::Timestamp(_) => 8,
            Self::String(value) | Self::Reference(value) => value.len() + 1,
            Self::Bytes(value) => value.len(),
            Self::Array(values) => values.iter().map(Self::size).sum(),
            Self::Map(map) => fields_size(map),
        }
    }

    /// The place of its type among the types.
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Boolean(_) => 1,
            Self::Integer(_) | Self::Double(_) => 2,
            Self::Timestamp(_) => 3,
            Self::String(_) => 4,
            Self::Bytes(_) => 5,
            Self::Reference(_) => 6,
            Self::Array(_) => 7,
            Self::Map(_) => 8,
        }
    }

    pub fn is_of_type_of(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }

    pub fn is_number(&self) -> bool {
        self.rank() == 2
    }

    /// As queries order it.
    pub fn order(&self, other: &Self) -> Ordering {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(CONSIDERED)].to_vec();
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Integer(a), Self::Double(b)) => (*a as f64).total_cmp(b),
            (Self::Double(a), Self::Integer(b)) => a.total_cmp(&(*b as f64)),
            (Self::Double(a), Self::Double(b)) => a.total_cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => cut(a.as_bytes()).cmp(&cut(b.as_bytes())),
            (Self::Bytes(a), Self::Bytes(b)) => cut(a).cmp(&cut(b)),
            // Segment by segment.
            (Self::Reference(a), Self::Reference(b)) => a.split('/').cmp(b.split('/')),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

fn list<'a>(content: &'a Json, name: &str) -> Result<&'a [Json]> {
    let Some(object) = content.as_object().filter(|object| object.keys().all(|key| key == name)) else {
        return invalid(format!("what has {name} has something else"));
    };
    match object.get(name) {
        None => Ok(&[]),
        Some(Json::Array(values)) => Ok(values),
        Some(_) => invalid(name),
    }
}

pub fn fields(json: &Json) -> Result<BTreeMap<String, Value>> {
    let Some(object) = json.as_object() else { return invalid("fields") };
    let mut fields = BTreeMap::new();
    for (name, value) in object {
        let is_reserved = name.len() >= 4 && name.starts_with("__") && name.ends_with("__");
        if name.is_empty() || name.len() > 1500 || is_reserved {
            return invalid(format!("{name} is no field's name"));
        }
        fields.insert(name.clone(), Value::read(value)?);
    }
    Ok(fields)
}

pub fn fields_written(fields: &BTreeMap<String, Value>) -> Json {
    fields.iter().map(|(name, value)| (name.clone(), value.written())).collect()
}

pub fn fields_size(fields: &BTreeMap<String, Value>) -> usize {
    fields.iter().map(|(name, value)| name.len() + 1 + value.size()).sum()
}

/// Microseconds; what is more exact is rounded down.
pub fn timestamp(text: &str) -> Result<i128> {
    Ok(nanos(text)?.div_euclid(1000))
}

/// As [`timestamp`], where it must be exact.
pub fn aligned(text: &str) -> Result<i128> {
    match nanos(text)? {
        nanos if nanos % 1000 == 0 => Ok(nanos / 1000),
        _ => invalid("a timestamp that is not microsecond aligned"),
    }
}

fn nanos(text: &str) -> Result<i128> {
    let wrong = || Refusal::of(Code::InvalidArgument, format!("{text} is no timestamp"));
    let (date, time) = text.strip_suffix('Z').and_then(|text| text.split_once('T')).ok_or_else(wrong)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| text.bytes().all(|c| c.is_ascii_digit()));
    let [year, month, day] = three(date, '-', number).ok_or_else(wrong)?;
    let [hour, minute, second] = three(time, ':', number).ok_or_else(wrong)?;
    let shape = date.len() == 10 && time.len() == 8 && (1..=9).contains(&fraction.len());
    let month = usize::try_from(month).ok().filter(|month| (1..=12).contains(month)).ok_or_else(wrong)?;
    let in_day = hour < 24 && minute < 60 && second < 60;
    if !shape || !in_day || day < 1 || day > length(year, month) || year < 1 {
        return Err(wrong());
    }
    let days: i64 = (1970..year).map(days_of).sum::<i64>() - (year..1970).map(days_of).sum::<i64>()
        + (1..month).map(|month| length(year, month)).sum::<i64>()
        + (day - 1);
    let seconds = i128::from(days * 86_400 + hour * 3600 + minute * 60 + second);
    let fraction = i128::from(number(&format!("{fraction:0<9}")).ok_or_else(wrong)?);
    let nanos = seconds * 1_000_000_000 + fraction;
    if TIMES.contains(&nanos.div_euclid(1000)) { Ok(nanos) } else { Err(wrong()) }
}

fn three(text: &str, by: char, number: impl Fn(&str) -> Option<i64>) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text.split(by).map(number).collect();
    parts?.try_into().ok()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64) -> i64 {
    365 + i64::from(is_leap(year))
}

fn length(year: i64, month: usize) -> i64 {
    [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
}

/// With 0, 3 or 6 digits behind the point, as many as it takes.
pub fn timestamp_written(micros: i128) -> String {
    let (mut seconds, fraction) = (micros.div_euclid(1_000_000) as i64, micros.rem_euclid(1_000_000));
    let mut year = 1970;
    let mut days = seconds.div_euclid(86_400);
    seconds = seconds.rem_euclid(86_400);
    while days < 0 {
        year -= 1;
        days += days_of(year);
    }
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    while days >= length(year, month) {
        days -= length(year, month);
        month += 1;
    }
    let fraction = match fraction {
        0 => String::new(),
        micros if micros % 1000 == 0 => format!(".{:03}", micros / 1000),
        micros => format!(".{micros:06}"),
    };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z", days + 1)
}
