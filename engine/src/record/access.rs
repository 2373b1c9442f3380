//! From a record's bytes to its archived root. Checked by rkyv on every call.

use super::layout::ArchivedRoot;

/// The root of a body, proven in bounds and aligned.
pub(super) fn checked(body: &[u8]) -> Option<&ArchivedRoot<'static>> {
    rkyv::api::low::access::<ArchivedRoot<'static>, rkyv::rancor::Failure>(body).ok()
}
