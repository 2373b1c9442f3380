//! The statements that change rows, in their order. A commit is two exchanges with the server: one locks the rows and
//! asks for their versions, the other writes and commits. It decides nothing: see the plan.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use deadpool_postgres::Pool;
use sessile_engine::store::{Change, Expired, Outcome};
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;

use super::PAUSE;
use super::client::{Failure, Lent};
use crate::sql::plan::{Key, Plan, keys, pieces, plan};
use crate::sql::postgres::columns::{Columns, PIECE};
use crate::sql::postgres::text::{COMMIT, Texts};
use crate::sql::signed;

type Step<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'a>>;

/// Sends all before it waits for the first answer; the driver sends in the order of the first polls. The first failure
/// counts, all answers are read.
async fn in_order(mut steps: Vec<Step<'_>>) -> Result<(), Error> {
    let mut results: Vec<Option<Result<u64, Error>>> = steps.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (step, result) in steps.iter_mut().zip(&mut results) {
            if result.is_none() {
                match step.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().try_for_each(|result| result.map(drop))
}

fn begin<'a>(client: &'a Lent, texts: &'a Texts) -> Step<'a> {
    Box::pin(async { client.batch_execute(texts.begin).await.map(|()| 0) })
}

fn end(client: &Lent) -> Step<'_> {
    Box::pin(async { client.batch_execute(COMMIT).await.map(|()| 0) })
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// The parameters of `raise`.
fn mark<'a>(now: &'a i64, slot: Option<&'a String>) -> Vec<Parameter<'a>> {
    let slot = slot.map(|slot| slot as Parameter<'a>);
    std::iter::once(now as Parameter<'a>).chain(slot).collect()
}

/// Applies `changes`, again and again while others are in the way.
pub(super) async fn commit(
    pool: &Pool,
    texts: &Texts,
    now: u64,
    changes: &[Change],
) -> Result<Vec<Outcome>, Failure> {
    let mut fresh = false;
    loop {
        let client = Lent::from(pool).await?;
        let plan = match locked(&client, texts, changes).await {
            // Nothing has been changed, so another connection may do it.
            Err(e) if e.is_stale() && !fresh => {
                fresh = true;
                continue;
            }
            Err(e) if e.is_race() => {
                client.roll_back().await?;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            other => other?,
        };
        match write(&client, texts, now, &plan).await {
            Ok(()) => {
                client.done();
                return Ok(plan.outcomes);
            }
            Err(e) if e.is_race() => {
                // The server has rolled back, and all its answers have been read.
                client.done();
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Begins a transaction, locks the rows in the order of their ids, and plans. That order keeps two transactions from
/// waiting for each other.
async fn locked<'a>(client: &Lent, texts: &Texts, changes: &'a [Change]) -> Result<Plan<'a>, Failure> {
    let wanted = keys(changes);
    if wanted.is_empty() {
        client.batch_execute(texts.begin).await?;
        return Ok(Plan::default());
    }
    let lock = client.prepare_cached(&texts.lock).await?;
    let wanted: Vec<&[u8]> = wanted.iter().map(<[u8; 32]>::as_slice).collect();
    let mut stored = BTreeMap::new();
    let found = &mut stored;
    let query: Step<'_> = Box::pin(async {
        for row in client.query(&lock, &[&wanted]).await? {
            let id: &[u8] = row.try_get(0)?;
            if let Ok(id) = Key::try_from(id) {
                found.insert(id, row.try_get::<_, i64>(1)?.cast_unsigned());
            }
        }
        Ok(0)
    });
    in_order(vec![begin(client, texts), query]).await?;
    Ok(plan(&stored, changes))
}

/// Writes what is planned, and commits.
async fn write(client: &Lent, texts: &Texts, now: u64, plan: &Plan<'_>) -> Result<(), Failure> {
    let quarantined: Vec<&[u8]> = plan.quarantine.iter().map(<[u8; 32]>::as_slice).collect();
    let deleted: Vec<&[u8]> = plan.delete.iter().map(<[u8; 32]>::as_slice).collect();
    let told: Vec<u8> = plan.changed().flatten().copied().collect();
    let columns = |rows| pieces(rows, usize::MAX, PIECE).into_iter().map(Columns::of).collect::<Vec<_>>();
    let (quarantined_new, updated, inserted) =
        (columns(&plan.quarantine_new), columns(&plan.update), columns(&plan.insert));
    let now = signed(now);

    // Statements are known to the server after their first use on a connection.
    let mut prepared = Vec::new();
    for text in [
        (!quarantined.is_empty()).then_some(&texts.quarantine),
        (!quarantined_new.is_empty()).then_some(&texts.quarantine_new),
        (!deleted.is_empty()).then_some(&texts.delete),
        (!updated.is_empty()).then_some(&texts.update),
        (!inserted.is_empty()).then_some(&texts.insert),
        texts.changes.as_ref().filter(|_| !told.is_empty()).map(|changes| &changes.tell),
        Some(&texts.raise),
    ] {
        prepared.push(match text {
            Some(text) => Some(client.prepare_cached(text).await?),
            None => None,
        });
    }
    let Ok([quarantine, quarantine_new, delete, update, insert, tell, raise]) =
        <[Option<_>; 7]>::try_from(prepared)
    else {
        return Err(Failure::Store(crate::sql::no_tables(super::NAME)));
    };

    let slot = texts.slot();
    let mark = mark(&now, slot.as_ref());
    let mut steps: Vec<Step<'_>> = Vec::new();
    if let Some(statement) = &quarantine {
        let ids = &quarantined;
        steps.push(Box::pin(async move { client.execute(statement, &[ids, &now]).await }));
    }
    if let Some(statement) = &quarantine_new {
        for c in &quarantined_new {
            steps.push(Box::pin(async move {
                let row: [Parameter<'_>; 6] = [&c.ids, &c.versions, &c.expiries, &c.owners, &c.bytes, &now];
                client.execute(statement, &row).await
            }));
        }
    }
    if let Some(statement) = &delete {
        let ids = &deleted;
        steps.push(Box::pin(async move { client.execute(statement, &[ids]).await }));
    }
    for (statement, pieces) in [(&update, &updated), (&insert, &inserted)] {
        let Some(statement) = statement else { continue };
        for c in pieces {
            steps.push(Box::pin(async move {
                client.execute(statement, &[&c.ids, &c.versions, &c.expiries, &c.owners, &c.bytes]).await
            }));
        }
    }
    if let Some(statement) = &tell {
        let ids = &told;
        steps.push(Box::pin(async move { client.execute(statement, &[ids]).await }));
    }
    // Last, since it may wait for others: who holds a mark waits for nobody any more.
    if let Some(statement) = &raise {
        let mark = &mark;
        steps.push(Box::pin(async move { client.execute(statement, mark).await }));
    }
    // Behind a statement that failed this rolls back.
    steps.push(end(client));
    Ok(in_order(steps).await?)
}

/// Removes what is due, raises the mark, and forgets changes that everybody has been told.
pub(super) async fn expire(
    pool: &Pool,
    texts: &Texts,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Failure> {
    let mut fresh = false;
    loop {
        let client = Lent::from(pool).await?;
        match expire_once(&client, texts, now, high_water, limit).await {
            Err(e) if e.is_stale() && !fresh => fresh = true,
            Err(e) if e.is_race() => {
                client.done();
                tokio::time::sleep(PAUSE).await;
            }
            Ok(expired) => {
                client.done();
                return Ok(expired);
            }
            Err(e) => return Err(e),
        }
    }
}

async fn expire_once(
    client: &Lent,
    texts: &Texts,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Failure> {
    let text = if i64::try_from(now).is_ok() { &texts.expire } else { &texts.expire_beyond };
    let expire = client.prepare_cached(text).await?;
    let raise = client.prepare_cached(&texts.raise).await?;
    let trim = match &texts.changes {
        Some(changes) => Some(client.prepare_cached(&changes.trim).await?),
        None => None,
    };
    let slot = texts.slot();
    let (now, high_water) = (signed(now), signed(high_water));
    // The statement asks for one more.
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).min(i64::MAX - 1);
    let (mut removed, mut seen) = (0_i64, 0_i64);
    let (gone, there) = (&mut removed, &mut seen);
    let mark = mark(&high_water, slot.as_ref());
    let mut steps: Vec<Step<'_>> = vec![
        begin(client, texts),
        Box::pin(async {
            let row = client.query_one(&expire, &[&now, &limit]).await?;
            (*gone, *there) = (row.try_get(0)?, row.try_get(1)?);
            Ok(0)
        }),
        Box::pin(async { client.execute(&raise, &mark).await }),
    ];
    if let Some(trim) = &trim {
        steps.push(Box::pin(async move { client.execute(trim, &[]).await }));
    }
    steps.push(end(client));
    in_order(steps).await?;
    // Fewer than allowed: the others that are due are held by somebody, and wait for the next run.
    let more = removed == limit && seen > limit;
    Ok(Expired { removed: removed.cast_unsigned(), more })
}
