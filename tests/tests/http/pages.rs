//! The pages that name tests, and the list in `main.rs`: each test they name exists, and each row of the
//! checklist has a line. A page that drifts from the sources fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The `file.rs::name`s in `text`, which are in backquotes.
fn named(text: &str) -> Vec<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    let tests = spans.filter_map(|span| span.split_once(".rs::"));
    tests.map(|(file, name)| (format!("{file}.rs"), name.to_owned())).collect()
}

/// What is wrong with the tests that `text` names.
fn missing(text: &str) -> Vec<String> {
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (file, name) in named(text) {
        let source = sources
            .entry(file.clone())
            .or_insert_with_key(|file| fs::read_to_string(root().join(file)).unwrap_or_default());
        if source.is_empty() {
            wrong.push(format!("{file}: no such file"));
        } else if !source.contains(&format!("fn {name}(")) {
            wrong.push(format!("{file}: no fn {name}"));
        }
    }
    wrong
}

/// The cells of the table rows of `page` whose first cell is one of `ids`.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter_map(|l| l.trim_start_matches("//! ").strip_prefix("| ")) {
        let cells: Vec<String> =
            line.trim_end_matches('|').split(" | ").map(|c| c.trim().to_owned()).collect();
        if checklist().contains(&cells[0]) {
            let old = found.insert(cells[0].clone(), cells.clone());
            assert!(old.is_none(), "{} stands there twice", cells[0]);
        }
    }
    found
}

/// The rows of the checklist.
fn checklist() -> BTreeSet<String> {
    let sections = [('T', 8), ('C', 11), ('L', 16), ('H', 12), ('D', 8)];
    sections.iter().flat_map(|&(letter, n)| (1..=n).map(move |i| format!("{letter}{i}"))).collect()
}

#[test]
fn the_tests_that_pages_name_exist() {
    for page in ["docs/security.md", "docs/features.md", "tests/tests/http/main.rs"] {
        let text = read(page);
        let wrong = missing(&text);
        assert!(wrong.is_empty(), "{page}:\n{}", wrong.join("\n"));
        assert!(named(&text).len() > 20, "{page} names tests");
    }
}

#[test]
fn every_row_of_the_checklist_has_its_line() {
    for page in ["docs/security.md", "tests/tests/http/main.rs"] {
        let rows = rows(&read(page));
        let lines: BTreeSet<String> = rows.keys().cloned().collect();
        assert_eq!(lines, checklist(), "{page}");
        for (id, cells) in &rows {
            let last = cells.last().unwrap();
            let proven = !named(last).is_empty();
            assert!(proven || last.starts_with("not ours: "), "{page}, {id}: {last}");
        }
    }
}

#[test]
fn both_lists_say_the_same_of_each_row() {
    let tests_of = |page: &str| -> BTreeMap<String, (bool, BTreeSet<String>)> {
        let rows = rows(&read(page));
        let tests =
            |cells: &[String]| named(cells.last().unwrap()).into_iter().map(|(_, name)| name).collect();
        rows.iter()
            .map(|(id, c)| (id.clone(), (c.last().unwrap().starts_with("not ours"), tests(c))))
            .collect()
    };
    assert_eq!(tests_of("docs/security.md"), tests_of("tests/tests/http/main.rs"));
}

#[test]
fn every_test_here_is_in_the_list() {
    let list = read("tests/tests/http/main.rs");
    for file in ["tokens", "quiet", "life", "exchange", "abuse"] {
        let source = read(&format!("tests/tests/http/{file}.rs"));
        let tests = source.lines().filter_map(|l| l.trim_start_matches("async ").strip_prefix("fn "));
        for name in tests.filter_map(|l| l.split('(').next()) {
            let row = name.as_bytes();
            if b"tclhd".contains(&row[0]) && row[1].is_ascii_digit() {
                assert!(list.contains(&format!("`tests/tests/http/{file}.rs::{name}`")), "{file}.rs::{name}");
            }
        }
    }
}

#[test]
fn a_page_that_drifts_would_be_found() {
    assert!(missing("`tests/tests/http/pages.rs::a_page_that_drifts_would_be_found`").is_empty());
    assert_eq!(missing("`tests/tests/http/pages.rs::a_page_that_drifts`").len(), 1);
    assert_eq!(missing("x `tests/nowhere.rs::a` y `tests/tests/http/pages.rs::b`").len(), 2);
}
