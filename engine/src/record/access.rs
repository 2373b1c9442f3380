//! From a record's bytes to its archived root. rkyv checks the root's place, alignment and pointers on every
//! call; that costs a few nanoseconds, and skipping it was not measurably faster, so there is no unsafe code.

use super::layout::ArchivedRoot;

/// The root of a body, proven to be aligned and in bounds with all that it points to.
#[inline]
pub(super) fn checked(body: &[u8]) -> Option<&ArchivedRoot<'static>> {
    rkyv::api::low::access::<ArchivedRoot<'static>, rkyv::rancor::Failure>(body).ok()
}
