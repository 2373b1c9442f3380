//! The statements of the SQLite store, and its schema. It runs none.

use crate::sql::SCHEMA;
use crate::sql::name::Name;

const TABLES: &str = "\
-- Sessions. Numbers are unsigned in 64 bits: -1 is the largest, which means never.
CREATE TABLE IF NOT EXISTS {t} (
  id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 32),
  version INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, -- ms since the Unix epoch
  owner BLOB, -- UTF-8, compared byte by byte
  bytes BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS {expiry} ON {bare} (expires_at);
CREATE INDEX IF NOT EXISTS {owner} ON {bare} (owner, id) WHERE owner IS NOT NULL;
-- Damaged sessions, kept for the operator. Nothing reads them.
CREATE TABLE IF NOT EXISTS {q} (
  id BLOB NOT NULL,
  version INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  owner BLOB,
  bytes BLOB NOT NULL,
  quarantined_at INTEGER NOT NULL
) STRICT;
-- The version of these tables, and the high-water mark.
CREATE TABLE IF NOT EXISTS {m} (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT;
-- The ids of changed sessions, 32 bytes each, one row a transaction; the last ones only.
CREATE TABLE IF NOT EXISTS {c} (seq INTEGER PRIMARY KEY AUTOINCREMENT, ids BLOB NOT NULL) STRICT;
";

/// Changes that are kept. Who is further behind is told that it missed some.
pub(super) const KEPT: i64 = 10_000;

/// All statements, with the table's names in them.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) schema: String,
    pub(super) load: String,
    pub(super) version: String,
    pub(super) quarantine: String,
    pub(super) quarantine_new: String,
    pub(super) delete: String,
    pub(super) update: String,
    pub(super) insert: String,
    pub(super) tell: String,
    pub(super) raise: String,
    pub(super) mark: String,
    pub(super) found: String,
    pub(super) due: String,
    pub(super) due_beyond: String,
    pub(super) list: String,
    pub(super) list_owner: String,
    pub(super) count: String,
    pub(super) news: String,
    pub(super) latest: String,
    pub(super) trim: String,
}

impl Texts {
    pub(super) fn new(name: &Name) -> Self {
        let fill = |text: &str| {
            let text = text
                .replace("{expiry}", &name.quoted('"', "_expiry"))
                .replace("{owner}", &name.quoted('"', "_owner"))
                .replace("{bare}", &name.bare('"', ""));
            name.fill('"', &text)
        };
        Self {
            schema: fill(&format!(
                "{TABLES}INSERT INTO {{m}} (name, value) VALUES ('schema', {SCHEMA}), ('high water', 0) \
                 ON CONFLICT (name) DO NOTHING;\n"
            )),
            load: fill("SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id = ?1"),
            version: fill("SELECT version FROM {t} WHERE id = ?1"),
            quarantine: fill(
                "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at) \
                 SELECT id, version, expires_at, owner, bytes, ?2 FROM {t} WHERE id = ?1",
            ),
            quarantine_new: fill(
                "INSERT INTO {q} (id, version, expires_at, owner, bytes, quarantined_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            ),
            delete: fill("DELETE FROM {t} WHERE id = ?1"),
            update: fill(
                "UPDATE {t} SET version = ?2, expires_at = ?3, owner = ?4, bytes = ?5 WHERE id = ?1",
            ),
            insert: fill(
                "INSERT INTO {t} (id, version, expires_at, owner, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            ),
            tell: fill("INSERT INTO {c} (ids) VALUES (?1)"),
            // Less than, for unsigned numbers.
            raise: fill(
                "UPDATE {m} SET value = ?1 WHERE name = 'high water' \
                 AND (value < ?1) <> ((value < 0) <> (?1 < 0))",
            ),
            mark: fill("SELECT value FROM {m} WHERE name = 'high water'"),
            found: fill("SELECT value FROM {m} WHERE name = 'schema'"),
            due: fill("SELECT id FROM {t} WHERE expires_at BETWEEN 0 AND ?1 ORDER BY expires_at LIMIT ?2"),
            // Behind 2^63 the index is of no use; nobody lives that long.
            due_beyond: fill(
                "SELECT id FROM {t} WHERE expires_at >= 0 OR expires_at <= ?1 \
                 ORDER BY expires_at < 0, expires_at LIMIT ?2",
            ),
            list: fill(
                "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE id > ?1 ORDER BY id LIMIT ?2",
            ),
            list_owner: fill(
                "SELECT id, version, expires_at, owner, bytes FROM {t} WHERE owner = ?1 ORDER BY id",
            ),
            count: fill("SELECT count(*) FROM {t}"),
            news: fill("SELECT seq, ids FROM {c} WHERE seq > ?1 ORDER BY seq"),
            latest: fill("SELECT coalesce(max(seq), 0) FROM {c}"),
            trim: fill(&format!("DELETE FROM {{c}} WHERE seq <= (SELECT max(seq) FROM {{c}}) - {KEPT}")),
        }
    }
}
