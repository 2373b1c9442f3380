//! A struct as several keys: each field under its own name, all of them in one step. It decides what becomes of a
//! record; serde's part is in `value::fields`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::is_reserved;
use super::{Session, Snapshot, Transaction};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Limits, Meta, Record};
use crate::value::ValueRef;
use crate::value::fields::{Field, decode_fields, encode_fields};

/// The fields of `value`, none under a name of sessile's own.
fn fields_of<T: Serialize + ?Sized>(value: &T) -> Result<Vec<Field>> {
    let fields = encode_fields(value)?;
    match fields.iter().find(|(key, _)| is_reserved(key)) {
        Some((key, _)) => {
            Err(Error::new(ErrorKind::InvalidKey, "keys that begin with `sessile.` are reserved")
                .with_key(key))
        }
        None => Ok(fields),
    }
}

/// `record` with `fields` put into it or removed from it; `None` if that changes nothing. Limits count for the result
/// only, whatever the order of the steps.
fn apply(record: &Record, meta: &Meta, fields: &[Field], limits: &Limits) -> Result<Option<Record>> {
    let between = Limits { max_record_bytes: usize::MAX, max_keys: usize::MAX, ..*limits };
    let mut work = record.clone();
    for (key, value) in fields {
        match value {
            None => work = work.remove(meta, key).unwrap_or(work),
            Some(value) if work.get(key).is_some_and(|old| same(old, value.as_value_ref())) => {}
            Some(value) => work = work.put(meta, key, value, &between)?,
        }
    }
    if work.ptr_eq(record) {
        return Ok(None);
    }
    work.check_growth(record, limits)?;
    Ok(Some(work))
}

/// Whether both are the same bytes. 0.0 equals -0.0 as a number only.
fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::F64(a), ValueRef::F64(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

fn read<'a, T: Deserialize<'a>>(record: &'a Record) -> Result<Option<T>> {
    decode_fields(record.iter().filter(|(key, _)| !is_reserved(key)))
}

impl Session {
    /// Reads a struct whose fields are keys of the session, all at the same moment. `None` if the session has none of
    /// them. Other keys are left out of account.
    ///
    /// `T` may also be a map from strings, which then gets every key. An `Option` without a key is `None`,
    /// and `#[serde(default)]`, `rename` and `flatten` do what they say.
    ///
    /// # Errors
    /// [`ErrorKind::MissingField`], naming the key, if some fields are there and one that is required is not;
    /// [`ErrorKind::TypeMismatch`], naming the key, if a value is of another type, or if `T` is neither struct nor map.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, PartialEq, Debug)]
    /// struct Profile {
    ///     name: String,
    ///     theme: Option<String>,
    /// }
    ///
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// assert_eq!(session.get_struct::<Profile>()?, None);
    /// let profile = Profile { name: "ann".into(), theme: None };
    /// session.put_struct(&profile)?;
    /// assert_eq!(session.get::<String>("name")?.as_deref(), Some("ann"));
    /// assert_eq!(session.get_struct()?, Some(profile));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn get_struct<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        match self.record() {
            Some(record) => read(&record),
            None => Ok(None),
        }
    }

    /// Stores each field of a struct, or each entry of a map, under a key of its own, all in one step. A field that is
    /// `None`, or skipped while serializing, is removed. Keys that `T` does not have stay. Fields that
    /// are stored already as they are cost no write. (serde tells nothing of skipped fields of a struct with `flatten`:
    /// what was under them stays. `None` is removed there too.)
    ///
    /// # Errors
    /// [`ErrorKind::Serialize`] if `value` is neither struct nor map, [`ErrorKind::InvalidKey`] for a field whose name
    /// begins with `sessile.`; otherwise as [`put`](Self::put). Nothing is changed on any of them.
    ///
    /// # Durability
    /// As [`put`](Self::put).
    ///
    /// # Complexity
    /// O(fields × size of the record).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// #[derive(serde::Serialize)]
    /// struct Theme<'a> {
    ///     theme: &'a str,
    /// }
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("name", "ann")?;
    /// session.put_struct(&Theme { theme: "dark" })?;
    /// assert_eq!(session.keys(), ["name", "theme"]);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn put_struct<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let fields = fields_of(value)?;
        // What only removes keys begins no session.
        let create = fields.iter().any(|(_, value)| value.is_some());
        let limits = self.core().config.limits;
        self.edit(create, None, |record, meta| Ok((apply(record, &meta, &fields, &limits)?, ())))?;
        Ok(())
    }

    /// Atomic read-modify-write of a struct's keys, as [`update`](Self::update) is of one key.
    ///
    /// # Errors
    /// As [`get_struct`](Self::get_struct) and [`put_struct`](Self::put_struct).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// #[derive(serde::Serialize, serde::Deserialize, Default)]
    /// struct Counters {
    ///     seen: u32,
    ///     bought: u32,
    /// }
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.update_struct(|old: Option<Counters>| {
    ///     let old = old.unwrap_or_default();
    ///     Counters { seen: old.seen + 1, ..old }
    /// })?;
    /// assert_eq!(session.get::<u32>("seen")?, Some(1));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn update_struct<T: Serialize + DeserializeOwned>(
        &self,
        mut f: impl FnMut(Option<T>) -> T,
    ) -> Result<T> {
        self.transact(|tx| {
            let new = f(tx.get_struct()?);
            tx.put_struct(&new)?;
            Ok(new)
        })
    }
}

impl Transaction {
    /// As [`Session::get_struct`].
    ///
    /// # Errors
    /// As there.
    pub fn get_struct<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        read(&self.work)
    }

    /// As [`Session::put_struct`].
    ///
    /// # Errors
    /// As there.
    pub fn put_struct<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let fields = fields_of(value)?;
        if let Some(new) = apply(&self.work, &self.work.meta(), &fields, &self.limits)? {
            self.work = new;
        }
        Ok(())
    }
}

impl Snapshot {
    /// As [`Session::get_struct`]; strings and bytes may be borrowed.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// #[derive(serde::Deserialize)]
    /// struct Name<'a> {
    ///     name: &'a str,
    /// }
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.put("name", "ann")?;
    /// let Some(snapshot) = session.snapshot() else { return Ok(()) };
    /// assert_eq!(snapshot.get_struct::<Name>()?.map(|n| n.name), Some("ann"));
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn get_struct<'a, T: Deserialize<'a>>(&'a self) -> Result<Option<T>> {
        read(&self.record)
    }
}
