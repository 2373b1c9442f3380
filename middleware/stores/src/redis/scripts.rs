//! The scripts, and how a change becomes their arguments and their answer an outcome. It sends nothing.

use std::sync::{Arc, LazyLock};

use ::redis::{Script, Value};
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Outcome, StoreError, StoreErrorKind};

use super::link::Call;
use super::{error, row};

/// Most changes that one script applies: it keeps the server for about a millisecond.
const MOST_CHANGES: usize = 128;
/// Bytes after which a script takes no further change.
const MOST_BYTES: usize = 4 << 20;
/// How long a damaged row is kept aside.
const KEEP_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How long the server keeps a row that is due, for an engine whose clock is behind the server's.
const GRACE_MS: u64 = 5 * 60 * 1000;

macro_rules! scripts {
    ($($name:ident $file:literal;)+) => {
        $(static $name: LazyLock<(Script, String)> = LazyLock::new(|| {
            let text = concat!(include_str!("lua/common.lua"), include_str!($file));
            (Script::new(text), text.to_owned())
        });)+
    };
}

scripts! {
    COMMIT "lua/commit.lua";
    EXPIRE "lua/expire.lua";
    PAGE "lua/page.lua";
    OWNER "lua/owner.lua";
    OPEN "lua/open.lua";
    LEASE "lua/lease.lua";
}

/// Makes the calls for one namespace.
pub(super) struct Scripts {
    keys: Arc<[String]>,
    prefix: String,
    listed: bool,
}

impl Scripts {
    pub(super) fn new(prefix: &str, listed: bool) -> Self {
        let keys = ["meta", "x", "i", "lease"].map(|name| format!("{prefix}{name}"));
        Self { keys: Arc::new(keys), prefix: prefix.to_owned(), listed }
    }

    pub(super) fn meta_key(&self) -> &str {
        self.keys.first().map_or("", |key| key)
    }

    pub(super) fn expiry_key(&self) -> &str {
        self.keys.get(1).map_or("", |key| key)
    }

    fn call(&self, script: &'static (Script, String)) -> Call {
        Call::new(script, Arc::clone(&self.keys))
            .arg(&*self.prefix)
            .arg(if self.listed { "1" } else { "0" })
            .arg(GRACE_MS.to_string())
    }

    pub(super) fn open(&self, token: &str, lease_ms: u64) -> Call {
        self.call(&OPEN).arg(token).arg(lease_ms.to_string())
    }

    pub(super) fn lease(&self, token: &str, lease_ms: u64) -> Call {
        self.call(&LEASE).arg(token).arg(lease_ms.to_string())
    }

    pub(super) fn owner(&self, owner: &str) -> Call {
        self.call(&OWNER).arg(owner)
    }

    pub(super) fn page(&self, after: Option<SessionId>, limit: usize) -> Call {
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        self.call(&PAGE).arg(after).arg(limit.to_string())
    }

    pub(super) fn expire(&self, now: u64, high_water: u64, limit: usize, token: &str) -> Call {
        self.call(&EXPIRE)
            .arg(KEEP_MS.to_string())
            .arg(digits(high_water))
            .arg(token)
            .arg(now.to_le_bytes())
            .arg(limit.to_string())
    }

    /// The calls that apply `changes`. That of the only writer, who has a token, is one that applies all of them, and
    /// needs its [turn](set_turn).
    pub(super) fn commit(&self, now: u64, changes: &[Change], token: Option<&str>) -> Vec<Call> {
        let whole = token.is_some();
        let empty = || {
            self.call(&COMMIT)
                .arg(KEEP_MS.to_string())
                .arg(digits(now))
                .arg(token.unwrap_or_default())
                .arg("0")
        };
        let (mut calls, mut call, mut count) = (Vec::new(), empty(), 0);
        for change in changes {
            if !whole && count > 0 && (count == MOST_CHANGES || call.size() > MOST_BYTES) {
                calls.push(std::mem::replace(&mut call, empty()));
                count = 0;
            }
            push(&mut call, change);
            count += 1;
        }
        calls.push(call);
        calls
    }
}

/// Numbers a commit among those of its sender.
pub(super) fn set_turn(commit: &mut Call, turn: u64) {
    commit.set(6, turn.to_string());
}

fn digits(time: u64) -> String {
    format!("{time:020}")
}

fn push(call: &mut Call, change: &Change) {
    let mut head = |op: &str, id: &SessionId| {
        call.push(op);
        call.push(*id.as_bytes());
    };
    match change {
        Change::Insert { id, row } => {
            head("I", id);
            call.push(row::encode(row));
        }
        Change::Update { id, expected, row } => {
            head("U", id);
            call.push(expected.to_le_bytes());
            call.push(row::encode(row));
        }
        Change::Put { id, row } => {
            head("P", id);
            call.push(row::encode(row));
        }
        Change::Delete { id } => head("D", id),
        Change::Rekey { from, expected, to, row } => {
            head("R", from);
            call.push(expected.map_or(Vec::new(), |version| version.to_le_bytes().to_vec()));
            call.push(*to.as_bytes());
            call.push(row::encode(row));
        }
        Change::Quarantine { id } => head("Q", id),
    }
}

/// What a script says instead of an answer when its sender may not write.
pub(super) fn refusal(value: &Value) -> Option<StoreError> {
    match bytes(value)? {
        b"fenced" => Some(error::own(
            StoreErrorKind::Locked,
            "another engine has become the only writer of these rows",
        )),
        b"late" => Some(error::own(
            StoreErrorKind::Unavailable,
            "the commit reached the server after one that followed it, and was not made",
        )),
        _ => None,
    }
}

/// The outcomes in the answers to a commit.
pub(super) fn outcomes(values: &[Value], wanted: usize) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes = Vec::with_capacity(wanted);
    for value in values {
        if let Some(refused) = refusal(value) {
            return Err(refused);
        }
        let Value::Array(items) = value else { return Err(error::unexpected("a commit")) };
        for item in items {
            outcomes.push(outcome(item).ok_or_else(|| error::unexpected("a commit"))?);
        }
    }
    if outcomes.len() == wanted { Ok(outcomes) } else { Err(error::unexpected("a commit")) }
}

fn outcome(value: &Value) -> Option<Outcome> {
    match bytes(value)? {
        b"D" => Some(Outcome::Done),
        b"E" => Some(Outcome::Exists),
        b"M" => Some(Outcome::Missing),
        [b'C', version @ ..] => {
            Some(Outcome::Conflict { found: u64::from_le_bytes(version.try_into().ok()?) })
        }
        _ => None,
    }
}

/// The bytes of a string in whichever form a server gives it.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        _ => None,
    }
}

/// A whole number in whichever form a server gives it.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => std::str::from_utf8(bytes(other)?).ok()?.parse().ok(),
    }
}
