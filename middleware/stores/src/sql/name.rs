//! The name of a store's table. It owns what is accepted, so that a name can be put into a statement; it never quotes
//! anything else.

use sessile_engine::store::{StoreError, StoreErrorKind};

/// A table's name, with its schema or database if one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    schema: Option<String>,
    table: String,
}

/// PostgreSQL cuts a name at 63 bytes; the longest suffix is `_quarantine`.
const LONGEST: usize = 48;

fn is_plain(part: &str) -> bool {
    let mut bytes = part.bytes();
    part.len() <= LONGEST
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Name {
    pub(crate) fn default_table() -> Self {
        Self { schema: None, table: "sessile_sessions".into() }
    }

    /// Reads `table` or `schema.table`.
    pub(crate) fn parse(store: &'static str, text: &str) -> Result<Self, StoreError> {
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, text),
        };
        if !is_plain(table) || !schema.is_none_or(is_plain) {
            return Err(StoreError::new(
                StoreErrorKind::Config,
                store,
                "a table's name is [A-Za-z_][A-Za-z0-9_]*, at most 48 bytes, with a schema before a dot or without",
            ));
        }
        Ok(Self { schema: schema.map(Into::into), table: table.into() })
    }

    /// The name with `suffix`, each part between `quote`s.
    pub(crate) fn quoted(&self, quote: char, suffix: &str) -> String {
        let schema = self.schema.as_ref().map(|s| format!("{quote}{s}{quote}.")).unwrap_or_default();
        format!("{schema}{quote}{}{suffix}{quote}", self.table)
    }

    /// The name with `suffix`, without a schema: indexes live where their table is.
    pub(crate) fn bare(&self, quote: char, suffix: &str) -> String {
        format!("{quote}{}{suffix}{quote}", self.table)
    }

    /// Puts the names into a text: `{t}` is the table; `{q}`, `{m}` and `{c}` are those of the quarantine, the marks
    /// and the changes.
    pub(crate) fn fill(&self, quote: char, text: &str) -> String {
        text.replace("{t}", &self.quoted(quote, ""))
            .replace("{q}", &self.quoted(quote, "_quarantine"))
            .replace("{m}", &self.quoted(quote, "_marks"))
            .replace("{c}", &self.quoted(quote, "_changes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_accepted() {
        for good in ["s", "_s", "Sess_9", "app.sessions", &"x".repeat(48)] {
            assert!(Name::parse("x", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a.b.c",
            "9a",
            "a b",
            "a\"",
            "a`b",
            "a;--",
            "é",
            "a\0",
            "a-b",
            &"x".repeat(49),
        ] {
            let kind = Name::parse("x", bad).map_err(|e| e.kind());
            assert_eq!(kind, Err(StoreErrorKind::Config), "{bad}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let name = Name::parse("x", "app.s").unwrap();
        assert_eq!(
            name.fill('"', "{t} {q} {m} {c}"),
            r#""app"."s" "app"."s_quarantine" "app"."s_marks" "app"."s_changes""#
        );
        assert_eq!(Name::default_table().quoted('`', ""), "`sessile_sessions`");
    }
}
