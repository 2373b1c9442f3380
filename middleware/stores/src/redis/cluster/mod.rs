//! What each call does with a cluster: which buckets it asks, and how their answers become one. It never looks into a
//! record.
//!
//! # Where a row is
//! A script works on the keys of one slot only. So rows are in 256 buckets, each with indexes of its own in one slot: an id
//! *belongs* to the bucket of its first byte, and a new row is stored there.
//!
//! A renewal gives a session another id, which belongs to another bucket as a rule, and no script can take the row from one
//! and put it into the other. So it does not: **the row stays in the bucket where it was first stored**, its home, for as
//! long as the session lives, and only its key changes there. That is one script, as on a single server: the old id ends and
//! the new one begins in one step, at the version that the sender has seen. There is no moment, and no crash, between
//! which both or none of them live.
//!
//! In the bucket that the new id belongs to stands a *pointer* to the home. It is written before:
//!
//! 1. `POINT`, in the new id's bucket: a pointer to the home, if there is nothing of that id.
//! 2. `R`, in the home: the old row goes, the new one comes. This is the renewal.
//!
//! After a crash between the two, the pointer leads nowhere, and the old id goes on: a session that does not exist. These
//! hold at any time:
//!
//! - *One place.* A pointer and a row of one id cannot both be in the id's bucket: they have the same key. A pointer never
//!   changes its home. So all who look for an id look in one place.
//! - *Always found.* A pointer stays at least as long as the row that it leads to. Whoever writes a row through a pointer
//!   has it stretched first, in the step that reads it.
//! - *No return.* An update through a pointer finds in the home what is there. A pointer is no row and makes none.
//!
//! A pointer goes by its time to live, or when a sweep finds it due; never before, so nobody writes through one that is
//! about to go. Its price is one more exchange for a row that is not in memory, and one more for a change.
//!
//! An id that once was a renewed session's, and that a *second* session is renewed to before the first would have been due,
//! counts as existing. Ids are random: that happens only to who tries it.
//!
//! # Order
//! Changes of one id are made in the order of the commit. Those of different ids may be made in any order.

mod commit;
mod join;
mod router;
mod slots;

use ::redis::Value;
use sessile_engine::SessionId;
use sessile_engine::store::{Expired, Listed, Row, StoreError, StoreErrorKind};

use self::join::join_all;
pub(super) use self::join::try_join_all;
pub(super) use self::router::{Router, understood};
pub(super) use self::slots::Topology;
use super::row::Names;
use super::scripts::{self, Scripts};
use super::shared::{command, damaged, layout_of};
use super::{error, row};

/// Buckets that are read at once for a listing.
const AHEAD: usize = 16;
/// Most rows of one bucket in one answer.
const MOST_PAGE: usize = 256;
/// Most rows that one script removes.
const MOST_EXPIRED: usize = 512;

/// The rows of a namespace, spread over a cluster.
pub(super) struct Spread {
    pub(super) router: Router,
    buckets: Vec<Scripts>,
    listing: bool,
}

impl Spread {
    pub(super) fn new(router: Router, prefix: &str, listing: bool) -> Self {
        let names = slots::TAGS.iter().map(|bucket| Names::of_bucket(prefix, &bucket.tag));
        let buckets = names.map(|names| Scripts::new(names, listing)).collect();
        Self { router, buckets, listing }
    }

    fn all(&self) -> impl Iterator<Item = (u8, &Scripts)> {
        (0..=u8::MAX).zip(&self.buckets)
    }

    fn bucket(&self, bucket: u8) -> Result<&Scripts, StoreError> {
        self.buckets.get(usize::from(bucket)).ok_or_else(|| error::unexpected("a bucket"))
    }

    /// Checks what is stored, in the bucket that speaks for all.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let answer = self.router.run_reading(0, "opening", &self.bucket(0)?.open("", 0)).await?;
        layout_of(&answer, self.listing)
    }

    /// # Complexity
    /// Asks all buckets.
    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let asked = self.all().map(|(bucket, scripts)| async move {
            let cmd = command("HGET", &[scripts.meta_key().as_bytes(), b"time"]);
            let value = self.router.read(bucket, "the high-water mark", &cmd).await?;
            Ok(scripts::number(&value).unwrap_or(0))
        });
        Ok(try_join_all(asked).await?.into_iter().max().unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let bucket = slots::bucket_of(id);
        match self.value(bucket, id).await? {
            Some(raw) => match row::home_of(&raw) {
                // A pointer leads to a row, never to another pointer.
                Some(home) if home != bucket => {
                    self.value(home, id).await?.map(|raw| decoded(&raw, id)).transpose()
                }
                _ => decoded(&raw, id).map(Some),
            },
            None => Ok(None),
        }
    }

    async fn value(&self, bucket: u8, id: &SessionId) -> Result<Option<Vec<u8>>, StoreError> {
        let cmd = command("GET", &[self.bucket(bucket)?.row_key(id).as_bytes()]);
        match self.router.read(bucket, "loading a row", &cmd).await {
            Ok(Value::Nil) => Ok(None),
            Ok(value) => {
                let raw = scripts::bytes(&value).ok_or_else(|| error::unexpected("loading a row"))?;
                Ok(Some(raw.to_vec()))
            }
            // A key of another type is in its place.
            Err(e) if e.kind() == StoreErrorKind::Foreign => Err(damaged(id).with_source(e)),
            Err(e) => Err(e),
        }
    }

    /// Removes what is due: first of all buckets together what has been due for the longest.
    ///
    /// # Complexity
    /// Asks all buckets what is due, then those where something is.
    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.raise(high_water).await?;
        let asked = self.all().map(|(bucket, scripts)| async move {
            let call = scripts.due(now, limit.min(MOST_EXPIRED));
            let value = self.router.run_reading(bucket, "expiry", &call).await?;
            let Value::Array(items) = &value else { return Err(error::unexpected("expiry")) };
            let mut times = items.iter().map(time);
            let pointers = times.next().flatten().ok_or_else(|| error::unexpected("expiry"))?;
            let times: Option<Vec<_>> = times.collect();
            Ok((bucket, pointers > 0.0, times.ok_or_else(|| error::unexpected("expiry"))?))
        });
        let found = try_join_all(asked).await?;
        let mut due: Vec<(f64, u8)> =
            found.iter().flat_map(|(bucket, _, times)| times.iter().map(|at| (*at, *bucket))).collect();
        due.sort_by(|a, b| a.0.total_cmp(&b.0));
        let more = due.len() > limit;
        due.truncate(limit);
        let mut shares = [0_usize; slots::BUCKETS];
        for (_, bucket) in &due {
            shares[usize::from(*bucket)] += 1;
        }
        let sweeps = found.iter().filter_map(|(bucket, pointers, _)| {
            let share = shares.get(usize::from(*bucket)).copied().unwrap_or(0);
            (share > 0 || *pointers).then(|| self.sweep(*bucket, now, high_water, share))
        });
        let mut expired = Expired::default();
        for part in join_all(sweeps).await {
            let part = part?;
            expired.removed += part.removed;
            expired.more |= part.more;
        }
        // What an index only said to be due gave its place to nobody: the next call finds it corrected.
        expired.more |= more && expired.removed > 0;
        Ok(expired)
    }

    async fn sweep(
        &self,
        bucket: u8,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        let call = self.bucket(bucket)?.expire(now, high_water, limit, "");
        scripts::expired(&self.router.run(bucket, "expiry", &call).await?)
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    ///
    /// # Complexity
    /// Asks the buckets from that of `after` on, until there are enough.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<(Vec<Listed>, Vec<SessionId>), StoreError> {
        if !self.listing {
            return Err(error::own(StoreErrorKind::Unsupported, "it was opened without listing"));
        }
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        let mut first = usize::from(after.map_or(0, |id| slots::bucket_of(&id)));
        while first < slots::BUCKETS && rows.len() + damaged.len() < limit {
            let wanted = limit - rows.len() - damaged.len();
            let ahead = first..(first + AHEAD).min(slots::BUCKETS);
            first = ahead.end;
            // A page of each; a bucket that has more is asked again when the listing has come to it.
            let pages = ahead.map(|bucket| async move {
                let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
                let after = after.filter(|id| slots::bucket_of(id) == bucket);
                let most = wanted.div_ceil(AHEAD / 4).clamp(1, MOST_PAGE);
                Ok((bucket, self.items(bucket, after, most).await?))
            });
            for (bucket, mut items) in try_join_all(pages).await? {
                loop {
                    for (id, found) in items.found {
                        if rows.len() + damaged.len() == limit {
                            return Ok((rows, damaged));
                        }
                        match found {
                            Some(row) => rows.push(Listed { id, row }),
                            None if name_damaged => damaged.push(id),
                            None => {}
                        }
                    }
                    if items.ended || rows.len() + damaged.len() == limit {
                        break;
                    }
                    items = self.items(bucket, items.last, MOST_PAGE).await?;
                }
            }
        }
        Ok((rows, damaged))
    }

    /// A page of the ids that belong to one bucket, with their rows wherever they are.
    async fn items(&self, bucket: u8, after: Option<SessionId>, limit: usize) -> Result<Items, StoreError> {
        let call = self.bucket(bucket)?.page(after, limit);
        let answer = self.router.run_reading(bucket, "a listing", &call).await?;
        let (ended, pairs) = scripts::page(&answer)?;
        let last = pairs.last().map(|(id, _)| *id);
        let rows = pairs.into_iter().map(|(id, raw)| async move {
            let raw = match (raw, scripts::bytes(raw).and_then(row::home_of)) {
                (Value::Nil, _) => return Ok(None),
                (_, Some(home)) => match self.value(home, &id).await {
                    Ok(None) => return Ok(None),
                    Ok(raw) => raw,
                    Err(e) if e.kind() == StoreErrorKind::Corrupt => None,
                    Err(e) => return Err(e),
                },
                (raw, None) => scripts::bytes(raw).map(<[u8]>::to_vec),
            };
            Ok(Some((id, raw.and_then(|raw| row::decode(&raw).ok()))))
        });
        let found = try_join_all(rows).await?.into_iter().flatten().collect();
        Ok(Items { found, last, ended: ended || last.is_none() })
    }

    /// # Complexity
    /// Asks all buckets whether they have rows of the owner, then those that do.
    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let asked = self.all().map(|(bucket, scripts)| async move {
            let cmd = command("ZCARD", &[scripts.owner_key(owner).as_bytes()]);
            let some = self.router.read(bucket, "an owner's rows", &cmd).await?;
            if scripts::number(&some) == Some(0) {
                return Ok(Vec::new());
            }
            let answer = self.router.run_reading(bucket, "an owner's rows", &scripts.owner(owner)).await?;
            scripts::owned(&answer)
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// # Complexity
    /// Asks all buckets.
    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        let asked = self.all().map(|(bucket, scripts)| async move {
            let cmd = command("ZCARD", &[scripts.expiry_key().as_bytes()]);
            let value = self.router.read(bucket, "counting", &cmd).await?;
            scripts::number(&value).ok_or_else(|| error::unexpected("counting"))
        });
        Ok(try_join_all(asked).await?.into_iter().sum())
    }
}

struct Items {
    /// No row: it is damaged.
    found: Vec<(SessionId, Option<Row>)>,
    last: Option<SessionId>,
    ended: bool,
}

fn decoded(raw: &[u8], id: &SessionId) -> Result<Row, StoreError> {
    row::decode(raw).map_err(|row::Damaged| damaged(id))
}

/// A score of a sorted set.
fn time(value: &Value) -> Option<f64> {
    match value {
        Value::Double(at) => Some(*at),
        #[expect(clippy::cast_precision_loss, reason = "a count of what is in one sorted set")]
        Value::Int(n) => Some(*n as f64),
        other => std::str::from_utf8(scripts::bytes(other)?).ok()?.parse().ok(),
    }
}
