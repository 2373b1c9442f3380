//! What makes a redb file one of ours: table names, the meta table and the format numbers, each written once
//! here. It reads and writes the meta table; it knows nothing of rows beyond their layout's name.

use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle, WriteTransaction,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{StoreError, StoreErrorKind};
use crate::store::row;

/// A session's id.
pub(super) type Key = [u8; 32];

/// Id → row, laid out by `store/row.rs`.
pub(super) const SESSIONS: TableDefinition<'static, &'static Key, &'static [u8]> =
    TableDefinition::new("sessile.sessions");
/// (Time, id): the row of that id is not due before that time. See `tables.rs` for why it may be late.
pub(super) const EXPIRY: TableDefinition<'static, (u64, &'static Key), ()> =
    TableDefinition::new("sessile.expiry");
/// (Owner, id).
pub(super) const OWNERS: TableDefinition<'static, (&'static str, &'static Key), ()> =
    TableDefinition::new("sessile.owners");
/// Id → the damaged row's bytes as they were found.
pub(super) const QUARANTINE: TableDefinition<'static, &'static Key, &'static [u8]> =
    TableDefinition::new("sessile.quarantine");
/// Name → checked value.
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("sessile.meta");

/// The key of the meta row that identifies the file: magic, format version (u32), layout fingerprint (u64)
/// and the checksum of these (u64), little-endian. Magic and version keep their place in every format.
const FORMAT_KEY: &str = "format";
/// The key of the high-water mark: ms since the Unix epoch (u64) and its checksum (u64), little-endian.
const HIGH_WATER_KEY: &str = "high_water";

const MAGIC: [u8; 8] = *b"SESSILE\0";

/// The version this build writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A redb file without any table: just created, or its creation was cut short.
    Empty,
    /// One of ours, of the current format.
    Ours,
}

fn fingerprint() -> u64 {
    xxh3_64(row::LAYOUT.as_bytes())
}

fn format_value(version: u32) -> Vec<u8> {
    let mut value = MAGIC.to_vec();
    value.extend_from_slice(&version.to_le_bytes());
    value.extend_from_slice(&fingerprint().to_le_bytes());
    value.extend_from_slice(&xxh3_64(&value).to_le_bytes());
    value
}

/// Why an identification was refused.
pub(super) enum Refused {
    Redb(redb::Error),
    Store(StoreErrorKind, String),
}

impl<E: Into<redb::Error>> From<E> for Refused {
    fn from(e: E) -> Self {
        Self::Redb(e.into())
    }
}

impl Refused {
    pub(super) fn into_store(self, map: impl FnOnce(redb::Error) -> StoreError) -> StoreError {
        match self {
            Self::Redb(e) => map(e),
            Self::Store(kind, message) => StoreError::new(kind, super::NAME, message),
        }
    }
}

/// Reads what kind of file `db` is, without writing.
pub(super) fn identify(db: &Database) -> Result<Found, Refused> {
    let foreign = |why: &str| Refused::Store(StoreErrorKind::Foreign, format!("not a sessile file: {why}"));
    let tx = db.begin_read()?;
    let mut names = tx.list_tables()?;
    if !names.any(|t| t.name() == META.name()) {
        let other = tx.list_tables()?.next().is_some() || tx.list_multimap_tables()?.next().is_some();
        return if other { Err(foreign("it holds another program's tables")) } else { Ok(Found::Empty) };
    }
    let meta = match tx.open_table(META) {
        Ok(table) => table,
        Err(TableError::Storage(e)) => return Err(e.into()),
        Err(_) => return Err(foreign("its meta table has other types")),
    };
    let Some(value) = meta.get(FORMAT_KEY)? else {
        return Err(foreign("its meta table does not identify it"));
    };
    let value = value.value();
    let Some((magic, rest)) = value.split_first_chunk::<8>() else {
        return Err(foreign("its meta table does not identify it"));
    };
    if *magic != MAGIC {
        return Err(foreign("its magic number is another"));
    }
    let version = rest.first_chunk::<4>().map_or(0, |v| u32::from_le_bytes(*v));
    if version > FORMAT_VERSION {
        return Err(Refused::Store(
            StoreErrorKind::NewerFormat,
            format!("the file has format {version}; this version of sessile reads up to {FORMAT_VERSION}"),
        ));
    }
    if value != format_value(FORMAT_VERSION) {
        return Err(Refused::Store(
            StoreErrorKind::Corrupt,
            "the row that identifies the file is damaged, or its rows have an unreleased layout".into(),
        ));
    }
    Ok(Found::Ours)
}

/// Makes an empty redb file one of ours. Part of the transaction it is given.
pub(super) fn initialise(tx: &WriteTransaction) -> Result<(), redb::Error> {
    tx.open_table(SESSIONS)?;
    tx.open_table(EXPIRY)?;
    tx.open_table(OWNERS)?;
    tx.open_table(QUARANTINE)?;
    tx.open_table(META)?.insert(FORMAT_KEY, &*format_value(FORMAT_VERSION))?;
    Ok(())
}

fn read_mark(value: Option<&[u8]>) -> u64 {
    let checked = value.and_then(|v| {
        let (mark, check) = v.split_first_chunk::<8>()?;
        (*check == xxh3_64(mark).to_le_bytes()).then(|| u64::from_le_bytes(*mark))
    });
    if value.is_some() && checked.is_none() {
        tracing::warn!(store = super::NAME, "the high-water mark is damaged and counts as 0");
    }
    checked.unwrap_or(0)
}

/// The high-water mark. A damaged one counts as 0: it is a floor for clocks that went backward, and losing
/// it is better than losing the file or adopting a far future.
pub(super) fn high_water(db: &Database) -> Result<u64, redb::Error> {
    let meta = db.begin_read()?.open_table(META)?;
    Ok(read_mark(meta.get(HIGH_WATER_KEY)?.as_ref().map(|v| v.value())))
}

/// Raises the high-water mark to `to`, never lowers it.
pub(super) fn raise_high_water(tx: &WriteTransaction, to: u64) -> Result<(), redb::Error> {
    let mut meta = tx.open_table(META)?;
    let now = read_mark(meta.get(HIGH_WATER_KEY)?.as_ref().map(|v| v.value()));
    if to > now {
        let mut value = to.to_le_bytes().to_vec();
        value.extend_from_slice(&xxh3_64(&value).to_le_bytes());
        meta.insert(HIGH_WATER_KEY, &*value)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    //! Files that are nearly ours.

    /// Rewrites the identifying row as if format `version` had written it.
    pub(in crate::store::redb) fn set_version(db: &redb::Database, version: u32) {
        let tx = db.begin_write().unwrap();
        tx.open_table(super::META)
            .unwrap()
            .insert(super::FORMAT_KEY, &*super::format_value(version))
            .unwrap();
        tx.commit().unwrap();
    }
}
