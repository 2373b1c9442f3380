//! How rows are changed: what they are is read, what follows is written if they still are. It decides nothing: see the plan.

use std::collections::BTreeMap;

use sessile_engine::store::{Change, Expired, Outcome};

use super::client::{Failure, Lent};
use super::text::{Written, list};
use super::{Mssql, PAUSE, column, read, rows, wanted};
use crate::sql::plan::{Key, keys, plan};
use crate::sql::signed;

/// Rows and bytes of a transaction. A larger commit becomes several, one after the other.
const MOST_ROWS: usize = 4096;
const MOST_BYTES: usize = 64 << 20;

fn size(change: &Change) -> usize {
    match change {
        Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. } => row.bytes.len(),
        Change::Delete { .. } | Change::Quarantine { .. } => 0,
    }
}

/// How many of the first changes go into one transaction: one at least.
fn fit(changes: &[Change]) -> usize {
    let mut bytes = 0_usize;
    let fit = changes.iter().take(MOST_ROWS).take_while(|change| {
        bytes = bytes.saturating_add(size(change));
        bytes <= MOST_BYTES
    });
    fit.count().max(1).min(changes.len())
}

/// Applies `changes`, again and again while others are in the way.
pub(super) async fn commit(mssql: &Mssql, now: u64, mut changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::with_capacity(changes.len());
    loop {
        let (piece, rest) = changes.split_at(fit(changes));
        outcomes.extend(write(mssql, now, piece).await?);
        changes = rest;
        if changes.is_empty() {
            return Ok(outcomes);
        }
    }
}

async fn write(mssql: &Mssql, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
    let ids = list(&keys(changes));
    let now = signed(now);
    loop {
        let mut stored = BTreeMap::new();
        for row in read(&mssql.pool, &mssql.texts.versions, &[&ids]).await? {
            if let Ok(id) = Key::try_from(wanted::<&[u8]>(&row, 0)?) {
                stored.insert(id, wanted::<i64>(&row, 1)?.cast_unsigned());
            }
        }
        let plan = plan(&stored, changes);
        let written = Written::of(&plan, &stored);
        let mut conn = Lent::from(&mssql.pool).await?;
        let params: [&dyn tiberius::ToSql; 4] = [&written.json, &written.bytes, &now, &written.rows];
        match conn.run(&mssql.texts.write, &params).await {
            Ok(answer) => {
                let done: i64 = answer.first().map_or(Ok(0), |row| wanted(row, 0))?;
                conn.done();
                if done == written.rows {
                    return Ok(plan.outcomes);
                }
            }
            // The server has rolled back, and its answer is complete.
            Err(e) if e.is_race() => conn.done(),
            Err(e) => return Err(e),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn expire(
    mssql: &Mssql,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Failure> {
    let texts = &mssql.texts;
    let now = signed(now);
    let text = if now < 0 { &texts.expire_beyond } else { &texts.expire };
    // To remove what is due again changes nothing: it is read's rule for a connection that had ended.
    let answer = read(&mssql.pool, text, &[&now, &rows(limit), &signed(high_water)]).await?;
    let Some(row) = answer.first() else { return Ok(Expired::default()) };
    let removed = u64::try_from(wanted::<i64>(row, 0)?).unwrap_or(0);
    Ok(Expired { removed, more: column::<i32>(row, 1)? == Some(1) })
}
