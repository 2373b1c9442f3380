//! Rows as the columns of an `UNNEST`: how many rows go into a statement as five parameters. It knows no client.

use sessile_engine::store::Row;

use crate::sql::plan::Key;
use crate::sql::signed;

/// Bytes in one statement; the server takes less than 1 GiB.
pub(crate) const PIECE: usize = 64 << 20;

#[derive(Default)]
pub(crate) struct Columns<'a> {
    pub(crate) ids: Vec<&'a [u8]>,
    pub(crate) versions: Vec<i64>,
    pub(crate) expiries: Vec<i64>,
    pub(crate) owners: Vec<Option<&'a [u8]>>,
    pub(crate) bytes: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    pub(crate) fn of(rows: &'a [(Key, &'a Row)]) -> Self {
        let mut columns = Self::default();
        for (id, row) in rows {
            columns.ids.push(id);
            columns.versions.push(signed(row.version));
            columns.expiries.push(signed(row.expires_at));
            columns.owners.push(row.owner.as_deref().map(str::as_bytes));
            columns.bytes.push(&row.bytes);
        }
        columns
    }
}
