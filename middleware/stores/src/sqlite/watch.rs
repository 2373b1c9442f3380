//! The changes that anybody makes to the file, by asking a few times a second. Transactions of one file happen one after
//! the other, so their numbers leave no gap; a gap means that what is missing was trimmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, Error};
use sessile_engine::SessionId;
use sessile_engine::store::{BoxFuture, Notice, StoreError, StoreErrorKind, Watch};
use tokio::sync::mpsc;

use super::NAME;
use super::error::store_error;
use super::text::Texts;
use super::thread::number;

const EVERY: Duration = Duration::from_millis(100);

/// A thread with a connection of its own that asks what is new.
pub(super) struct Polled {
    notices: mpsc::Receiver<Result<Notice, StoreError>>,
}

impl Polled {
    pub(super) fn start(
        connection: Connection,
        texts: Arc<Texts>,
        closed: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let what = "changes could not be watched";
        let mut last = number(&connection, &texts.latest).map_err(|e| store_error(what, e))?.unwrap_or(0);
        // Few: who does not listen is not worth the memory, and misses nothing.
        let (sender, notices) = mpsc::channel(2);
        let listen = move || {
            loop {
                std::thread::sleep(EVERY);
                let notice = if closed.load(Ordering::Acquire) {
                    Err(crate::sql::closed(NAME))
                } else {
                    news(&connection, &texts, &mut last).map_err(|e| store_error(what, e))
                };
                let is_end = notice.is_err();
                if sender.blocking_send(notice).is_err() || is_end {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sessile-watch".into()).spawn(listen).map_err(|e| {
            StoreError::new(StoreErrorKind::Unavailable, NAME, "its thread could not be started")
                .with_source(e)
        })?;
        Ok(Self { notices })
    }
}

fn news(connection: &Connection, texts: &Texts, last: &mut i64) -> Result<Notice, Error> {
    let mut statement = connection.prepare_cached(&texts.news)?;
    let mut rows = statement.query([*last])?;
    let (mut ids, mut missed) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let told: Vec<u8> = row.get(1)?;
        missed |= seq != last.saturating_add(1);
        *last = seq;
        ids.extend(told.as_chunks::<32>().0.iter().map(|id| SessionId::from_bytes(*id)));
    }
    Ok(match (missed, ids.is_empty()) {
        (true, _) => Notice::Lost,
        (false, true) => Notice::Alive,
        (false, false) => Notice::Changed(ids),
    })
}

impl Watch for Polled {
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        Box::pin(async {
            self.notices.recv().await.unwrap_or_else(|| {
                Err(StoreError::new(StoreErrorKind::Unavailable, NAME, "the watch has ended"))
            })
        })
    }
}
