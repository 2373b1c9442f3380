//! Every future of the engine, dropped at every await: after each number of polls, before and after it would be polled
//! again, and with the writer at each of its commits. Whatever was dropped, nothing that was acknowledged is lost, nothing
//! that was ended comes back, an operation happened whole or not at all, and no lock, permit or waiter is left behind: the
//! same session and the same owner can be used, and the engine flushes, closes and opens again.

#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod ops;
mod store;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;

use pollster::block_on;
use sessile_engine::store::{MemoryStore, Store};
use sessile_engine::{Builder, Delivery, Durability, Engine, OwnerLimit, Result, Session, SessionId, Token};
use store::{BOUND, Cut, Orders, Slow, cut, soon};
use tempfile::TempDir;

/// The owner of the target and the bystander.
const OWNER: &str = "user:1";
/// Polls that no operation needs.
const MOST_POLLS: u32 = 60;

/// What the engine under test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setup {
    level: Durability,
    journal: bool,
    /// How often each operation of the store is pending.
    pending: u32,
}

/// An engine over rows that another one wrote: nothing is cached.
struct World {
    setup: Setup,
    engine: Engine,
    orders: Orders,
    rows: MemoryStore,
    dir: Option<TempDir>,
    /// With the value 1 under `n`.
    target: Token,
    bystander: Token,
    /// Destroyed.
    dead: Token,
}

/// What may have become of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It lives under its token.
    Lives,
    /// It is dead.
    Ended,
    /// Either: it was not acknowledged.
    Either,
}

/// What an operation left.
struct Left {
    target: Fate,
    /// The values that `n` of the target may have.
    values: &'static [i64],
    /// Tokens that clients were given: they work, and have this value.
    given: Vec<(Token, i64)>,
    /// Tokens that were taken out of service.
    taken: Vec<Token>,
    /// The engine was closed.
    closed: bool,
}

impl Left {
    /// The target as it was.
    fn untouched() -> Self {
        Self { target: Fate::Lives, values: &[1], given: Vec::new(), taken: Vec::new(), closed: false }
    }
}

type Step<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Polls a future as often as it is to be polled, and drops it.
struct Cutter<'a> {
    at: Cut,
    orders: &'a Orders,
}

impl Cutter<'_> {
    fn run<T>(&self, future: Step<'_, T>) -> Option<T> {
        cut(future, self.at, self.orders)
    }
}

/// An operation: it does its part before, hands its future to the cutter, and says what that left. `None` once the future
/// was done: then more polls tell nothing new.
type Operation = fn(&World, &Cutter<'_>) -> (bool, Left);

fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || tx.send(f()));
    rx.recv_timeout(BOUND).unwrap_or_else(|_| panic!("it hangs or panicked: {what}"))
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn issued(delivery: Delivery) -> Token {
    match delivery {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn n(engine: &Engine, token: &Token) -> Option<i64> {
    begin(engine, Some(token)).get("n").unwrap()
}

fn builder(setup: Setup, dir: Option<&TempDir>) -> Builder {
    let builder = Engine::builder().durability(setup.level).max_sessions_per_owner(4, OwnerLimit::DropOldest);
    match dir {
        Some(dir) => builder.journal(dir.path().join("j")),
        None => builder,
    }
}

/// A published session of the owner with `n`.
fn fresh(engine: &Engine, value: i64) -> Token {
    let session = begin(engine, None);
    session.put("n", &value).unwrap();
    session.set_owner(Some(OWNER)).unwrap();
    issued(block_on(session.commit()).unwrap())
}

impl World {
    fn new(setup: Setup) -> Self {
        let rows = MemoryStore::new();
        let first = Engine::builder().open(rows.clone()).unwrap();
        let [target, bystander, dead] = [1, 10, 20].map(|value| fresh(&first, value));
        block_on(first.close()).unwrap();
        let dir = setup.journal.then(|| tempfile::tempdir().unwrap());
        let orders = Orders::default();
        let store = Slow { rows: rows.clone(), orders: orders.clone() };
        let engine = builder(setup, dir.as_ref()).open(store).unwrap();
        block_on(engine.destroy_session(&dead.id())).unwrap();
        orders.pending(setup.pending);
        Self { setup, engine, orders, rows, dir, target, bystander, dead }
    }

    fn target(&self) -> Session {
        begin(&self.engine, Some(&self.target))
    }

    /// What holds whatever was dropped.
    fn check(&self, engine: &Engine, left: &Left, fate: &mut Fate) {
        assert_eq!(n(engine, &self.bystander), Some(10), "the bystander");
        assert_eq!(n(engine, &self.dead), None, "the dead");
        let target = n(engine, &self.target);
        match *fate {
            Fate::Lives => assert!(target.is_some_and(|n| left.values.contains(&n)), "target: {target:?}"),
            Fate::Ended => assert_eq!(target, None, "the target was ended"),
            // It cannot change its mind.
            Fate::Either => *fate = if target.is_some() { Fate::Lives } else { Fate::Ended },
        }
        for (token, value) in &left.given {
            assert_eq!(n(engine, token), Some(*value), "a token that a client was given");
        }
        for token in &left.taken {
            assert_eq!(n(engine, token), None, "a token that was taken out of service");
        }
    }

    /// The ids in the store must be those of what lives.
    fn rows_agree(&self, left: &Left, fate: Fate, more: &[SessionId]) {
        let listed = block_on(self.rows.list(None, usize::MAX)).unwrap();
        let mut found: Vec<SessionId> = listed.into_iter().map(|row| row.id).collect();
        let mut wanted: Vec<SessionId> = left.given.iter().map(|(token, _)| token.id()).collect();
        wanted.push(self.bystander.id());
        wanted.extend(more);
        wanted.extend((fate == Fate::Lives).then(|| self.target.id()));
        found.sort();
        wanted.sort();
        wanted.dedup();
        assert_eq!(found, wanted, "rows and sessions agree");
    }

    fn finish(self, mut left: Left) {
        self.orders.release();
        let mut fate = left.target;
        let mut more = Vec::new();
        if !left.closed {
            self.check(&self.engine, &left, &mut fate);
            // Nothing is held: the same session, the same owner, the whole engine.
            if fate == Fate::Lives {
                let session = self.target();
                within("a commit of the same session", move || {
                    session.update("n", |n: Option<i64>| n.unwrap_or(0) + 100).unwrap();
                    block_on(session.sync()).unwrap();
                    block_on(session.commit()).unwrap()
                });
                // Told by what it was before.
                left.values = match left.values {
                    [1] => &[101],
                    [1, 2] => &[101, 102],
                    [2] => &[102],
                    other => panic!("no operation leaves {other:?}"),
                };
            }
            let engine = self.engine.clone();
            let token = within("a login of the same owner", move || {
                let session = begin(&engine, None);
                block_on(session.login(OWNER)).unwrap();
                issued(block_on(session.commit()).unwrap())
            });
            more.push(token.id());
            let engine = self.engine.clone();
            within("a flush", move || block_on(engine.flush())).unwrap();
            let engine = self.engine.clone();
            within("a checkpoint", move || block_on(engine.checkpoint())).unwrap();
            soon("an orphan's end", || {
                let stats = block_on(self.engine.stats());
                let _ = block_on(self.engine.flush());
                stats.dirty == 0
            });
            self.check(&self.engine, &left, &mut fate);
        }
        let engine = self.engine.clone();
        within("closing", move || block_on(engine.close())).unwrap();
        if fate == Fate::Either {
            let engine = builder(self.setup, self.dir.as_ref()).open(self.rows.clone()).unwrap();
            self.check(&engine, &left, &mut fate);
        }
        self.rows_agree(&left, fate, &more);
        let engine = builder(self.setup, self.dir.as_ref()).open(self.rows.clone()).unwrap();
        self.check(&engine, &left, &mut fate);
    }
}

fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for pending in [0, 3] {
        for (level, journal) in [
            (Durability::eventual(), false),
            (Durability::process_crash(), true),
            (Durability::PowerLoss, false),
            (Durability::PowerLoss, true),
        ] {
            setups.push(Setup { level, journal, pending });
        }
    }
    setups
}

/// Drops the future of `operation` everywhere. Returns how often.
fn everywhere(name: &str, operation: Operation) -> u32 {
    let mut drops = 0;
    for setup in setups() {
        let mut once = |at: Cut| {
            let world = World::new(setup);
            let cutter = Cutter { at, orders: &world.orders.clone() };
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (done, left) = operation(&world, &cutter);
                world.finish(left);
                done
            }));
            drops += 1;
            run.unwrap_or_else(|_| panic!("{name}, dropped at {at:?}, over {setup:?}"))
        };
        for woken in [false, true] {
            let mut n = 0;
            while !once(Cut::Polls { n, woken }) {
                n += 1;
                assert!(n < MOST_POLLS, "{name} needs more than {n} polls");
            }
        }
        let mut n = 0;
        while !once(Cut::Commits(n)) {
            n += 1;
            assert!(n < MOST_POLLS, "{name} needs more than {n} commits");
        }
    }
    drops
}

/// One test an operation, so that they run beside each other.
macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                let drops = everywhere(stringify!($name), ops::$name);
                assert!(drops >= 16);
                let said = format!("dropped {}: {drops} times\n", stringify!($name));
                let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
            }
        )+
    };
}

operations!(
    loading,
    loading_untouched,
    committing_a_new_session,
    committing_a_write,
    committing_a_renewal,
    committing_a_rotation,
    committing_a_login,
    committing_a_destruction,
    logging_in,
    syncing,
    flushing,
    closing,
    listing_an_owner,
    destroying_all,
    destroying_by_id,
    iterating,
    going_through_all,
    opening_by_id,
    checkpointing,
    merging,
    committing_a_merge,
    merging_after_the_head,
    waiting_for_an_end,
    waiting_for_a_change,
    counting,
    loading_by_id,
    renaming_by_id,
);
