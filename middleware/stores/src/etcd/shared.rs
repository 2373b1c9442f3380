//! What each call does with the servers. It runs on the store's thread, and does not care who still waits.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use sessile_engine::SessionId;
use sessile_engine::store::{Expired, Listed, Outcome, Row, StoreError, StoreErrorKind};
use tokio::sync::watch as signal;
use tokio::time::sleep;

use super::error;
use super::link::Link;
use super::plan::{self, Step};
use super::row::{self, Keys};

/// Most rows of one answer, which may be of 1 MiB each.
const MOST_PAGE: usize = 64;
/// Most index keys of one answer.
const MOST_INDEX: usize = 512;
/// How long a damaged row is kept for the operator.
const QUARANTINE: Duration = Duration::from_secs(30 * 24 * 3600);
const LAYOUT: &str = "1";

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) keys: Keys,
    /// Ends the watches.
    pub(super) closed: signal::Sender<bool>,
}

/// The rows' name, which no others have, and a revision of now.
pub(super) struct Origin {
    pub(super) revision: i64,
    pub(super) value: Vec<u8>,
}

/// The key's revision and value, by the position of its `get` in the transaction.
fn found(answer: &TxnResponse) -> Vec<Option<(i64, Vec<u8>)>> {
    let one = |response: TxnOpResponse| match response {
        TxnOpResponse::Get(got) => got.kvs().first().map(|kv| (kv.mod_revision(), kv.value().to_vec())),
        _ => None,
    };
    answer.op_responses().into_iter().map(one).collect()
}

#[expect(clippy::disallowed_methods, reason = "as a name that no other rows have")]
fn noise() -> Result<[u8; 16], StoreError> {
    let mut noise = [0; 16];
    getrandom::fill(&mut noise).map_err(|e| {
        error::own(StoreErrorKind::Unavailable, "the system gives no random numbers").with_source(e)
    })?;
    Ok(noise)
}

impl Shared {
    /// Checks that the rows are ours to read, and gives new ones a name.
    pub(super) async fn origin(&self) -> Result<Origin, StoreError> {
        let key = self.keys.layout();
        let new = format!("{LAYOUT} {:032x}", u128::from_le_bytes(noise()?));
        // Mostly it is there, and a read is cheaper.
        let got = self.link.get("opening", &key, &GetOptions::new()).await?;
        let (revision, value) = match got.kvs().first() {
            Some(kv) => (got.header().map(etcd_client::ResponseHeader::revision), kv.value().to_vec()),
            None => {
                let put = TxnOp::put(key.clone(), new, None);
                let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
                self.link.write("opening", &Txn::new().when([absent]).and_then([put])).await?;
                let got = self.link.get("opening", &key, &GetOptions::new()).await?;
                let value = got.kvs().first().map(|kv| kv.value().to_vec()).unwrap_or_default();
                (got.header().map(etcd_client::ResponseHeader::revision), value)
            }
        };
        let revision = revision.ok_or_else(|| error::unexpected("opening"))?;
        let text = std::str::from_utf8(&value).unwrap_or_default();
        match text.split_once(' ').map(|(layout, _)| layout) {
            Some(LAYOUT) => Ok(Origin { revision, value }),
            Some(layout) if layout.parse::<u32>().is_ok() => Err(error::own(
                StoreErrorKind::NewerFormat,
                "the rows were written by a newer version of sessile",
            )),
            _ => Err(error::own(StoreErrorKind::Foreign, "the keys of this prefix are not ours")),
        }
    }

    /// The revision of the last change of a row, and that of now.
    pub(super) async fn tick(&self) -> Result<(i64, i64), StoreError> {
        let got = self.link.get("the watch", &self.keys.tick(), &GetOptions::new()).await?;
        let now = got.header().map(etcd_client::ResponseHeader::revision);
        let now = now.ok_or_else(|| error::unexpected("the watch"))?;
        Ok((got.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision), now))
    }

    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let got = self.link.get("the high-water mark", &self.keys.mark(), &GetOptions::new()).await?;
        // A damaged one counts as 0: it is a floor for clocks that went backward.
        let mark = got.kvs().first().and_then(|kv| kv.value().try_into().ok());
        Ok(mark.map_or(0, row::unordered))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let got = self.link.get("loading a row", &self.keys.row(id), &GetOptions::new()).await?;
        let Some(kv) = got.kvs().first() else { return Ok(None) };
        row::decode(kv.value()).map(Some).map_err(|row::Damaged| {
            error::own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
        })
    }

    /// Does all steps in order, as many of them in one transaction as fit.
    pub(super) async fn commit(&self, mark: u64, steps: &[Step]) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(steps.len());
        if steps.is_empty() {
            self.link.write("a commit", &Txn::new().and_then([plan::raise(&self.keys, mark)])).await?;
            return Ok(outcomes);
        }
        // Fewer at a time where others are at the same rows.
        let (mut width, mut tried) = (usize::MAX, 0_u64);
        while let Some(left) = steps.get(outcomes.len()..).filter(|left| !left.is_empty()) {
            let left = left.get(..width).unwrap_or(left);
            let (ids, gets) = plan::read(&self.keys, left);
            let answer = self.link.read("a commit", &gets).await?;
            let rows = found(&answer);
            if rows.len() != ids.len() {
                return Err(error::unexpected("a commit"));
            }
            let mut plan = plan::new(&self.keys);
            for (id, row) in ids.iter().zip(&rows) {
                plan.found(
                    id,
                    row.as_ref().map(|(revision, raw)| (revision.cast_unsigned(), raw.as_slice())),
                );
            }
            let taken: Vec<_> = left.iter().map_while(|step| plan.take(step)).collect();
            if taken.is_empty() {
                return Err(error::unexpected("a commit"));
            }
            let lease = if plan.aside().next().is_some() { self.link.lease(QUARANTINE).await? } else { 0 };
            if self.link.write("a commit", &plan::txn(&self.keys, &plan, mark, lease)).await?.succeeded() {
                outcomes.extend(taken);
                (width, tried) = (usize::MAX, 0);
            } else {
                (width, tried) = (taken.len().div_ceil(2), tried + 1);
                if tried > 3 {
                    sleep(Duration::from_millis(tried.min(20))).await;
                }
            }
        }
        Ok(outcomes)
    }

    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        let (mut removed, mut after): (usize, Option<Vec<u8>>) = (0, None);
        loop {
            let wanted = limit.saturating_sub(removed).min(MOST_INDEX);
            let (from, end) = self.keys.due_by(now, after.as_deref());
            let options =
                GetOptions::new().with_range(end).with_keys_only().with_limit(limit_of(wanted.max(1)));
            let got = self.link.get("expiry", &from, &options).await?;
            if wanted == 0 || got.kvs().is_empty() {
                let more = !got.kvs().is_empty();
                self.commit(high_water, &[]).await?;
                return Ok(Expired { removed: removed as u64, more });
            }
            after = got.kvs().last().map(|kv| kv.key().to_vec());
            let due = got.kvs().iter().filter_map(|kv| self.keys.due_of(kv.key()));
            let steps: Vec<_> = due.map(|(at, id)| Step::Expire { id, at }).collect();
            if !steps.is_empty() {
                let outcomes = self.commit(high_water, &steps).await?;
                removed += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
            }
        }
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<(Vec<Listed>, Vec<SessionId>), StoreError> {
        let (mut from, end) = self.keys.rows(after.as_ref());
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        loop {
            let wanted = limit.saturating_sub(rows.len() + damaged.len()).min(MOST_PAGE);
            if wanted == 0 {
                return Ok((rows, damaged));
            }
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit_of(wanted));
            let got = self.link.get("a listing", &from, &options).await?;
            for kv in got.kvs() {
                // A key of another length is not ours.
                let Some(id) = self.keys.id_of(kv.key()) else { continue };
                match row::decode(kv.value()) {
                    Ok(row) => rows.push(Listed { id, row }),
                    Err(row::Damaged) if name_damaged => damaged.push(id),
                    Err(row::Damaged) => {}
                }
            }
            match got.kvs().last() {
                Some(kv) if got.more() => from = row::behind(kv.key()),
                _ => return Ok((rows, damaged)),
            }
        }
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let (mut rows, mut after): (Vec<Listed>, Option<Vec<u8>>) = (Vec::new(), None);
        loop {
            let (from, end) = self.keys.owned_by(owner, after.as_deref());
            let options = GetOptions::new().with_range(end).with_keys_only().with_limit(limit_of(MOST_INDEX));
            let got = self.link.get("an owner's rows", &from, &options).await?;
            let ids: Vec<_> = got.kvs().iter().filter_map(|kv| self.keys.owned_of(owner, kv.key())).collect();
            for ids in ids.chunks(MOST_PAGE) {
                let gets: Vec<_> = ids.iter().map(|id| plan::get(self.keys.row(id))).collect();
                let answer = self.link.read("an owner's rows", &Txn::new().and_then(gets)).await?;
                for (id, raw) in ids.iter().zip(found(&answer)) {
                    // The row decides; a damaged one is found by whoever loads it.
                    let row = raw.and_then(|(_, raw)| row::decode(&raw).ok());
                    if let Some(row) = row.filter(|row| row.owner.as_deref() == Some(owner)) {
                        rows.push(Listed { id: *id, row });
                    }
                }
            }
            after = got.kvs().last().map(|kv| kv.key().to_vec());
            if !got.more() || after.is_none() {
                return Ok(rows);
            }
        }
    }

    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        let (from, end) = self.keys.rows(None);
        let options = GetOptions::new().with_range(end).with_count_only();
        let got = self.link.get("counting", &from, &options).await?;
        u64::try_from(got.count()).map_err(|_| error::unexpected("counting"))
    }
}

/// A limit is never 0, which would be none.
fn limit_of(n: usize) -> i64 {
    i64::try_from(n.max(1)).unwrap_or(i64::MAX)
}
