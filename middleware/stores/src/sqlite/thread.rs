//! The thread that owns a connection, and what is done on it. Changes that wait together share a transaction, so that
//! they share its wait for the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rusqlite::{Connection, Error, OptionalExtension as _, params};
use sessile_engine::store::{Change, Expired, Outcome, Row, StoreError, StoreErrorKind};
use tokio::sync::oneshot;

use super::NAME;
use super::error::store_error;
use super::text::Texts;
use crate::sql::plan::{keys, plan};
use crate::sql::{Raw, signed, unsigned};

/// Changes that share a transaction at most.
const TOGETHER: usize = 4096;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;
type Question = Box<dyn FnOnce(&Connection, &Texts) + Send>;

/// What a connection is asked to do.
pub(super) enum Job {
    Read(Question),
    Commit { now: u64, changes: Vec<Change>, answer: Answer<Vec<Outcome>> },
    Expire { now: u64, high_water: u64, limit: usize, answer: Answer<Expired> },
}

/// A thread with a connection. It ends when its last handle is gone.
#[derive(Clone)]
pub(super) struct Thread(Sender<Job>);

impl Thread {
    pub(super) fn start(connection: Connection, texts: Arc<Texts>) -> Result<Self, StoreError> {
        let (sender, jobs) = channel();
        std::thread::Builder::new()
            .name("sessile-sqlite".into())
            .spawn(move || work(&connection, &texts, &jobs))
            .map_err(|e| {
                StoreError::new(StoreErrorKind::Unavailable, NAME, "its thread could not be started")
                    .with_source(e)
            })?;
        Ok(Self(sender))
    }

    /// Asks, and waits for the answer. If the future is dropped, the work is done all the same.
    pub(super) async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, StoreError> {
        let ended = || StoreError::new(StoreErrorKind::Unavailable, NAME, "its thread has ended");
        let (answer, answered) = oneshot::channel();
        self.0.send(job(answer)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        read: impl FnOnce(&Connection, &Texts) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|answer| {
            Job::Read(Box::new(move |connection, texts| {
                let _ = answer.send(read(connection, texts).map_err(|e| store_error(what, e)));
            }))
        })
        .await
    }
}

fn work(connection: &Connection, texts: &Texts, jobs: &Receiver<Job>) {
    let mut next = jobs.recv().ok();
    while let Some(job) = next.take() {
        match job {
            Job::Read(read) => read(connection, texts),
            Job::Expire { now, high_water, limit, answer } => {
                let result = transaction(connection, || expire(connection, texts, now, high_water, limit));
                let _ =
                    answer.send(result.map_err(|e| store_error("expired sessions could not be removed", e)));
            }
            Job::Commit { now, changes, answer } => {
                let mut count = changes.len();
                let mut group = vec![(now, changes, answer)];
                while count < TOGETHER {
                    match jobs.try_recv() {
                        Ok(Job::Commit { now, changes, answer }) => {
                            count += changes.len();
                            group.push((now, changes, answer));
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit_all(connection, texts, group);
            }
        }
        if next.is_none() {
            next = jobs.recv().ok();
        }
    }
}

type Waiting = (u64, Vec<Change>, Answer<Vec<Outcome>>);

/// One transaction for all. If it fails, nothing of it was done, and everybody hears so.
fn commit_all(connection: &Connection, texts: &Texts, group: Vec<Waiting>) {
    let result = transaction(connection, || {
        let mut outcomes = Vec::with_capacity(group.len());
        for (now, changes, _) in &group {
            outcomes.push(commit(connection, texts, *now, changes)?);
        }
        Ok(outcomes)
    });
    match result {
        Ok(outcomes) => {
            for ((_, _, answer), outcomes) in group.into_iter().zip(outcomes) {
                let _ = answer.send(Ok(outcomes));
            }
        }
        Err(e) => {
            let e = store_error("changes could not be committed", e);
            for (_, _, answer) in group {
                let _ = answer.send(Err(e.clone()));
            }
        }
    }
}

/// Runs `inner` in a transaction that has the right to write from its start, so that nobody can be in its way later.
pub(super) fn transaction<T>(
    connection: &Connection,
    inner: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let result = inner().and_then(|value| connection.execute_batch("COMMIT").map(|()| value));
    if result.is_err() && !connection.is_autocommit() {
        // What made it fail is what counts.
        let _ = connection.execute_batch("ROLLBACK");
    }
    result
}

fn owner(row: &Row) -> Option<&[u8]> {
    row.owner.as_deref().map(str::as_bytes)
}

fn commit(
    connection: &Connection,
    texts: &Texts,
    now: u64,
    changes: &[Change],
) -> Result<Vec<Outcome>, Error> {
    let mut stored = BTreeMap::new();
    let mut version = connection.prepare_cached(&texts.version)?;
    for id in keys(changes) {
        if let Some(version) = version.query_row([id.as_slice()], |row| row.get(0)).optional()? {
            stored.insert(id, unsigned(version));
        }
    }
    let plan = plan(&stored, changes);
    let now = signed(now);
    for id in &plan.quarantine {
        connection.prepare_cached(&texts.quarantine)?.execute(params![id.as_slice(), now])?;
    }
    for (id, row) in &plan.quarantine_new {
        let (version, expires_at) = (signed(row.version), signed(row.expires_at));
        connection.prepare_cached(&texts.quarantine_new)?.execute(params![
            id.as_slice(),
            version,
            expires_at,
            owner(row),
            row.bytes,
            now
        ])?;
    }
    for id in &plan.delete {
        connection.prepare_cached(&texts.delete)?.execute([id.as_slice()])?;
    }
    for (text, rows) in [(&texts.update, &plan.update), (&texts.insert, &plan.insert)] {
        for (id, row) in rows {
            let (version, expires_at) = (signed(row.version), signed(row.expires_at));
            connection.prepare_cached(text)?.execute(params![
                id.as_slice(),
                version,
                expires_at,
                owner(row),
                row.bytes
            ])?;
        }
    }
    let told: Vec<u8> = plan.changed().flatten().copied().collect();
    if !told.is_empty() {
        connection.prepare_cached(&texts.tell)?.execute([told])?;
    }
    connection.prepare_cached(&texts.raise)?.execute([now])?;
    Ok(plan.outcomes)
}

fn expire(
    connection: &Connection,
    texts: &Texts,
    now: u64,
    high_water: u64,
    limit: usize,
) -> Result<Expired, Error> {
    let text = if i64::try_from(now).is_ok() { &texts.due } else { &texts.due_beyond };
    let ask = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut due = connection.prepare_cached(text)?;
    let due = due.query_map(params![signed(now), ask], |row| row.get(0))?;
    let mut due = due.collect::<Result<Vec<Vec<u8>>, _>>()?;
    let more = due.len() > limit;
    due.truncate(limit);
    for id in &due {
        connection.prepare_cached(&texts.delete)?.execute([id])?;
    }
    if !due.is_empty() {
        connection.prepare_cached(&texts.tell)?.execute([due.concat()])?;
    }
    connection.prepare_cached(&texts.trim)?.execute([])?;
    connection.prepare_cached(&texts.raise)?.execute([signed(high_water)])?;
    Ok(Expired { removed: due.len() as u64, more })
}

/// The rows that a statement finds.
pub(super) fn rows(
    connection: &Connection,
    text: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Raw>, Error> {
    let mut statement = connection.prepare_cached(text)?;
    let rows = statement.query_map(parameters, |row| {
        Ok(Raw {
            id: row.get(0)?,
            version: unsigned(row.get(1)?),
            expires_at: unsigned(row.get(2)?),
            owner: row.get(3)?,
            bytes: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// One number.
pub(super) fn number(connection: &Connection, text: &str) -> Result<Option<i64>, Error> {
    connection.query_row(text, [], |row| row.get(0)).optional()
}

/// A page of the listing.
pub(super) fn page(
    connection: &Connection,
    texts: &Texts,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Raw>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    rows(connection, &texts.list, params![after.unwrap_or_default(), limit])
}
