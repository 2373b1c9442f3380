//! The statements of the MySQL store, and its schema. It runs none. Statements are sent as text, several at once, so that
//! a commit is two exchanges; what goes into them are numbers and hexadecimal digits and nothing else.

use std::fmt::Write as _;

use sessile_engine::store::Row;

use crate::sql::SCHEMA;
use crate::sql::name::Name;
use crate::sql::plan::{Key, Plan, pieces};

/// Rows of the table of marks that hold the high-water mark. Commits at the same time raise different ones: with one
/// row each would wait for the disk of the one before.
const SLOTS: u32 = 32;

/// What a packet may have beside twice its budget: the words of a statement, and what is around a piece's rows.
pub(super) const SLACK: usize = 512 << 10;
/// Most rows in a statement, and most bytes in one beside those of the record: digits of the id and of the owner, four
/// numbers, and what is between them.
const PIECE: usize = 512;
const AROUND: usize = 2 * (32 + 255) + 4 * 20 + 32;
const _: () = assert!(PIECE * AROUND + (64 << 10) < SLACK, "a piece fits");

const TABLES: &str = "\
-- Sessions.
CREATE TABLE IF NOT EXISTS {t} (
  id BINARY(32) NOT NULL PRIMARY KEY,
  version BIGINT UNSIGNED NOT NULL,
  expires_at BIGINT UNSIGNED NOT NULL, -- ms since the Unix epoch
  owner VARBINARY(255), -- UTF-8, compared byte by byte
  bytes LONGBLOB NOT NULL,
  INDEX {bare_expiry} (expires_at),
  INDEX {bare_owner} (owner, id)
) ENGINE = InnoDB;
-- Damaged sessions, kept for the operator. Nothing reads them.
CREATE TABLE IF NOT EXISTS {q} (
  entry BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id BINARY(32) NOT NULL,
  version BIGINT UNSIGNED NOT NULL,
  expires_at BIGINT UNSIGNED NOT NULL,
  owner VARBINARY(255),
  bytes LONGBLOB NOT NULL,
  quarantined_at BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB;
-- The version of these tables (-1), and the high-water mark (the largest of the others).
CREATE TABLE IF NOT EXISTS {m} (
  slot INT NOT NULL PRIMARY KEY,
  value BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB;
";

pub(super) const VALUES: &str = "id, version, expires_at, owner, bytes";
/// No gaps are locked: an insert waits for rows, not for neighbours.
const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION; ";

/// The table's names.
#[derive(Debug)]
pub(super) struct Texts {
    name: Name,
}

/// Adds `x'…'`.
fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("x'");
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS[usize::from(half)]));
        }
    }
    out.push('\'');
}

/// Adds a condition for these ids. MariaDB makes a table of a list of 1000 or more, and would read, and lock, the rows in
/// that table's order.
fn ids<I: AsRef<[u8]>>(out: &mut String, ids: &[I]) {
    out.push('(');
    for (n, list) in ids.chunks(500).enumerate() {
        out.push_str(if n > 0 { " OR id IN " } else { "id IN " });
        for (n, id) in list.iter().enumerate() {
            out.push(if n > 0 { ',' } else { '(' });
            hex(out, id.as_ref());
        }
        out.push(')');
    }
    out.push(')');
}

/// Adds one row's values, with `more` behind them.
fn values(out: &mut String, (id, row): &(Key, &Row), more: Option<u64>) {
    out.push('(');
    hex(out, id);
    let _ = write!(out, ",{},{},", row.version, row.expires_at);
    match &row.owner {
        Some(owner) => hex(out, owner.as_bytes()),
        None => out.push_str("NULL"),
    }
    out.push(',');
    hex(out, &row.bytes);
    if let Some(more) = more {
        let _ = write!(out, ",{more}");
    }
    out.push(')');
}

impl Texts {
    pub(super) fn new(name: Name) -> Self {
        Self { name }
    }

    fn fill(&self, text: &str) -> String {
        let text = text
            .replace("{bare_expiry}", &self.name.bare('`', "_expiry"))
            .replace("{bare_owner}", &self.name.bare('`', "_owner"));
        self.name.fill('`', &text)
    }

    pub(super) fn schema(&self) -> String {
        let slots: Vec<String> = (0..SLOTS).map(|n| format!("({n}, 0)")).collect();
        self.fill(&format!(
            "{TABLES}INSERT IGNORE INTO {{m}} (slot, value) VALUES (-1, {SCHEMA}), {};\n",
            slots.join(", ")
        ))
    }

    pub(super) fn found(&self) -> String {
        self.fill("SELECT value FROM {m} WHERE slot = -1")
    }

    pub(super) fn mark(&self) -> String {
        self.fill("SELECT CAST(COALESCE(MAX(value), 0) AS UNSIGNED) FROM {m} WHERE slot >= 0")
    }

    pub(super) fn count(&self) -> String {
        self.fill("SELECT COUNT(*) FROM {t}")
    }

    pub(super) fn load(&self, id: &Key) -> String {
        let mut text = self.fill(&format!("SELECT {VALUES} FROM {{t}} WHERE id = "));
        hex(&mut text, id);
        text
    }

    pub(super) fn list(&self, after: Option<&[u8]>, limit: usize) -> String {
        let mut text = self.fill(&format!("SELECT {VALUES} FROM {{t}}"));
        if let Some(after) = after {
            text.push_str(" WHERE id > ");
            hex(&mut text, after);
        }
        let _ = write!(text, " ORDER BY id LIMIT {limit}");
        text
    }

    pub(super) fn list_owner(&self, owner: &[u8]) -> String {
        let mut text = self.fill(&format!("SELECT {VALUES} FROM {{t}} WHERE owner = "));
        hex(&mut text, owner);
        text.push_str(" ORDER BY id");
        text
    }

    /// Begins, locks the rows in the order of their ids, and asks for their versions: in the last result. That order
    /// keeps two transactions from waiting for each other.
    pub(super) fn lock(&self, keys: &[Key]) -> String {
        if keys.is_empty() {
            return format!("{BEGIN}SELECT NULL, NULL LIMIT 0");
        }
        let mut text = format!("{BEGIN}{}", self.fill("SELECT id, version FROM {t} WHERE "));
        ids(&mut text, keys);
        text.push_str(" ORDER BY id FOR UPDATE");
        text
    }

    /// Begins, and locks what is due, one row more than `limit`. What somebody else holds is skipped: it is being
    /// changed, or removed, right now.
    pub(super) fn due(&self, now: u64, limit: usize) -> String {
        let limit = limit.saturating_add(1);
        format!(
            "{BEGIN}{} {now} ORDER BY expires_at LIMIT {limit} FOR UPDATE SKIP LOCKED",
            self.fill("SELECT id FROM {t} WHERE expires_at <=")
        )
    }

    /// The last statements of a transaction. The mark is last, since it may wait for others: who holds one waits for
    /// nobody any more.
    fn end(&self, out: &mut String, mark: u64) {
        out.push_str(&self.fill(&format!(
            "UPDATE {{m}} SET value = GREATEST(value, {mark}) WHERE slot = CONNECTION_ID() % {SLOTS}; COMMIT"
        )));
    }

    pub(super) fn gone(&self, due: &[Vec<u8>], mark: u64) -> String {
        let mut text = String::new();
        if !due.is_empty() {
            text.push_str(&self.fill("DELETE FROM {t} WHERE "));
            ids(&mut text, due);
            text.push_str("; ");
        }
        self.end(&mut text, mark);
        text
    }

    /// What is planned, in packets of `2 * budget + SLACK` bytes at most; the last one commits.
    pub(super) fn write(&self, plan: &Plan<'_>, now: u64, budget: usize) -> Vec<String> {
        let (mut packets, mut text) = (Vec::new(), String::new());
        if !plan.quarantine.is_empty() {
            text.push_str(&self.fill(&format!(
                "INSERT INTO {{q}} ({VALUES}, quarantined_at) SELECT {VALUES}, {now} FROM {{t}} WHERE "
            )));
            ids(&mut text, &plan.quarantine);
            text.push_str("; ");
        }
        if !plan.delete.is_empty() {
            text.push_str(&self.fill("DELETE FROM {t} WHERE "));
            ids(&mut text, &plan.delete);
            text.push_str("; ");
        }
        let replace = " ON DUPLICATE KEY UPDATE version = VALUES(version), expires_at = VALUES(expires_at), \
                       owner = VALUES(owner), bytes = VALUES(bytes)";
        let lists = [
            ("{q}", ", quarantined_at", Some(now), "", &plan.quarantine_new),
            // They are there, and locked: each is replaced.
            ("{t}", "", None, replace, &plan.update),
            ("{t}", "", None, "", &plan.insert),
        ];
        for (table, column, more, behind, rows) in lists {
            for piece in pieces(rows, PIECE, budget) {
                let bytes: usize = piece.iter().map(|(_, row)| AROUND + 2 * row.bytes.len()).sum();
                if !text.is_empty() && text.len() + bytes > 2 * budget {
                    packets.push(std::mem::take(&mut text));
                }
                text.push_str(&self.fill(&format!("INSERT INTO {table} ({VALUES}{column}) VALUES ")));
                for (n, row) in piece.iter().enumerate() {
                    if n > 0 {
                        text.push(',');
                    }
                    values(&mut text, row, more);
                }
                text.push_str(behind);
                text.push_str("; ");
            }
        }
        self.end(&mut text, now);
        packets.push(text);
        packets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> Key {
        let mut key = [0xAB; 32];
        key[..8].copy_from_slice(&(n as u64).to_le_bytes());
        key
    }

    #[test]
    fn no_list_is_long_enough_to_become_a_table() {
        let texts = Texts::new(Name::default_table());
        let all: Vec<Key> = (0..2001).map(key).collect();
        let lock = texts.lock(&all);
        assert_eq!(lock.matches("x'").count(), all.len());
        for list in lock.split("id IN ") {
            assert!(list.matches("x'").count() < 1000);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Rows of any number and size are in packets that the server takes, each row once.
        #[test]
        fn packets_are_as_small_as_they_must_be(
            rows in proptest::collection::vec((0_usize..5000, any::<bool>()), 0..3000),
            budget in 5000_usize..200_000,
            new in any::<bool>(),
        ) {
            let rows: Vec<Row> = rows
                .into_iter()
                .map(|(len, owned)| Row {
                    version: u64::MAX,
                    expires_at: u64::MAX,
                    owner: owned.then(|| "o".repeat(255).into()),
                    bytes: vec![7; len],
                })
                .collect();
            let listed: Vec<(Key, &Row)> = rows.iter().enumerate().map(|(n, row)| (key(n), row)).collect();
            let mut plan = Plan::default();
            if new { plan.quarantine_new = listed } else { plan.insert = listed }
            let packets = Texts::new(Name::default_table()).write(&plan, u64::MAX, budget);
            for packet in &packets {
                prop_assert!(packet.len() <= 2 * budget + SLACK, "{}", packet.len());
            }
            let written: usize = packets.iter().map(|packet| packet.matches("(x'").count()).sum();
            prop_assert_eq!(written, rows.len());
            prop_assert!(packets.last().is_some_and(|packet| packet.ends_with("COMMIT")));
        }
    }
}
