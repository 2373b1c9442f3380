//! How a commit is made: of changes of one document each, many at a time. What a renewal is made of, `renew` says.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, Row, StoreError, StoreErrorKind};
use tokio::task::JoinSet;

use super::doc::{self, Head};
use super::error;
use super::shared::{Shared, pause};
use crate::keyed::wave::{ids, wave};

/// Most rows, and about how many bytes of them, in one request.
const MOST_ROWS: usize = 500;
const MOST_BYTES: usize = 8 << 20;
/// Requests of one commit at the same time.
const WIDTH: usize = 8;

/// Changes, by their place in the commit.
enum Request {
    Insert(Vec<usize>),
    Delete(Vec<usize>),
    One(usize),
}

fn failed() -> impl FnOnce(mongodb::error::Error) -> StoreError {
    error::of("changes could not be committed")
}

/// Makes `changes`: those of one id in their order. If it fails, each of them is made or not.
pub(super) async fn commit(
    shared: Arc<Shared>,
    now: u64,
    changes: Vec<Change>,
) -> Result<Vec<Outcome>, StoreError> {
    let (raised, made) = tokio::join!(shared.raise(now), make(&shared, now, changes.into()));
    raised?;
    made
}

async fn make(shared: &Arc<Shared>, now: u64, changes: Arc<[Change]>) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes = vec![None; changes.len()];
    let mut rest = 0..changes.len();
    while !rest.is_empty() {
        let wave = wave(&changes, rest.clone());
        rest.start = wave.end;
        let mut waiting = requests(&changes, wave).into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < WIDTH
                && let Some(request) = waiting.next()
            {
                running.spawn(run(Arc::clone(shared), now, Arc::clone(&changes), request));
            }
            let Some(done) = running.join_next().await else { break };
            let done = done.map_err(|e| {
                error::own(StoreErrorKind::Unavailable, "a part of a commit has ended").with_source(e)
            })?;
            for (n, outcome) in done? {
                if let Some(slot) = outcomes.get_mut(n) {
                    *slot = Some(outcome);
                }
            }
        }
    }
    let missing = || error::own(StoreErrorKind::Corrupt, "a change has no outcome");
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(missing)).collect()
}

/// Sorts changes of different ids into as few requests as can say what became of each.
fn requests(changes: &[Change], wave: Range<usize>) -> Vec<Request> {
    let (mut requests, mut inserts, mut deletes, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for n in wave {
        match changes.get(n) {
            Some(Change::Insert { row, .. }) => {
                if inserts.len() == MOST_ROWS || (bytes + row.bytes.len() > MOST_BYTES && !inserts.is_empty())
                {
                    requests.push(Request::Insert(std::mem::take(&mut inserts)));
                    bytes = 0;
                }
                bytes += row.bytes.len();
                inserts.push(n);
            }
            Some(Change::Delete { .. }) => {
                if deletes.len() == MOST_ROWS {
                    requests.push(Request::Delete(std::mem::take(&mut deletes)));
                }
                deletes.push(n);
            }
            Some(_) => requests.push(Request::One(n)),
            None => {}
        }
    }
    if !inserts.is_empty() {
        requests.push(Request::Insert(inserts));
    }
    if !deletes.is_empty() {
        requests.push(Request::Delete(deletes));
    }
    requests
}

async fn run(
    shared: Arc<Shared>,
    now: u64,
    changes: Arc<[Change]>,
    request: Request,
) -> Result<Vec<(usize, Outcome)>, StoreError> {
    let of = |places: Vec<usize>| -> Vec<(usize, Change)> {
        places.into_iter().filter_map(|n| Some((n, changes.get(n)?.clone()))).collect()
    };
    match request {
        Request::Insert(places) => shared.insert(of(places)).await,
        Request::Delete(places) => {
            let places = of(places);
            let keys: Vec<_> = places.iter().filter_map(|(_, change)| ids(change)[0].map(doc::key)).collect();
            // What was moved away is not under this id any more.
            let only = doc! { "_id": { "$in": keys }, "to": Bson::Null };
            shared.rows.delete_many(only).await.map_err(failed())?;
            Ok(places.into_iter().map(|(n, _)| (n, Outcome::Done)).collect())
        }
        Request::One(n) => {
            let outcome = match changes.get(n) {
                Some(Change::Update { id, expected, row }) => shared.update(id, *expected, row).await?,
                Some(Change::Put { id, row }) => shared.put(id, row).await?,
                Some(Change::Rekey { from, expected, to, row }) => {
                    shared.rekey(from, *expected, to, row).await?
                }
                Some(Change::Quarantine { id }) => shared.quarantine(now, id).await?,
                Some(Change::Insert { .. } | Change::Delete { .. }) | None => return Ok(Vec::new()),
            };
            Ok(vec![(n, outcome)])
        }
    }
}

impl Shared {
    async fn insert(&self, mut inserts: Vec<(usize, Change)>) -> Result<Vec<(usize, Outcome)>, StoreError> {
        let mut outcomes = Vec::with_capacity(inserts.len());
        for tried in 0.. {
            let docs: Vec<_> = inserts
                .iter()
                .filter_map(|(_, change)| match change {
                    Change::Insert { id, row } => Some(doc::encode(id, row, None)),
                    _ => None,
                })
                .collect();
            let taken: HashSet<usize> = match self.rows.insert_many(docs).ordered(false).await {
                Ok(_) => HashSet::new(),
                Err(e) => match &*e.kind {
                    ErrorKind::InsertMany(many)
                        if many.write_concern_error.is_none()
                            && many.write_errors.iter().flatten().all(|e| error::is_duplicate(e.code)) =>
                    {
                        many.write_errors.iter().flatten().map(|e| e.index).collect()
                    }
                    _ => return Err(failed()(e)),
                },
            };
            let mut left = Vec::new();
            for (place, (n, change)) in inserts.into_iter().enumerate() {
                if taken.contains(&place) {
                    left.push((n, change))
                } else {
                    outcomes.push((n, Outcome::Done))
                }
            }
            if left.is_empty() {
                return Ok(outcomes);
            }
            // What was renewed, and not removed yet, keeps no id from a new row.
            let keys: Vec<_> = left.iter().filter_map(|(_, change)| ids(change)[0].map(doc::key)).collect();
            let signposts = self.signposts(keys).await?;
            for (from, to) in &signposts {
                self.settle(from, to).await?;
            }
            let free: HashSet<_> = signposts.iter().map(|(from, _)| from.as_bytes()).collect();
            let (again, taken): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|(_, change)| ids(change)[0].is_some_and(|id| free.contains(id.as_bytes())));
            outcomes.extend(taken.into_iter().map(|(n, _)| (n, Outcome::Exists)));
            if again.is_empty() {
                return Ok(outcomes);
            }
            inserts = again;
            pause(tried).await;
        }
        Ok(outcomes)
    }

    async fn update(&self, id: &SessionId, expected: u64, row: &Row) -> Result<Outcome, StoreError> {
        let mut only = doc::settled(id);
        only.insert("version", expected.cast_signed());
        let new = doc::encode(id, row, None);
        for tried in 0.. {
            let replaced = self.rows.replace_one(only.clone(), &new).await.map_err(failed())?;
            if replaced.matched_count > 0 {
                return Ok(Outcome::Done);
            }
            match self.head(id).await? {
                Some(Head { from: Some(from), to: None, .. }) => {
                    if !self.counts_now(id, &from).await? {
                        return Ok(Outcome::Missing);
                    }
                }
                // A change that we met is not with a majority yet, or was undone.
                Some(Head { version: Some(found), to: None, .. }) if found == expected => {}
                Some(Head { version: Some(found), to: None, .. }) => return Ok(Outcome::Conflict { found }),
                Some(_) | None => return Ok(Outcome::Missing),
            }
            pause(tried + 1).await;
        }
        Ok(Outcome::Missing)
    }

    async fn put(&self, id: &SessionId, row: &Row) -> Result<Outcome, StoreError> {
        let only = doc! { "_id": doc::key(id), "to": Bson::Null };
        let new = doc::encode(id, row, None);
        for tried in 0.. {
            match self.rows.replace_one(only.clone(), &new).upsert(true).await {
                Ok(_) => break,
                Err(e) if error::has_taken_key(&e) => {}
                Err(e) => return Err(failed()(e)),
            }
            for (from, to) in self.signposts(vec![doc::key(id)]).await? {
                self.settle(&from, &to).await?;
            }
            pause(tried).await;
        }
        Ok(Outcome::Done)
    }

    /// Copies the document, then removes it if it is still what was copied.
    async fn quarantine(&self, now: u64, id: &SessionId) -> Result<Outcome, StoreError> {
        let own = doc! { "_id": doc::key(id) };
        for tried in 0.. {
            let Some(found) = self.rows.find_one(own.clone()).await.map_err(failed())? else { break };
            if found.get("to").and_then(doc::id_of).is_some() {
                break;
            }
            let mut only = own.clone();
            for name in ["version", "due", "owner", "record", "from", "to"] {
                only.insert(name, doc! { "$eq": found.get(name).cloned().unwrap_or(Bson::Null) });
            }
            let mut copy: Document = found;
            copy.insert("quarantined_at", now.cast_signed());
            match self.aside.replace_one(own.clone(), copy).upsert(true).await {
                Ok(_) => {}
                Err(e) if error::has_taken_key(&e) => continue,
                Err(e) => return Err(failed()(e)),
            }
            if self.rows.delete_one(only).await.map_err(failed())?.deleted_count > 0 {
                break;
            }
            pause(tried + 1).await;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; 32])
    }

    fn row(len: usize) -> Row {
        Row { version: 1, expires_at: 1, owner: None, bytes: vec![0; len] }
    }

    fn put(n: u8) -> Change {
        Change::Put { id: id(n), row: row(0) }
    }

    #[test]
    fn a_request_has_so_many_rows_and_bytes_at_most_and_every_change_is_in_one() {
        let large = |n| Change::Insert { id: id(n), row: row(MOST_BYTES / 2 + 1) };
        let changes =
            [vec![large(1), put(2), large(3), Change::Delete { id: id(4) }], vec![put(5); 3]].concat();
        let mut places = Vec::new();
        let requests = requests(&changes, 0..changes.len());
        for request in &requests {
            match request {
                Request::Insert(some) => {
                    assert_eq!(some.len(), 1);
                    places.extend(some);
                }
                Request::Delete(some) => places.extend(some),
                Request::One(n) => places.push(*n),
            }
        }
        places.sort_unstable();
        assert_eq!(places, (0..changes.len()).collect::<Vec<_>>());
        let many = vec![Change::Delete { id: id(1) }; 2 * MOST_ROWS + 1];
        assert_eq!(super::requests(&many, 0..many.len()).len(), 3);
    }
}
