//! The store's statements, letter by letter, and what each means in SQLite. A text that is not here is refused: whoever
//! changes a statement has to say here again what it means.

use rusqlite::types::Value;
use rusqlite::{Connection, Error, ErrorCode, params_from_iter};

const SETTINGS: &str =
    "SET XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCK_TIMEOUT {n}";

const SCHEMA: &str = "\
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
  INDEX {e} (expires_at),
  INDEX {o} (owner, id)
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
SELECT v.slot, v.value FROM (VALUES (-1, 1), (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), \
(8, 0), (9, 0), (10, 0), (11, 0), (12, 0), (13, 0), (14, 0), (15, 0), (16, 0), (17, 0), (18, 0), (19, 0), (20, 0), \
(21, 0), (22, 0), (23, 0), (24, 0), (25, 0), (26, 0), (27, 0), (28, 0), (29, 0), (30, 0), (31, 0)) AS v (slot, value)
WHERE NOT EXISTS (SELECT 1 FROM {m} AS m WHERE m.slot = v.slot);
COMMIT TRANSACTION;
";
const SCHEMA_HERE: &str = "\
CREATE TABLE IF NOT EXISTS {t} (
  id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 32),
  version INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  owner BLOB CHECK (length(owner) <= 255),
  bytes BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS {e} ON {t} (expires_at);
CREATE INDEX IF NOT EXISTS {o} ON {t} (owner, id);
CREATE TABLE IF NOT EXISTS {q} (
  entry INTEGER PRIMARY KEY AUTOINCREMENT,
  id BLOB NOT NULL CHECK (length(id) = 32),
  version INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  owner BLOB,
  bytes BLOB NOT NULL,
  quarantined_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS {m} (slot INTEGER NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO {m} (slot, value)
WITH RECURSIVE v (slot) AS (SELECT -1 UNION ALL SELECT slot + 1 FROM v WHERE slot < 31)
SELECT slot, slot < 0 FROM v WHERE slot NOT IN (SELECT slot FROM {m});
";

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
FROM OPENJSON(@P1, '$.update') WITH (id char(64) '$.id', expected bigint '$.expected', \
version bigint '$.version', expires_at bigint '$.expires_at', owner varchar(510) '$.owner', \
start int '$.start', length int '$.length') AS k
INNER JOIN {t} AS s WITH (UPDLOCK, ROWLOCK, FORCESEEK)
ON s.id = CONVERT(binary(32), k.id, 2) AND s.version = k.expected;
SET @done = @done + @@ROWCOUNT;
INSERT INTO {t} (id, version, expires_at, owner, bytes)
SELECT CONVERT(binary(32), k.id, 2), k.version, k.expires_at, CONVERT(varbinary(255), k.owner, 2), \
SUBSTRING(@P2, k.start, k.length)
FROM OPENJSON(@P1, '$.insert') WITH (id char(64) '$.id', \
version bigint '$.version', expires_at bigint '$.expires_at', owner varchar(510) '$.owner', \
start int '$.start', length int '$.length') AS k;
SET @done = @done + @@ROWCOUNT;
INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at)
SELECT CONVERT(binary(32), k.id, 2), k.version, k.expires_at, CONVERT(varbinary(255), k.owner, 2), \
SUBSTRING(@P2, k.start, k.length), @P3
FROM OPENJSON(@P1, '$.quarantine_new') WITH (id char(64) '$.id', \
version bigint '$.version', expires_at bigint '$.expires_at', owner varchar(510) '$.owner', \
start int '$.start', length int '$.length') AS k;
SET @done = @done + @@ROWCOUNT;
IF @done = @P4
BEGIN
UPDATE {m} SET value = @P3 WHERE slot = @@SPID % 32
AND ((value >= 0 AND (@P3 < 0 OR value < @P3)) OR (value < 0 AND @P3 < 0 AND value < @P3));
COMMIT TRANSACTION;
END
ELSE
BEGIN
ROLLBACK TRANSACTION;
END;
SELECT @done AS done;
";
/// In the order of the statements above; each is counted. A part of nothing is NULL here.
const WRITE_HERE: [&str; 5] = [
    "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at)
     SELECT s.id, s.version, s.expires_at, s.owner, s.bytes, ?3 FROM json_each(?1, '$.quarantine') AS k
     JOIN {t} AS s ON s.id = unhex(k.value->>'$.id') AND s.version = k.value->>'$.expected'",
    "DELETE FROM {t} WHERE (id, version) IN
     (SELECT unhex(k.value->>'$.id'), k.value->>'$.expected' FROM json_each(?1, '$.delete') AS k)",
    "UPDATE {t} SET version = k.value->>'$.version', expires_at = k.value->>'$.expires_at',
     owner = unhex(k.value->>'$.owner'), bytes = coalesce(substr(?2, k.value->>'$.start', k.value->>'$.length'), x'')
     FROM json_each(?1, '$.update') AS k
     WHERE {t}.id = unhex(k.value->>'$.id') AND {t}.version = k.value->>'$.expected'",
    "INSERT INTO {t} (id, version, expires_at, owner, bytes)
     SELECT unhex(k.value->>'$.id'), k.value->>'$.version', k.value->>'$.expires_at', unhex(k.value->>'$.owner'),
     coalesce(substr(?2, k.value->>'$.start', k.value->>'$.length'), x'') FROM json_each(?1, '$.insert') AS k",
    "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at)
     SELECT unhex(k.value->>'$.id'), k.value->>'$.version', k.value->>'$.expires_at', unhex(k.value->>'$.owner'),
     coalesce(substr(?2, k.value->>'$.start', k.value->>'$.length'), x''), ?3 FROM json_each(?1, '$.quarantine_new') AS k",
];
/// Of the mark and the connection's number.
const RAISE_HERE: &str = "UPDATE {m} SET value = ?1 WHERE slot = ?2 % 32
     AND ((value >= 0 AND (?1 < 0 OR value < ?1)) OR (value < 0 AND ?1 < 0 AND value < ?1))";

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
UPDATE {m} SET value = @P3 WHERE slot = @@SPID % 32
AND ((value >= 0 AND (@P3 < 0 OR value < @P3)) OR (value < 0 AND @P3 < 0 AND value < @P3));
COMMIT TRANSACTION;
SELECT @removed AS removed, CASE WHEN EXISTS (SELECT 1 FROM {t} WITH (READPAST) WHERE {due}) THEN 1 ELSE 0 END AS more;
";
const DUE: [(&str, &str, &str); 2] = [
    ("expire", "expires_at BETWEEN 0 AND @P1", "expires_at"),
    (
        "expire_beyond",
        "(expires_at >= 0 OR expires_at <= @P1)",
        "CASE WHEN expires_at < 0 THEN 1 ELSE 0 END, expires_at",
    ),
];

const ROW: [(&str, Type); 5] = [
    ("id", Type::Binary(32)),
    ("version", Type::BigInt),
    ("expires_at", Type::BigInt),
    ("owner", Type::VarBinary(255)),
    ("bytes", Type::VarBinary(u16::MAX)),
];
const VALUE: [(&str, Type); 1] = [("value", Type::BigInt)];

/// A statement that is one query: its name, its text, what it is here, and its columns.
type Query = (&'static str, &'static str, &'static str, &'static [(&'static str, Type)]);

const QUERIES: [Query; 8] = [
    ("found", "SELECT value FROM {m} WHERE slot = -1", "SELECT value FROM {m} WHERE slot = -1", &VALUE),
    (
        "mark",
        "SELECT TOP (1) value FROM {m} WHERE slot >= 0 \
         ORDER BY CASE WHEN value < 0 THEN 0 ELSE 1 END, value DESC",
        "SELECT value FROM {m} WHERE slot >= 0 ORDER BY value >= 0, value DESC LIMIT 1",
        &VALUE,
    ),
    ("count", "SELECT COUNT_BIG(*) FROM {t}", "SELECT count(*) FROM {t}", &VALUE),
    (
        "load",
        "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id = CONVERT(binary(32), @P1)",
        "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id = ?1",
        &ROW,
    ),
    (
        "first",
        "SELECT TOP (@P1) id, version, expires_at, owner, bytes FROM {t} ORDER BY id",
        "SELECT id, version, expires_at, owner, bytes FROM {t} ORDER BY id LIMIT ?1",
        &ROW,
    ),
    (
        "next",
        "SELECT TOP (@P2) id, version, expires_at, owner, bytes FROM {t} WHERE id > CONVERT(binary(32), @P1) ORDER BY id",
        "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id > ?1 ORDER BY id LIMIT ?2",
        &ROW,
    ),
    (
        "list_owner",
        "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE owner = CONVERT(varbinary(255), @P1) \
         AND DATALENGTH(owner) = DATALENGTH(@P1) ORDER BY id",
        "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE owner = ?1 ORDER BY id",
        &ROW,
    ),
    (
        "versions",
        "SELECT s.id, s.version FROM OPENJSON(@P1) WITH (id char(64) '$') AS k \
         INNER JOIN {t} AS s WITH (FORCESEEK) ON s.id = CONVERT(binary(32), k.id, 2)",
        "SELECT s.id, s.version FROM json_each(?1) AS k JOIN {t} AS s ON s.id = unhex(k.value)",
        &[ROW[0], ROW[1]],
    ),
];

#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Int,
    BigInt,
    Binary(u16),
    VarBinary(u16),
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) columns: Vec<(&'static str, Type)>,
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) has_transaction: bool,
}

/// An error with the number that SQL Server would give it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) number: u32,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn forced(number: u32) -> Self {
        Self { number, text: "as the test wants it".into() }
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        let text = e.to_string();
        let number = match e.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) if text.contains("UNIQUE") => 2627,
            Some(ErrorCode::ConstraintViolation) => 515,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => 1222,
            _ if text.contains("no such table") => 208,
            _ => 50_000,
        };
        Self { number, text }
    }
}

/// One connection's.
pub(super) struct Session {
    database: Connection,
    number: i64,
}

/// A table's name in brackets, and its schema if there is one.
#[derive(Debug)]
pub(super) struct Table(Option<String>, String);

impl Table {
    /// The one that a statement is about.
    fn of(statement: &str) -> Option<Self> {
        let (_, behind) = statement.split_once('[')?;
        let (first, behind) = behind.split_once(']')?;
        let base = |name: &str| {
            let name =
                name.strip_suffix("_marks").or_else(|| name.strip_suffix("_quarantine")).unwrap_or(name);
            name.to_owned()
        };
        match behind.strip_prefix(".[").and_then(|behind| behind.split_once(']')) {
            Some((table, _)) => Some(Self(Some(first.into()), base(table))),
            None => Some(Self(None, base(first))),
        }
    }

    fn fill(&self, text: &str, name: impl Fn(&str) -> String, index: impl Fn(&str) -> String) -> String {
        text.replace("{t}", &name(""))
            .replace("{q}", &name("_quarantine"))
            .replace("{m}", &name("_marks"))
            .replace("{e}", &index("_expiry"))
            .replace("{o}", &index("_owner"))
    }

    /// As the store writes it.
    fn there(&self, text: &str) -> String {
        let bare = |suffix: &str| format!("[{}{suffix}]", self.1);
        let schema = self.0.as_ref().map(|schema| format!("[{schema}].")).unwrap_or_default();
        self.fill(text, |suffix| format!("{schema}{}", bare(suffix)), bare)
    }

    /// As it is called in SQLite.
    fn here(&self, text: &str) -> String {
        let schema = self.0.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
        let name = |suffix: &str| format!("\"{schema}{}{suffix}\"", self.1);
        self.fill(text, name, name)
    }
}

impl Session {
    pub(super) fn new(database: Connection, number: u64) -> Self {
        Self { database, number: i64::try_from(number).unwrap() }
    }

    /// Which statement it is, and of which table.
    pub(super) fn named(&self, text: &str) -> Option<(&'static str, Option<Table>)> {
        let (settings, _) = SETTINGS.split_once("{n}").unwrap();
        if text.strip_prefix(settings).is_some_and(|n| n.parse::<u32>().is_ok()) {
            return Some(("settings", None));
        }
        let table = Table::of(text)?;
        let is = |wanted: &str| table.there(wanted) == text;
        let queries = QUERIES.iter().map(|(name, wanted, ..)| (*name, (*wanted).to_owned()));
        let expiries = DUE
            .iter()
            .map(|(name, due, order)| (*name, EXPIRE.replace("{due}", due).replace("{order}", order)));
        let batches = [("schema", SCHEMA), ("write", WRITE)].map(|(name, text)| (name, text.to_owned()));
        let (name, _) = queries.chain(expiries).chain(batches).find(|(_, wanted)| is(wanted))?;
        Some((name, Some(table)))
    }

    pub(super) fn run(
        &self,
        (name, table): &(&'static str, Option<Table>),
        params: &[Value],
    ) -> super::Result<Answer> {
        let Some(table) = table else { return Ok(Answer::default()) };
        if let Some((_, _, here, columns)) = QUERIES.iter().find(|(query, ..)| query == name) {
            let rows = self.rows(&table.here(here), params, columns.len())?;
            return Ok(Answer { columns: columns.to_vec(), rows, has_transaction: false });
        }
        self.database.execute_batch("BEGIN IMMEDIATE")?;
        let answer = match *name {
            "schema" => self
                .database
                .execute_batch(&table.here(SCHEMA_HERE))
                .map_err(Refusal::from)
                .map(|()| (true, Answer::default())),
            "write" => self.write(table, params),
            _ => self.expire(table, *name == "expire_beyond", params),
        };
        let commits = matches!(answer, Ok((true, _)));
        self.database.execute_batch(if commits { "COMMIT" } else { "ROLLBACK" })?;
        answer.map(|(_, answer)| Answer { has_transaction: true, ..answer })
    }

    fn rows(&self, text: &str, params: &[Value], columns: usize) -> super::Result<Vec<Vec<Value>>> {
        let mut statement = self.database.prepare_cached(text)?;
        let rows = statement.query_map(params_from_iter(params), |row| {
            (0..columns).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Runs a statement with the first parameters, as many as it wants; how many rows that changed.
    fn change(&self, text: &str, params: &[Value]) -> super::Result<i64> {
        let mut statement = self.database.prepare_cached(text)?;
        let params = &params[..statement.parameter_count()];
        Ok(i64::try_from(statement.execute(params_from_iter(params))?).unwrap())
    }

    fn raise(&self, table: &Table, mark: &Value) -> super::Result<()> {
        self.change(&table.here(RAISE_HERE), &[mark.clone(), Value::Integer(self.number)])?;
        Ok(())
    }

    fn write(&self, table: &Table, params: &[Value]) -> super::Result<(bool, Answer)> {
        let mut done = 0;
        for statement in WRITE_HERE {
            done += self.change(&table.here(statement), params)?;
        }
        let is_all = params[3] == Value::Integer(done);
        if is_all {
            self.raise(table, &params[2])?;
        }
        let rows = vec![vec![Value::Integer(done)]];
        Ok((is_all, Answer { columns: vec![("done", Type::BigInt)], rows, has_transaction: true }))
    }

    fn expire(&self, table: &Table, is_beyond: bool, params: &[Value]) -> super::Result<(bool, Answer)> {
        let (due, order) = if is_beyond {
            ("(expires_at >= 0 OR expires_at <= ?1)", "expires_at < 0, expires_at")
        } else {
            ("expires_at BETWEEN 0 AND ?1", "expires_at")
        };
        let delete = format!(
            "DELETE FROM {{t}} WHERE id IN (SELECT id FROM {{t}} WHERE {due} ORDER BY {order} LIMIT ?2)"
        );
        let removed = self.change(&table.here(&delete), params)?;
        self.raise(table, &params[2])?;
        let more = format!("SELECT EXISTS (SELECT 1 FROM {{t}} WHERE {due})");
        let more = self.rows(&table.here(&more), &params[..1], 1)?[0][0].clone();
        let rows = vec![vec![Value::Integer(removed), more]];
        let columns = vec![("removed", Type::BigInt), ("more", Type::Int)];
        Ok((true, Answer { columns, rows, has_transaction: true }))
    }
}
