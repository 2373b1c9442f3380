//! The connection that asks what others have changed. When it asks, and what it tells, it does not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sessile_engine::store::StoreError;

use super::held::Held;
use super::{Connection, Meaning, Pool, Value};
use crate::sql::postgres::text::Changes;
use crate::sql::postgres::watch::{Asks, FIRST, News};

const WHAT: &str = "changes could not be watched";

pub(super) struct Source<P: Pool> {
    closed: Arc<AtomicBool>,
    /// The question.
    news: String,
    connection: P::Connection,
}

impl<P: Pool> Source<P> {
    /// Takes a connection from the pool for good, and the first snapshot.
    pub(super) async fn open(
        pool: &P,
        changes: &Changes,
        closed: Arc<AtomicBool>,
    ) -> Result<(Self, (String, i64)), StoreError> {
        let first = async {
            let mut held = Held::from(pool).await?;
            let first = held.news(FIRST, &[]).await?;
            Ok((held, first))
        };
        let (held, first) = first.await.map_err(|e: P::Error| e.into_store(WHAT))?;
        let first = first.into_iter().next().map(|(snapshot, at, _)| (snapshot, at));
        let Some((first, connection)) = first.zip(held.keep()) else {
            return Err(StoreError::new(sessile_engine::StoreErrorKind::Unavailable, P::NAME, WHAT));
        };
        Ok((Self { closed, news: changes.news.clone(), connection }, first))
    }
}

impl<P: Pool> Asks for Source<P> {
    const NAME: &'static str = P::NAME;

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    async fn news(&mut self, snapshot: &str) -> Result<Vec<News>, StoreError> {
        let answer = self.connection.news(&self.news, &[Value::Text(snapshot)]).await;
        answer.map_err(|e| e.into_store(WHAT))
    }
}
