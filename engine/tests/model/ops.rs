//! The operations of a case, and how four bytes stand for one. Any bytes are some case, so that a generator, a shrinker
//! and a fuzzer share them. It executes nothing.

use std::time::Duration;

/// An operation as bytes.
pub(crate) type Raw = [u8; 4];

/// Requests under way at most.
pub(crate) const HANDLES: usize = 4;

/// What a case runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) level: Level,
    /// A journal in front of the store.
    pub(crate) journal: bool,
    /// Hardly any memory: sessions are evicted and read back all the time.
    pub(crate) tight: bool,
    /// Whether sessions end when they are not used for a while.
    pub(crate) idle: Option<Duration>,
    pub(crate) limit: Option<Limit>,
    /// Whether records are encrypted.
    pub(crate) sealed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// No store at all.
    Memory,
    Eventual,
    ProcessCrash,
    PowerLoss,
}

/// Two sessions an owner, and then?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Refuse,
    DropOldest,
}

impl Setup {
    pub(crate) fn decode([level, place, life, more]: Raw) -> Self {
        let level = match level % 8 {
            0 => Level::Memory,
            1 | 2 => Level::Eventual,
            3..6 => Level::ProcessCrash,
            _ => Level::PowerLoss,
        };
        Self {
            level,
            journal: level != Level::Memory && place.is_multiple_of(3),
            tight: level != Level::Memory && place / 3 % 3 == 0,
            idle: [None, None, Some(Duration::from_secs(30)), Some(Duration::from_millis(1500))]
                [usize::from(life % 4)],
            limit: match more % 6 {
                0 => Some(Limit::Refuse),
                1 => Some(Limit::DropOldest),
                _ => None,
            },
            sealed: more / 6 % 4 == 0,
        }
    }
}

/// One step of a case. `pick` chooses among what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// What a request does. If the place is free, a request begins there, with the token that `pick` chooses.
    On {
        place: usize,
        pick: u8,
        act: Act,
    },
    Flush,
    Checkpoint,
    SessionsOf {
        owner: u8,
    },
    DestroyAll {
        owner: u8,
        except: Option<u8>,
    },
    DestroySession {
        pick: u8,
    },
    Iterate {
        limit: u8,
    },
    /// A handle by id, and a write through it.
    Admin {
        pick: u8,
        key: u8,
        value: u8,
    },
    Advance(Duration),
    /// To the end of a session, or one ms before.
    AdvanceToEnd {
        pick: u8,
        before: bool,
    },
    /// The wall clock jumps; nothing may come of it.
    StepWall(u8),
    Fault {
        on: Faulty,
        times: u8,
        kind: Kind,
        lost: bool,
    },
    Heal,
    /// Closed, and opened again.
    Restart,
    /// What a process that starts after a kill -9 finds.
    Kill,
    CheckAll,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Looks at everything that a handle shows.
    Look,
    Get {
        key: u8,
    },
    GetWrong {
        key: u8,
    },
    Put {
        key: u8,
        value: u8,
    },
    PutBad,
    Pop {
        key: u8,
    },
    PopWrong {
        key: u8,
    },
    Remove {
        key: u8,
    },
    Clear,
    Update {
        key: u8,
        by: u8,
    },
    Transact {
        a: u8,
        b: u8,
        fail: bool,
    },
    Flash {
        n: u8,
    },
    Flashes,
    SetOwner(Option<u8>),
    Login(u8),
    Renew,
    Rotate,
    Destroy,
    Merge {
        pick: u8,
        ours: bool,
    },
    SetLifetime(Duration),
    SetDeadline(Duration),
    SetIdle(Option<Duration>),
    RememberMe(bool),
    Sync,
    Commit {
        keep: bool,
    },
    /// The request ends without a response.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faulty {
    Load,
    Commit,
    Expire,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unavailable,
    Full,
    Io,
}

fn lifetime(n: u8) -> Duration {
    let ms = [0, 1, 1000, 5000, 30_000, 90_000, 3_600_000, 10_000_000][usize::from(n % 8)];
    Duration::from_millis(ms)
}

fn idle(n: u8) -> Option<Duration> {
    [None, Some(0), Some(1000), Some(5000), Some(25_000), Some(600_000)][usize::from(n % 6)]
        .map(Duration::from_millis)
}

fn step(n: u8) -> Duration {
    let ms = [1, 500, 999, 1000, 1500, 5000, 9999, 10_000, 20_000, 30_000, 60_000, 90_000, 3_600_000];
    // Long steps end everything, so they are rare.
    Duration::from_millis(ms[usize::from(n) % (ms.len() - if n.is_multiple_of(4) { 0 } else { 2 })])
}

impl Op {
    pub(crate) fn decode([tag, a, b, c]: Raw) -> Self {
        let act = match tag {
            0..20 => Act::Put { key: b % 4, value: c },
            20..34 => Act::Commit { keep: b.is_multiple_of(4) },
            34..42 => Act::Look,
            42..46 => Act::Get { key: b % 4 },
            46..48 => Act::GetWrong { key: b % 4 },
            48..56 => Act::Pop { key: b % 4 },
            56..58 => Act::PopWrong { key: b % 4 },
            58..64 => Act::Remove { key: b % 4 },
            64..66 => Act::Clear,
            66..74 => Act::Update { key: b % 4, by: c },
            74..80 => Act::Transact { a: b % 4, b: c % 4, fail: b > 200 },
            80..88 => Act::Flash { n: b },
            88..93 => Act::Flashes,
            93..99 => Act::SetOwner((b % 4 < 3).then_some(b % 4)),
            99..109 => Act::Login(b % 3),
            109..117 => Act::Renew,
            117..124 => Act::Rotate,
            124..132 => Act::Destroy,
            132..142 => Act::Merge { pick: b, ours: c.is_multiple_of(2) },
            142..148 => Act::SetLifetime(lifetime(b)),
            148..153 => Act::SetDeadline(lifetime(b)),
            153..160 => Act::SetIdle(idle(b)),
            160..164 => Act::RememberMe(b.is_multiple_of(2)),
            164..168 => Act::Sync,
            168..172 => Act::Drop,
            172..174 => Act::PutBad,
            174..182 => return Self::Flush,
            182..186 => return Self::Checkpoint,
            186..192 => return Self::SessionsOf { owner: a % 3 },
            192..196 => {
                return Self::DestroyAll { owner: a % 3, except: b.is_multiple_of(2).then_some(c) };
            }
            196..202 => return Self::DestroySession { pick: a },
            202..207 => return Self::Iterate { limit: a % 5 + 1 },
            207..212 => return Self::Admin { pick: a, key: b % 4, value: c },
            212..222 => return Self::Advance(step(a)),
            222..228 => return Self::AdvanceToEnd { pick: a, before: b.is_multiple_of(2) },
            228..230 => return Self::StepWall(a),
            230..236 => {
                let on = [Faulty::Load, Faulty::Commit, Faulty::Commit, Faulty::Expire, Faulty::List]
                    [usize::from(a % 5)];
                // Only writes end for good.
                let kind = match b % 16 {
                    0 | 1 if on == Faulty::Commit => Kind::Io,
                    2..9 => Kind::Full,
                    _ => Kind::Unavailable,
                };
                return Self::Fault { on, times: c % 4 + 1, kind, lost: c.is_multiple_of(2) };
            }
            236..240 => return Self::Heal,
            240..244 => return Self::Restart,
            244..250 => return Self::Kill,
            250..=255 => return Self::CheckAll,
        };
        Self::On { place: usize::from(a) % HANDLES, pick: a / 4, act }
    }
}

/// Operations of a case at most, so that a fuzzer stays fast.
const MOST_OPS: usize = 80;

/// The case that any bytes are.
pub(crate) fn parse(bytes: &[u8]) -> (Setup, Vec<Op>) {
    let (words, _) = bytes.as_chunks::<4>();
    let setup = Setup::decode(words.first().copied().unwrap_or_default());
    (setup, words.iter().skip(1).take(MOST_OPS).map(|raw| Op::decode(*raw)).collect())
}
