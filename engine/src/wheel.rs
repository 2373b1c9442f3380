//! The hierarchical timing wheel: which session hashes fall due at which second.
//!
//! It owns its slots and the memory behind them. It owns no thread, no clock and no lock, it knows no
//! sessions, and it never forgets an item: the owner passes the time in and asks the session that a due item
//! points to whether it has really expired. So a touch costs the wheel nothing; a touched session is filed
//! again when its old item falls due.
//!
//! # Invariants
//! Let `position` be the first tick that is not finished.
//! - Level 0 has a slot for each tick of `position ..= position + 4095` and holds items of just that tick, so
//!   an idle timeout of up to 68 minutes is never moved before it fires.
//! - A slot of a higher level holds items of its own span only. The span that contains `position` is empty,
//!   or being spread over the levels below while `position` stands at the first tick of the span.
//! - Items that were filed with a tick before `position` wait in a list of their own, which goes first.
//! - Nothing moves `position` over a slot that is not empty.
//!
//! # Range
//! An item keeps the low 32 bits of its tick, which name it within 68 years (2^31 s) on either side of
//! `position`. A tick further away is filed at the end of that range.

use self::level::Level;
use self::pool::{Item, List, Pool};

mod level;
mod pool;
#[cfg(test)]
mod tests;

/// Ticks that an item can lie ahead of, or behind, the position.
const RANGE: u64 = (1 << 31) - 1;

/// An item whose tick has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    /// The hash that it was filed with.
    pub(crate) hash: u64,
    /// The tick that it was filed for, cut to the range of the wheel.
    pub(crate) tick: u64,
}

/// See the module.
pub(crate) struct Wheel {
    position: u64,
    len: usize,
    late: List,
    /// 4096 × 1 s, 64 × 68 min, 64 × 3 d, 256 × 194 d. The last has twice the slots that the range needs, so
    /// that spans never meet from the other side.
    levels: [Level; 4],
    pool: Pool,
}

impl Wheel {
    /// An empty wheel that takes all ticks before `now_tick` for past. A tick is one second of engine time.
    pub(crate) fn new(now_tick: u64) -> Self {
        Self {
            position: now_tick,
            len: 0,
            late: List::EMPTY,
            levels: [Level::new(0, 4096), Level::new(12, 64), Level::new(18, 64), Level::new(24, 256)],
            pool: Pool::new(),
        }
    }

    /// Files `hash` for `tick`. A tick in the past is due at the next [`advance`](Self::advance).
    ///
    /// # Complexity
    /// O(1): one cache line, and a page of memory now and then.
    pub(crate) fn insert(&mut self, hash: u64, tick: u64) {
        self.len += 1;
        if tick < self.position {
            let tick = tick.max(self.position.saturating_sub(RANGE));
            self.pool.push(&mut self.late, Item { hash, tick: low(tick) });
        } else {
            self.file(hash, tick.min(self.position.saturating_add(RANGE)));
        }
    }

    /// Moves time forward to `now_tick` and appends what falls due to `due`, until `budget` items (at least
    /// one) were fired or moved between levels. Returns whether work is left for this `now_tick`; then no time
    /// is lost by calling again later, even with another `now_tick`.
    ///
    /// Once it has returned `false`, every item with a tick up to `now_tick` has been handed out. None is
    /// handed out before its tick. A `now_tick` before an earlier one does not move the time back.
    ///
    /// # Complexity
    /// O(budget). Empty slots are skipped by whole words, however far time jumps.
    pub(crate) fn advance(&mut self, now_tick: u64, budget: usize, due: &mut Vec<Due>) -> bool {
        let mut budget = budget.max(1);
        while let Some(item) = self.pool.pop(&mut self.late) {
            self.fire(item, due);
            budget -= 1;
            if budget == 0 {
                return self.has_work(now_tick);
            }
        }
        while let Some((tick, level)) = self.next_slot().filter(|&(tick, _)| tick <= now_tick) {
            self.position = tick;
            while let Some(item) = self.levels[level].pop(tick, &mut self.pool) {
                if level == 0 {
                    self.fire(item, due);
                } else {
                    self.file(item.hash, self.full(item.tick));
                }
                budget -= 1;
                if budget == 0 {
                    return self.has_work(now_tick);
                }
            }
        }
        self.position = self.position.max(now_tick.saturating_add(1));
        false
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the wheel holds, itself included.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.levels.iter().map(Level::memory_bytes).sum::<usize>()
            + self.pool.memory_bytes()
    }

    fn fire(&mut self, item: Item, due: &mut Vec<Due>) {
        self.len -= 1;
        due.push(Due { hash: item.hash, tick: self.full(item.tick) });
    }

    /// Puts an item into the lowest level that reaches its tick, which is within the range ahead.
    fn file(&mut self, hash: u64, tick: u64) {
        let level = if tick - self.position < 4096 {
            0
        } else if (tick >> 12) - (self.position >> 12) < 64 {
            1
        } else if (tick >> 18) - (self.position >> 18) < 64 {
            2
        } else {
            3
        };
        self.levels[level].push(tick, Item { hash, tick: low(tick) }, &mut self.pool);
    }

    /// The next slot with items and the tick at which it is due. If a slot must be spread and another fires
    /// at the same tick, the one to spread, from the top.
    fn next_slot(&self) -> Option<(u64, usize)> {
        let starts = self
            .levels
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(i, level)| Some((level.next(self.position)?, i)));
        // `min_by_key` keeps the first of equals, which is the highest level.
        starts.min_by_key(|&(tick, _)| tick)
    }

    fn has_work(&self, now_tick: u64) -> bool {
        !self.late.is_empty() || self.next_slot().is_some_and(|(tick, _)| tick <= now_tick)
    }

    /// The tick whose low bits these are: the one within the range of the position.
    fn full(&self, tick: u32) -> u64 {
        self.position.wrapping_add_signed(i64::from(tick.wrapping_sub(low(self.position)).cast_signed()))
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel")
            .field("position", &self.position)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the rest follows from the position")]
const fn low(tick: u64) -> u32 {
    tick as u32
}
