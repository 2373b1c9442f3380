//! A file mapped into memory: the one unsafe call of `appends`. It knows nothing of frames.

#![expect(
    unsafe_code,
    reason = "a mapping of a file cannot be had otherwise; only this program measures one"
)]

use std::fs::File;
use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Maps all of `file`, shared; with `populate` its pages are there at once.
pub(crate) fn map(file: &File, populate: bool) -> io::Result<MmapMut> {
    let mut options = MmapOptions::new();
    if populate {
        options.populate();
    }
    // SAFETY: the file is this program's own, new and without a name that others know. Nobody cuts it or writes to it
    // while it is mapped.
    unsafe { options.map_mut(file) }
}
