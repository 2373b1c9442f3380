//! What must hold in a body beyond rkyv's own checks, proven once when a record is opened. After it, reading
//! cannot fail. It sees only bytes whose tag was right, and trusts them no more for that.

use super::layout::{ArchivedRoot, KNOWN_FLAGS, MAX_BODY_BYTES, MAX_OWNER_BYTES, SLOT_LEN, body_len};
use crate::value::{Kind, wire};

/// Proves `root`, the root of `body`.
///
/// Every body has exactly one valid form: slots first, the heap behind them, zeros up to alignment, the root;
/// in the heap the owner, then keys and values in the order of the slots, without gaps.
pub(super) fn validate(body: &[u8], root: &ArchivedRoot<'_>) -> Result<(), &'static str> {
    if body.len() > MAX_BODY_BYTES {
        return Err("the body is larger than any record");
    }
    let (slots, heap) = (root.slots(), root.heap());
    let heap_at = slots.len() * SLOT_LEN;
    if body.len() != body_len(slots.len(), heap.len()) {
        return Err("the body's length is not that of its parts");
    }
    if (!slots.is_empty() && slots.as_ptr().addr() != body.as_ptr().addr())
        || (!heap.is_empty() && heap.as_ptr().addr() != body.as_ptr().addr() + heap_at)
    {
        return Err("slots or heap are not in their place");
    }
    let padding = body.get(heap_at + heap.len()..body.len() - super::layout::ROOT_LEN);
    if !padding.is_some_and(|bytes| bytes.iter().all(|b| *b == 0)) {
        return Err("padding is not zero");
    }
    if root.flags.to_native() & !KNOWN_FLAGS != 0 || root.reserved.to_native() != 0 {
        return Err("an unknown flag is set");
    }
    let owner = heap.get(..root.owner_len()).ok_or("the owner ends behind the heap")?;
    if owner.len() > MAX_OWNER_BYTES {
        return Err("the owner is too long");
    }
    wire::utf8(owner)?;
    if root.start(0) != owner.len() {
        return Err("the first key does not follow the owner");
    }
    let mut last: &[u8] = &[];
    for (index, slot) in slots.iter().enumerate() {
        let at = slot.at.to_native() as usize;
        let key_end = at.saturating_add(slot.key_len.to_native().into());
        let key = heap.get(at..key_end).ok_or("a key ends behind the heap")?;
        let value = heap.get(key_end..root.start(index + 1)).ok_or("a value ends before it begins")?;
        wire::utf8(key)?;
        // The empty key is refused with it: nothing is smaller than the empty `last`.
        if key <= last {
            return Err("keys are empty or not in ascending order");
        }
        last = key;
        if slot.reserved != 0 {
            return Err("a slot's reserved byte is set");
        }
        wire::validate(Kind::from_u8(slot.kind).ok_or("a value has an unknown kind")?, value)?;
    }
    Ok(())
}
