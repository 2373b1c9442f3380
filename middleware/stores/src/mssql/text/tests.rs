//! Every statement is read by a parser that knows T-SQL, as there is no server to ask.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sqlparser::dialect::MsSqlDialect;
use sqlparser::parser::Parser;

use super::*;

fn all() -> Vec<(&'static str, String)> {
    let texts = Texts::new(&Name::parse("x", "app.s").unwrap());
    vec![
        ("settings", settings(2000)),
        ("schema", texts.schema),
        ("found", texts.found),
        ("mark", texts.mark),
        ("count", texts.count),
        ("load", texts.load),
        ("first", texts.first),
        ("next", texts.next),
        ("list_owner", texts.list_owner),
        ("versions", texts.versions),
        ("write", texts.write),
        ("expire", texts.expire),
        ("expire_beyond", texts.expire_beyond),
    ]
}

/// Read to its end, and as as many statements as it has.
#[test]
fn every_statement_is_t_sql() {
    for (name, text) in all() {
        let wanted = match name {
            "settings" => 3,
            "schema" => 7,
            "write" => 16,
            "expire" | "expire_beyond" => 9,
            _ => 1,
        };
        let parsed = Parser::parse_sql(&MsSqlDialect {}, &text).map(|statements| statements.len());
        assert_eq!(parsed, Ok(wanted), "{name}: {text}");
    }
}

#[test]
fn names_are_in_brackets_and_nothing_is_left_open() {
    for (name, text) in all() {
        assert!(!text.contains(['"', '{', '}']), "{name}: {text}");
        assert_eq!(text.matches('[').count(), text.matches(']').count(), "{name}");
        assert!(name == "settings" || text.contains("[app].[s"), "{name}: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a plan's JSON says is what the plan says, and every row finds its bytes.
    #[test]
    fn rows_find_their_bytes(
        rows in proptest::collection::vec((any::<u64>(), any::<u64>(), proptest::option::of(".{0,9}"), proptest::collection::vec(any::<u8>(), 0..40), 0_usize..4), 0..20),
    ) {
        let rows: Vec<(Key, Row, usize)> = rows
            .into_iter()
            .enumerate()
            .map(|(n, (version, expires_at, owner, bytes, kind))| {
                let owner = owner.map(Into::into);
                ([u8::try_from(n).unwrap(); 32], Row { version, expires_at, owner, bytes }, kind)
            })
            .collect();
        let mut plan = Plan::default();
        let mut stored = BTreeMap::new();
        for (id, row, kind) in &rows {
            match kind {
                0 => plan.insert.push((*id, row)),
                1 => plan.update.push((*id, row)),
                2 => plan.quarantine_new.push((*id, row)),
                _ => plan.delete.push(*id),
            }
            if kind % 2 == 1 {
                stored.insert(*id, row.version ^ 1);
            }
        }
        let written = Written::of(&plan, &stored);
        prop_assert_eq!(written.rows, i64::try_from(rows.len()).unwrap());
        let json: serde_json::Value = serde_json::from_str(&written.json).unwrap();
        for (id, row, kind) in &rows {
            let list = ["insert", "update", "quarantine_new", "delete"][*kind];
            let mut digits = String::new();
            hex(&mut digits, id);
            let told = json[list].as_array().unwrap().iter().find(|told| told["id"] == digits.as_str()).unwrap();
            if kind % 2 == 1 {
                prop_assert_eq!(told["expected"].as_i64(), Some(signed(row.version ^ 1)));
            }
            if *kind == 3 {
                continue;
            }
            prop_assert_eq!(told["version"].as_i64(), Some(signed(row.version)));
            prop_assert_eq!(told["expires_at"].as_i64(), Some(signed(row.expires_at)));
            let mut owner = String::new();
            hex(&mut owner, row.owner.as_deref().unwrap_or_default().as_bytes());
            prop_assert_eq!(told["owner"].as_str(), row.owner.is_some().then_some(owner.as_str()));
            let start = usize::try_from(told["start"].as_u64().unwrap()).unwrap() - 1;
            let length = usize::try_from(told["length"].as_u64().unwrap()).unwrap();
            prop_assert_eq!(&written.bytes[start..start + length], &row.bytes[..]);
        }
    }

    #[test]
    fn lists_of_ids_are_json(ids in proptest::collection::vec(any::<[u8; 32]>(), 0..9)) {
        let read: Vec<String> = serde_json::from_str(&list(&ids)).unwrap();
        prop_assert_eq!(read.len(), ids.len());
        for (digits, id) in read.iter().zip(&ids) {
            let mut wanted = String::new();
            hex(&mut wanted, id);
            prop_assert_eq!(digits, &wanted);
        }
    }
}
