//! Damage: bits, bytes, sectors, lengths and whole segments of a journal that was in use. Opening it gives a typed error or
//! works; no row is returned that was never written; and a state that had been synced is never missing in silence.
//!
//! `SESSILE_CORRUPTIONS` sets the number of damaged journals (default 10,000).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use super::crash_tests::{self, Behind, IDS, Oracle, State, changes, crash, id, row};
use super::sim::{Image, Machine, Name, Rng};
use super::*;
use crate::store::Store;

const SIZES: Sizes = Sizes { segment_bytes: 1500, bytes: u64::MAX / 4, items: usize::MAX / 4, chunk: 1000 };

/// The id that was written after the last position that a mark calls synced.
const UNMARKED: usize = 1;

/// A journal of several segments, what it holds, and what it held at its last mark but one.
fn journal(rng: &mut Rng) -> (Image, State) {
    let machine = Machine::new();
    let mut oracle = Oracle::new();
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    for step in 0..25 {
        let count = 1 + rng.below(4);
        let (changes, state) = changes(rng, &mut oracle, count);
        oracle.begin(&machine, state);
        store.write(1, &changes).unwrap();
        if step == 5 {
            store.checkpoint().unwrap();
        }
    }
    // Two marks behind everything, the second of which says that all but the last row had been synced.
    for n in [0, UNMARKED] {
        assert!(store.put_row_now(1, &id(n), &row(n, oracle.version + 1)).unwrap());
        oracle.version += 1;
        store.write(1, &[]).unwrap();
    }
    let state = crash_tests::state(&store);
    crash(store);
    let image = machine.world().live.clone();
    (image, state)
}

/// The end of the last segment: what is damaged there may never have been synced.
fn last(image: &mut Image) -> u32 {
    *image.segments().last().unwrap()
}

fn damage(image: &mut Image, rng: &mut Rng) -> String {
    let numbers = image.segments();
    let number = numbers[rng.below(numbers.len())];
    let other = numbers[rng.below(numbers.len())];
    let file = image.segment(number);
    let at = rng.below(file.len());
    match rng.below(8) {
        0 => file[at] ^= 1 << rng.below(8),
        1 => file[at] = rng.next() as u8,
        2 => {
            let from = at / 512 * 512;
            let to = file.len().min(from + 512);
            file[from..to].fill(0);
        }
        3 => file.truncate(at),
        4 => {
            let more = rng.below(3000);
            let byte = if rng.one_in(2) { 0 } else { 0xA5 };
            file.resize(file.len() + more, byte);
        }
        5 => {
            let (a, b) = (image.segment(number).clone(), image.segment(other).clone());
            *image.segment(number) = b;
            *image.segment(other) = a;
            return format!("swapped {number} and {other}");
        }
        6 => {
            let copy = file.clone();
            *image.segment(other) = copy;
            return format!("{number} copied over {other}");
        }
        _ => {
            image.names.remove(&Name::Segment(number));
            return format!("{number} is missing");
        }
    }
    format!("{number} at {at} of {numbers:?}")
}

/// What `store` holds; `None` for what it says is damaged.
fn found(store: &Journaled) -> [Option<u64>; IDS] {
    std::array::from_fn(|n| match pollster::block_on(Store::load(store, &id(n))) {
        Ok(None) => Some(0),
        Ok(Some(found)) => {
            assert_eq!(found, row(n, found.version), "a row that was never written");
            Some(found.version)
        }
        Err(error) => {
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
            None
        }
    })
}

fn one(seed: u64, image: &Image, state: &State) {
    let mut rng = Rng(seed);
    let mut image = image.clone();
    let end = last(&mut image);
    let whole = image.segment(end).clone();
    let what = damage(&mut image, &mut rng);
    // Behind the last mark but one nothing says that it had been synced.
    let is_known = image.names.contains_key(&Name::Segment(end)) && {
        let file = image.segment(end);
        file.len() >= whole.len() && file[..whole.len()] == whole[..]
    };
    let machine = Machine::with(image.clone());
    let store = match crash_tests::open(&machine, Behind::Model, SIZES) {
        Ok(store) => store,
        Err(error) => {
            use StoreErrorKind::{Corrupt, Foreign, NewerFormat};
            assert!(matches!(error.kind(), Corrupt | Foreign | NewerFormat), "{what}: {error:?}");
            return;
        }
    };
    let now = found(&store);
    let is_whole = (0..IDS).all(|n| n == UNMARKED || now[n] == Some(state[n]));
    assert!(is_whole || !is_known || store.recovery().damaged > 0, "{what}: lost in silence");
    let damaged = store.recovery().damaged > 0;
    store.checkpoint().unwrap();
    let after = found(&store);
    for n in 0..IDS {
        assert_eq!(after[n], Some(now[n].unwrap_or(0)), "{what}: id {n} changed");
    }
    if damaged && !what.contains("missing") {
        let aside = machine.world().live.names.keys().any(|name| matches!(name, Name::Aside(_)));
        assert!(aside, "{what}: the damaged bytes are kept");
    }
    crash(store);
    // It is mended now.
    let store = crash_tests::open(&machine, Behind::Model, SIZES).unwrap();
    assert_eq!((found(&store), store.recovery().damaged), (after, 0), "{what}");
    crash(store);
}

#[test]
fn damage_is_found_and_said() {
    let total: u64 = std::env::var("SESSILE_CORRUPTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    for seed in 0..total / 100 {
        let (image, state) = journal(&mut Rng(seed));
        for n in 0..100 {
            let seed = seed << 32 | n;
            if std::panic::catch_unwind(|| one(seed, &image, &state)).is_err() {
                panic!("the damage of seed {seed} (journal {}) failed", seed >> 32);
            }
        }
    }
}
