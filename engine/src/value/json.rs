//! JSON for people and tools: it writes, in one direction only. What it writes is also safe inside a page's
//! `<script>` element.

use std::fmt::Write as _;

use base64::Engine as _;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::{ValueRef, archived};

/// A string in quotes.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Not for JSON's sake: `</script>` and the line separators mean something in a page.
            '\0'..='\x1f' | '<' | '>' | '&' | '\x7f' | '\u{2028}' | '\u{2029}' => {
                display(out, format_args!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// Anything whose `Display` is JSON as it is.
pub(crate) fn display(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a `String` does not fail.
    let _ = write!(out, "{value}");
}

/// A value. Depth is bounded by what a record may hold.
pub(crate) fn value(out: &mut String, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.push_str("null"),
        ValueRef::Bool(b) => display(out, b),
        ValueRef::I64(n) => display(out, n),
        ValueRef::U64(n) => display(out, n),
        // `Debug` keeps the point and the exponent; JSON has neither infinity nor NaN.
        ValueRef::F64(n) if n.is_finite() => display(out, format_args!("{n:?}")),
        ValueRef::F64(_) => out.push_str("null"),
        ValueRef::Str(s) => string(out, s),
        ValueRef::Bytes(b) => display(out, format_args!("{{\"bytes\":\"{}\"}}", base64(b))),
        ValueRef::Archived(b) => display(out, format_args!("{{\"archived\":{}}}", archived::archive_len(b))),
        ValueRef::Timestamp(t) => display(out, format_args!("\"{t}\"")),
        ValueRef::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                self::value(out, item);
            }
            out.push(']');
        }
        ValueRef::Map(entries) => map(out, entries.iter()),
    }
}

/// An object of values.
pub(crate) fn map<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, ValueRef<'a>)>) {
    out.push('{');
    for (index, (key, item)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        string(out, key);
        out.push(':');
        value(out, item);
    }
    out.push('}');
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A value that any serializer writes as [`value`] does.
pub(crate) struct Viewed<'a>(pub(crate) ValueRef<'a>);

impl Serialize for Viewed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tagged = |serializer: S| serializer.serialize_map(Some(1));
        match self.0 {
            ValueRef::Bytes(b) => {
                let mut map = tagged(serializer)?;
                map.serialize_entry("bytes", &base64(b))?;
                map.end()
            }
            ValueRef::Archived(b) => {
                let mut map = tagged(serializer)?;
                map.serialize_entry("archived", &archived::archive_len(b))?;
                map.end()
            }
            ValueRef::Timestamp(t) => serializer.collect_str(&t),
            ValueRef::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for item in list.iter() {
                    seq.serialize_element(&Self(item))?;
                }
                seq.end()
            }
            ValueRef::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, item) in entries.iter() {
                    map.serialize_entry(key, &Self(item))?;
                }
                map.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}
