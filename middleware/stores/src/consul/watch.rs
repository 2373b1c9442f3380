//! What the agent tells of changes to rows: the lanes, looked at whenever one of them has changed, and a few times a second
//! anyway. It knows keys, never rows.
//!
//! Each look is answered by a leader that a majority has just confirmed. So a look that shows nothing new is a proof that
//! there is nothing, and a cluster without a majority has none to give.

use std::sync::Arc;
use std::time::Duration;

use sessile_engine::store::{StoreError, StoreErrorKind, Watch};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::error;
use super::link::Tree;
use super::log::{Entries, News, Seen};
use super::shared::Shared;
use crate::keyed::board::{Board, Ending, Listener};

/// How long the agent keeps a question for what is new. The contract is a notice each second.
const WAIT: Duration = Duration::from_millis(400);
/// How long a look may take beyond that, and how long it is tried again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks where much is changed: so many changes are told together.
const GATHER: Duration = Duration::from_millis(5);
const WHAT: &str = "no news of changes";

/// A watch that tells, before anybody waits for it.
pub(super) struct Armed {
    shared: Arc<Shared>,
    seen: Seen,
    index: u64,
}

/// Begins to watch what changes from now on.
pub(super) async fn arm(shared: Arc<Shared>) -> Result<Armed, StoreError> {
    // Servers that came back with nothing have lost the name of the rows, too.
    shared.open().await?;
    let now = shared.link.tree(WHAT, &shared.keys.log(), None).await?;
    let mut armed = Armed { shared, seen: Seen::default(), index: 0 };
    armed.look(&now);
    Ok(armed)
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

    fn look(&mut self, now: &Tree) -> News {
        let keys = &self.shared.keys;
        let layout = keys.layout();
        let origin = now.entries.iter().find(|entry| entry.key == layout);
        let lanes = now
            .entries
            .iter()
            .filter_map(|entry| Some((keys.lane_of(&entry.key)?, Entries::decode(&entry.value))));
        let mut news = self.seen.look(origin.map_or(&[], |origin| origin.value.as_slice()), lanes);
        // Numbers only rise, unless these are not the servers that we knew.
        news.lost |= now.index < self.index;
        self.index = now.index;
        news
    }

    /// Posts what is told, until nothing is any more. The engine then opens another watch and trusts nothing until it has.
    async fn listen(&mut self, board: &Board) -> StoreError {
        let mut last = Instant::now();
        loop {
            let log = self.shared.keys.log();
            let asked = self.shared.link.tree(WHAT, &log, Some((self.index.max(1), WAIT)));
            let failed = match timeout(WAIT + PATIENCE, asked).await {
                Ok(Ok(now)) => {
                    let News { ids, lost } = self.look(&now);
                    let is_quiet = ids.is_empty();
                    board.post(|pending| {
                        pending.lost |= lost;
                        ids.into_iter().for_each(|id| pending.change(id));
                        pending.alive = true;
                    });
                    last = Instant::now();
                    if !is_quiet {
                        sleep(GATHER).await;
                    }
                    continue;
                }
                Ok(Err(e)) => e,
                Err(_) => error::own(StoreErrorKind::Unavailable, format!("{WHAT}: the server is silent")),
            };
            // Nothing is missed by asking again: the agent gives all that it has.
            if failed.kind() != StoreErrorKind::Unavailable || last.elapsed() > WAIT + PATIENCE {
                return failed;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
