//! What each call does with the servers, one item at a time. It runs on the store's thread, and does not care who still
//! waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{Outcome, Row, StoreError, StoreErrorKind};
use tokio::time::sleep;

use super::error;
use super::item::{self, Keys, State};
use super::link::{If, Link, Seen};

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    keys: Keys,
    /// The engine's time of the last commit. Not the highest: a clock that was far ahead for a while must not end rows.
    time: AtomicU64,
    /// The highest mark that this store has raised.
    raised: AtomicU64,
}

/// What stands under an id, and what it is compared by.
pub(super) struct Found {
    cas: u64,
    pub(super) state: State,
}

/// Before the next look at something that others are changing.
pub(super) async fn pause(tried: u64) {
    if tried > 0 {
        sleep(Duration::from_millis(tried.min(20))).await;
    }
}

impl Shared {
    pub(super) fn new(link: Link, keys: Keys) -> Self {
        let (time, raised) = Default::default();
        Self { link, keys, time, raised }
    }

    async fn seen(&self, id: &SessionId) -> Result<Option<Seen>, StoreError> {
        let seen =
            self.link.get(self.link.place(id), "a session could not be read", &self.keys.row(id)).await?;
        match seen {
            // It was started anew, with other settings.
            Some(Seen { cas: 0, .. }) => {
                Err(error::own(StoreErrorKind::Config, "a server compares nothing (`-C`)"))
            }
            seen => Ok(seen),
        }
    }

    pub(super) async fn look(&self, id: &SessionId) -> Result<Option<Found>, StoreError> {
        let seen = self.seen(id).await?;
        Ok(seen.map(|seen| Found { cas: seen.cas, state: item::state(&seen.raw) }))
    }

    /// Writes what stands under an id if it still is what was `found`; `false` if it is not.
    async fn write(
        &self,
        id: &SessionId,
        found: Option<&Found>,
        value: &[u8],
        ttl: u64,
    ) -> Result<bool, StoreError> {
        let only = found.map_or(If::Absent, |found| If::Unchanged(found.cas));
        let key = self.keys.row(id);
        self.link.set(self.link.place(id), "a session could not be written", &key, value, ttl, only).await
    }

    fn ttl(&self, row: &Row) -> u64 {
        item::ttl(row.expires_at, self.time.load(Ordering::Relaxed))
    }

    async fn write_row(&self, id: &SessionId, found: Option<&Found>, row: &Row) -> Result<bool, StoreError> {
        self.write(id, found, &item::row(row), self.ttl(row)).await
    }

    /// Writes a row that counts only if `from` leads to it.
    pub(super) async fn write_pending(
        &self,
        id: &SessionId,
        found: Option<&Found>,
        from: &SessionId,
        row: &Row,
    ) -> Result<bool, StoreError> {
        self.write(id, found, &item::pending(from, row), self.ttl(row)).await
    }

    /// Turns the row that was found into the way to `to`, where it is from now on. The way is kept as long as the row
    /// would have been, or somebody ends it.
    pub(super) async fn write_moved(
        &self,
        id: &SessionId,
        found: &Found,
        to: &SessionId,
        row: &Row,
    ) -> Result<bool, StoreError> {
        self.write(id, Some(found), &item::moved(to), self.ttl(row)).await
    }

    /// Ends what was found, so that a creation which is still on its way does not bring it back.
    pub(super) async fn write_tombstone(
        &self,
        id: &SessionId,
        found: Option<&Found>,
    ) -> Result<bool, StoreError> {
        self.write(id, found, &item::tombstone(), item::TOMBSTONE_S).await
    }

    pub(super) async fn remove(&self, id: &SessionId, found: &Found) -> Result<bool, StoreError> {
        let key = self.keys.row(id);
        self.link.remove(self.link.place(id), "a session could not be removed", &key, found.cas).await
    }

    /// A row that counts only if `from` leads to it, and does, counts by itself from now on.
    pub(super) async fn confirm(&self, id: &SessionId, from: &SessionId) -> Result<(), StoreError> {
        for tried in 0.. {
            match self.look(id).await? {
                Some(found) => match &found.state {
                    State::Pending(origin, row) if origin == from => {
                        if self.write_row(id, Some(&found), row).await? {
                            break;
                        }
                    }
                    _ => break,
                },
                None => break,
            }
            pause(tried).await;
        }
        Ok(())
    }

    /// Whether a server gives its items numbers to compare by: without, it would overwrite whatever it is told to.
    pub(super) async fn compares(&self, at: usize) -> Result<bool, StoreError> {
        let (key, what) = (self.keys.probe(), "opening");
        self.link.set(at, what, &key, b"?", item::PROBE_S, If::Always).await?;
        // Evicted at once: then every other item is checked when it is read.
        Ok(self.link.get(at, what, &key).await?.is_none_or(|seen| seen.cas != 0))
    }

    pub(super) fn heard(&self, now: u64) {
        self.time.store(now, Ordering::Relaxed);
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one.
    pub(super) async fn raise(&self, at: usize, mark: u64) -> Result<(), StoreError> {
        if mark <= self.raised.load(Ordering::Acquire) {
            return Ok(());
        }
        let (key, what) = (self.keys.mark(), "the high-water mark could not be raised");
        for tried in 0.. {
            let seen = self.link.get(at, what, &key).await?;
            if seen.as_ref().and_then(|seen| time(&seen.raw)).is_some_and(|there| there >= mark) {
                break;
            }
            let only = seen.map_or(If::Absent, |seen| If::Unchanged(seen.cas));
            if self.link.set(at, what, &key, mark.to_string().as_bytes(), 0, only).await? {
                break;
            }
            pause(tried).await;
        }
        self.raised.fetch_max(mark, Ordering::AcqRel);
        Ok(())
    }

    /// The highest mark of all servers that still have one.
    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let mut highest = 0;
        for at in 0..self.link.servers() {
            let seen = self.link.get(at, "the high-water mark could not be read", &self.keys.mark()).await?;
            // A damaged one counts as 0: it is a floor for clocks that went backward.
            highest = highest.max(seen.and_then(|seen| time(&seen.raw)).unwrap_or(0));
        }
        Ok(highest)
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        for tried in 0.. {
            match self.look(id).await?.map(|found| found.state) {
                None | Some(State::Moved(_) | State::Tombstone) => return Ok(None),
                Some(State::Row(row)) => return Ok(Some(row)),
                Some(State::Damaged) => return Err(error::damaged(id)),
                Some(State::Pending(from, _)) => {
                    if !self.counts_now(id, &from).await? {
                        return Ok(None);
                    }
                }
            }
            pause(tried).await;
        }
        Ok(None)
    }

    /// Only what is not there is added, or what was ended.
    pub(super) async fn insert(&self, id: &SessionId, row: &Row) -> Result<Outcome, StoreError> {
        // Nearly always nothing is there.
        if self.write_row(id, None, row).await? {
            return Ok(Outcome::Done);
        }
        for tried in 0.. {
            let found = self.look(id).await?;
            match found.as_ref().map(|found| &found.state) {
                None | Some(State::Tombstone) => {
                    if self.write_row(id, found.as_ref(), row).await? {
                        return Ok(Outcome::Done);
                    }
                }
                Some(State::Moved(to)) => self.settle(id, to).await?,
                Some(State::Row(_) | State::Damaged | State::Pending(..)) => return Ok(Outcome::Exists),
            }
            pause(tried).await;
        }
        Ok(Outcome::Exists)
    }

    pub(super) async fn update(
        &self,
        id: &SessionId,
        expected: u64,
        row: &Row,
    ) -> Result<Outcome, StoreError> {
        for tried in 0.. {
            let Some(found) = self.look(id).await? else { return Ok(Outcome::Missing) };
            match &found.state {
                State::Row(Row { version, .. }) if *version == expected => {
                    if self.write_row(id, Some(&found), row).await? {
                        return Ok(Outcome::Done);
                    }
                }
                State::Row(Row { version, .. }) => return Ok(Outcome::Conflict { found: *version }),
                State::Pending(from, _) => {
                    if !self.counts_now(id, from).await? {
                        return Ok(Outcome::Missing);
                    }
                }
                State::Moved(_) | State::Tombstone | State::Damaged => return Ok(Outcome::Missing),
            }
            pause(tried).await;
        }
        Ok(Outcome::Missing)
    }

    pub(super) async fn put(&self, id: &SessionId, row: &Row) -> Result<Outcome, StoreError> {
        for tried in 0.. {
            let found = self.look(id).await?;
            if let Some(Found { state: State::Moved(to), .. }) = &found {
                self.settle(id, to).await?;
            } else if self.write_row(id, found.as_ref(), row).await? {
                break;
            }
            pause(tried).await;
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn delete(&self, id: &SessionId) -> Result<Outcome, StoreError> {
        for tried in 0.. {
            let found = self.look(id).await?;
            match found.as_ref().map(|found| &found.state) {
                Some(State::Tombstone) => break,
                // What was moved away is not under this id any more.
                Some(State::Moved(to)) => {
                    self.settle(id, to).await?;
                    break;
                }
                None | Some(State::Row(_) | State::Pending(..) | State::Damaged) => {
                    if self.write_tombstone(id, found.as_ref()).await? {
                        break;
                    }
                }
            }
            pause(tried).await;
        }
        Ok(Outcome::Done)
    }

    /// Copies the item, then ends it if it is still what was copied.
    pub(super) async fn quarantine(&self, id: &SessionId) -> Result<Outcome, StoreError> {
        for tried in 0.. {
            let Some(seen) = self.seen(id).await? else { break };
            let found = Found { cas: seen.cas, state: item::state(&seen.raw) };
            if matches!(found.state, State::Moved(_) | State::Tombstone) {
                break;
            }
            let (at, key) = (self.link.place(id), self.keys.quarantined(id));
            let what = "a damaged row could not be put aside";
            self.link.set(at, what, &key, &seen.raw, item::QUARANTINE_S, If::Always).await?;
            if self.write_tombstone(id, Some(&found)).await? {
                break;
            }
            pause(tried).await;
        }
        Ok(Outcome::Done)
    }
}

fn time(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}
