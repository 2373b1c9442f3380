//! Tests of the wheel against a sorted list, at its edges, and of its memory and bounds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

#[derive(Debug, Clone)]
enum Step {
    /// Files an item this far from the present.
    Insert(i64),
    Advance {
        by: u64,
        budget: usize,
    },
    /// Goes on until nothing is left for the present.
    Finish,
    /// Asks for an earlier time.
    Back(u64),
}

fn distance() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..100,
        4 => 0i64..10_000,
        2 => 4_090i64..4_100,
        4 => 0i64..600_000,
        4 => 0i64..(400 * DAY as i64),
        2 => 0i64..(67 * YEAR as i64),
        2 => -5_000i64..1,
        1 => -(67 * YEAR as i64)..0,
        // Edges of spans.
        4 => (0i64..40, 1u32..20, -2i64..3).prop_map(|(k, shift, d)| k << shift | d),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let by = prop_oneof![
        3 => Just(0u64),
        6 => 0u64..5,
        4 => 0u64..10_000,
        2 => 0u64..1_000_000,
        2 => 0u64..(300 * DAY),
        1 => 0u64..(70 * YEAR),
    ];
    prop_oneof![
        6 => distance().prop_map(Step::Insert),
        3 => (by, 0usize..20).prop_map(|(by, budget)| Step::Advance { by, budget }),
        1 => Just(Step::Finish),
        1 => (0u64..5_000).prop_map(Step::Back),
    ]
}

/// A wheel beside the list of what it must hold.
struct Pair {
    wheel: Wheel,
    now: u64,
    next: u64,
    pending: BTreeSet<(u64, u64)>,
}

impl Pair {
    fn new(now: u64) -> Self {
        Self { wheel: Wheel::new(now), now, next: 0, pending: BTreeSet::new() }
    }

    fn insert(&mut self, tick: u64) {
        // Hashes repeat in life; here each is another, so that a doubled or lost item is seen.
        let hash = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.next += 1;
        self.wheel.insert(hash, tick);
        self.pending.insert((tick, hash));
    }

    fn advance(&mut self, to: u64, budget: usize) -> Result<bool, TestCaseError> {
        self.now = self.now.max(to);
        let mut due = Vec::new();
        let more = self.wheel.advance(to, budget, &mut due);
        prop_assert!(due.len() <= budget.max(1), "{} of {budget}", due.len());
        for Due { hash, tick } in due {
            prop_assert!(tick <= self.now, "early: {tick} at {}", self.now);
            prop_assert!(self.pending.remove(&(tick, hash)), "not pending: {hash} for {tick}");
        }
        prop_assert_eq!(self.wheel.len(), self.pending.len());
        let first = self.pending.first().map(|&(tick, _)| tick);
        if !more {
            prop_assert!(first.is_none_or(|tick| tick > to), "late: {first:?} at {to}");
        }
        Ok(more)
    }

    fn finish(&mut self) -> Result<(), TestCaseError> {
        // Each item moves at most thrice and fires once.
        for _ in 0..=4 * self.pending.len() {
            if !self.advance(self.now, 1)? {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("no end"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_sorted_list(
        start in prop_oneof![0u64..10_000, Just(1_800_000_000), (1u64 << 32) - 5_000..(1 << 32) + 5_000, any::<u64>()],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(start);
        for step in steps {
            match step {
                Step::Insert(distance) => {
                    // Ticks are exact within the range of the position, which is at or behind the present.
                    let tick = pair.now.saturating_add_signed(distance);
                    let position = pair.wheel.position;
                    pair.insert(tick.clamp(position.saturating_sub(RANGE), position.saturating_add(RANGE)));
                }
                Step::Advance { by, budget } => {
                    pair.advance(pair.now.saturating_add(by), budget)?;
                }
                Step::Finish => pair.finish()?,
                Step::Back(by) => {
                    pair.advance(pair.now.saturating_sub(by), 3)?;
                }
            }
        }
        while let Some(&(tick, _)) = pair.pending.first() {
            pair.advance(tick, usize::MAX)?;
        }
        prop_assert_eq!(pair.wheel.len(), 0);
        let mut due = Vec::new();
        prop_assert!(!pair.wheel.advance(u64::MAX, usize::MAX, &mut due));
        prop_assert_eq!(due, []);
    }
}

fn drain(wheel: &mut Wheel, now: u64) -> Vec<Due> {
    let mut due = Vec::new();
    assert!(!wheel.advance(now, usize::MAX, &mut due));
    due.sort_unstable();
    due
}

#[test]
fn an_item_in_the_past_is_due_though_time_stands_still() {
    let mut wheel = Wheel::new(1_000);
    assert_eq!(drain(&mut wheel, 1_000), []);
    for tick in [0, 999, 1_000] {
        wheel.insert(tick, tick);
    }
    wheel.insert(7, 1_001);
    assert_eq!(drain(&mut wheel, 1_000), [0, 999, 1_000].map(|t| Due { hash: t, tick: t }));
    assert_eq!(drain(&mut wheel, 5), []);
    assert_eq!(drain(&mut wheel, 1_001), [Due { hash: 7, tick: 1_001 }]);
}

#[test]
fn ticks_beyond_the_range_are_filed_at_its_end() {
    for start in [0, 1_800_000_000, u64::MAX - 10, u64::MAX] {
        let mut wheel = Wheel::new(start);
        wheel.insert(1, u64::MAX);
        wheel.insert(2, 0);
        let past = start.saturating_sub(RANGE);
        let far = start.saturating_add(RANGE);
        let (old, end) = (Due { hash: 2, tick: past }, Due { hash: 1, tick: far });
        if far > start {
            assert_eq!(drain(&mut wheel, start), [old]);
            assert_eq!(drain(&mut wheel, far - 1), []);
            assert_eq!(drain(&mut wheel, far), [end]);
        } else {
            assert_eq!(drain(&mut wheel, far), [end, old]);
        }
        // The end of time is a tick like any other.
        wheel.insert(3, u64::MAX);
        assert_eq!(drain(&mut wheel, u64::MAX).len(), 1);
    }
}

#[test]
fn an_idle_timeout_never_moves_before_it_fires() {
    let mut wheel = Wheel::new(3_333);
    for tick in 3_333..3_333 + 4_096 {
        wheel.insert(tick, tick);
    }
    // With one unit of work for each item there is none left for a move.
    let mut due = Vec::new();
    for tick in 3_333..3_333 + 4_096 {
        wheel.advance(tick, 1, &mut due);
        assert_eq!(due.pop(), Some(Due { hash: tick, tick }));
    }
}

#[test]
fn a_big_slot_is_spread_in_slices() {
    const N: u64 = 200_000;
    const BUDGET: usize = 1_000;
    let start = 1_800_000_000;
    for (ahead, width) in [(100 * DAY, 1), (100 * DAY, 4_096), (3_000 * DAY, 1_000_000)] {
        let mut pair = Pair::new(start);
        for i in 0..N {
            pair.insert(start + ahead + i % width);
        }
        let filled = pair.wheel.memory_bytes();
        let mut calls = 0;
        let mut fired = Vec::new();
        let end = start + ahead + width;
        while pair.wheel.len() > 0 {
            let before = pair.wheel.len();
            pair.wheel.advance(end, BUDGET, &mut fired);
            assert!(before - pair.wheel.len() <= BUDGET);
            // What is inserted while a slot is half spread is not forgotten.
            if calls < 100 {
                pair.insert(start + ahead + u64::from(calls % 7 == 0));
                pair.insert(start + calls);
            }
            calls += 1;
            // Spreading needs no second copy of the items.
            assert!(pair.wheel.memory_bytes() < filled + (1 << 19));
        }
        assert!(calls <= 4 * (N + 200) / BUDGET as u64 + 1, "{calls}");
        for Due { hash, tick } in fired {
            assert!(pair.pending.remove(&(tick, hash)));
        }
        assert!(pair.pending.is_empty());
    }
}

#[test]
fn a_jump_costs_as_much_as_the_items_it_passes() {
    let mut wheel = Wheel::new(1_800_000_000);
    let mut expected = Vec::new();
    for i in 0..1_000u64 {
        let tick = 1_800_000_000 + i * i * 300;
        wheel.insert(i, tick);
        expected.push(Due { hash: i, tick });
    }
    let far = 1_800_000_000 + 10 * YEAR;
    wheel.insert(1_000, far + 1);
    let mut due = Vec::new();
    // Budgets count moves and firings; an empty slot costs none and must not need a call of its own.
    let mut calls = 0;
    while wheel.advance(far, 1, &mut due) {
        calls += 1;
        assert!(calls < 4 * 1_001);
    }
    assert_eq!(due, expected);
    assert_eq!(drain(&mut wheel, far + 1), [Due { hash: 1_000, tick: far + 1 }]);
    // Ten thousand years with nothing on the way.
    wheel.insert(1, far + 2);
    assert_eq!(drain(&mut wheel, far + 10_000 * YEAR).len(), 1);
    wheel.insert(2, far + 10_000 * YEAR + 1);
    assert_eq!(drain(&mut wheel, far + 10_000 * YEAR), []);
    assert_eq!(drain(&mut wheel, far + 10_000 * YEAR + 1).len(), 1);
}

#[test]
fn items_refiled_when_they_fire_come_back() {
    let mut wheel = Wheel::new(0);
    let mut seen = BTreeMap::<u64, u32>::new();
    for hash in 0..50 {
        wheel.insert(hash, hash * 1_000);
    }
    let mut due = Vec::new();
    for now in (0..2_000_000).step_by(777) {
        loop {
            let more = wheel.advance(now, 7, &mut due);
            for Due { hash, tick } in due.drain(..) {
                assert!(tick <= now && tick + 777 > now);
                *seen.entry(hash).or_default() += 1;
                wheel.insert(hash, now + 5_000);
            }
            if !more {
                break;
            }
        }
    }
    assert_eq!(wheel.len(), 50);
    assert!(seen.len() == 50 && seen.values().all(|&n| n > 300), "{seen:?}");
}

#[test]
fn memory_is_small_and_given_back() {
    let mut wheel = Wheel::new(0);
    assert!(wheel.memory_bytes() <= 20 << 10, "{}", wheel.memory_bytes());
    for span in [1_200, 4_096, 30 * DAY] {
        let start = wheel.position;
        for i in 0..1_000_000u64 {
            wheel.insert(i, start + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % span);
        }
        let bytes = wheel.memory_bytes();
        assert!(bytes <= 14_000_000, "{bytes}");
        assert_eq!(drain(&mut wheel, start + span).len(), 1_000_000);
        let left = wheel.memory_bytes();
        assert!(left <= 128 << 10, "{left}");
    }
}

#[test]
#[ignore = "prints figures, decides nothing: cargo test --release -p sessile-engine wheel -- --ignored --nocapture"]
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn figures() {
    const N: u64 = 1_000_000;
    for (name, span) in [("20 min", 1_200), ("60 min", 3_600), ("24 h", DAY), ("30 d", 30 * DAY)] {
        let mut wheel = Wheel::new(0);
        let mut due = Vec::with_capacity(N as usize);
        let ticks: Vec<u64> = (0..N).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % span).collect();
        let start = std::time::Instant::now();
        for (i, &tick) in ticks.iter().enumerate() {
            wheel.insert(i as u64, tick);
        }
        let insert = start.elapsed().as_nanos() as f64 / N as f64;
        let bytes = wheel.memory_bytes() as f64 / N as f64;
        let start = std::time::Instant::now();
        for tick in 0..=span {
            while wheel.advance(tick, 1_000, &mut due) {}
        }
        let fire = start.elapsed().as_nanos() as f64 / N as f64;
        assert_eq!(due.len(), N as usize);
        println!(
            "{name}: insert {insert:.1} ns, fire {fire:.1} ns an item (ticked each second), {bytes:.2} B an item"
        );
    }
}
