//! What the servers tell of changes to rows, on connections of their own. It knows keys, never rows.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{PushInfo, PushKind, Value};
use sessile_engine::store::{StoreError, StoreErrorKind, Watch};
use tokio::sync::{mpsc, oneshot, watch};

use super::cluster::{Topology, try_join_all, understood};
use super::link::{Origin, connection_config};
use super::rows::Rows;
use super::{address, error, row, scripts, sentinel};
use crate::keyed::board::{Board, Ending, Listener};

/// How often the channel is tried. The contract is a notice each second.
const BEAT: Duration = Duration::from_millis(400);
/// How long sentinels may take to say that nothing has changed.
const SENTINEL: Duration = Duration::from_millis(300);
/// Connections that are told of changes, before anybody waits for them.
pub(super) struct Armed {
    rows: Arc<Rows>,
    prefix: String,
    patience: Duration,
    channels: Vec<Channel>,
    /// Of all channels.
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    sender: mpsc::UnboundedSender<PushInfo>,
    /// Of a cluster: who served each bucket when the engine was last told of a loss, or began.
    seen: Topology,
}

/// To one primary.
struct Channel {
    connection: MultiplexedConnection,
    /// Empty if it leads to a server that is always the same.
    address: String,
}

/// Connects to every primary, and asks to be told of each change of a key under `prefix` that holds a row.
pub(super) async fn arm(rows: Arc<Rows>, prefix: String) -> Result<Armed, StoreError> {
    let (sender, pushes) = mpsc::unbounded_channel();
    let patience = match &*rows {
        Rows::One(shared) => shared.link.patience(),
        Rows::Spread(spread) => spread.router.patience(),
    };
    let seen = Topology::default();
    let mut armed = Armed { rows, prefix, patience, channels: Vec::new(), pushes, sender, seen };
    armed.open().await?;
    Ok(armed)
}

impl Armed {
    async fn open(&mut self) -> Result<(), StoreError> {
        match &*Arc::clone(&self.rows) {
            Rows::One(shared) => {
                let (origin, address) = match shared.link.origin() {
                    Origin::Sentinel(sentinel) => {
                        let client = sentinel.primary().await?;
                        let address = address::of(client.get_connection_info().addr());
                        (Origin::Server(Box::new(client)), address.unwrap_or_default())
                    }
                    origin => (origin.clone(), String::new()),
                };
                let channel = self.channel(&origin, address).await?;
                self.channels.push(channel);
            }
            Rows::Spread(spread) => {
                // Who serves what is asked again when all listen: somebody may have come in between.
                while self.follow(spread.router.explore().await?).await? {}
            }
        }
        Ok(())
    }

    async fn channel(&self, origin: &Origin, address: String) -> Result<Channel, StoreError> {
        let sender = self.sender.clone();
        let config = connection_config(self.patience).set_push_sender(sender);
        let mut connection = origin.connect(&config).await?;
        // Not NOLOOP: this connection never writes. The server keeps no memory of keys in this mode.
        let mut cmd = ::redis::cmd("CLIENT");
        cmd.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(format!("{}s:", self.prefix));
        cmd.query_async::<()>(&mut connection).await.map_err(|e| error::of("no news of changes", e))?;
        Ok(Channel { connection, address })
    }

    /// Opens channels to the primaries that have none. Whether anything is new: then something may have been missed.
    async fn follow(&mut self, now: Topology) -> Result<bool, StoreError> {
        let Rows::Spread(spread) = &*Arc::clone(&self.rows) else { return Ok(false) };
        let mut is_new = now.owners != self.seen.owners;
        for address in &now.primaries {
            if !self.channels.iter().any(|channel| channel.address == *address) {
                let origin = Origin::Server(Box::new(spread.router.client(address)?));
                let channel = self.channel(&origin, address.clone()).await?;
                self.channels.push(channel);
                is_new = true;
            }
        }
        // One that is no primary any more tells nothing that another does not.
        self.channels
            .retain(|channel| channel.address.is_empty() || now.primaries.contains(&channel.address));
        if is_new {
            // Whoever still answers although another has its slots is not asked any more.
            spread.router.take_over(&now)?;
        }
        self.seen = now;
        Ok(is_new)
    }

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
            let seen = {
                let beat = beat(&self.rows, &self.channels, self.patience.min(Duration::from_secs(1)));
                tokio::pin!(beat);
                loop {
                    tokio::select! {
                        biased;
                        push = self.pushes.recv() => match push {
                            Some(push) => if let Some(e) = told(&self.prefix, push, board) { return e; },
                            None => return lost("its connection has ended"),
                        },
                        seen = &mut beat => break seen,
                    }
                }
            };
            let seen = match seen {
                Ok(seen) => seen,
                Err(e) => return e,
            };
            // What was told before the answers has been posted: a connection is read in order.
            while let Ok(push) = self.pushes.try_recv() {
                if let Some(e) = told(&self.prefix, push, board) {
                    return e;
                }
            }
            match seen {
                None => board.post(|pending| pending.alive = true),
                Some(now) => {
                    match tokio::time::timeout(self.patience.min(Duration::from_secs(1)), self.follow(now))
                        .await
                    {
                        Ok(Ok(false)) => board.post(|pending| pending.alive = true),
                        // Another server, or another server's slots: what was cached before may be old.
                        Ok(Ok(true)) => board.post(|pending| pending.lost = true),
                        Ok(Err(e)) => return e,
                        Err(_) => return lost("a new primary of the cluster is silent"),
                    }
                }
            }
        }
    }
}

/// Tries all channels after a while: each must answer, and lead to a primary still. In a cluster, what they see together.
async fn beat(rows: &Rows, channels: &[Channel], patience: Duration) -> Result<Option<Topology>, StoreError> {
    tokio::time::sleep(BEAT).await;
    let mut cmd = ::redis::cmd("PING");
    match rows {
        Rows::One(shared) => {
            if let Origin::Sentinel(_) = shared.link.origin() {
                cmd = ::redis::cmd("ROLE");
            }
        }
        Rows::Spread(_) => {
            cmd = ::redis::cmd("CLUSTER");
            cmd.arg("NODES");
        }
    }
    let asked = channels.iter().map(|channel| {
        let (cmd, mut connection) = (&cmd, channel.connection.clone());
        async move {
            match tokio::time::timeout(patience, cmd.query_async::<Value>(&mut connection)).await {
                Ok(answer) => answer.map_err(|e| error::of("no more news of changes", e)),
                Err(_) => Err(lost("the server is silent")),
            }
        }
    });
    let answers = try_join_all(asked).await?;
    match rows {
        Rows::One(shared) => {
            if let (Origin::Sentinel(sentinel), Some(role)) = (shared.link.origin(), answers.first()) {
                sentinel::is_primary(role)?;
                // One that was cut off from the others does not know that it is none any more. Sentinels that are down
                // change nothing.
                let named = tokio::time::timeout(SENTINEL, sentinel.locate()).await;
                if let Ok(Ok(named)) = named
                    && channels.iter().any(|channel| channel.address != named)
                {
                    shared.link.hang_up().await;
                    return Err(lost("the sentinels name another primary"));
                }
            }
            Ok(None)
        }
        Rows::Spread(_) => {
            let mut all = Topology::default();
            for (answer, channel) in answers.iter().zip(channels) {
                let seen = understood(answer, &channel.address)?;
                if !seen.says_primary {
                    return Err(lost("a primary of the cluster has become a replica"));
                }
                all.merge(seen);
            }
            Ok(Some(all))
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
    use sessile_engine::SessionId;
    use sessile_engine::store::Notice;

    use super::*;
    use crate::keyed::board::MOST_IDS;

    fn id(n: u32) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    fn names(prefix: &str) -> row::Names {
        row::Names::new(prefix)
    }

    fn invalidate(data: Vec<Value>) -> PushInfo {
        PushInfo { kind: PushKind::Invalidate, data }
    }

    #[test]
    fn keys_become_ids_and_foreign_ones_nothing() {
        let board = Board::default();
        let keys = [
            names("p:").row(&id(7)),
            "p:s:nonsense".into(),
            names("q:").row(&id(8)),
            names("p:").row(&id(9)),
        ];
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
