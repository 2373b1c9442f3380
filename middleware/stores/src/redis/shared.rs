//! What each call does with the server. It runs on the store's thread, and does not care who still waits.

use ::redis::Value;
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Expired, Listed, Outcome, Row, StoreError, StoreErrorKind};

use super::lease::Lease;
use super::link::{Call, Link};
use super::scripts::{self, Scripts};
use super::{error, row};

/// Most rows of one answer, so that no page keeps the server for long.
const MOST_PAGE: usize = 256;
/// Most rows that one script removes.
const MOST_EXPIRED: usize = 512;

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) scripts: Scripts,
    pub(super) listing: bool,
    pub(super) lease: Option<Lease>,
}

impl Shared {
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let (token, ms) = self.lease.as_ref().map_or(("", 0), |lease| (lease.token(), lease.ms()));
        let answer = self.link.run("opening", &self.scripts.open(token, ms)).await?;
        layout_of(&answer, self.listing)
    }

    /// Gives the lease up, and the connection. A lease that cannot be given up runs out.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        if let Some(lease) = &self.lease {
            // A commit on its way comes to its end first.
            let (_order, _) = lease.next().await;
            if let Err(e) = self.link.run("the lease", &self.scripts.lease(lease.token(), 0)).await {
                tracing::warn!(store = super::NAME, error = %e, "the lease was not given up; it runs out");
            }
        }
        self.link.hang_up().await;
        Ok(())
    }

    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let cmd = command("HGET", &[self.scripts.meta_key().as_bytes(), b"time"]);
        // A damaged one counts as 0, as in the scripts: it is a floor for clocks that went backward.
        Ok(scripts::number(&self.link.ask("the high-water mark", &cmd).await?).unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let cmd = command("GET", &[self.scripts.row_key(id).as_bytes()]);
        match self.link.ask("loading a row", &cmd).await {
            Ok(Value::Nil) => Ok(None),
            Ok(value) => {
                let raw = scripts::bytes(&value).ok_or_else(|| error::unexpected("loading a row"))?;
                row::decode(raw).map(Some).map_err(|row::Damaged| damaged(id))
            }
            // A key of another type is in its place.
            Err(e) if e.kind() == StoreErrorKind::Foreign => Err(damaged(id).with_source(e)),
            Err(e) => Err(e),
        }
    }

    /// The calls that make `changes`, without the turn of the only writer.
    fn prepare(&self, now: u64, changes: &[Change]) -> Vec<Call> {
        self.scripts.commit(now, changes, self.lease.as_ref().map(Lease::token))
    }

    pub(super) async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let (mut calls, count) = (self.prepare(now, changes), changes.len());
        let _order = match &self.lease {
            Some(lease) => {
                let (order, turn) = lease.next().await;
                calls.iter_mut().for_each(|call| scripts::set_turn(call, turn));
                Some(order)
            }
            None => None,
        };
        scripts::outcomes(&self.link.run_all("a commit", &calls).await?, count)
    }

    pub(super) async fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        let token = self.lease.as_ref().map_or("", Lease::token);
        let (mut removed, mut left) = (0, limit);
        loop {
            let part = left.min(MOST_EXPIRED);
            let call = self.scripts.expire(now, high_water, part, token);
            let answer = self.link.run("expiry", &call).await?;
            let part = scripts::expired(&answer)?;
            removed += part.removed;
            left = left.saturating_sub(usize::try_from(part.removed).unwrap_or(usize::MAX));
            if !part.more || left == 0 {
                return Ok(Expired { removed, more: part.more });
            }
        }
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        mut after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<(Vec<Listed>, Vec<SessionId>), StoreError> {
        if !self.listing {
            return Err(error::own(StoreErrorKind::Unsupported, "it was opened without listing"));
        }
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        loop {
            let wanted = limit.saturating_sub(rows.len() + damaged.len()).min(MOST_PAGE);
            if wanted == 0 {
                return Ok((rows, damaged));
            }
            let answer = self.link.run("a listing", &self.scripts.page(after, wanted)).await?;
            let (ended, pairs) = scripts::page(&answer)?;
            let is_last = ended || pairs.is_empty();
            for (id, raw) in pairs {
                after = Some(id);
                match (raw, scripts::bytes(raw).map(row::decode)) {
                    (Value::Nil, _) => {}
                    (_, Some(Ok(row))) => rows.push(Listed { id, row }),
                    _ if name_damaged => damaged.push(id),
                    _ => {}
                }
            }
            if is_last {
                return Ok((rows, damaged));
            }
        }
    }

    pub(super) async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let answer = self.link.run("an owner's rows", &self.scripts.owner(owner)).await?;
        scripts::owned(&answer)
    }

    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        let cmd = command("ZCARD", &[self.scripts.expiry_key().as_bytes()]);
        scripts::number(&self.link.ask("counting", &cmd).await?).ok_or_else(|| error::unexpected("counting"))
    }
}

/// Whether the rows are ours to read, as opening was answered.
pub(super) fn layout_of(answer: &Value, listing: bool) -> Result<(), StoreError> {
    let Value::Array(fields) = answer else { return Err(error::unexpected("opening")) };
    let [layout, listed, left] = &fields[..] else { return Err(error::unexpected("opening")) };
    match scripts::number(layout) {
        Some(1) => {}
        Some(_) => {
            return Err(error::own(
                StoreErrorKind::NewerFormat,
                "the rows were written by a newer version of sessile",
            ));
        }
        None => return Err(error::own(StoreErrorKind::Foreign, "the keys of this prefix are not ours")),
    }
    if scripts::bytes(listed) != Some(if listing { b"1" } else { b"0" }) {
        return Err(error::own(
            StoreErrorKind::Config,
            "the rows were stored with another `listing`: all engines over them must say the same",
        ));
    }
    match scripts::number(left) {
        Some(0) => Ok(()),
        left => Err(error::own(
            StoreErrorKind::Locked,
            format!("another engine is the only writer, for {} ms more at least", left.unwrap_or(0)),
        )),
    }
}

pub(super) fn damaged(id: &SessionId) -> StoreError {
    error::own(StoreErrorKind::Corrupt, format!("the row of {id:?} is damaged"))
}

pub(super) fn command(verb: &str, args: &[&[u8]]) -> ::redis::Cmd {
    let mut cmd = ::redis::cmd(verb);
    for arg in args {
        cmd.arg(arg);
    }
    cmd
}
