//! What the SQL stores have in common: names, numbers, the checks of rows, and the plan of a commit. It knows no server
//! and runs no statement.

pub(crate) mod name;
pub(crate) mod plan;
#[cfg(any(feature = "postgres", feature = "sqlx-0_9", feature = "diesel-async-0_9"))]
pub(crate) mod postgres;
#[cfg(any(
    feature = "postgres",
    feature = "sqlx-0_9",
    feature = "diesel-async-0_9",
    feature = "mysql",
    feature = "mssql"
))]
pub(crate) mod server;

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Listed, Row, Scanned, StoreError, StoreErrorKind};

/// Version of the tables' layout, in the row `schema` of the table of marks.
pub(crate) const SCHEMA: i64 = 1;
/// Largest row in bytes.
pub(crate) const MAX_ROW_BYTES: usize = 16 << 20;
const MAX_OWNER: usize = 255;

/// Says whether the schema that was found is the one that is known.
pub(crate) fn check_schema(store: &'static str, found: Option<i64>) -> Result<(), StoreError> {
    match found {
        Some(SCHEMA) => Ok(()),
        Some(newer) if newer > SCHEMA => Err(StoreError::new(
            StoreErrorKind::NewerFormat,
            store,
            format!("its tables are of version {newer}; this release knows {SCHEMA}"),
        )),
        other => Err(StoreError::new(
            StoreErrorKind::Config,
            store,
            format!("its tables are not those of sessile (version {other:?}, not {SCHEMA}); see `migrate`"),
        )),
    }
}

/// What to say of tables that are not there.
pub(crate) fn no_tables(store: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Config, store, "its tables are not there; see `migrate` and `schema_sql`")
}

pub(crate) fn closed(store: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Closed, store, "the store was closed")
}

pub(crate) fn damaged(store: &'static str, id: &SessionId) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, store, format!("the row of {id:?} is damaged"))
}

/// Refuses rows that the contract does not allow, before anything is applied.
pub(crate) fn check_rows(store: &'static str, max: usize, changes: &[Change]) -> Result<(), StoreError> {
    for change in changes {
        let (Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. }) = change
        else {
            continue;
        };
        let too_large = |what: String| Err(StoreError::new(StoreErrorKind::TooLarge, store, what));
        if row.owner.as_ref().is_some_and(|o| o.len() > MAX_OWNER) {
            return too_large("an owner is longer than 255 bytes".into());
        }
        if row.bytes.len() > max {
            return too_large(format!("a row of {} bytes is larger than {max}", row.bytes.len()));
        }
    }
    Ok(())
}

/// A `u64` in a signed column keeps its bits. What fits in 63 bits (any time for 292 million years) reads as itself;
/// "never", the largest, is -1.
#[must_use]
pub(crate) const fn signed(n: u64) -> i64 {
    n.cast_signed()
}

#[must_use]
pub(crate) const fn unsigned(n: i64) -> u64 {
    n.cast_unsigned()
}

/// A row as it came out of the table.
pub(crate) struct Raw {
    pub(crate) id: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) expires_at: u64,
    pub(crate) owner: Option<Vec<u8>>,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    /// A row of numbers that are [`signed`]: its id, version, expiry, owner and bytes.
    pub(crate) fn of(columns: (Vec<u8>, i64, i64, Option<Vec<u8>>, Vec<u8>)) -> Self {
        let (id, version, expires_at, owner, bytes) = columns;
        Self { id, version: unsigned(version), expires_at: unsigned(expires_at), owner, bytes }
    }

    /// The row, or `None` if its owner is not text: then somebody else wrote it.
    pub(crate) fn row(self) -> Option<Row> {
        let owner = match self.owner {
            None => None,
            Some(owner) => Some(String::from_utf8(owner).ok()?.into()),
        };
        Some(Row { version: self.version, expires_at: self.expires_at, owner, bytes: self.bytes })
    }
}

/// The rows and the damaged ones of one page, in the order given. A key of another length is no session's, and is left
/// out.
pub(crate) fn sort(raw: Vec<Raw>) -> (Vec<Listed>, Vec<SessionId>) {
    let (mut rows, mut damaged) = (Vec::with_capacity(raw.len()), Vec::new());
    for raw in raw {
        let Ok(id) = <[u8; 32]>::try_from(raw.id.as_slice()) else { continue };
        let id = SessionId::from_bytes(id);
        match raw.row() {
            Some(row) => rows.push(Listed { id, row }),
            None => damaged.push(id),
        }
    }
    (rows, damaged)
}

/// Collects a listing: whoever asks for `limit` rows gets as many, though some between them are damaged.
pub(crate) struct Listing {
    pub(crate) after: Option<Vec<u8>>,
    limit: usize,
    rows: Vec<Listed>,
}

impl Listing {
    pub(crate) fn new(after: Option<SessionId>, limit: usize) -> Self {
        Self { after: after.map(|id| id.as_bytes().to_vec()), limit, rows: Vec::new() }
    }

    /// Rows to ask for; 0 if all are there.
    pub(crate) fn wanted(&self) -> usize {
        self.limit.saturating_sub(self.rows.len())
    }

    /// Takes a page of at most [`wanted`](Self::wanted) rows; `false` if the listing is complete.
    pub(crate) fn take(&mut self, page: Vec<Raw>) -> bool {
        let is_last = page.len() < self.wanted();
        self.after = page.last().map(|raw| raw.id.clone());
        self.rows.append(&mut sort(page).0);
        !is_last && self.wanted() > 0
    }

    pub(crate) fn rows(self) -> Vec<Listed> {
        self.rows
    }
}

/// One page with the damaged rows' names.
pub(crate) fn scanned(page: Vec<Raw>, limit: usize) -> Scanned {
    let is_full = page.len() >= limit && limit > 0;
    let last = page.last().and_then(|raw| <[u8; 32]>::try_from(raw.id.as_slice()).ok());
    let (rows, damaged) = sort(page);
    Scanned { rows, damaged, last: last.filter(|_| is_full).map(SessionId::from_bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_keep_their_bits_and_their_order(a: u64, b: u64) {
            prop_assert_eq!(unsigned(signed(a)), a);
            // The order that the statements use: the negative ones are behind all others.
            let order = |n: u64| (signed(n) < 0, signed(n));
            prop_assert_eq!(a.cmp(&b), order(a).cmp(&order(b)));
        }
    }

    #[test]
    fn other_schemas_are_refused() {
        assert!(check_schema("x", Some(SCHEMA)).is_ok());
        for (found, kind) in [
            (None, StoreErrorKind::Config),
            (Some(0), StoreErrorKind::Config),
            (Some(SCHEMA + 1), StoreErrorKind::NewerFormat),
        ] {
            assert_eq!(check_schema("x", found).map_err(|e| e.kind()), Err(kind));
        }
    }
}
