//! What tells a watch which rows have changed: lanes. It never talks to a server.
//!
//! Consul tells that something under a prefix has changed, and gives all that is there, not what is new. So each
//! transaction that changes rows also writes one more key, its lane, with the ids of the rows. A lane belongs to one store
//! of one process, and is in one transaction at a time; so its entries have numbers without gaps, and it holds the latest
//! of them. Who looks at all lanes again and again knows whether it has seen every number.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sessile_engine::SessionId;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Transactions of one store at the same time.
const LANES: usize = 8;
const FORMAT: u8 = 1;
/// How much of its past a lane holds, so that a watch which is late misses nothing.
const MOST_ENTRIES: usize = 16;
const MOST_IDS: usize = 192;

/// What stands in a lane's key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entries {
    /// The latest time that was heard.
    pub(super) time: u64,
    /// Number of the newest entry; the first one is 1.
    pub(super) newest: u64,
    /// The newest entries, the oldest of them first.
    pub(super) ids: VecDeque<Vec<SessionId>>,
}

/// It holds nothing that this version can read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl Entries {
    /// What the lane is to hold after a change of these rows; of none, it only takes note of the time.
    pub(super) fn with(&self, time: u64, ids: Vec<SessionId>) -> Self {
        let mut next = self.clone();
        next.time = next.time.max(time);
        if ids.is_empty() {
            return next;
        }
        next.newest = next.newest.saturating_add(1);
        next.ids.push_back(ids);
        let mut total: usize = next.ids.iter().map(Vec::len).sum();
        while next.ids.len() > 1 && (next.ids.len() > MOST_ENTRIES || total > MOST_IDS) {
            total -= next.ids.pop_front().map_or(0, |ids| ids.len());
        }
        next
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        for ids in &self.ids {
            out.extend_from_slice(&u16::try_from(ids.len()).unwrap_or(u16::MAX).to_le_bytes());
            ids.iter().take(usize::from(u16::MAX)).for_each(|id| out.extend_from_slice(id.as_bytes()));
        }
        out
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, Damaged> {
        let ([FORMAT], rest) = raw.split_first_chunk::<1>().ok_or(Damaged)? else { return Err(Damaged) };
        let (time, rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
        let (newest, mut rest) = rest.split_first_chunk::<8>().ok_or(Damaged)?;
        let mut ids = VecDeque::new();
        while !rest.is_empty() {
            let (count, behind) = rest.split_first_chunk::<2>().ok_or(Damaged)?;
            let bytes = 32 * usize::from(u16::from_le_bytes(*count));
            let (some, behind) = behind.split_at_checked(bytes).ok_or(Damaged)?;
            ids.push_back(some.as_chunks::<32>().0.iter().map(|id| SessionId::from_bytes(*id)).collect());
            rest = behind;
        }
        let newest = u64::from_le_bytes(*newest);
        if ids.len() as u64 > newest {
            return Err(Damaged);
        }
        Ok(Self { time: u64::from_le_bytes(*time), newest, ids })
    }
}

/// One lane of this store's own.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) entries: Entries,
}

/// The lanes of this store.
pub(super) struct Lanes {
    /// A random name, which no other store has.
    store: String,
    made: AtomicU64,
    /// Each in its turn, so that what all of them hold reaches back as far as it can.
    free: Mutex<VecDeque<Lane>>,
    permits: Semaphore,
}

/// A lane, for one transaction. It is given up unless it is given back: if nobody knows what became of the transaction,
/// it may still come, and no number may be in two of them.
pub(super) struct Borrowed<'l> {
    lanes: &'l Lanes,
    pub(super) lane: Lane,
    _permit: SemaphorePermit<'l>,
}

impl Lanes {
    pub(super) fn new(store: String) -> Self {
        let lanes =
            Self { store, made: AtomicU64::new(0), free: Mutex::default(), permits: Semaphore::new(LANES) };
        let fresh = (0..LANES).map(|_| lanes.fresh()).collect();
        Self { free: Mutex::new(fresh), ..lanes }
    }

    fn fresh(&self) -> Lane {
        let name = format!("{}-{}", self.store, self.made.fetch_add(1, Ordering::Relaxed));
        Lane { name, entries: Entries::default() }
    }

    /// Waits for a lane that no transaction is in; `None` never, as nobody closes them.
    pub(super) async fn borrow(&self) -> Option<Borrowed<'_>> {
        let permit = self.permits.acquire().await.ok()?;
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let lane = free.unwrap_or_else(|| self.fresh());
        Some(Borrowed { lanes: self, lane, _permit: permit })
    }
}

impl Borrowed<'_> {
    /// The transaction was made: this is what stands in the lane now; or it was not, and cannot be any more.
    pub(super) fn give_back(self, now: Option<Entries>) {
        let Self { lanes, mut lane, _permit } = self;
        if let Some(now) = now {
            lane.entries = now;
        }
        lanes.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(lane);
    }
}

/// What a watch has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    origin: Vec<u8>,
    /// The newest entry of each lane.
    lanes: HashMap<String, u64>,
}

/// What it has not seen before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) ids: Vec<SessionId>,
    pub(super) lost: bool,
}

impl Seen {
    /// Looks at all lanes: `origin` is the name of these rows.
    pub(super) fn look<'k>(
        &mut self,
        origin: &[u8],
        lanes: impl IntoIterator<Item = (&'k str, Result<Entries, Damaged>)>,
    ) -> News {
        let mut news = News::default();
        if self.origin != origin {
            (self.origin, self.lanes, news.lost) = (origin.to_vec(), HashMap::new(), true);
        }
        let mut now = HashMap::with_capacity(self.lanes.len());
        for (name, entries) in lanes {
            let Ok(entries) = entries else {
                news.lost = true;
                continue;
            };
            let seen = self.lanes.remove(name).unwrap_or(0);
            match entries.newest.checked_sub(seen).map(usize::try_from) {
                Some(Ok(new)) if new <= entries.ids.len() => {
                    news.ids.extend(entries.ids.iter().rev().take(new).flatten().copied());
                }
                // More than the lane holds, or a transaction that comes late.
                _ => news.lost = true,
            }
            now.insert(name.to_owned(), entries.newest);
        }
        // One that is not there any more may have been written before it was removed.
        news.lost |= !self.lanes.is_empty();
        self.lanes = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> SessionId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        SessionId::from_bytes(bytes)
    }

    proptest! {
        #[test]
        fn entries_come_back(time: u64, writes in proptest::collection::vec(0_usize..5, 0..40)) {
            let mut entries = Entries::default();
            for (n, count) in (0_u64..).zip(writes) {
                entries = entries.with(time, (0..count as u64).map(|m| id(100 * n + m)).collect());
                prop_assert_eq!(Entries::decode(&entries.encode()), Ok(entries.clone()));
            }
            prop_assert!(entries.ids.len() <= MOST_ENTRIES);
            prop_assert!(entries.ids.iter().map(Vec::len).sum::<usize>() <= MOST_IDS);
        }

        #[test]
        fn any_bytes_are_damaged_or_what_a_writer_writes(raw in proptest::collection::vec(0_u8..3, 0..90)) {
            if let Ok(entries) = Entries::decode(&raw) {
                prop_assert_eq!(entries.encode(), raw);
            }
        }

        /// However late a watch looks: it is told of all that was written, or that something was lost.
        #[test]
        fn a_watch_misses_nothing_in_silence(steps in proptest::collection::vec((0_usize..3, 1_u64..40, any::<bool>()), 0..60)) {
            let mut lanes = vec![Entries::default(); 3];
            let (mut seen, mut next) = (Seen::default(), 0);
            let look = |seen: &mut Seen, lanes: &[Entries]| {
                let names = ["a", "b", "c"].into_iter().zip(lanes);
                seen.look(b"rows", names.map(|(name, entries)| (name, Ok(entries.clone()))))
            };
            prop_assert!(look(&mut seen, &lanes).lost);
            let mut missing = Vec::new();
            for (lane, count, looks) in steps {
                let ids: Vec<_> = (next..next + count).map(id).collect();
                next += count;
                missing.extend_from_slice(&ids);
                lanes[lane] = lanes[lane].with(0, ids);
                if looks {
                    let news = look(&mut seen, &lanes);
                    prop_assert!(news.lost || missing.iter().all(|id| news.ids.contains(id)));
                    prop_assert!(news.lost || news.ids.len() == missing.len(), "nothing is told twice");
                    missing.clear();
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_explained_is_a_loss() {
        let one = Entries::default().with(0, vec![id(1)]);
        let two = one.with(0, vec![id(2)]);
        let mut seen = Seen::default();
        let quiet = News::default();
        let told = |id| News { ids: vec![id], lost: false };
        seen.look(b"rows", [("a", Ok(one.clone()))]);
        assert_eq!(seen.look(b"rows", [("a", Ok(one.clone()))]), quiet);
        assert_eq!(seen.look(b"rows", [("a", Ok(two.clone()))]), told(id(2)));
        assert_eq!(
            seen.look(b"rows", [("a", Ok(two.clone())), ("b", Ok(one.clone()))]),
            told(id(1)),
            "a new lane"
        );
        assert!(
            seen.look(b"rows", [("a", Ok(one.clone())), ("b", Ok(one.clone()))]).lost,
            "a number comes back"
        );
        assert!(seen.look(b"rows", [("b", Ok(one.clone()))]).lost, "a lane is gone");
        assert_eq!(seen.look(b"rows", [("b", Ok(one.clone()))]), quiet);
        assert!(seen.look(b"rows", [("b", Err(Damaged))]).lost);
        seen.look(b"rows", [("b", Ok(one.clone()))]);
        assert!(seen.look(b"else", [("b", Ok(one))]).lost, "other rows");
        let old = (0..100).fold(Entries::default(), |lane, n| lane.with(0, vec![id(n)]));
        assert!(seen.look(b"else", [("b", Ok(two)), ("c", Ok(old))]).lost, "the beginning of a lane is gone");
    }

    #[test]
    fn a_lane_is_in_one_transaction_and_given_up_when_nobody_knows() {
        block_on(async {
            let lanes = Lanes::new("s".into());
            let mut held = Vec::new();
            for _ in 0..LANES {
                held.push(lanes.borrow().await.unwrap());
            }
            let mut names: Vec<_> = held.iter().map(|held| held.lane.name.clone()).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), LANES);
            let mut waiting = Box::pin(lanes.borrow());
            assert!(futures_pending(&mut waiting));
            let known = held.pop().unwrap();
            let (name, next) = (known.lane.name.clone(), known.lane.entries.with(0, vec![id(1)]));
            known.give_back(Some(next.clone()));
            let again = waiting.await.unwrap();
            assert_eq!((&again.lane.name, &again.lane.entries), (&name, &next));
            drop(again);
            let fresh = lanes.borrow().await.unwrap();
            assert!(!names.contains(&fresh.lane.name));
            assert_eq!(fresh.lane.entries, Entries::default());
        });
    }

    fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_pending()
    }

    #[test]
    fn the_layout_is_pinned() {
        let entries = Entries::default().with(2, vec![SessionId::from_bytes([7; 32])]);
        let head = [1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(entries.encode(), [&head[..], &[7; 32]].concat());
    }
}
