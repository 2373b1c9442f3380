//! A snapshot as JSON, for people and tools. It only looks.

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use super::Snapshot;
use crate::value::{Timestamp, ValueRef, json};

/// The moment of a time in a record.
fn moment(ms: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000))
}

impl Snapshot {
    /// The session as JSON, for an admin page, a support ticket or `jq`: it cannot be read back. It shows all
    /// values, so it is as secret as the session is; the owner is left out, see
    /// [`to_json_with_owner`](Self::to_json_with_owner).
    ///
    /// Times are RFC 3339 in UTC, the idle timeout is in seconds, bytes are `{"bytes":"<base64>"}`, an rkyv archive is
    /// `{"archived":<length>}`, and a float that JSON cannot express is `null`. The text can be put into a
    /// page's `<script>` as it is. `Serialize` gives the same through any serializer.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("name", "ann")?;
    /// let Some(snapshot) = session.snapshot() else { return Ok(()) };
    /// assert!(snapshot.to_json().ends_with(r#""data":{"name":"ann"}}"#));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        self.json(false)
    }

    /// As [`to_json`](Self::to_json), with the owner or `null` under `owner`.
    #[must_use]
    pub fn to_json_with_owner(&self) -> String {
        self.json(true)
    }

    fn json(&self, with_owner: bool) -> String {
        let meta = self.record.meta();
        let mut out = String::with_capacity(256 + self.record.byte_len());
        out.push('{');
        if with_owner {
            out.push_str("\"owner\":");
            match self.owner() {
                Some(owner) => json::string(&mut out, owner),
                None => out.push_str("null"),
            }
            out.push(',');
        }
        for (name, ms) in [
            ("created_at", Some(meta.created_at)),
            ("last_seen", Some(meta.last_seen)),
            ("deadline", Some(meta.deadline)),
            ("authenticated_at", meta.authenticated_at.map(u64::from)),
        ] {
            match ms {
                Some(ms) => json::display(&mut out, format_args!("\"{name}\":\"{}\",", moment(ms))),
                None => json::display(&mut out, format_args!("\"{name}\":null,")),
            }
        }
        match meta.idle_timeout {
            Some(ms) => json::display(&mut out, format_args!("\"idle_timeout\":{:?},", seconds(ms.get()))),
            None => out.push_str("\"idle_timeout\":null,"),
        }
        json::display(
            &mut out,
            format_args!("\"persistent\":{},\"version\":{},\"data\":", meta.persistent, meta.version),
        );
        json::map(&mut out, self.iter());
        out.push('}');
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// As [`Snapshot::to_json`]: without the owner.
impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Data<'a>(&'a Snapshot);

        impl Serialize for Data<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (key, value) in self.0.iter() {
                    map.serialize_entry(key, &json::Viewed(value))?;
                }
                map.end()
            }
        }

        /// A moment as its text, in formats for people or not.
        struct Text(u64);

        impl Serialize for Text {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                json::Viewed(ValueRef::Timestamp(moment(self.0))).serialize(serializer)
            }
        }

        let meta = self.record.meta();
        let mut view = serializer.serialize_struct("Snapshot", 8)?;
        view.serialize_field("created_at", &Text(meta.created_at))?;
        view.serialize_field("last_seen", &Text(meta.last_seen))?;
        view.serialize_field("deadline", &Text(meta.deadline))?;
        view.serialize_field("authenticated_at", &meta.authenticated_at.map(|ms| Text(ms.get())))?;
        view.serialize_field("idle_timeout", &meta.idle_timeout.map(|ms| seconds(ms.get())))?;
        view.serialize_field("persistent", &meta.persistent)?;
        view.serialize_field("version", &meta.version)?;
        view.serialize_field("data", &Data(self))?;
        view.end()
    }
}
