//! The notices of a memory store that several engines share. It carries ids and blocks the thread that listens.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::NAME;
use crate::store::{BoxFuture, Change, Notice, StoreError, StoreErrorKind, Watch};
use crate::sync::Mutex;
use crate::token::SessionId;

/// How often a listener hears that nothing happened.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);

/// Who listens.
#[derive(Default)]
pub(super) struct Listeners(Mutex<Vec<Sender<Vec<SessionId>>>>);

struct Listener(Receiver<Vec<SessionId>>);

impl Listeners {
    pub(super) fn add(&self) -> Box<dyn Watch> {
        let (sender, receiver) = channel();
        self.0.lock().push(sender);
        Box::new(Listener(receiver))
    }

    /// Tells of `changes`, all that were tried.
    pub(super) fn tell(&self, changes: &[Change]) {
        let mut listeners = self.0.lock();
        if listeners.is_empty() || changes.is_empty() {
            return;
        }
        let mut ids = Vec::new();
        for change in changes {
            match change {
                Change::Insert { id, .. }
                | Change::Update { id, .. }
                | Change::Put { id, .. }
                | Change::Delete { id }
                | Change::Quarantine { id } => ids.push(*id),
                Change::Rekey { from, to, .. } => ids.extend([*from, *to]),
            }
        }
        listeners.retain(|listener| listener.send(ids.clone()).is_ok());
    }

    /// Ends all watches.
    #[cfg(any(test, feature = "conformance"))]
    pub(super) fn cut(&self) {
        self.0.lock().clear();
    }
}

impl Watch for Listener {
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        let told = match self.0.recv_timeout(SIGN_OF_LIFE) {
            Ok(ids) => Ok(Notice::Changed(ids)),
            Err(RecvTimeoutError::Timeout) => Ok(Notice::Alive),
            Err(RecvTimeoutError::Disconnected) => {
                Err(StoreError::new(StoreErrorKind::Unavailable, NAME, "the channel was cut"))
            }
        };
        Box::pin(std::future::ready(told))
    }
}
