//! Schedule tests of sessions by id, as adapters use them.

use super::*;
use crate::SessionId;
use crate::by_id::derive_id;

/// A stored, clean session with `n = 0`.
fn stored_as(engine: &Engine, n: u8) -> SessionId {
    let id = derive_id("shuttle", &[n; 16]);
    assert!(block_on(engine.by_id().create(id, |draft| draft.put("n", &0))).expect("creates"));
    while engine.core().queue.dirty() > 0 {
        engine.step();
    }
    id
}

fn put(engine: &Engine, id: SessionId, key: &'static str) -> thread::JoinHandle<bool> {
    let engine = engine.clone();
    thread::spawn(move || {
        block_on(engine.by_id().update(&id, |draft| draft.put(key, &1))).expect("updates").is_some()
    })
}

fn has(engine: &Engine, id: &SessionId, key: &str) -> bool {
    let loaded = block_on(engine.by_id().load(id)).expect("loads");
    loaded.is_some_and(|loaded| loaded.snapshot.value(key).is_some())
}

#[test]
fn shuttle_by_id_no_update_is_lost() {
    check(|| {
        let store = MemoryStore::default();
        let engine = tiny_engine(&store);
        let id = stored_as(&engine, 1);
        let writer = Writer::start(&engine);
        let (a, b) = (put(&engine, id, "a"), put(&engine, id, "b"));
        stored_as(&engine, 2);
        assert!(a.join().expect("joins") && b.join().expect("joins"));
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert!(["n", "a", "b"].iter().all(|key| has(&engine, &id, key)));
        }
    });
}

#[test]
fn shuttle_by_id_destroy_is_final_and_durable() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let id = stored_as(&engine, 1);
        let writer = Writer::start(&engine);
        let late = put(&engine, id, "late");
        let other = {
            let engine = engine.clone();
            thread::spawn(move || block_on(engine.by_id().destroy(&id, |_| {})).expect("destroys"))
        };
        let mine = block_on(engine.by_id().destroy(&id, |_| {})).expect("destroys");
        assert_eq!(store.len(), 0, "deleted durably by either");
        late.join().expect("joins");
        assert!(mine != other.join().expect("joins"), "one of them ended it");
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert!(!has(&engine, &id, "n"));
        }
    });
}

#[test]
fn shuttle_by_id_rename_against_update_and_destroy() {
    check(|| {
        let store = MemoryStore::default();
        let engine = engine(&store);
        let id = stored_as(&engine, 1);
        let new = derive_id("shuttle", &[9; 16]);
        let writer = Writer::start(&engine);
        let updated = put(&engine, id, "a");
        let destroyed = {
            let engine = engine.clone();
            thread::spawn(move || block_on(engine.by_id().destroy(&id, |_| {})).expect("destroys"))
        };
        let moved = block_on(engine.by_id().rename(&id, new)).expect("renames");
        let (updated, destroyed) = (updated.join().expect("joins"), destroyed.join().expect("joins"));
        assert!(moved != destroyed, "either, not both");
        writer.finish(&engine);
        for engine in [engine, self::engine(&store)] {
            assert!(!has(&engine, &id, "n"), "the old id is dead either way");
            assert_eq!(has(&engine, &new, "n"), moved);
            assert_eq!(has(&engine, &new, "a"), moved && updated);
        }
    });
}
