//! The memory of the wheel: lists of items in chunks of one cache line, out of pages that are given back when
//! they are empty. It knows nothing of time.
//!
//! # Invariants
//! - All chunks of a list but the first are full, so the number of items in the first, kept in the [`List`]
//!   itself, says everything. A list that is not empty has at least one item in its first chunk.
//! - A page has a bit in `open` if and only if it has memory and a free chunk. Its free chunks are linked.
//! - At most one page is kept without any chunk in use.

/// What a list holds: a hash, and the low bits of its tick.
#[derive(Clone, Copy, Default)]
pub(super) struct Item {
    pub(super) hash: u64,
    pub(super) tick: u32,
}

/// 12 bytes for each item and a link, in 64 bytes. There is no padding between the fields.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Chunk {
    hashes: [u64; ITEMS],
    ticks: [u32; ITEMS],
    /// The next chunk of the list, or the next free chunk of the page.
    next: u32,
}

const ITEMS: usize = 5;
const PAGE: usize = 256;
const NONE: u32 = u32::MAX >> LEN_BITS;
const LEN_BITS: u32 = 3;

const _: () = assert!(size_of::<Chunk>() == 64 && ITEMS < 1 << LEN_BITS);

/// A list of items: the index of its first chunk and, in the low bits, the number of items there.
#[derive(Clone, Copy)]
pub(super) struct List(u32);

impl List {
    pub(super) const EMPTY: Self = Self::of(NONE, 0);

    const fn of(chunk: u32, len: u32) -> Self {
        Self(chunk << LEN_BITS | len)
    }

    const fn chunk(self) -> u32 {
        self.0 >> LEN_BITS
    }

    const fn len(self) -> usize {
        (self.0 & ((1 << LEN_BITS) - 1)) as usize
    }

    pub(super) const fn is_empty(self) -> bool {
        self.chunk() == NONE
    }
}

/// 256 chunks, or no memory at all.
struct Page {
    chunks: Box<[Chunk]>,
    free: u32,
    used: u32,
}

pub(super) struct Pool {
    pages: Vec<Page>,
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    first_open: usize,
    /// Pages without memory.
    absent: Vec<u32>,
    /// Pages with memory and no chunk in use.
    spare: u32,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self { pages: Vec::new(), open: Vec::new(), first_open: 0, absent: Vec::new(), spare: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, list: &mut List, item: Item) {
        let (mut index, mut len) = (list.chunk(), list.len());
        if index == NONE || len == ITEMS {
            index = self.allocate(index);
            len = 0;
        }
        let chunk = self.chunk(index);
        chunk.hashes[len] = item.hash;
        chunk.ticks[len] = item.tick;
        *list = List::of(index, len as u32 + 1);
    }

    #[inline]
    pub(super) fn pop(&mut self, list: &mut List) -> Option<Item> {
        if list.is_empty() {
            return None;
        }
        let (index, last) = (list.chunk(), list.len() - 1);
        let chunk = self.chunk(index);
        let item = Item { hash: chunk.hashes[last], tick: chunk.ticks[last] };
        if last > 0 {
            *list = List::of(index, last as u32);
        } else {
            let next = chunk.next;
            *list = if next == NONE { List::EMPTY } else { List::of(next, ITEMS as u32) };
            self.free(index);
        }
        Some(item)
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let chunks = (self.pages.len() - self.absent.len()) * PAGE * size_of::<Chunk>();
        chunks
            + self.pages.capacity() * size_of::<Page>()
            + self.open.capacity() * size_of::<u64>()
            + self.absent.capacity() * size_of::<u32>()
    }

    fn chunk(&mut self, index: u32) -> &mut Chunk {
        let index = index as usize;
        &mut self.pages[index / PAGE].chunks[index % PAGE]
    }

    /// A chunk linked to `next`, from the first page that has one: low pages fill up and high ones run empty.
    fn allocate(&mut self, next: u32) -> u32 {
        let tail = self.open.get(self.first_open..).unwrap_or_default();
        let page = match tail.iter().position(|&word| word != 0) {
            Some(skipped) => {
                self.first_open += skipped;
                self.first_open * 64 + self.open[self.first_open].trailing_zeros() as usize
            }
            None => self.add_page(),
        };
        let found = &mut self.pages[page];
        let free = found.free;
        let chunk = &mut found.chunks[free as usize];
        found.free = std::mem::replace(&mut chunk.next, next);
        self.spare -= u32::from(found.used == 0);
        found.used += 1;
        if found.free == NONE {
            self.open[page / 64] &= !(1 << (page % 64));
        }
        (page * PAGE) as u32 + free
    }

    fn free(&mut self, index: u32) {
        let (page, at) = (index as usize / PAGE, index % PAGE as u32);
        let found = &mut self.pages[page];
        found.chunks[at as usize].next = std::mem::replace(&mut found.free, at);
        found.used -= 1;
        self.open[page / 64] |= 1 << (page % 64);
        self.first_open = self.first_open.min(page / 64);
        if found.used == 0 {
            if self.spare > 0 {
                found.chunks = Box::default();
                self.open[page / 64] &= !(1 << (page % 64));
                self.absent.push(page as u32);
            } else {
                self.spare = 1;
            }
        }
    }

    /// A page with all its chunks free.
    ///
    /// # Panics
    /// Beyond 2^29 chunks, which take 32 GiB.
    #[cold]
    fn add_page(&mut self) -> usize {
        let mut chunks = vec![Chunk { hashes: [0; ITEMS], ticks: [0; ITEMS], next: NONE }; PAGE];
        for (next, chunk) in (1..PAGE as u32).zip(&mut chunks) {
            chunk.next = next;
        }
        let new = Page { chunks: chunks.into_boxed_slice(), free: 0, used: 0 };
        let page = match self.absent.pop() {
            Some(page) => {
                self.pages[page as usize] = new;
                page as usize
            }
            None => {
                assert!(self.pages.len() < NONE as usize / PAGE, "the wheel is full");
                self.pages.push(new);
                self.open.resize(self.pages.len().div_ceil(64), 0);
                self.pages.len() - 1
            }
        };
        self.spare += 1;
        self.open[page / 64] |= 1 << (page % 64);
        self.first_open = self.first_open.min(page / 64);
        page
    }
}
