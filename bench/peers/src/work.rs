//! What a handler does with a session, and the values it does it with: the same for every peer. It knows no peer.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Does not ask for the session.
    Untouched,
    /// Reads an integer and a string, as owned values.
    Read,
    /// The same, borrowed from the session, where a library can.
    ReadInPlace,
    /// Reads two keys and writes one.
    Write,
    /// Reads two keys of a session with an idle timeout, which counts as a use.
    Touch,
    /// Fills a new session with this many keys.
    New(usize),
    /// The same, for sessions with an idle timeout.
    NewIdle(usize),
    /// The same, for a session that ends at [`deadline`].
    NewShort(usize),
    /// Writes a value that is meant to be read once.
    PutFlash,
    /// Takes that value out. 204 if it was not there.
    Pop,
    /// Changes the session's token, as a login does.
    Renew,
    /// Ends the session.
    Destroy,
    /// Adds one to a counter, by the best means the library has.
    Count,
    /// The same after a handler's millisecond of work, for which the request waits between reading and writing.
    SlowCount,
    /// Takes the value out after that millisecond.
    SlowPop,
    /// Tells the counter in the header `x-count`.
    ReadCount,
}

impl Work {
    /// As the results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Read => "read",
            Self::ReadInPlace => "read-in-place",
            Self::Write => "write",
            Self::Touch => "touch",
            Self::New(_) | Self::NewIdle(_) | Self::NewShort(_) => "new",
            Self::PutFlash => "put-flash",
            Self::Pop => "pop",
            Self::Renew => "renew",
            Self::Destroy => "destroy",
            Self::Count => "count",
            Self::SlowCount => "slow-count",
            Self::SlowPop => "slow-pop",
            Self::ReadCount => "read-count",
        }
    }
}

pub const COUNT_HEADER: &str = "x-count";
pub const FLASH: &str = "saved";
pub const NAME: &str = "abcdefghijklmnopqrst";
pub const ROLE: &str = "operator";
pub const CSRF: &str = "0123456789abcdef0123456789abcdef";

/// Seconds since 1970 at which short sessions end.
static DEADLINE: AtomicU64 = AtomicU64::new(0);

/// Sets when short sessions end.
pub fn end_short_sessions_in(time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    DEADLINE.store((now + time).as_secs(), Ordering::Relaxed);
}

/// When short sessions end.
pub fn deadline() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(DEADLINE.load(Ordering::Relaxed))
}

/// Sixty bytes that differ from one call to the next, so that nobody may skip a write as no change.
pub fn page() -> &'static str {
    static PAGES: LazyLock<Vec<String>> = LazyLock::new(|| {
        (0..251).map(|i| format!("/a/page/with/a/path/that/is/quite/long/but/not/absurd/{i:06}")).collect()
    });
    thread_local! {
        static NEXT: Cell<usize> = const { Cell::new(0) };
    }
    let pages = &*PAGES;
    &pages[NEXT.replace(NEXT.get().wrapping_add(1)) % pages.len()]
}

/// Keys after the five: numbers and short strings in turn.
pub fn more_keys(keys: usize) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    static MORE: LazyLock<Vec<String>> =
        LazyLock::new(|| (5..250).map(|i| format!("field_{i:03}")).collect());
    let more: &'static [String] = &MORE;
    more.iter()
        .take(keys.saturating_sub(5))
        .enumerate()
        .map(|(i, key)| (key.as_str(), (i % 2 == 1).then_some("sixteen bytes of")))
}
