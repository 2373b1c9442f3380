//! Any bytes may lie where the store expects its file: opening and reading it gives an error or rows, never a
//! panic.

use std::fs;

use pollster::block_on;
use sessile_engine::SessionId;
use sessile_engine::store::{RedbStore, Store};

pub(crate) fn run(file: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("sessions.redb");
    fs::write(&path, file).expect("a writable directory");
    let Ok(store) = RedbStore::open(&path) else { return };
    let mut after: Option<SessionId> = None;
    // A damaged tree may seem endless, so the walk is bounded.
    for _ in 0..64 {
        let Ok(page) = block_on(store.list(after, 16)) else { break };
        let Some(last) = page.last() else { break };
        for listed in &page {
            assert!(after.is_none_or(|after| after < listed.id));
            let _ = block_on(store.load(&listed.id));
        }
        after = Some(last.id);
    }
    let _ = block_on(store.high_water());
    let _ = block_on(store.count());
    let _ = block_on(store.expire(u64::MAX, u64::MAX, 16));
    let _ = block_on(store.close());
}
