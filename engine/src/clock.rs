//! The only place that reads time. It owns the meaning of "now" and of "expired"; it starts no timers.
//!
//! Engine time is milliseconds since the Unix epoch, but it *advances monotonically*: the wall clock is read
//! once, when the engine opens, and monotonic time (which counts suspends) is added to it from then on.
//! So a wall clock that is stepped while the process lives neither expires nor revives a session. Across
//! restarts the store's persisted high-water mark is a floor: an earlier wall clock revives nothing either.
//!
//! Within one poll of a request time may be held still, see [`Moment`].

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of time. Implement it to run an engine on simulated time; [`ManualClock`] usually suffices.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch by the wall clock. May step in both directions.
    fn wall_ms(&self) -> u64;
    /// Milliseconds from any fixed origin. Never goes backward while the process lives.
    fn monotonic_ms(&self) -> u64;
}

/// The operating system's clocks: `CLOCK_REALTIME`, and `CLOCK_BOOTTIME`, which counts suspended time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = SystemTime::now();
        to_ms(now)
    }

    fn monotonic_ms(&self) -> u64 {
        boottime_ms()
    }
}

#[cfg(target_os = "linux")]
fn boottime_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1000)
        + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(not(target_os = "linux"))]
fn boottime_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let now = Instant::now();
    let origin = *ORIGIN.get_or_init(|| now);
    u64::try_from(now.saturating_duration_since(origin).as_millis()).unwrap_or(u64::MAX)
}

thread_local! {
    /// Whether this thread holds a moment, and which: its boot time in ms, once somebody has asked for it.
    static HELD: Cell<Held> = const { Cell::new(Held::Nothing) };
}

#[derive(Clone, Copy)]
enum Held {
    Nothing,
    Unread,
    At(u64),
}

/// While it lives, the system clock stands still on this thread: what runs under it happens at one moment,
/// and costs one look at the clock however many operations it is made of.
///
/// It is for stretches that do not block, such as one poll of a future: a session whose time comes during
/// that stretch is found to have expired after it. Under another moment it does nothing. Other threads, and
/// [custom clocks](Clock), are not affected.
///
/// # Examples
/// ```
/// use sessile_engine::Moment;
///
/// fn poll_once(work: impl FnOnce()) {
///     let _moment = Moment::hold();
///     work();
/// }
/// # poll_once(|| ());
/// ```
#[must_use = "time stands still while it lives"]
pub struct Moment {
    outermost: bool,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl Moment {
    /// Holds time still on this thread until the value is dropped. The clock is read at the first operation
    /// that needs it.
    #[inline]
    pub fn hold() -> Self {
        let outermost = HELD.with(|held| {
            let outermost = matches!(held.get(), Held::Nothing);
            if outermost {
                held.set(Held::Unread);
            }
            outermost
        });
        Self { outermost, thread: PhantomData }
    }
}

impl Drop for Moment {
    #[inline]
    fn drop(&mut self) {
        if self.outermost {
            HELD.with(|held| held.set(Held::Nothing));
        }
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moment").field("outermost", &self.outermost).finish()
    }
}

/// The system's boot time, or that of the moment this thread holds.
#[inline]
fn held_boottime_ms() -> u64 {
    HELD.with(|held| match held.get() {
        Held::At(ms) => ms,
        Held::Nothing => boottime_ms(),
        Held::Unread => {
            let ms = boottime_ms();
            held.set(Held::At(ms));
            ms
        }
    })
}

/// A clock that stands still until it is told to move. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl ManualClock {
    /// A clock whose wall time is `wall_ms` since the Unix epoch.
    #[must_use]
    pub fn new(wall_ms: u64) -> Self {
        Self(Arc::new(Manual { wall: AtomicU64::new(wall_ms), monotonic: AtomicU64::new(1) }))
    }

    /// Lets time pass: both clocks advance by `by`.
    pub fn advance(&self, by: Duration) {
        let ms = duration_ms(by);
        self.0.wall.fetch_add(ms, Ordering::SeqCst);
        self.0.monotonic.fetch_add(ms, Ordering::SeqCst);
    }

    /// Steps the wall clock alone, as an administrator or NTP does.
    pub fn step_wall_to(&self, wall_ms: u64) {
        self.0.wall.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.0.wall.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic.load(Ordering::SeqCst)
    }
}

/// Engine time: see the module's documentation.
pub(crate) struct EngineClock {
    source: Source,
    /// Wall time at opening (or the persisted floor, if that is later) minus monotonic time at opening.
    offset: u64,
}

/// The system clock is a variant of its own so that the hit path pays no virtual call.
enum Source {
    System(SystemClock),
    Custom(Arc<dyn Clock>),
}

impl EngineClock {
    /// Starts engine time at the wall clock, or at `floor_ms` if the wall clock is behind it.
    pub(crate) fn start(custom: Option<Arc<dyn Clock>>, floor_ms: u64) -> Self {
        let source = custom.map_or(Source::System(SystemClock), Source::Custom);
        let (wall, mono) = match &source {
            Source::System(c) => (c.wall_ms(), c.monotonic_ms()),
            Source::Custom(c) => (c.wall_ms(), c.monotonic_ms()),
        };
        Self { source, offset: wall.max(floor_ms).wrapping_sub(mono) }
    }

    /// The wall clock now: only for dates that leave the process, never for deciding what has expired.
    pub(crate) fn wall_ms(&self) -> u64 {
        match &self.source {
            Source::System(c) => c.wall_ms(),
            Source::Custom(c) => c.wall_ms(),
        }
    }

    /// Engine time now, in ms since the Unix epoch.
    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        let mono = match &self.source {
            Source::System(_) => held_boottime_ms(),
            Source::Custom(c) => c.monotonic_ms(),
        };
        self.offset.wrapping_add(mono)
    }
}

impl fmt::Debug for EngineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineClock").field("now_ms", &self.now_ms()).finish()
    }
}

/// `d` in whole milliseconds, saturating.
pub(crate) fn duration_ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// `t` in ms since the Unix epoch; times before it are 0.
pub(crate) fn to_ms(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, duration_ms)
}

/// The point in time `ms` after the Unix epoch, at most the end of the year 9999 (the last a date header can
/// name).
pub(crate) fn from_ms_saturating(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))
}

/// The end of the year 9999.
pub(crate) const LAST_MS: u64 = 253_402_300_799_000;

/// The point in time `ms` after the Unix epoch, or `None` beyond what the platform can represent.
pub(crate) fn from_ms(ms: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_steps_do_not_move_engine_time() {
        let manual = ManualClock::new(1_000_000);
        let clock = EngineClock::start(Some(Arc::new(manual.clone())), 0);
        manual.step_wall_to(1);
        assert_eq!(clock.now_ms(), 1_000_000);
        manual.step_wall_to(u64::MAX / 2);
        assert_eq!(clock.now_ms(), 1_000_000);
        manual.advance(Duration::from_millis(5));
        assert_eq!(clock.now_ms(), 1_000_005);
    }

    #[test]
    fn an_earlier_wall_clock_after_a_restart_is_lifted_to_the_floor() {
        let manual = ManualClock::new(500);
        let clock = EngineClock::start(Some(Arc::new(manual)), 9_000);
        assert_eq!(clock.now_ms(), 9_000);
    }

    #[test]
    fn a_moment_holds_system_time_still_and_lets_it_go() {
        let clock = EngineClock::start(None, 0);
        let outer = Moment::hold();
        let at = clock.now_ms();
        let inner = Moment::hold();
        std::thread::sleep(Duration::from_millis(3));
        drop(inner);
        assert_eq!(clock.now_ms(), at, "an inner moment ends nothing");
        assert!(std::thread::scope(|s| s.spawn(|| clock.now_ms() > at).join()).expect("no panic"));
        drop(outer);
        assert!(clock.now_ms() > at);
    }

    /// Else a session could be served after its end.
    #[test]
    fn a_moment_is_never_behind_what_the_clock_said_before_it() {
        let clock = EngineClock::start(None, 0);
        let start = clock.now_ms();
        loop {
            let before = clock.now_ms();
            let moment = Moment::hold();
            assert!(clock.now_ms() >= before);
            drop(moment);
            // Longer than a tick of any system's timer.
            if before > start + 30 {
                break;
            }
        }
    }

    #[test]
    fn system_time_moves_forward() {
        let clock = EngineClock::start(None, 0);
        let a = clock.now_ms();
        let b = clock.now_ms();
        assert!(b >= a);
        assert!(a > 1_600_000_000_000, "a date after 2020: {a}");
    }
}
