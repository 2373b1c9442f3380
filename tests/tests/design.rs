//! Holds `docs/design.md` to the code: every test that its table of promises names exists, and so does every file that
//! the page names. It knows nothing of what the tests assert.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The sources of all packages that have tests.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in
        ["engine/src", "engine/tests", "middleware/src", "middleware/tests", "tests/src", "tests/tests"]
    {
        collect(&root().join(dir), &mut files);
    }
    files
}

/// The functions below a `#[test]` or the like, in all sources.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in sources() {
        let mut marked = false;
        for line in fs::read_to_string(file).unwrap().lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some(name) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
                if marked {
                    names.insert(name.split(['(', '<']).next().unwrap().to_owned());
                }
                marked = false;
            }
        }
    }
    names
}

/// What stands between backticks in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_name(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[test]
fn every_test_in_the_table_of_promises_exists() {
    let page = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let tests = tests();
    let (mut promises, mut missing) = (0, Vec::new());
    for row in page.lines().filter(|line| line.starts_with("| P")) {
        promises += 1;
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 3, "{row}");
        let named: Vec<_> = quoted(cells[2]).filter(|name| is_name(name)).collect();
        assert!(!named.is_empty(), "no test is named for {}", cells[0]);
        missing.extend(named.into_iter().filter(|name| !tests.contains(*name)).map(str::to_owned));
    }
    assert_eq!(promises, 12, "promises in the table");
    assert_eq!(missing, Vec::<String>::new(), "tests in docs/design.md that do not exist");
}

#[test]
fn every_file_that_the_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let below = ["", "engine/src", "middleware/src", "docs"].map(|dir| root().join(dir));
    let missing: Vec<_> = quoted(&page)
        .filter(|path| path.ends_with(".rs") || path.ends_with('/'))
        .filter(|path| !below.iter().any(|dir| dir.join(path).exists()))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "files in docs/design.md that do not exist");
}
