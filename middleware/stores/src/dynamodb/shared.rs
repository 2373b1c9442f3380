//! What the calls that read, sweep and list do with the table. They run on the store's thread, and do not care who still
//! waits.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use sessile_engine::SessionId;
use sessile_engine::store::{Expired, Listed, Row, StoreError, StoreErrorKind};

use super::item::{self, Item, Only};
use super::link::{Link, MOST_KEYS, Made, Range};
use super::{NAME, error};
use crate::keyed::wave::each;

/// Requests of one call at the same time.
pub(super) const WIDTH: usize = 16;
/// Most rows of one page; a page has 1 MB at most in any case.
const MOST_PAGE: usize = 1000;
/// Most keys that a shard is asked for at once.
const MOST_DUE: usize = 512;
/// Most looks for the rows of an owner who gets new ones all the while.
const MOST_LOOKS: u32 = 8;
const LAYOUT: u64 = 1;

/// What the calls share, which go on when their callers have gone.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) is_closed: AtomicBool,
    /// The highest mark that this store has raised.
    raised: AtomicU64,
    slot: AtomicUsize,
}

/// A page of a listing.
#[derive(Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Listed>,
    pub(super) damaged: Vec<SessionId>,
}

/// What is due in one shard, as far as it was looked at.
struct Lane {
    range: Range,
    due: VecDeque<Due>,
    next: Option<Item>,
    /// Whether the last page was the last.
    has_all: bool,
}

struct Due {
    at: u64,
    /// As the index has it.
    raw: AttributeValue,
    id: SessionId,
}

impl Shared {
    pub(super) fn new(link: Link) -> Self {
        let (raised, slot) = Default::default();
        Self { link, is_closed: AtomicBool::new(false), raised, slot }
    }

    /// Says that the table is ours, unless something says whose it is.
    pub(super) async fn sign(&self) -> Result<(), StoreError> {
        let mut layout = item::layout();
        layout.insert(item::VERSION.into(), item::number(LAYOUT));
        self.link.put("its table could not be made", layout, Some(&Only::absent())).await?;
        Ok(())
    }

    /// Checks that the table is ours to read.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        let found = self.link.get("it could not be opened", &item::layout()).await?;
        check_layout(found.as_ref())
    }

    /// Raises the high-water mark to `mark`, or leaves a higher one.
    pub(super) async fn raise(&self, mark: u64) -> Result<(), StoreError> {
        if mark <= self.raised.load(Ordering::Acquire) {
            return Ok(());
        }
        let slot = self.slot.fetch_add(1, Ordering::Relaxed);
        self.link.raise("the high-water mark", item::mark(slot), mark).await?;
        self.raised.fetch_max(mark, Ordering::AcqRel);
        Ok(())
    }

    /// The highest of the marks. A damaged one counts as 0: it is a floor for clocks that went backward.
    pub(super) async fn high_water(&self) -> Result<u64, StoreError> {
        let keys = (0..item::MARKS).map(item::mark).collect();
        let marks = self.link.get_all("the high-water mark", keys).await?;
        Ok(marks.iter().filter_map(item::time).max().unwrap_or(0))
    }

    pub(super) async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let Some(found) = self.link.get("loading a row", &item::key(id)).await? else { return Ok(None) };
        item::decode(&found).map(Some).map_err(|item::Damaged| error::damaged(id))
    }

    pub(super) async fn expire(
        self: &Arc<Self>,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> Result<Expired, StoreError> {
        self.raise(high_water).await?;
        let mut due = self.due(now, limit.saturating_add(1)).await?;
        let more = due.len() > limit;
        due.truncate(limit);
        let removed = each(NAME, WIDTH, due, |due| {
            let shared = Arc::clone(self);
            async move {
                // One that has got another time meanwhile stays.
                let only = Only::due(due.raw);
                let made = shared.link.delete("a sweep", item::key(&due.id), Some(&only)).await?;
                Ok(matches!(made, Made::Done))
            }
        });
        let removed = removed.await?.into_iter().filter(|removed| *removed).count();
        Ok(Expired { removed: removed as u64, more })
    }

    /// Up to `most` of the rows that are due, the longest first: the shards are merged, and each is asked for more only when
    /// all that it told of is taken.
    async fn due(self: &Arc<Self>, now: u64, most: usize) -> Result<Vec<Due>, StoreError> {
        let page = (most / 8).clamp(16, MOST_DUE).min(most);
        let new = |shard| Lane {
            range: Range {
                shard,
                index: Some(item::BY_DUE),
                bound: Some((item::DUE, "<=", item::number(now))),
            },
            due: VecDeque::new(),
            next: None,
            has_all: false,
        };
        let mut lanes: Vec<Lane> = item::shards().map(new).collect();
        let mut taken = Vec::new();
        while taken.len() < most {
            let wanted = lanes.iter().enumerate().filter(|(_, lane)| lane.due.is_empty() && !lane.has_all);
            let wanted: Vec<_> = wanted.map(|(n, lane)| (n, lane.range.clone(), lane.next.clone())).collect();
            if !wanted.is_empty() {
                let found = each(NAME, WIDTH, wanted, |(n, range, next)| {
                    let shared = Arc::clone(self);
                    async move { Ok((n, shared.link.find("a sweep", &range, page, next).await?)) }
                });
                for (n, found) in found.await? {
                    let Some(lane) = lanes.get_mut(n) else { continue };
                    lane.has_all = found.next.is_none();
                    lane.next = found.next;
                    let due = found.items.iter().filter_map(|item| {
                        let (at, raw) = item::due(item)?;
                        Some(Due { at, raw, id: item::row_id(item)? })
                    });
                    // The bound is the index's; that nothing goes early is not left to it.
                    lane.due.extend(due.filter(|due| due.at <= now));
                }
                continue;
            }
            let first = lanes.iter_mut().filter(|lane| !lane.due.is_empty());
            let first = first.min_by_key(|lane| lane.due.front().map(|due| due.at));
            let Some(due) = first.and_then(|lane| lane.due.pop_front()) else { break };
            taken.push(due);
        }
        Ok(taken)
    }

    /// Rows behind `after`, and the ids of damaged ones: as many as `limit` together if they are to be named.
    pub(super) async fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        name_damaged: bool,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let first = after.as_ref().map(item::shard);
        for shard in item::shards().filter(|shard| first.as_ref().is_none_or(|first| shard >= first)) {
            let behind = after.as_ref().map(|after| (item::ID, ">", AttributeValue::S(item::hex(after))));
            let range = Range { shard, index: None, bound: behind };
            let mut next = None;
            loop {
                let wanted = limit.saturating_sub(page.rows.len() + page.damaged.len());
                if wanted == 0 {
                    return Ok(page);
                }
                let found = self.link.find("a listing", &range, wanted.min(MOST_PAGE), next).await?;
                for found in &found.items {
                    let Some(id) = item::row_id(found) else { continue };
                    match item::decode(found) {
                        Ok(row) => page.rows.push(Listed { id, row }),
                        Err(item::Damaged) if name_damaged => page.damaged.push(id),
                        Err(item::Damaged) => {}
                    }
                }
                next = found.next;
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The shards are not looked at all at one time, so a session that is renewed meanwhile may be in neither of the two
    /// that it was in. The next look finds it: looks are repeated until one finds nothing new. To be missed by two of them,
    /// a session has to be renewed during each.
    pub(super) async fn list_owner(self: &Arc<Self>, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let what = "an owner's rows";
        let (mut known, mut rows) = (BTreeSet::new(), Vec::new());
        for looks in 0..MOST_LOOKS {
            let new: Vec<_> = self.owned(what, owner).await?.difference(&known).copied().collect();
            if looks > 0 && new.is_empty() {
                break;
            }
            let found = each(NAME, WIDTH, new.chunks(MOST_KEYS).map(<[_]>::to_vec), |ids| {
                let shared = Arc::clone(self);
                async move { shared.link.get_all(what, ids.iter().map(item::key).collect()).await }
            });
            // The row decides; a damaged one is found by whoever loads it.
            rows.extend(found.await?.iter().flatten().filter_map(|item| {
                let (id, row) = (item::row_id(item)?, item::decode(item).ok()?);
                (row.owner.as_deref() == Some(owner)).then_some(Listed { id, row })
            }));
            known.extend(new);
        }
        Ok(rows)
    }

    async fn owned(
        self: &Arc<Self>,
        what: &'static str,
        owner: &str,
    ) -> Result<BTreeSet<SessionId>, StoreError> {
        let found = each(NAME, WIDTH, item::shards(), |shard| {
            let bound = Some((item::OWNER, "=", item::owner(owner)));
            let (shared, range) = (Arc::clone(self), Range { shard, index: Some(item::BY_OWNER), bound });
            async move {
                let (mut ids, mut next) = (Vec::new(), None);
                loop {
                    let found = shared.link.find(what, &range, MOST_PAGE, next).await?;
                    ids.extend(found.items.iter().filter_map(item::row_id));
                    next = found.next;
                    if next.is_none() {
                        return Ok(ids);
                    }
                }
            }
        });
        Ok(found.await?.into_iter().flatten().collect())
    }
}

fn check_layout(layout: Option<&Item>) -> Result<(), StoreError> {
    let Some(layout) = layout else {
        return Err(error::own(StoreErrorKind::Config, "its table is not there, or not made; see `migrate`"));
    };
    match item::version(layout) {
        Some(LAYOUT) => Ok(()),
        Some(newer) if newer > LAYOUT => Err(error::own(
            StoreErrorKind::NewerFormat,
            format!("its table is of version {newer}; this release knows {LAYOUT}"),
        )),
        _ => Err(error::own(StoreErrorKind::Foreign, "its table is not one of sessile")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_layouts_are_refused() {
        let of = |version: AttributeValue| {
            let mut layout = item::layout();
            layout.insert(item::VERSION.into(), version);
            check_layout(Some(&layout)).map_err(|e| e.kind())
        };
        assert_eq!(of(item::number(1)), Ok(()));
        assert_eq!(of(item::number(2)), Err(StoreErrorKind::NewerFormat));
        assert_eq!(of(item::number(0)), Err(StoreErrorKind::Foreign));
        assert_eq!(of(AttributeValue::S("1".into())), Err(StoreErrorKind::Foreign));
        assert_eq!(check_layout(None).map_err(|e| e.kind()), Err(StoreErrorKind::Config));
        assert_eq!(check_layout(Some(&item::layout())).map_err(|e| e.kind()), Err(StoreErrorKind::Foreign));
    }
}
