//! One level of the wheel: a ring of slots and a bitmap of those that hold items. It knows what span of ticks
//! a slot stands for; it never decides which level an item belongs to.

use super::pool::{Item, List, Pool};

pub(super) struct Level {
    /// A slot spans 2^shift ticks.
    shift: u32,
    slots: Box<[List]>,
    /// A bit for each slot that is not empty.
    words: Box<[u64]>,
    /// A bit for each word that is not zero.
    summary: u64,
}

impl Level {
    /// A ring of `slots` slots, a power of two from 64 to 4096.
    pub(super) fn new(shift: u32, slots: usize) -> Self {
        debug_assert!(slots.is_power_of_two() && (64..=4096).contains(&slots));
        Self {
            shift,
            slots: vec![List::EMPTY; slots].into_boxed_slice(),
            words: vec![0; slots / 64].into_boxed_slice(),
            summary: 0,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to the ring")]
    fn slot_of(&self, tick: u64) -> usize {
        (tick >> self.shift) as usize & (self.slots.len() - 1)
    }

    pub(super) fn push(&mut self, tick: u64, item: Item, pool: &mut Pool) {
        let slot = self.slot_of(tick);
        pool.push(&mut self.slots[slot], item);
        self.words[slot / 64] |= 1 << (slot % 64);
        self.summary |= 1 << (slot / 64);
    }

    /// Takes an item out of the slot of `tick`.
    pub(super) fn pop(&mut self, tick: u64, pool: &mut Pool) -> Option<Item> {
        let slot = self.slot_of(tick);
        let item = pool.pop(&mut self.slots[slot]);
        if self.slots[slot].is_empty() {
            self.words[slot / 64] &= !(1 << (slot % 64));
            if self.words[slot / 64] == 0 {
                self.summary &= !(1 << (slot / 64));
            }
        }
        item
    }

    /// The tick, at or after `position`, at which the next slot with items is due.
    pub(super) fn next(&self, position: u64) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let from = self.slot_of(position);
        let (word, bit) = (from / 64, from % 64);
        let here = self.words[word];
        // Bits of this slot and behind, then later words, then from the start up to here.
        let slot = if here >> bit != 0 {
            from + (here >> bit).trailing_zeros() as usize
        } else {
            let behind = self.summary & (u64::MAX - 1) << word;
            let word = match behind {
                0 => self.summary.trailing_zeros() as usize,
                _ => behind.trailing_zeros() as usize,
            };
            word * 64 + self.words[word].trailing_zeros() as usize
        };
        let distance = slot.wrapping_sub(from) & (self.slots.len() - 1);
        let start = ((position >> self.shift) + distance as u64) << self.shift;
        debug_assert!(start >= position, "a slot was passed over, or filled for the span of the position");
        Some(start)
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.words)
    }
}
