//! What the servers tell of changes to rows. It knows keys, never rows.
//!
//! Each transaction that changes a row writes one more key, the tick, under the same revision. A few times a second the
//! tick is read from a majority: when the watch has told all revisions up to the tick's, it has missed nothing. So a
//! member that lags behind the others, or has lost them, is noticed. A watch that breaks goes on at another server behind
//! the last revision that it told; only if the servers have forgotten that one, something is lost.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchStream};
use sessile_engine::store::{StoreError, StoreErrorKind, Watch};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error;
use super::shared::{Origin, Shared};
use crate::keyed::board::{Board, Ending, Listener};

/// How often the tick is read. The contract is a notice each second.
const BEAT: Duration = Duration::from_millis(400);
/// How long the watch may stay behind the tick, and how long a broken one is tried elsewhere.
const PATIENCE: Duration = Duration::from_secs(1);
/// A watch that tells, before anybody waits for it.
pub(super) struct Armed {
    shared: Arc<Shared>,
    stream: WatchStream,
    /// The server that tells.
    at: usize,
    /// All up to here was told.
    seen: i64,
    /// Which rows these are.
    origin: Vec<u8>,
}

/// Why a stream told no more.
enum Broken {
    Stream(StoreError),
    /// What we have not seen, the servers have forgotten; or they are not the ones we knew.
    Forgotten,
}

/// Begins to watch what changes from now on.
pub(super) async fn arm(shared: Arc<Shared>) -> Result<Armed, StoreError> {
    let Origin { revision, value } = shared.origin().await?;
    let (at, stream) = begin(&shared, revision).await.map_err(|broken| match broken {
        Broken::Stream(e) => e,
        Broken::Forgotten => lost("the servers forget faster than they can be asked"),
    })?;
    Ok(Armed { shared, stream, at, seen: revision, origin: value })
}

/// A stream of what has changed behind the revision `seen`.
async fn begin(shared: &Shared, seen: i64) -> Result<(usize, WatchStream), Broken> {
    let (at, mut client) = shared.link.watcher().await.map_err(Broken::Stream)?;
    let (from, end) = shared.keys.watched();
    let options = WatchOptions::new().with_range(end).with_start_revision(seen.saturating_add(1));
    let opened = timeout(PATIENCE.min(shared.link.patience()), async {
        let mut stream =
            client.watch(from, Some(options)).await.map_err(|e| error::of("no news of changes", e))?;
        // Nothing is told before this.
        match stream.message().await.map_err(|e| error::of("no news of changes", e))? {
            Some(first) if first.created() => Ok((first.canceled(), stream)),
            _ => Err(lost("the server does not begin")),
        }
    });
    let broken = match opened.await {
        Ok(Ok((false, stream))) => return Ok((at, stream)),
        Ok(Ok((true, _))) => lost("the server refuses to begin"),
        Ok(Err(e)) => e,
        Err(_) => lost("the server is silent"),
    };
    shared.link.leave(at);
    Err(Broken::Stream(broken))
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
        (Box::new(listener), self.pump(Ending { board, closed: error::closed() }, going, closed))
    }

    async fn pump(mut self, ending: Ending, going: oneshot::Receiver<()>, mut closed: watch::Receiver<bool>) {
        let why = tokio::select! {
            _ = going => return,
            _ = closed.wait_for(|closed| *closed) => error::closed(),
            why = self.listen(&ending.board) => why,
        };
        ending.board.post(|pending| pending.ended = Some(why));
    }

    /// Posts what is told, until nothing is any more.
    async fn listen(&mut self, board: &Board) -> StoreError {
        loop {
            match self.follow(board).await {
                Broken::Forgotten => board.post(|pending| pending.lost = true),
                Broken::Stream(e) => {
                    tracing::debug!(store = super::NAME, error = %e, "another server is asked for changes");
                    self.shared.link.leave(self.at);
                }
            }
            let start = Instant::now();
            while let Err(e) = self.resume(board).await {
                if start.elapsed() > PATIENCE {
                    return e;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Goes on where the last stream ended, or anew if the servers are not what they were.
    async fn resume(&mut self, board: &Board) -> Result<(), StoreError> {
        let Origin { revision, value } = match timeout(PATIENCE, self.shared.origin()).await {
            Ok(origin) => origin?,
            Err(_) => return Err(lost("the servers are silent")),
        };
        if self.origin != value || revision < self.seen {
            board.post(|pending| pending.lost = true);
            (self.origin, self.seen) = (value, revision);
        }
        match begin(&self.shared, self.seen).await {
            Ok((at, stream)) => {
                (self.at, self.stream) = (at, stream);
                Ok(())
            }
            Err(Broken::Stream(e)) => Err(e),
            Err(Broken::Forgotten) => Err(lost("the servers forgot it")),
        }
    }

    async fn follow(&mut self, board: &Board) -> Broken {
        loop {
            let shared = Arc::clone(&self.shared);
            let beat = async move {
                sleep(BEAT).await;
                timeout(PATIENCE, shared.tick()).await
            };
            tokio::pin!(beat);
            let answer = loop {
                tokio::select! {
                    biased;
                    told = self.stream.message() => {
                        if let Some(broken) = self.told(told, board) {
                            return broken;
                        }
                    }
                    answer = &mut beat => break answer,
                }
            };
            let (tick, revision) = match answer {
                Ok(Ok(tick)) => tick,
                Ok(Err(e)) => return Broken::Stream(e),
                Err(_) => return Broken::Stream(lost("no majority answers")),
            };
            if revision < self.seen {
                self.seen = revision;
                return Broken::Forgotten;
            }
            let until = Instant::now() + PATIENCE;
            while self.seen < tick {
                tokio::select! {
                    told = self.stream.message() => {
                        if let Some(broken) = self.told(told, board) {
                            return broken;
                        }
                    }
                    () = sleep_until(until) => return Broken::Stream(lost("the server is behind")),
                }
            }
            board.post(|pending| pending.alive = true);
        }
    }

    /// Posts one message; says if it is the last.
    fn told(
        &mut self,
        told: Result<Option<etcd_client::WatchResponse>, etcd_client::Error>,
        board: &Board,
    ) -> Option<Broken> {
        let told = match told {
            Ok(Some(told)) => told,
            Ok(None) => return Some(Broken::Stream(lost("the server has ended it"))),
            Err(e) => return Some(Broken::Stream(error::of("no more news of changes", e))),
        };
        if told.compact_revision() > 0 {
            // All that was forgotten is behind us when we begin anew.
            self.seen =
                told.compact_revision().max(told.header().map_or(0, etcd_client::ResponseHeader::revision));
            return Some(Broken::Forgotten);
        }
        if told.canceled() {
            return Some(Broken::Stream(lost("the server has cancelled it")));
        }
        let mut ids = Vec::new();
        for kv in told.events().iter().filter_map(|event| event.kv()) {
            self.seen = self.seen.max(kv.mod_revision());
            ids.extend(self.shared.keys.id_of(kv.key()));
        }
        if !ids.is_empty() {
            board.post(|pending| ids.into_iter().for_each(|id| pending.change(id)));
        }
        None
    }
}

fn lost(what: &'static str) -> StoreError {
    error::own(StoreErrorKind::Unavailable, format!("no more news of changes: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests fail by panicking")]
mod tests {
    use pollster::block_on;
    use sessile_engine::SessionId;
    use sessile_engine::store::{Change, Notice, Outcome, Row, Store as _};

    use super::super::EtcdStore;
    use super::super::support::etcd::Cluster;
    use super::*;

    fn id(n: u32) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    /// The servers have compacted what a broken watch has not seen: all is forgotten, and what comes later is told.
    #[test]
    fn what_was_compacted_is_a_loss_and_the_watch_goes_on() {
        let Some(cluster) = Cluster::start(1) else { return };
        let store = EtcdStore::connect(&cluster.url()).unwrap();
        let write = |n: u32| {
            let row = Row { version: 1, expires_at: u64::MAX, owner: None, bytes: Vec::new() };
            assert_eq!(
                block_on(store.commit(1, &[Change::Put { id: id(n), row }])).unwrap(),
                [Outcome::Done]
            );
        };
        (0..10).for_each(write);
        let revision = block_on(store.run(|shared| async move { Ok(shared.tick().await?.1) })).unwrap();
        cluster.ask(async |mut client| client.compact(revision, None).await);
        let armed = store.run(|shared| async move {
            let mut armed = arm(Arc::clone(&shared)).await?;
            let begun = begin(&shared, 1).await;
            (armed.at, armed.stream) = begun.map_err(|_| lost("it does not begin"))?;
            armed.seen = 1;
            Ok(armed)
        });
        let (mut watch, pump) = block_on(armed).unwrap().split(store.shared.closed.subscribe());
        store.driver.spawn(pump);
        assert_eq!(block_on(watch.next()).unwrap(), Notice::Lost);
        assert_eq!(block_on(watch.next()).unwrap(), Notice::Alive, "it goes on by itself");
        write(11);
        while block_on(watch.next()).unwrap() != Notice::Changed(vec![id(11)]) {}
    }
}
