//! The statements of the SQL Server store, and its schema. It runs none. Their texts do not depend on what they carry, so
//! that the server compiles each once: rows travel as parameters, lists of them as JSON beside their bytes.

use std::fmt::Write as _;

use crate::sql::name::Name;
use crate::sql::plan::{Key, Plan};
use crate::sql::{SCHEMA, signed};
use sessile_engine::store::Row;

/// Rows of the table of marks that hold the high-water mark. Commits at the same time raise different ones: with one
/// row each would wait for the disk of the one before.
const SLOTS: u32 = 32;

/// May be run again, and by several machines at once: who comes second meets an error that says so.
const TABLES: &str = "\
SET XACT_ABORT ON;
BEGIN TRANSACTION;
-- Sessions. Numbers are unsigned in 64 bits: -1 is the largest, which means never.
IF OBJECT_ID(N'{t}', N'U') IS NULL
CREATE TABLE {t} (
  id binary(32) NOT NULL PRIMARY KEY,
  version bigint NOT NULL,
  expires_at bigint NOT NULL, -- ms since the Unix epoch
  owner varbinary(255) NULL, -- UTF-8, compared byte by byte
  bytes varbinary(max) NOT NULL,
  INDEX {expiry} (expires_at),
  INDEX {owner} (owner, id)
);
-- Damaged sessions, kept for the operator. Nothing reads them.
IF OBJECT_ID(N'{q}', N'U') IS NULL
CREATE TABLE {q} (
  entry bigint NOT NULL IDENTITY(1, 1) PRIMARY KEY,
  id binary(32) NOT NULL,
  version bigint NOT NULL,
  expires_at bigint NOT NULL,
  owner varbinary(255) NULL,
  bytes varbinary(max) NOT NULL,
  quarantined_at bigint NOT NULL
);
-- The version of these tables (-1), and the high-water mark (the largest of the others).
IF OBJECT_ID(N'{m}', N'U') IS NULL
CREATE TABLE {m} (
  slot int NOT NULL PRIMARY KEY,
  value bigint NOT NULL
);
INSERT INTO {m} (slot, value)
SELECT v.slot, v.value FROM (VALUES {marks}) AS v (slot, value)
WHERE NOT EXISTS (SELECT 1 FROM {m} AS m WHERE m.slot = v.slot);
COMMIT TRANSACTION;
";

const VALUES: &str = "id, version, expires_at, owner, bytes";

/// Raises the mark in `$`, in unsigned order.
const RAISE: &str = "\
UPDATE {m} SET value = $ WHERE slot = @@SPID % 32
AND ((value >= 0 AND ($ < 0 OR value < $)) OR (value < 0 AND $ < 0 AND value < $))";
const _: () = assert!(SLOTS == 32, "as RAISE says");

/// Writes a plan if the rows are still as they were read, else nothing. What was to be written, and what would have been,
/// are counted: the two are the same, or somebody was faster.
const WRITE: &str = "\
SET NOCOUNT ON;
SET XACT_ABORT ON;
DECLARE @done bigint = 0;
BEGIN TRANSACTION;
INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at)
SELECT s.id, s.version, s.expires_at, s.owner, s.bytes, @P3
FROM OPENJSON(@P1, '$.quarantine') WITH (id char(64) '$.id', expected bigint '$.expected') AS k
INNER JOIN {t} AS s WITH (UPDLOCK, ROWLOCK, FORCESEEK)
ON s.id = CONVERT(binary(32), k.id, 2) AND s.version = k.expected;
SET @done = @done + @@ROWCOUNT;
DELETE s
FROM OPENJSON(@P1, '$.delete') WITH (id char(64) '$.id', expected bigint '$.expected') AS k
INNER JOIN {t} AS s WITH (UPDLOCK, ROWLOCK, FORCESEEK)
ON s.id = CONVERT(binary(32), k.id, 2) AND s.version = k.expected;
SET @done = @done + @@ROWCOUNT;
UPDATE s
SET version = k.version, expires_at = k.expires_at, owner = CONVERT(varbinary(255), k.owner, 2), \
bytes = SUBSTRING(@P2, k.start, k.length)
FROM OPENJSON(@P1, '$.update') WITH (id char(64) '$.id', expected bigint '$.expected', {columns}) AS k
INNER JOIN {t} AS s WITH (UPDLOCK, ROWLOCK, FORCESEEK)
ON s.id = CONVERT(binary(32), k.id, 2) AND s.version = k.expected;
SET @done = @done + @@ROWCOUNT;
INSERT INTO {t} (id, version, expires_at, owner, bytes)
SELECT {values}
FROM OPENJSON(@P1, '$.insert') WITH (id char(64) '$.id', {columns}) AS k;
SET @done = @done + @@ROWCOUNT;
INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at)
SELECT {values}, @P3
FROM OPENJSON(@P1, '$.quarantine_new') WITH (id char(64) '$.id', {columns}) AS k;
SET @done = @done + @@ROWCOUNT;
IF @done = @P4
BEGIN
{raise};
COMMIT TRANSACTION;
END
ELSE
BEGIN
ROLLBACK TRANSACTION;
END;
SELECT @done AS done;
";
const COLUMNS: &str = "version bigint '$.version', expires_at bigint '$.expires_at', owner varchar(510) '$.owner', \
                       start int '$.start', length int '$.length'";
const FROM_JSON: &str = "CONVERT(binary(32), k.id, 2), k.version, k.expires_at, CONVERT(varbinary(255), k.owner, 2), \
                         SUBSTRING(@P2, k.start, k.length)";

/// Removes what is due, the longest due first. What somebody else holds is skipped: it is being changed, or removed, right
/// now.
const EXPIRE: &str = "\
SET NOCOUNT ON;
SET XACT_ABORT ON;
DECLARE @removed bigint;
BEGIN TRANSACTION;
WITH due AS (
SELECT TOP (@P2) id FROM {t} WITH (UPDLOCK, ROWLOCK, READPAST) WHERE {due} ORDER BY {order}
)
DELETE FROM due;
SET @removed = @@ROWCOUNT;
{raise};
COMMIT TRANSACTION;
SELECT @removed AS removed, \
CASE WHEN EXISTS (SELECT 1 FROM {t} WITH (READPAST) WHERE {due}) THEN 1 ELSE 0 END AS more;
";

/// All statements, with the table's names in them.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) schema: String,
    pub(super) found: String,
    pub(super) mark: String,
    pub(super) count: String,
    /// Of an id.
    pub(super) load: String,
    /// Of a number of rows.
    pub(super) first: String,
    /// Of an id and a number of rows.
    pub(super) next: String,
    /// Of an owner.
    pub(super) list_owner: String,
    /// Of a list of ids in JSON.
    pub(super) versions: String,
    /// Of a plan in JSON, the bytes beside it, the time, and how many rows it is about.
    pub(super) write: String,
    /// Of the time, a number of rows, and the mark.
    pub(super) expire: String,
    /// The same for a time that no signed number holds.
    pub(super) expire_beyond: String,
}

/// The parameters of `write` that depend on the plan.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) json: String,
    pub(super) bytes: Vec<u8>,
    pub(super) rows: i64,
}

/// What a new connection is told. Who has gone away must not wait for a lock for ever.
pub(super) fn settings(lock_timeout_ms: u64) -> String {
    format!(
        "SET XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCK_TIMEOUT {lock_timeout_ms}"
    )
}

impl Texts {
    pub(super) fn new(name: &Name) -> Self {
        let fill = |text: &str| {
            let marks: Vec<String> = (0..SLOTS).map(|slot| format!("({slot}, 0)")).collect();
            let text = text
                .replace("{marks}", &format!("(-1, {SCHEMA}), {}", marks.join(", ")))
                .replace("{columns}", COLUMNS)
                .replace("{values}", FROM_JSON)
                .replace("{expiry}", &name.bare('"', "_expiry"))
                .replace("{owner}", &name.bare('"', "_owner"));
            in_brackets(&name.fill('"', &text))
        };
        let expire = |due: &str, order: &str| {
            fill(
                &EXPIRE
                    .replace("{due}", due)
                    .replace("{order}", order)
                    .replace("{raise}", &RAISE.replace('$', "@P3")),
            )
        };
        Self {
            schema: fill(TABLES),
            found: fill("SELECT value FROM {m} WHERE slot = -1"),
            // The largest of unsigned numbers.
            mark: fill(
                "SELECT TOP (1) value FROM {m} WHERE slot >= 0 \
                 ORDER BY CASE WHEN value < 0 THEN 0 ELSE 1 END, value DESC",
            ),
            count: fill("SELECT COUNT_BIG(*) FROM {t}"),
            load: fill(&format!("SELECT {VALUES} FROM {{t}} WHERE id = CONVERT(binary(32), @P1)")),
            first: fill(&format!("SELECT TOP (@P1) {VALUES} FROM {{t}} ORDER BY id")),
            next: fill(&format!(
                "SELECT TOP (@P2) {VALUES} FROM {{t}} WHERE id > CONVERT(binary(32), @P1) ORDER BY id"
            )),
            // Whether bytes of zero at the end count is no matter of the comparison then.
            list_owner: fill(&format!(
                "SELECT {VALUES} FROM {{t}} WHERE owner = CONVERT(varbinary(255), @P1) \
                 AND DATALENGTH(owner) = DATALENGTH(@P1) ORDER BY id"
            )),
            versions: fill(
                "SELECT s.id, s.version FROM OPENJSON(@P1) WITH (id char(64) '$') AS k \
                 INNER JOIN {t} AS s WITH (FORCESEEK) ON s.id = CONVERT(binary(32), k.id, 2)",
            ),
            write: fill(&WRITE.replace("{raise}", &RAISE.replace('$', "@P3"))),
            expire: expire("expires_at BETWEEN 0 AND @P1", "expires_at"),
            // Behind 2^63 the index is of no use; nobody lives that long.
            expire_beyond: expire(
                "(expires_at >= 0 OR expires_at <= @P1)",
                "CASE WHEN expires_at < 0 THEN 1 ELSE 0 END, expires_at",
            ),
        }
    }
}

/// Puts names into brackets, which need no setting of the session as quotes do. There are no other quotes in a text, and
/// a name has neither.
fn in_brackets(text: &str) -> String {
    let mut is_open = false;
    text.chars()
        .map(|c| match c {
            '"' => {
                is_open = !is_open;
                if is_open { '[' } else { ']' }
            }
            c => c,
        })
        .collect()
}

fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS[usize::from(half)]));
        }
    }
}

/// Ids as the parameter of `versions`.
pub(super) fn list(ids: &[Key]) -> String {
    let mut out = String::with_capacity(2 + 67 * ids.len());
    out.push('[');
    for (n, id) in ids.iter().enumerate() {
        out.push_str(if n > 0 { ",\"" } else { "\"" });
        hex(&mut out, id);
        out.push('"');
    }
    out.push(']');
    out
}

impl Written {
    /// The parameters for `plan`, made of rows that have the versions `stored`.
    pub(super) fn of(plan: &Plan<'_>, stored: &std::collections::BTreeMap<Key, u64>) -> Self {
        let mut written = Self { json: String::from("{"), bytes: Vec::new(), rows: 0 };
        let expected = |id: &Key| stored.get(id).copied();
        written.list("quarantine", plan.quarantine.iter().map(|id| (id, expected(id), None)));
        written.list("delete", plan.delete.iter().map(|id| (id, expected(id), None)));
        written.list("update", plan.update.iter().map(|(id, row)| (id, expected(id), Some(*row))));
        written.list("insert", plan.insert.iter().map(|(id, row)| (id, None, Some(*row))));
        written.list("quarantine_new", plan.quarantine_new.iter().map(|(id, row)| (id, None, Some(*row))));
        written.json.push('}');
        written
    }

    fn list<'a>(&mut self, name: &str, rows: impl Iterator<Item = (&'a Key, Option<u64>, Option<&'a Row>)>) {
        let separator = if self.json.len() > 1 { "," } else { "" };
        let _ = write!(self.json, "{separator}\"{name}\":[");
        for (n, (id, expected, row)) in rows.enumerate() {
            self.json.push_str(if n > 0 { ",{\"id\":\"" } else { "{\"id\":\"" });
            hex(&mut self.json, id);
            self.json.push('"');
            if let Some(expected) = expected {
                let _ = write!(self.json, ",\"expected\":{}", signed(expected));
            }
            if let Some(row) = row {
                let (version, expires_at) = (signed(row.version), signed(row.expires_at));
                let _ = write!(self.json, ",\"version\":{version},\"expires_at\":{expires_at}");
                if let Some(owner) = &row.owner {
                    self.json.push_str(",\"owner\":\"");
                    hex(&mut self.json, owner.as_bytes());
                    self.json.push('"');
                }
                // Counted from 1.
                let _ =
                    write!(self.json, ",\"start\":{},\"length\":{}", self.bytes.len() + 1, row.bytes.len());
                self.bytes.extend_from_slice(&row.bytes);
            }
            self.json.push('}');
            self.rows += 1;
        }
        self.json.push(']');
    }
}

#[cfg(test)]
mod tests;
