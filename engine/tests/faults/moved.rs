//! Files that are moved, deleted or replaced under an engine that has them open: it notices, says so, and writes no more
//! instead of writing where nobody will look.

use std::fs;
use std::path::{Path, PathBuf};

use pollster::block_on;
use sessile_engine::store::{RedbStore, Store};
use sessile_engine::{Builder, Engine, ErrorKind, Event, Health, StoreErrorKind};

use super::support::*;

/// What happens to a file or directory.
type Loss = fn(&Path);

fn moved(path: &Path) {
    fs::rename(path, path.with_extension("elsewhere")).unwrap();
}

fn deleted(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// By a copy with the same content, as a restored backup.
fn replaced(path: &Path) {
    let old = path.with_extension("elsewhere");
    fs::rename(path, &old).unwrap();
    if old.is_dir() {
        fs::create_dir(path).unwrap();
        for entry in fs::read_dir(&old).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
        }
    } else {
        fs::copy(&old, path).unwrap();
    }
}

const LOSSES: [Loss; 3] = [moved, deleted, replaced];

fn open(builder: Builder, path: &Path) -> (Engine, Events) {
    let events = Events::default();
    let seen = events.clone();
    let observer = move |e: &Event| seen.0.lock().unwrap().push(e.clone());
    (builder.observer(observer).open_redb(path).unwrap(), events)
}

fn paths(dir: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    (dir.path().join("s.redb"), dir.path().join("s.redb.journal"))
}

fn is_read_only(engine: &Engine) -> bool {
    matches!(engine.health(), Health::ReadOnly { .. })
}

#[test]
fn a_journal_that_is_not_where_it_was_is_noticed_and_written_to_no_more() {
    for lose in LOSSES {
        let dir = tempfile::tempdir().unwrap();
        let (file, journal) = paths(&dir);
        let (engine, events) = open(Engine::builder(), &file);
        let token = fresh(&engine, 1);
        lose(&journal);
        soon("it is noticed without anybody writing", || is_read_only(&engine));
        assert!(engine.health().to_string().contains("s.redb.journal"), "{}", engine.health());
        assert_eq!(events.store(), "-");
        assert_eq!(n(&engine, &token), Some(1), "it is served from memory");
        assert_eq!(begin(&engine, Some(&token)).put("n", &2).unwrap_err().kind(), ErrorKind::ReadOnly);
        let error = block_on(engine.checkpoint()).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Moved);
    }
}

#[test]
fn a_segment_that_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, journal) = paths(&dir);
    let (engine, _) = open(Engine::builder(), &file);
    fresh(&engine, 1);
    let segment = fs::read_dir(journal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "log"))
        .unwrap();
    deleted(&segment);
    soon("it is noticed", || is_read_only(&engine));
}

#[test]
fn a_file_that_is_not_where_it_was_is_an_error_of_the_next_checkpoint() {
    for lose in LOSSES {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = paths(&dir);
        let (engine, events) = open(Engine::builder(), &file);
        let before = fresh(&engine, 1);
        block_on(engine.checkpoint()).unwrap();
        lose(&file);
        let after = fresh(&engine, 2);
        let error = block_on(engine.checkpoint()).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Moved);
        assert!(error.to_string().contains("s.redb"), "{error}");
        soon("its health says so", || is_read_only(&engine));
        assert_eq!(events.store(), "-");
        assert_eq!((n(&engine, &before), n(&engine, &after)), (Some(1), Some(2)));
        let _ = close(&engine);
        drop(engine);
        // What the journal had is handed on to what is there now.
        let (engine, _) = open(Engine::builder(), &file);
        assert_eq!(n(&engine, &after), Some(2), "nothing that was accepted since is lost");
    }
}

#[test]
fn a_store_without_a_journal_notices_with_its_next_commit() {
    for lose in LOSSES {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = paths(&dir);
        let engine = power_loss().open(RedbStore::open(&file).unwrap()).unwrap();
        let token = fresh(&engine, 1);
        lose(&file);
        let session = begin(&engine, Some(&token));
        session.put("n", &2).unwrap();
        let error = commit(&session).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Moved, "it is not acknowledged");
        soon("its health says so", || is_read_only(&engine));
        assert_eq!(n(&engine, &token), Some(2));
    }
}

#[test]
fn a_file_that_comes_back_is_written_to_only_when_it_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = paths(&dir);
    let store = RedbStore::open(&file).unwrap();
    moved(&file);
    assert_eq!(block_on(store.commit(1, &[])).unwrap_err().kind(), StoreErrorKind::Moved);
    fs::rename(file.with_extension("elsewhere"), &file).unwrap();
    assert_eq!(block_on(store.commit(1, &[])).unwrap_err().kind(), StoreErrorKind::ReadOnly);
    assert!(block_on(store.list(None, 1)).is_ok());
    block_on(store.close()).unwrap();
    block_on(RedbStore::open(&file).unwrap().commit(1, &[])).unwrap();
}

#[cfg(feature = "sled")]
#[test]
fn a_sled_directory_that_is_not_where_it_was_is_noticed() {
    for lose in LOSSES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sled");
        let engine = Engine::builder().open_sled(&path).unwrap();
        let token = fresh(&engine, 1);
        block_on(engine.checkpoint()).unwrap();
        lose(&path);
        begin(&engine, Some(&token)).put("n", &2).unwrap();
        flush(&engine).unwrap();
        let error = block_on(engine.checkpoint()).unwrap_err();
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Moved);
        soon("its health says so", || is_read_only(&engine));
    }
}
