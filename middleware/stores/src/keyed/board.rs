//! What a store has heard of changes and an engine has not asked for yet: notices are merged, and the end comes last. It
//! knows no server.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use sessile_engine::SessionId;
use sessile_engine::store::{BoxFuture, Notice, StoreError, Watch};
use tokio::sync::{Notify, oneshot};

/// An engine that has so many ids to read is better off beginning anew.
pub(crate) const MOST_IDS: usize = 1 << 16;

/// What has happened since the last notice.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) changed: Vec<SessionId>,
    pub(crate) lost: bool,
    pub(crate) alive: bool,
    pub(crate) ended: Option<StoreError>,
}

impl Pending {
    pub(crate) fn change(&mut self, id: SessionId) {
        if self.lost {
            return;
        }
        if self.changed.len() == MOST_IDS {
            self.lost = true;
            return;
        }
        self.changed.push(id);
    }
}

#[derive(Default)]
pub(crate) struct Board {
    pending: Mutex<Pending>,
    news: Notify,
}

impl Board {
    pub(crate) fn post(&self, write: impl FnOnce(&mut Pending)) {
        write(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    pub(crate) fn take(&self) -> Option<Result<Notice, StoreError>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if mem::take(&mut pending.lost) {
            pending.changed = Vec::new();
            pending.alive = false;
            return Some(Ok(Notice::Lost));
        }
        if !pending.changed.is_empty() {
            pending.alive = false;
            return Some(Ok(Notice::Changed(mem::take(&mut pending.changed))));
        }
        if let Some(e) = &pending.ended {
            return Some(Err(e.clone()));
        }
        mem::take(&mut pending.alive).then_some(Ok(Notice::Alive))
    }
}

/// Nobody waits for a task that the store has taken with it: then what ended the watch is `closed`.
pub(crate) struct Ending {
    pub(crate) board: Arc<Board>,
    pub(crate) closed: StoreError,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.board.post(|pending| {
            pending.ended.get_or_insert_with(|| self.closed.clone());
        });
    }
}

/// The engine's end of a watch. The other end ends with it.
pub(crate) struct Listener {
    pub(crate) board: Arc<Board>,
    pub(crate) _gone: oneshot::Sender<()>,
}

impl Watch for Listener {
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        Box::pin(async {
            loop {
                if let Some(notice) = self.board.take() {
                    return notice;
                }
                self.board.news.notified().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use sessile_engine::store::StoreErrorKind;

    use super::*;

    fn id(n: u32) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    #[test]
    fn too_many_changes_are_a_loss() {
        let board = Board::default();
        board.post(|pending| (0..MOST_IDS as u32).for_each(|n| pending.change(id(n))));
        assert!(matches!(board.take(), Some(Ok(Notice::Changed(ids))) if ids.len() == MOST_IDS));
        board.post(|pending| (0..=MOST_IDS as u32).for_each(|n| pending.change(id(n))));
        assert!(matches!(board.take(), Some(Ok(Notice::Lost))));
        assert!(board.take().is_none());
    }

    #[test]
    fn what_was_told_comes_before_the_end_and_the_end_stays() {
        let board = Board::default();
        board.post(|pending| pending.change(id(1)));
        board.post(|pending| {
            pending.ended = Some(StoreError::new(StoreErrorKind::Unavailable, "x", "it is over"))
        });
        assert!(matches!(board.take(), Some(Ok(Notice::Changed(_)))));
        for _ in 0..2 {
            assert!(matches!(board.take(), Some(Err(e)) if e.kind() == StoreErrorKind::Unavailable));
        }
    }
}
