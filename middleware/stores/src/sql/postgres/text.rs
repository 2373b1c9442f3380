//! The statements of the stores in PostgreSQL, and their schema. It runs none.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sql::SCHEMA;
use crate::sql::name::Name;

/// Who reads the statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Dialect {
    #[default]
    Postgres,
    /// CockroachDB. It has no numbers of transactions and no snapshots as values, so nothing tells of changes; no
    /// locks but those of rows; and no process of a connection.
    Cockroach,
}

/// Rows of the table of marks that hold the high-water mark. Commits at the same time raise different ones: with one
/// row each would wait for the disk of the one before.
pub(crate) const SLOTS: i64 = 32;

/// The tables of either dialect.
const TABLES: &str = "\
-- Sessions. Numbers are unsigned in 64 bits: -1 is the largest, which means never.
CREATE TABLE IF NOT EXISTS {t} (
  id BYTEA NOT NULL PRIMARY KEY CHECK (octet_length(id) = 32),
  version BIGINT NOT NULL,
  expires_at BIGINT NOT NULL, -- ms since the Unix epoch
  owner BYTEA, -- UTF-8, compared byte by byte
  bytes BYTEA NOT NULL
);
CREATE INDEX IF NOT EXISTS {i}_expiry ON {t} (expires_at);
CREATE INDEX IF NOT EXISTS {i}_owner ON {t} (owner, id) WHERE owner IS NOT NULL;
-- Damaged sessions, kept for the operator. Nothing reads them.
CREATE TABLE IF NOT EXISTS {q} (
  id BYTEA NOT NULL,
  version BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  owner BYTEA,
  bytes BYTEA NOT NULL,
  quarantined_at BIGINT NOT NULL
);
-- The version of these tables, the high-water mark, and the state of the trimming of the changes.
CREATE TABLE IF NOT EXISTS {m} (
  name TEXT NOT NULL PRIMARY KEY,
  value BIGINT NOT NULL,
  snapshot TEXT
);
";

const CHANGES: &str = "\
-- The ids of changed sessions, 32 bytes each, one row a transaction, kept for a minute or two.
CREATE TABLE IF NOT EXISTS {c} (
  xid XID8 NOT NULL DEFAULT pg_current_xact_id(),
  ids BYTEA NOT NULL
);
CREATE INDEX IF NOT EXISTS {i}_changes_xid ON {c} (xid);
";

/// All statements, with the table's names in them.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) begin: &'static str,
    pub(crate) schema: String,
    pub(crate) load: String,
    pub(crate) lock: String,
    pub(crate) quarantine: String,
    pub(crate) quarantine_new: String,
    pub(crate) delete: String,
    pub(crate) update: String,
    pub(crate) insert: String,
    pub(crate) raise: String,
    pub(crate) mark: String,
    /// Whether the table of marks is there: 1 or 0.
    pub(crate) there: String,
    pub(crate) found: String,
    pub(crate) expire: String,
    pub(crate) expire_beyond: String,
    pub(crate) list: String,
    pub(crate) list_owner: String,
    pub(crate) count: String,
    pub(crate) migrate: String,
    pub(crate) changes: Option<Changes>,
    /// Tells which mark the next commit raises, where `raise` is told.
    slot: Option<AtomicU32>,
}

/// The statements about the changes that others are told.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) tell: String,
    pub(crate) news: String,
    pub(crate) trim: String,
}

pub(crate) const COMMIT: &str = "COMMIT";

/// `{due}` is the condition and `{order}` the order of the rows that are due. What somebody else holds is skipped: it is
/// being changed, or removed, right now.
const EXPIRE: &str = "\
WITH due AS (SELECT id FROM {t} WHERE {due} ORDER BY {order} LIMIT $2 FOR UPDATE SKIP LOCKED), \
gone AS (DELETE FROM {t} WHERE id IN (SELECT id FROM due) RETURNING id){told} \
SELECT (SELECT count(*) FROM gone), \
(SELECT count(*) FROM (SELECT 1 FROM {t} WHERE {due} LIMIT $2 + 1) seen)";

const TOLD: &str = "\
, told AS (INSERT INTO {c} (ids) SELECT string_agg(id, ''::bytea) FROM gone HAVING count(*) > 0)";

impl Texts {
    pub(crate) fn new(name: &Name, dialect: Dialect) -> Self {
        let postgres = dialect == Dialect::Postgres;
        let index = name.bare('"', "");
        let index = index.trim_matches('"');
        let fill = |text: &str| {
            let text = name.fill('"', text);
            text.replace("{i}", index)
        };
        let slots: Vec<String> = (0..SLOTS).map(|n| format!("('slot {n}', 0)")).collect();
        let schema = fill(&format!(
            "{TABLES}{}INSERT INTO {{m}} (name, value) VALUES ('schema', {SCHEMA}), ('trim', 0), {} \
             ON CONFLICT (name) DO NOTHING;\n",
            if postgres { CHANGES } else { "" },
            slots.join(", ")
        ));
        let migrate = if postgres {
            // Two at once would both find no table, and one fail: the lock is for them. Its key is arbitrary.
            format!("BEGIN; SELECT pg_advisory_xact_lock(8314042953672029811);\n{schema}COMMIT;")
        } else {
            schema.clone()
        };
        let told = if postgres { TOLD } else { "" };
        let expire = |due: &str, order: &str| {
            fill(&EXPIRE.replace("{due}", due).replace("{order}", order).replace("{told}", told))
        };
        let slot =
            if postgres { format!("'slot ' || (pg_backend_pid() % {SLOTS})") } else { "$2".to_owned() };
        Self {
            begin: if postgres {
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
            } else {
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE"
            },
            load: fill("SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id = $1"),
            lock: fill("SELECT id, version FROM {t} WHERE id = ANY($1) ORDER BY id FOR UPDATE"),
            quarantine: fill(
                "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at) \
                 SELECT id, version, expires_at, owner, bytes, $2::bigint FROM {t} WHERE id = ANY($1)",
            ),
            quarantine_new: fill(
                "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at) \
                 SELECT n.*, $6::bigint FROM UNNEST($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[]) n",
            ),
            delete: fill("DELETE FROM {t} WHERE id = ANY($1)"),
            update: fill(
                "UPDATE {t} t SET version = n.version, expires_at = n.expires_at, owner = n.owner, bytes = n.bytes \
                 FROM UNNEST($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[]) \
                 AS n (id, version, expires_at, owner, bytes) WHERE t.id = n.id",
            ),
            insert: fill(
                "INSERT INTO {t} (id, version, expires_at, owner, bytes) \
                 SELECT n.* FROM UNNEST($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[]) n \
                 ORDER BY 1",
            ),
            // Less than, for unsigned numbers.
            raise: fill(&format!(
                "UPDATE {{m}} SET value = $1 WHERE name = {slot} \
                 AND (value < $1) <> ((value < 0) <> ($1 < 0))"
            )),
            mark: fill("SELECT value FROM {m} WHERE name LIKE 'slot %'"),
            there: fill("SELECT count(to_regclass('{m}'))"),
            found: fill("SELECT value FROM {m} WHERE name = 'schema'"),
            expire: expire("expires_at BETWEEN 0 AND $1", "expires_at"),
            // Behind 2^63 the index is of no use; nobody lives that long.
            expire_beyond: expire("(expires_at >= 0 OR expires_at <= $1)", "expires_at < 0, expires_at"),
            list: fill(
                "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id > $1 ORDER BY id LIMIT $2",
            ),
            list_owner: fill(
                "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE owner = $1 ORDER BY id",
            ),
            count: fill("SELECT count(*) FROM {t}"),
            changes: postgres.then(|| Changes::new(fill)),
            slot: (!postgres).then(|| AtomicU32::new(std::process::id())),
            schema,
            migrate,
        }
    }

    /// The second parameter of `raise`, if it takes one. Commits at the same time get different ones.
    pub(crate) fn slot(&self) -> Option<String> {
        let next = self.slot.as_ref()?.fetch_add(1, Ordering::Relaxed);
        Some(format!("slot {}", i64::from(next) % SLOTS))
    }
}

impl Changes {
    fn new(fill: impl Fn(&str) -> String) -> Self {
        Self {
            tell: fill("INSERT INTO {c} (ids) VALUES ($1)"),
            // What this snapshot sees and the one before did not: each change exactly once, whatever the order in which
            // transactions began and ended.
            news: fill(
                "SELECT pg_current_snapshot()::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, c.ids \
                 FROM (SELECT 1) one LEFT JOIN {c} c ON c.xid >= pg_snapshot_xmin($1::text::pg_snapshot) \
                 AND NOT pg_visible_in_snapshot(c.xid, $1::text::pg_snapshot)",
            ),
            // Removes what was visible when this was last done, at least a minute ago. One at a time.
            trim: fill(
                "WITH last AS (SELECT snapshot FROM {m} WHERE name = 'trim' \
                 AND value < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 60000 FOR UPDATE SKIP LOCKED), \
                 gone AS (DELETE FROM {c} USING last WHERE last.snapshot IS NOT NULL \
                 AND pg_visible_in_snapshot(xid, last.snapshot::pg_snapshot)) \
                 UPDATE {m} SET value = (extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
                 snapshot = pg_current_snapshot()::text FROM last WHERE name = 'trim'",
            ),
        }
    }
}
