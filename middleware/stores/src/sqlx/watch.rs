//! The connection that asks what others have changed. When it asks, and what it tells, it does not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sessile_engine::store::StoreError;
use sqlx::{PgConnection, PgPool, Row as _};

use super::NAME;
use super::connection::{Failure, Lent, statement};
use crate::sql::postgres::text::Changes;
use crate::sql::postgres::watch::{Asks, FIRST, News};

pub(super) struct Source {
    closed: Arc<AtomicBool>,
    /// The question.
    news: String,
    connection: PgConnection,
}

impl Source {
    /// Takes a connection from the pool for good, and the first snapshot.
    pub(super) async fn open(
        pool: &PgPool,
        changes: &Changes,
        closed: Arc<AtomicBool>,
    ) -> Result<(Self, (String, i64)), Failure> {
        let mut lent = Lent::from(pool).await?;
        let row = statement(FIRST).fetch_one(lent.get()?).await?;
        let first = (row.try_get(0)?, row.try_get(1)?);
        let Some(connection) = lent.keep() else { return Err(Failure::Store(crate::sql::closed(NAME))) };
        Ok((Self { closed, news: changes.news.clone(), connection }, first))
    }

    async fn query(&mut self, snapshot: &str) -> Result<Vec<News>, sqlx::Error> {
        let rows = statement(&self.news).bind(snapshot).fetch_all(&mut self.connection).await?;
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
