//! A global allocator that counts.

#![expect(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one only counts and forwards"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static ON: AtomicBool = AtomicBool::new(true);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

/// Turns the counting on or off. It is on at the start. Counting costs two shared writes an allocation, which a clock
/// beside it would book on whoever allocates much, and more so on two threads.
pub fn counting(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

#[inline]
fn note(allocated: usize, freed: usize) {
    if ON.load(Ordering::Relaxed) {
        if allocated > 0 {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(allocated as u64, Ordering::Relaxed);
        }
        if freed > 0 {
            FREED.fetch_add(freed as u64, Ordering::Relaxed);
        }
    }
}

/// Counts allocations and forwards them to the system's allocator.
#[derive(Debug)]
pub struct Counting;

// SAFETY: every call is forwarded unchanged to `System`, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

/// Allocations and bytes so far, in the whole process.
pub fn counted() -> (u64, u64) {
    (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

/// Bytes that are allocated now, without the allocator's own overhead.
pub fn live_bytes() -> u64 {
    BYTES.load(Ordering::Relaxed).saturating_sub(FREED.load(Ordering::Relaxed))
}
