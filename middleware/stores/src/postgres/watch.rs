//! The changes that anybody makes, by asking a few times a second. It tells each change once, and says so when it cannot
//! know.
//!
//! Transactions end in another order than they begin, so no number that they take tells what is new. A question asks for
//! what its snapshot of the database sees and the snapshot of the question before did not: that is each change exactly
//! once. Changes are removed when they have been visible for a minute at least; who has not asked for half a minute may
//! have missed some.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use sessile_engine::SessionId;
use sessile_engine::store::{BoxFuture, Notice, StoreError, StoreErrorKind, Watch};
use tokio::time::{Instant, sleep};
use tokio_postgres::Statement;

use super::client::{Failure, Lent};
use super::{NAME, Shared};
use crate::driver::Driver;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(150);
/// A notice comes after as many empty answers.
const QUIET: u32 = 3;
/// Half of the time that a change is kept.
const LONGEST_GAP_MS: u64 = 30_000;

/// A connection that asks what is new.
pub(super) struct Changes {
    shared: Arc<Shared>,
    client: ClientWrapper,
    news: Statement,
    /// The last question's snapshot, by the server's clock in ms, and by ours.
    snapshot: String,
    at: i64,
    asked: Instant,
}

impl Changes {
    /// Takes a connection from the pool for good, and the first snapshot: what is committed from now on is told.
    pub(super) async fn open(shared: Arc<Shared>) -> Result<Self, Failure> {
        let lent = Lent::from(&shared.pool).await?;
        let news = lent.prepare_cached(&shared.texts.news).await?;
        let row = lent
            .query_one(
                "SELECT pg_current_snapshot()::text, \
            (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
                &[],
            )
            .await?;
        let (snapshot, at) = (row.try_get(0)?, row.try_get(1)?);
        let Some(client) = lent.keep() else { return Err(Failure::Store(crate::sql::closed(NAME))) };
        Ok(Self { shared, client, news, snapshot, at, asked: Instant::now() })
    }

    pub(super) fn on(self, driver: Driver) -> Polled {
        Polled { driver, changes: Some(self) }
    }

    async fn ask(&mut self) -> Result<Notice, Failure> {
        let asked = Instant::now();
        let rows = self.client.query(&self.news, &[&self.snapshot]).await?;
        let mut ids = Vec::new();
        let mut gap =
            u64::try_from(asked.saturating_duration_since(self.asked).as_millis()).unwrap_or(u64::MAX);
        for row in &rows {
            if let Some(told) = row.try_get::<_, Option<&[u8]>>(2)? {
                ids.extend(told.as_chunks::<32>().0.iter().map(|id| SessionId::from_bytes(*id)));
            }
        }
        if let Some(row) = rows.first() {
            let at: i64 = row.try_get(1)?;
            gap = gap.max(at.abs_diff(self.at));
            (self.snapshot, self.at, self.asked) = (row.try_get(0)?, at, asked);
        }
        Ok(if gap > LONGEST_GAP_MS {
            Notice::Lost
        } else if ids.is_empty() {
            Notice::Alive
        } else {
            Notice::Changed(ids)
        })
    }

    async fn next(&mut self) -> Result<Notice, Failure> {
        for _ in 1..QUIET {
            sleep(EVERY).await;
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(Failure::Store(crate::sql::closed(NAME)));
            }
            match self.ask().await? {
                Notice::Alive => {}
                told => return Ok(told),
            }
        }
        sleep(EVERY).await;
        self.ask().await
    }
}

/// A watch whose questions run on the store's own thread.
pub(super) struct Polled {
    driver: Driver,
    /// `None` after an error, which is final.
    changes: Option<Changes>,
}

impl Watch for Polled {
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        Box::pin(async {
            let Some(mut changes) = self.changes.take() else {
                return Err(StoreError::new(StoreErrorKind::Unavailable, NAME, "the watch has ended"));
            };
            // It waits by itself before it asks.
            let deadline = self.driver.deadline() + EVERY * QUIET;
            let (changes, notice) = self
                .driver
                .run_within(deadline, async move {
                    match changes.next().await {
                        Ok(notice) => Ok((changes, notice)),
                        Err(e) => Err(e.into_store("changes could not be watched")),
                    }
                })
                .await?;
            self.changes = Some(changes);
            Ok(notice)
        })
    }
}
