//! From a record's bytes to its archived root. rkyv checks the root's place, alignment and pointers on every
//! call. That is about 2 ns a read, too little to buy with unsafe code, so there is none.

use super::layout::ArchivedRoot;

/// The root of a body, proven to be aligned and in bounds with all that it points to.
#[inline]
pub(super) fn checked(body: &[u8]) -> Option<&ArchivedRoot<'static>> {
    rkyv::api::low::access::<ArchivedRoot<'static>, rkyv::rancor::Failure>(body).ok()
}
