//! The public conformance suite for implementors of [`Store`](super::Store).
