//! The changes that anybody makes, by asking a few times a second. It tells each change once, and says so when it cannot
//! know.
//!
//! Transactions end in another order than they begin, so no number that they take tells what is new. A question asks for
//! what its snapshot of the database sees and the snapshot of the question before did not: that is each change exactly
//! once. Changes are removed when they have been visible for a minute at least; who has not asked for half a minute may
//! have missed some.

use std::future::Future;
use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{BoxFuture, Notice, StoreError, StoreErrorKind, Watch};
use tokio::time::{Instant, sleep};

use crate::driver::Driver;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(150);
/// A notice comes after as many empty answers.
const QUIET: u32 = 3;
/// Half of the time that a change is kept.
const LONGEST_GAP_MS: u64 = 30_000;

/// The first question: what is [`News`], without ids.
pub(crate) const FIRST: &str =
    "SELECT pg_current_snapshot()::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, NULL::bytea";

/// A row of an answer: the snapshot that was taken, the server's clock in ms, and the ids of one transaction.
pub(crate) type News = (String, i64, Option<Vec<u8>>);

/// A connection that asks what is new.
pub(crate) trait Asks: Send + 'static {
    /// The name of the store.
    const NAME: &'static str;

    /// Whether the store was closed.
    fn is_closed(&self) -> bool;

    /// Everything that was changed since `snapshot`: one row at least.
    fn news(&mut self, snapshot: &str) -> impl Future<Output = Result<Vec<News>, StoreError>> + Send;
}

struct Changes<A> {
    source: A,
    /// The last question's snapshot, by the server's clock in ms, and by ours.
    snapshot: String,
    at: i64,
    asked: Instant,
}

impl<A: Asks> Changes<A> {
    async fn ask(&mut self) -> Result<Notice, StoreError> {
        let asked = Instant::now();
        let rows = self.source.news(&self.snapshot).await?;
        let mut ids = Vec::new();
        let mut gap =
            u64::try_from(asked.saturating_duration_since(self.asked).as_millis()).unwrap_or(u64::MAX);
        for (_, _, told) in &rows {
            let told = told.as_deref().unwrap_or_default();
            ids.extend(told.as_chunks::<32>().0.iter().map(|id| SessionId::from_bytes(*id)));
        }
        if let Some((snapshot, at, _)) = rows.into_iter().next() {
            gap = gap.max(at.abs_diff(self.at));
            (self.snapshot, self.at, self.asked) = (snapshot, at, asked);
        }
        Ok(if gap > LONGEST_GAP_MS {
            Notice::Lost
        } else if ids.is_empty() {
            Notice::Alive
        } else {
            Notice::Changed(ids)
        })
    }

    async fn next(&mut self) -> Result<Notice, StoreError> {
        for _ in 1..QUIET {
            sleep(EVERY).await;
            if self.source.is_closed() {
                return Err(crate::sql::closed(A::NAME));
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
pub(crate) struct Polled<A> {
    driver: Driver,
    /// `None` after an error, which is final.
    changes: Option<Changes<A>>,
}

impl<A: Asks> Polled<A> {
    /// A watch of what is committed from `first` on: the answer to [`FIRST`].
    pub(crate) fn new(driver: Driver, source: A, first: (String, i64)) -> Self {
        let (snapshot, at) = first;
        Self { driver, changes: Some(Changes { source, snapshot, at, asked: Instant::now() }) }
    }
}

impl<A: Asks> Watch for Polled<A> {
    fn next(&mut self) -> BoxFuture<'_, Result<Notice, StoreError>> {
        Box::pin(async {
            let Some(mut changes) = self.changes.take() else {
                return Err(StoreError::new(StoreErrorKind::Unavailable, A::NAME, "the watch has ended"));
            };
            // It waits by itself before it asks.
            let deadline = self.driver.deadline() + EVERY * QUIET;
            let (changes, notice) = self
                .driver
                .run_within(deadline, async move {
                    let notice = changes.next().await?;
                    Ok((changes, notice))
                })
                .await?;
            self.changes = Some(changes);
            Ok(notice)
        })
    }
}
