//! The connection that asks what others have changed. When it asks, and what it tells, it does not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{ClientWrapper, Pool};
use sessile_engine::store::StoreError;
use tokio_postgres::Statement;

use super::NAME;
use super::client::{Failure, Lent};
use crate::sql::postgres::text::Changes;
use crate::sql::postgres::watch::{Asks, FIRST, News};

pub(super) struct Source {
    closed: Arc<AtomicBool>,
    client: ClientWrapper,
    news: Statement,
}

impl Source {
    /// Takes a connection from the pool for good, and the first snapshot.
    pub(super) async fn open(
        pool: &Pool,
        changes: &Changes,
        closed: Arc<AtomicBool>,
    ) -> Result<(Self, (String, i64)), Failure> {
        let lent = Lent::from(pool).await?;
        let news = lent.prepare_cached(&changes.news).await?;
        let row = lent.query_one(FIRST, &[]).await?;
        let first = (row.try_get(0)?, row.try_get(1)?);
        let Some(client) = lent.keep() else { return Err(Failure::Store(crate::sql::closed(NAME))) };
        Ok((Self { closed, client, news }, first))
    }

    async fn query(&self, snapshot: &str) -> Result<Vec<News>, tokio_postgres::Error> {
        let rows = self.client.query(&self.news, &[&snapshot]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
    }
}

impl Asks for Source {
    const NAME: &'static str = NAME;

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    async fn news(&mut self, snapshot: &str) -> Result<Vec<News>, StoreError> {
        self.query(snapshot).await.map_err(|e| Failure::from(e).into_store("changes could not be watched"))
    }
}
