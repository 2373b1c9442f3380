//! What the server tells of changes to rows, on a connection of its own. It knows keys, never rows.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{PushInfo, PushKind, Value};
use sessile_engine::SessionId;
use sessile_engine::store::{BoxFuture, Notice, StoreError, StoreErrorKind, Watch};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::link::{Link, connection_config};
use super::{error, row, scripts};

/// How often the channel is tried. The contract is a notice each second.
const BEAT: Duration = Duration::from_millis(400);
/// An engine that has so many ids to read is better off beginning anew.
const MOST_IDS: usize = 1 << 16;

/// What has happened since the last notice.
#[derive(Default)]
struct Pending {
    changed: Vec<SessionId>,
    lost: bool,
    alive: bool,
    ended: Option<StoreError>,
}

#[derive(Default)]
struct Board {
    pending: Mutex<Pending>,
    news: Notify,
}

impl Board {
    fn post(&self, write: impl FnOnce(&mut Pending)) {
        write(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    fn take(&self) -> Option<Result<Notice, StoreError>> {
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

impl Pending {
    fn change(&mut self, id: SessionId) {
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

/// Nobody waits for a task that the store has taken with it.
struct Ending(Arc<Board>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.post(|pending| pending.ended = pending.ended.take().or_else(|| Some(error::closed())));
    }
}

/// The engine's end of a watch. The other end ends with it.
struct Listener {
    board: Arc<Board>,
    _gone: oneshot::Sender<()>,
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

/// A connection that is told of changes, before anybody waits for them.
pub(super) struct Armed {
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    prefix: String,
    patience: Duration,
}

/// Connects and asks to be told of each change of a key under `prefix` that holds a row.
pub(super) async fn arm(link: &Link, prefix: &str) -> Result<Armed, StoreError> {
    let (push, pushes) = mpsc::unbounded_channel();
    let patience = link.patience();
    let config = connection_config(patience).set_push_sender(push);
    let mut connection = link
        .client()
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|e| error::of("no connection for the changes", e))?;
    // Not NOLOOP: this connection never writes. The server keeps no memory of keys in this mode.
    let mut cmd = ::redis::cmd("CLIENT");
    cmd.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(format!("{prefix}s:"));
    cmd.query_async::<()>(&mut connection).await.map_err(|e| error::of("no news of changes", e))?;
    Ok(Armed { connection, pushes, prefix: prefix.to_owned(), patience })
}

impl Armed {
    /// The watch, and what must run for it.
    pub(super) fn split(
        self,
        closed: watch::Receiver<bool>,
    ) -> (Box<dyn Watch>, impl Future<Output = ()> + Send + 'static) {
        let board = Arc::new(Board::default());
        let (gone, going) = oneshot::channel();
        let listener = Listener { board: Arc::clone(&board), _gone: gone };
        // Made here, as a task that never runs is dropped all the same.
        (Box::new(listener), self.pump(Ending(board), going, closed))
    }

    async fn pump(mut self, ending: Ending, going: oneshot::Receiver<()>, mut closed: watch::Receiver<bool>) {
        let why = tokio::select! {
            _ = going => return,
            _ = closed.wait_for(|closed| *closed) => error::closed(),
            why = self.listen(&ending.0) => why,
        };
        ending.0.post(|pending| pending.ended = Some(why));
    }

    /// Posts what is told, until nothing is any more.
    async fn listen(&mut self, board: &Board) -> StoreError {
        loop {
            let patience = self.patience.min(Duration::from_secs(1));
            let mut connection = self.connection.clone();
            let beat = async move {
                tokio::time::sleep(BEAT).await;
                let ping = ::redis::cmd("PING");
                tokio::time::timeout(patience, ping.query_async::<Value>(&mut connection)).await
            };
            tokio::pin!(beat);
            let answer = loop {
                tokio::select! {
                    biased;
                    push = self.pushes.recv() => match push {
                        Some(push) => if let Some(e) = told(&self.prefix, push, board) { return e; },
                        None => return lost("its connection has ended"),
                    },
                    answer = &mut beat => break answer,
                }
            };
            match answer {
                // What was told before the answer has been posted: the same task reads both, in order.
                Ok(Ok(_)) => {
                    while let Ok(push) = self.pushes.try_recv() {
                        if let Some(e) = told(&self.prefix, push, board) {
                            return e;
                        }
                    }
                    board.post(|pending| pending.alive = true);
                }
                Ok(Err(e)) => return error::of("no more news of changes", e),
                Err(_) => return lost("the server is silent"),
            }
        }
    }
}

fn lost(what: &'static str) -> StoreError {
    error::own(StoreErrorKind::Unavailable, format!("no more news of changes: {what}"))
}

/// Posts one message; an error if it is the last.
fn told(prefix: &str, push: PushInfo, board: &Board) -> Option<StoreError> {
    match push.kind {
        PushKind::Disconnection => return Some(lost("its connection has ended")),
        PushKind::Invalidate => match push.data.first() {
            Some(Value::Array(keys)) => board.post(|pending| {
                let ids = keys.iter().filter_map(scripts::bytes).filter_map(|key| row::id_of(prefix, key));
                ids.for_each(|id| pending.change(id));
            }),
            // Everything was flushed; or something that a later server says.
            _ => board.post(|pending| pending.lost = true),
        },
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    fn invalidate(data: Vec<Value>) -> PushInfo {
        PushInfo { kind: PushKind::Invalidate, data }
    }

    #[test]
    fn keys_become_ids_and_foreign_ones_nothing() {
        let board = Board::default();
        let keys =
            [row::key("p:", &id(7)), "p:s:nonsense".into(), row::key("q:", &id(8)), row::key("p:", &id(9))];
        let keys = keys.into_iter().map(|key| Value::BulkString(key.into_bytes())).collect();
        assert!(told("p:", invalidate(vec![Value::Array(keys)]), &board).is_none());
        match board.take() {
            Some(Ok(Notice::Changed(ids))) => assert_eq!(ids, [id(7), id(9)]),
            other => panic!("{other:?}"),
        }
        assert!(board.take().is_none());
    }

    #[test]
    fn a_flush_and_too_many_changes_are_a_loss() {
        let board = Board::default();
        assert!(told("p:", invalidate(vec![Value::Nil]), &board).is_none());
        assert!(matches!(board.take(), Some(Ok(Notice::Lost))));
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
        let end = told("p:", PushInfo { kind: PushKind::Disconnection, data: Vec::new() }, &board);
        board.post(|pending| pending.ended = end);
        assert!(matches!(board.take(), Some(Ok(Notice::Changed(_)))));
        for _ in 0..2 {
            assert!(matches!(board.take(), Some(Err(e)) if e.kind() == StoreErrorKind::Unavailable));
        }
    }
}
