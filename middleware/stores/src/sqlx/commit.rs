//! The statements that change rows, in their order: lock, write, commit. It decides nothing: see the plan.

use std::collections::BTreeMap;
use std::time::Duration;

use sessile_engine::store::{Change, Expired, Outcome, Row};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::Pooled;
use super::connection::{Failure, Lent, statement};
use crate::sql::plan::{Key, Plan, keys, pieces, plan};
use crate::sql::postgres::text::{COMMIT, Texts};
use crate::sql::signed;

/// Bytes in one statement; the server takes less than 1 GiB.
const PIECE: usize = 64 << 20;
/// Nothing is counted: the deadline of the call ends it.
const PAUSE: Duration = Duration::from_millis(2);

/// Binds rows as the columns of an `UNNEST`.
fn bind<'q>(text: &str, rows: &[(Key, &Row)]) -> Query<'q, Postgres, PgArguments> {
    let mut ids: Vec<&[u8]> = Vec::with_capacity(rows.len());
    let mut versions = Vec::with_capacity(rows.len());
    let mut expiries = Vec::with_capacity(rows.len());
    let mut owners: Vec<Option<&[u8]>> = Vec::with_capacity(rows.len());
    let mut bytes: Vec<&[u8]> = Vec::with_capacity(rows.len());
    for (id, row) in rows {
        ids.push(id);
        versions.push(signed(row.version));
        expiries.push(signed(row.expires_at));
        owners.push(row.owner.as_deref().map(str::as_bytes));
        bytes.push(&row.bytes);
    }
    statement(text).bind(ids).bind(versions).bind(expiries).bind(owners).bind(bytes)
}

fn slices(ids: &[Key]) -> Vec<&[u8]> {
    ids.iter().map(<[u8; 32]>::as_slice).collect()
}

/// What became of one try.
enum Tried<T> {
    Done(T),
    /// The connection had ended before anything was changed.
    Stale(Failure),
    /// Others were in the way.
    Race,
}

/// Goes on while others are in the way, and once with another connection.
#[derive(Default)]
struct Tries {
    fresh: bool,
}

impl Tries {
    /// What was done, or `None` if it must be tried again.
    async fn judge<T>(&mut self, tried: Tried<T>) -> Result<Option<T>, Failure> {
        match tried {
            Tried::Done(value) => return Ok(Some(value)),
            Tried::Stale(e) if self.fresh => return Err(e),
            Tried::Stale(_) => self.fresh = true,
            Tried::Race => tokio::time::sleep(PAUSE).await,
        }
        Ok(None)
    }
}

/// Gives the connection back, or ends its transaction, by what became of the work on it.
async fn settle<T>(lent: Lent, result: Result<T, Failure>) -> Result<Tried<T>, Failure> {
    match result {
        Ok(value) => {
            lent.done();
            Ok(Tried::Done(value))
        }
        Err(e) if e.is_race() => {
            lent.roll_back().await?;
            Ok(Tried::Race)
        }
        Err(e) => Err(e),
    }
}

/// Applies `changes`, again and again while others are in the way.
pub(super) async fn commit(pooled: &Pooled, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
    let mut tries = Tries::default();
    loop {
        if let Some(outcomes) = tries.judge(try_commit(pooled, now, changes).await?).await? {
            return Ok(outcomes);
        }
    }
}

async fn try_commit(pooled: &Pooled, now: u64, changes: &[Change]) -> Result<Tried<Vec<Outcome>>, Failure> {
    let mut lent = Lent::from(&pooled.pool).await?;
    let plan = match locked(&mut lent, pooled, changes).await {
        Ok(plan) => plan,
        // Nothing has been changed, so another connection may do it.
        Err(e) if e.is_stale() => return Ok(Tried::Stale(e)),
        Err(e) => return settle(lent, Err(e)).await,
    };
    let written = write(&mut lent, &pooled.texts, now, &plan).await;
    settle(lent, written.map(|()| plan.outcomes)).await
}

/// Begins a transaction, locks the rows in the order of their ids, and plans. That order keeps two transactions from
/// waiting for each other.
async fn locked<'a>(lent: &mut Lent, pooled: &Pooled, changes: &'a [Change]) -> Result<Plan<'a>, Failure> {
    lent.run(&pooled.begin).await?;
    let wanted = keys(changes);
    if wanted.is_empty() {
        return Ok(Plan::default());
    }
    let mut stored = BTreeMap::new();
    for row in statement(&pooled.texts.lock).bind(slices(&wanted)).fetch_all(lent.get()?).await? {
        let id: &[u8] = row.try_get(0)?;
        if let Ok(id) = Key::try_from(id) {
            stored.insert(id, row.try_get::<i64, _>(1)?.cast_unsigned());
        }
    }
    Ok(plan(&stored, changes))
}

/// Writes what is planned, and commits.
async fn write(lent: &mut Lent, texts: &Texts, now: u64, plan: &Plan<'_>) -> Result<(), Failure> {
    let now = signed(now);
    if !plan.quarantine.is_empty() {
        let copied = statement(&texts.quarantine).bind(slices(&plan.quarantine)).bind(now);
        copied.execute(lent.get()?).await?;
    }
    for rows in pieces(&plan.quarantine_new, usize::MAX, PIECE) {
        bind(&texts.quarantine_new, rows).bind(now).execute(lent.get()?).await?;
    }
    if !plan.delete.is_empty() {
        statement(&texts.delete).bind(slices(&plan.delete)).execute(lent.get()?).await?;
    }
    for (text, rows) in [(&texts.update, &plan.update), (&texts.insert, &plan.insert)] {
        for rows in pieces(rows, usize::MAX, PIECE) {
            bind(text, rows).execute(lent.get()?).await?;
        }
    }
    let told: Vec<u8> = plan.changed().flatten().copied().collect();
    if let Some(changes) = texts.changes.as_ref().filter(|_| !told.is_empty()) {
        statement(&changes.tell).bind(told).execute(lent.get()?).await?;
    }
    // Last, since it may wait for others: who holds a mark waits for nobody any more.
    statement(&texts.raise).bind(now).execute(lent.get()?).await?;
    lent.run(COMMIT).await
}

/// Removes what is due, raises the mark, and forgets changes that everybody has been told.
pub(super) async fn expire(
    pooled: &Pooled,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Failure> {
    let mut tries = Tries::default();
    loop {
        let mut lent = Lent::from(&pooled.pool).await?;
        let tried = match expire_once(&mut lent, pooled, now, high_water, limit).await {
            Err(e) if e.is_stale() => Tried::Stale(e),
            result => settle(lent, result).await?,
        };
        if let Some(expired) = tries.judge(tried).await? {
            return Ok(expired);
        }
    }
}

async fn expire_once(
    lent: &mut Lent,
    pooled: &Pooled,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Failure> {
    let texts = &pooled.texts;
    let text = if i64::try_from(now).is_ok() { &texts.expire } else { &texts.expire_beyond };
    // The statement asks for one more.
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).min(i64::MAX - 1);
    lent.run(&pooled.begin).await?;
    let row = statement(text).bind(signed(now)).bind(limit).fetch_one(lent.get()?).await?;
    let (removed, seen): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    statement(&texts.raise).bind(signed(high_water)).execute(lent.get()?).await?;
    if let Some(changes) = &texts.changes {
        statement(&changes.trim).execute(lent.get()?).await?;
    }
    lent.run(COMMIT).await?;
    // Fewer than allowed: the others that are due are held by somebody, and wait for the next run.
    let more = removed == limit && seen > limit;
    Ok(Expired { removed: removed.cast_unsigned(), more })
}
