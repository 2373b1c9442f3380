//! The scripts, and how a change becomes their arguments and their answer an outcome. It sends nothing.

use std::sync::{Arc, LazyLock};

use ::redis::{Script, Value};
use sessile_engine::SessionId;
use sessile_engine::store::{Change, Expired, Listed, Outcome, StoreError, StoreErrorKind};

use super::error;
use super::link::Call;
use super::row::{self, Names};

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
            let text = concat!(include_str!("lua/common.lua"), include_str!($file), include_str!("lua/end.lua"));
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
    DUE "lua/due.lua";
}

/// Makes the calls for one namespace, or for one bucket of a namespace in a cluster.
pub(super) struct Scripts {
    keys: Arc<[String]>,
    names: Names,
    listed: bool,
}

impl Scripts {
    pub(super) fn new(names: Names, listed: bool) -> Self {
        let fourth = if names.is_bucket() { "p" } else { "lease" };
        let keys = ["meta", "x", "i", fourth].map(|name| names.shared(name));
        Self { keys: Arc::new(keys), names, listed }
    }

    pub(super) fn meta_key(&self) -> &str {
        self.keys.first().map_or("", |key| key)
    }

    pub(super) fn expiry_key(&self) -> &str {
        self.keys.get(1).map_or("", |key| key)
    }

    fn call(&self, script: &'static (Script, String)) -> Call {
        Call::new(script, Arc::clone(&self.keys))
            .arg(self.names.prefix())
            .arg(if self.listed { "1" } else { "0" })
            .arg(GRACE_MS.to_string())
            .arg(self.names.tag())
    }

    pub(super) fn open(&self, token: &str, lease_ms: u64) -> Call {
        self.call(&OPEN).arg(token).arg(lease_ms.to_string())
    }

    pub(super) fn lease(&self, token: &str, lease_ms: u64) -> Call {
        self.call(&LEASE).arg(token).arg(lease_ms.to_string())
    }

    pub(super) fn owner(&self, owner: &str) -> Call {
        let mut call = self.call(&OWNER).arg(owner);
        self.declare_owner(&mut call, Some(owner));
        call
    }

    /// What is due: only for a bucket.
    pub(super) fn due(&self, now: u64, limit: usize) -> Call {
        self.call(&DUE).arg(now.to_le_bytes()).arg(limit.to_string())
    }

    pub(super) fn owner_key(&self, owner: &str) -> String {
        self.names.owner(owner)
    }

    pub(super) fn row_key(&self, id: &SessionId) -> String {
        self.names.row(id)
    }

    /// In a cluster a script says what it may write, so that the server refuses it as a whole while its slot moves.
    fn declare_owner(&self, call: &mut Call, owner: Option<&str>) {
        if let Some(owner) = owner.filter(|_| self.names.is_bucket()) {
            call.key(self.names.owner(owner));
        }
    }

    fn declare(&self, call: &mut Call, change: &Change) {
        if !self.names.is_bucket() {
            return;
        }
        match change {
            Change::Insert { id, row } | Change::Update { id, row, .. } | Change::Put { id, row } => {
                call.key(self.names.row(id));
                self.declare_owner(call, row.owner.as_deref());
            }
            Change::Delete { id } => call.key(self.names.row(id)),
            Change::Rekey { from, to, row, .. } => {
                call.key(self.names.row(from));
                call.key(self.names.row(to));
                self.declare_owner(call, row.owner.as_deref());
            }
            Change::Quarantine { id } => {
                call.key(self.names.row(id));
                call.key(self.names.aside(id));
            }
        }
    }

    /// A pointer for `id`, which belongs to this bucket, to the bucket `home`, where a row of it may come that is due at
    /// `due`.
    pub(super) fn point(&self, now: u64, id: &SessionId, home: u8, due: u64) -> Call {
        let mut call = self.empty_commit(now, None);
        call.key(self.names.row(id));
        call.arg("N").arg(*id.as_bytes()).arg([home]).arg(due.to_le_bytes())
    }

    fn empty_commit(&self, now: u64, token: Option<&str>) -> Call {
        self.call(&COMMIT).arg(KEEP_MS.to_string()).arg(digits(now)).arg(token.unwrap_or_default()).arg("0")
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
    pub(super) fn commit<'c>(
        &self,
        now: u64,
        changes: impl IntoIterator<Item = &'c Change>,
        token: Option<&str>,
    ) -> Vec<Call> {
        let whole = token.is_some();
        let (mut calls, mut call, mut count) = (Vec::new(), self.empty_commit(now, token), 0);
        for change in changes {
            if !whole && count > 0 && (count == MOST_CHANGES || call.size() > MOST_BYTES) {
                calls.push(std::mem::replace(&mut call, self.empty_commit(now, token)));
                count = 0;
            }
            self.declare(&mut call, change);
            push(&mut call, change);
            count += 1;
        }
        calls.push(call);
        calls
    }
}

/// Numbers a commit among those of its sender.
pub(super) fn set_turn(commit: &mut Call, turn: u64) {
    commit.set(7, turn.to_string());
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
            match became(item) {
                Some(Became(outcome)) => outcomes.push(outcome),
                _ => return Err(error::unexpected("a commit")),
            }
        }
    }
    if outcomes.len() == wanted { Ok(outcomes) } else { Err(error::unexpected("a commit")) }
}

use self::Answer::Became;

/// What a script made of one change.
pub(super) enum Answer {
    Became(Outcome),
    /// Nothing: the row is in this bucket.
    Elsewhere(u8),
}

/// The answer to one change.
pub(super) fn became(value: &Value) -> Option<Answer> {
    Some(Became(match bytes(value)? {
        b"D" => Outcome::Done,
        b"E" => Outcome::Exists,
        b"M" => Outcome::Missing,
        [b'C', version @ ..] => Outcome::Conflict { found: u64::from_le_bytes(version.try_into().ok()?) },
        [b'H', home] => return Some(Answer::Elsewhere(*home)),
        _ => return None,
    }))
}

/// Whether a script could not do anything, as its slot is on its way to another server.
pub(super) fn is_again(value: &Value) -> bool {
    matches!(value, Value::BulkString(text) if text == b"again")
}

/// What a sweep has removed.
pub(super) fn expired(answer: &Value) -> Result<Expired, StoreError> {
    if let Some(refused) = refusal(answer) {
        return Err(refused);
    }
    let Value::Array(fields) = answer else { return Err(error::unexpected("expiry")) };
    let [Value::Int(count), Value::Int(more)] = fields[..] else { return Err(error::unexpected("expiry")) };
    let removed = u64::try_from(count).map_err(|_| error::unexpected("expiry"))?;
    Ok(Expired { removed, more: more != 0 })
}

/// An id, and what is stored under it.
type Entry<'a> = (SessionId, &'a Value);

/// Whether a listing has come to its end, and its entries.
pub(super) fn page(answer: &Value) -> Result<(bool, Vec<Entry<'_>>), StoreError> {
    let wrong = || error::unexpected("a listing");
    let Value::Array(items) = answer else { return Err(wrong()) };
    let Some((Value::Int(ended), items)) = items.split_first() else { return Err(wrong()) };
    let (pairs, _) = items.as_chunks::<2>();
    let pairs: Option<_> = pairs.iter().map(|[id, raw]| Some((id_in(id)?, raw))).collect();
    Ok((*ended == 1, pairs.ok_or_else(wrong)?))
}

/// The rows of an owner.
pub(super) fn owned(answer: &Value) -> Result<Vec<Listed>, StoreError> {
    let wrong = || error::unexpected("an owner's rows");
    let Value::Array(items) = answer else { return Err(wrong()) };
    let (pairs, _) = items.as_chunks::<2>();
    let mut rows = Vec::with_capacity(pairs.len());
    for [id, raw] in pairs {
        let (Some(id), Some(raw)) = (id_in(id), bytes(raw)) else { return Err(wrong()) };
        // A damaged one is found by whoever loads it.
        if let Ok(row) = row::decode(raw) {
            rows.push(Listed { id, row });
        }
    }
    Ok(rows)
}

fn id_in(value: &Value) -> Option<SessionId> {
    Some(SessionId::from_bytes(bytes(value)?.try_into().ok()?))
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
