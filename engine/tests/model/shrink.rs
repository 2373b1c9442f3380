//! Making a failing case smaller: operations are taken out as long as what is left still fails. It knows nothing of what
//! they do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ops::{Op, Setup};
use crate::run::{self, Verdict};

/// Cases tried for a smaller one.
const TRIES: usize = 3000;

/// What comes of a case; a panic in it is a difference too.
pub(crate) fn verdict(setup: Setup, ops: &[Op]) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| run::run(setup, ops))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// A small part of `ops` that fails, and how.
pub(crate) fn smallest(setup: Setup, mut ops: Vec<Op>, mut what: String) -> (Vec<Op>, String) {
    let mut tries = 0;
    let mut chunk = ops.len().div_ceil(2);
    loop {
        let mut smaller = false;
        let mut at = 0;
        while at < ops.len() && tries < TRIES {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            tries += 1;
            match verdict(setup, &fewer) {
                Err(how) => (ops, what, smaller) = (fewer, how, true),
                Ok(()) => at += chunk,
            }
        }
        if tries >= TRIES || (chunk == 1 && !smaller) {
            return (ops, what);
        }
        chunk = (chunk / 2).max(1);
    }
}
