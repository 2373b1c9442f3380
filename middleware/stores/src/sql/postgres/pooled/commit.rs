//! The statements that change rows, in their order: lock, write, commit. It decides nothing: see the plan.

use std::collections::BTreeMap;

use sessile_engine::store::{Change, Expired, Outcome};

use super::held::Held;
use super::tries::{Tried, Tries};
use super::{Connection, Meaning, Pool, Pooled, Value};
use crate::sql::plan::{Key, Plan, keys, pieces, plan};
use crate::sql::postgres::columns::{Columns, PIECE};
use crate::sql::postgres::text::{COMMIT, Texts};
use crate::sql::signed;

fn slices(ids: &[Key]) -> Vec<&[u8]> {
    ids.iter().map(<[u8; 32]>::as_slice).collect()
}

/// The parameters of an `UNNEST`.
fn values<'a>(columns: &'a Columns<'a>) -> [Value<'a>; 5] {
    [
        Value::List(&columns.ids),
        Value::Numbers(&columns.versions),
        Value::Numbers(&columns.expiries),
        Value::Options(&columns.owners),
        Value::List(&columns.bytes),
    ]
}

/// Gives the connection back, or ends its transaction, by what became of the work on it.
async fn settle<P: Pool, T>(
    held: Held<P>,
    result: Result<T, P::Error>,
) -> Result<Tried<T, P::Error>, P::Error> {
    match result {
        Ok(value) => {
            held.done();
            Ok(Tried::Done(value))
        }
        Err(e) if e.is_race() => {
            held.roll_back().await?;
            Ok(Tried::Race)
        }
        Err(e) => Err(e),
    }
}

/// Applies `changes`, again and again while others are in the way.
pub(super) async fn commit<P: Pool>(
    pooled: &Pooled<P>,
    now: u64,
    changes: &[Change],
) -> Result<Vec<Outcome>, P::Error> {
    let mut tries = Tries::default();
    loop {
        if let Some(outcomes) = tries.judge(try_commit(pooled, now, changes).await?).await? {
            return Ok(outcomes);
        }
    }
}

async fn try_commit<P: Pool>(
    pooled: &Pooled<P>,
    now: u64,
    changes: &[Change],
) -> Result<Tried<Vec<Outcome>, P::Error>, P::Error> {
    let mut held = Held::from(&pooled.pool).await?;
    let plan = match locked(&mut held, pooled, changes).await {
        Ok(plan) => plan,
        // Nothing has been changed, so another connection may do it.
        Err(e) if e.is_stale() => return Ok(Tried::Stale(e)),
        Err(e) => return settle(held, Err(e)).await,
    };
    let written = write(&mut held, &pooled.texts, now, &plan).await;
    settle(held, written.map(|()| plan.outcomes)).await
}

/// Begins a transaction, locks the rows in the order of their ids, and plans. That order keeps two transactions from
/// waiting for each other.
async fn locked<'a, P: Pool>(
    held: &mut Held<P>,
    pooled: &Pooled<P>,
    changes: &'a [Change],
) -> Result<Plan<'a>, P::Error> {
    held.run(&pooled.begin).await?;
    let wanted = keys(changes);
    if wanted.is_empty() {
        return Ok(Plan::default());
    }
    let mut stored = BTreeMap::new();
    for (id, version) in held.versions(&pooled.texts.lock, &[Value::List(&slices(&wanted))]).await? {
        if let Ok(id) = Key::try_from(id) {
            stored.insert(id, version.cast_unsigned());
        }
    }
    Ok(plan(&stored, changes))
}

/// Writes what is planned, and commits.
async fn write<P: Pool>(
    held: &mut Held<P>,
    texts: &Texts,
    now: u64,
    plan: &Plan<'_>,
) -> Result<(), P::Error> {
    let now = Value::Number(signed(now));
    if !plan.quarantine.is_empty() {
        held.execute(&texts.quarantine, &[Value::List(&slices(&plan.quarantine)), now]).await?;
    }
    for rows in pieces(&plan.quarantine_new, usize::MAX, PIECE) {
        let columns = Columns::of(rows);
        let [ids, versions, expiries, owners, bytes] = values(&columns);
        held.execute(&texts.quarantine_new, &[ids, versions, expiries, owners, bytes, now]).await?;
    }
    if !plan.delete.is_empty() {
        held.execute(&texts.delete, &[Value::List(&slices(&plan.delete))]).await?;
    }
    for (text, rows) in [(&texts.update, &plan.update), (&texts.insert, &plan.insert)] {
        for rows in pieces(rows, usize::MAX, PIECE) {
            held.execute(text, &values(&Columns::of(rows))).await?;
        }
    }
    let told: Vec<u8> = plan.changed().flatten().copied().collect();
    if let Some(changes) = texts.changes.as_ref().filter(|_| !told.is_empty()) {
        held.execute(&changes.tell, &[Value::Bytes(&told)]).await?;
    }
    // Last, since it may wait for others: who holds a mark waits for nobody any more.
    held.execute(&texts.raise, &[now]).await?;
    held.run(COMMIT).await
}

/// Removes what is due, raises the mark, and forgets changes that everybody has been told.
pub(super) async fn expire<P: Pool>(
    pooled: &Pooled<P>,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, P::Error> {
    let mut tries = Tries::default();
    loop {
        let mut held = Held::from(&pooled.pool).await?;
        let tried = match expire_once(&mut held, pooled, now, high_water, limit).await {
            Err(e) if e.is_stale() => Tried::Stale(e),
            result => settle(held, result).await?,
        };
        if let Some(expired) = tries.judge(tried).await? {
            return Ok(expired);
        }
    }
}

async fn expire_once<P: Pool>(
    held: &mut Held<P>,
    pooled: &Pooled<P>,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, P::Error> {
    let texts = &pooled.texts;
    let text = if i64::try_from(now).is_ok() { &texts.expire } else { &texts.expire_beyond };
    // The statement asks for one more.
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).min(i64::MAX - 1);
    held.run(&pooled.begin).await?;
    let (removed, seen) = held.pair(text, &[Value::Number(signed(now)), Value::Number(limit)]).await?;
    held.execute(&texts.raise, &[Value::Number(signed(high_water))]).await?;
    if let Some(changes) = &texts.changes {
        held.execute(&changes.trim, &[]).await?;
    }
    held.run(COMMIT).await?;
    // Fewer than allowed: the others that are due are held by somebody, and wait for the next run.
    let more = removed == limit && seen > limit;
    Ok(Expired { removed: removed.cast_unsigned(), more })
}
