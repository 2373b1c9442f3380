//! What the server tells of changes to rows, by a change stream. It knows ids, never rows.
//!
//! A few times a second the watch changes a document of its own among the rows, the tick, and waits until the stream tells
//! of it. The stream is in the order of the changes, and tells of what a majority has. So when the tick comes, everything
//! before it has been told; a primary that has lost the others cannot get a tick through.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType};
use sessile_engine::store::{StoreError, StoreErrorKind, Watch};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::doc;
use super::error;
use super::shared::Shared;
use crate::keyed::board::{Board, Ending, Listener};

/// How often a tick is sent. The contract is a notice each second.
const BEAT: Duration = Duration::from_millis(400);
/// How long the server keeps a question for what is new.
const WAIT: Duration = Duration::from_millis(100);
/// How long a tick may take, and the server over an answer, if calls may not take longer. Nobody believes anything
/// meanwhile: without a tick there is no notice.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a tick stays of a store that is gone, in ms.
const TICK_STAYS: u64 = 3_600_000;

/// A watch that tells, before anybody waits for it.
pub(super) struct Armed {
    shared: Arc<Shared>,
    stream: ChangeStream<ChangeStreamEvent<Document>>,
    tick: String,
}

fn lost(what: &'static str) -> StoreError {
    error::own(StoreErrorKind::Unavailable, format!("no more news of changes: {what}"))
}

/// Begins to watch what changes from now on.
pub(super) async fn arm(shared: Arc<Shared>) -> Result<Armed, StoreError> {
    let tick = format!("{}{}", doc::TICKS.0, ObjectId::new().to_hex());
    let told = doc! { "$match": { "$or": [
        { "documentKey._id": { "$type": "binData" } },
        { "documentKey._id": &tick },
        { "operationType": { "$in": ["drop", "rename", "dropDatabase", "invalidate"] } },
    ] } };
    // Without what has changed: it is read anew by whoever needs it.
    let fields = doc! { "$project": { "operationType": 1, "documentKey": 1 } };
    let stream = shared.rows.watch().pipeline([told, fields]).max_await_time(WAIT).await;
    let stream = stream.map_err(error::of("no news of changes"))?;
    Ok(Armed { shared, stream, tick })
}

/// A tick that is on its way.
struct Sent {
    task: JoinHandle<mongodb::error::Result<()>>,
    since: Instant,
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
        let (rows, tick) = (self.shared.rows.clone(), self.tick.clone());
        let why = tokio::select! {
            _ = going => None,
            _ = closed.wait_for(|closed| *closed) => Some(error::closed()),
            why = self.listen(&ending.board) => Some(why),
        };
        if let Some(why) = why {
            ending.board.post(|pending| pending.ended = Some(why));
        }
        // If it stays, a sweep removes it.
        let _ = timeout(PATIENCE, rows.delete_one(doc! { "_id": tick }).into_future()).await;
    }

    /// Posts what is told, until nothing is any more. The engine then opens another watch and trusts nothing until it has.
    async fn listen(&mut self, board: &Board) -> StoreError {
        let patience = self.shared.deadline.max(PATIENCE);
        let (mut sent, mut last): (Option<Sent>, Option<Instant>) = (None, None);
        loop {
            if sent.is_none() && last.is_none_or(|last| last.elapsed() >= BEAT) {
                sent = Some(self.send());
                last = Some(Instant::now());
            }
            let event = match timeout(patience, self.stream.next_if_any()).await {
                Ok(Ok(event)) => event,
                Ok(Err(e)) => return error::of("no more news of changes")(e),
                Err(_) => return lost("the server is silent"),
            };
            match event {
                None if !self.stream.is_alive() => return lost("the server has ended them"),
                None => {}
                Some(event) => match self.told(&event, board) {
                    Told::Row => {}
                    Told::Tick => {
                        if sent.take().is_some() {
                            board.post(|pending| pending.alive = true);
                        }
                    }
                    Told::End => return lost("the collection is not what it was"),
                },
            }
            let Some(tick) = &mut sent else { continue };
            if tick.since.elapsed() > patience {
                return lost("the server is behind, or has no majority");
            }
            if tick.task.is_finished() {
                // It has been asked for its outcome once, or its event is on its way.
                if let Ok(Err(e)) = (&mut tick.task).await {
                    return error::of("no more news of changes")(e);
                }
                tick.task = tokio::spawn(std::future::pending());
            }
        }
    }

    fn send(&self) -> Sent {
        let (rows, tick) = (self.shared.rows.clone(), self.tick.clone());
        let due = self.shared.time.load(Ordering::Relaxed).saturating_add(TICK_STAYS);
        let task = tokio::spawn(async move {
            let write = doc! { "$inc": { "n": 1_i64 }, "$set": { "due": due.cast_signed() } };
            rows.update_one(doc! { "_id": tick }, write).upsert(true).await.map(|_| ())
        });
        Sent { task, since: Instant::now() }
    }

    fn told(&self, event: &ChangeStreamEvent<Document>, board: &Board) -> Told {
        match &event.operation_type {
            OperationType::Insert
            | OperationType::Update
            | OperationType::Replace
            | OperationType::Delete => {}
            _ => return Told::End,
        }
        let key = event.document_key.as_ref().and_then(|key| key.get("_id"));
        match key {
            Some(Bson::String(tick)) if *tick == self.tick => {
                // A sweep that takes it away proves nothing of what comes behind it.
                if event.operation_type == OperationType::Delete { Told::Row } else { Told::Tick }
            }
            key => {
                if let Some(id) = key.and_then(doc::id_of) {
                    board.post(|pending| pending.change(id));
                }
                Told::Row
            }
        }
    }
}

enum Told {
    /// Of a row, which is posted, or of nothing that anybody asked for.
    Row,
    /// Our own tick.
    Tick,
    /// Nothing more is told.
    End,
}
