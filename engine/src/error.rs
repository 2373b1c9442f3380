//! The error type of the engine: what went wrong, with which key, store or limit, and its source.
//! It never carries a token or a stored value.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The session was destroyed, renewed by another request, revoked or has expired. Its handles read
    /// nothing and accept nothing.
    Revoked,
    /// The first write to a session came after the response head was sent, so no token could reach the
    /// client any more.
    HeadSent,
    /// A value of another type than the wanted one is stored under the key. Nothing was changed.
    TypeMismatch,
    /// A struct was read from the session's keys, and a field that it needs has no value. Nothing was changed.
    MissingField,
    /// The key is empty, longer than the limit, or one of sessile's own.
    InvalidKey,
    /// A limit of the record would be exceeded: bytes, number of keys or nesting depth.
    Limit,
    /// The owner has as many sessions as are allowed; see
    /// [`Builder::max_sessions_per_owner`](crate::Builder::max_sessions_per_owner).
    OwnerLimit,
    /// The value could not be serialized.
    Serialize,
    /// A time argument is in the past, or beyond what a record can hold.
    InvalidTime,
    /// The byte budget is exhausted and nothing can be evicted.
    OutOfMemoryBudget,
    /// The store failed; see [`Error::store_error`].
    Store,
    /// The engine refuses writes after an I/O error on its file, or because the file was moved or replaced. Reads go
    /// on from memory.
    ReadOnly,
    /// The stored record of this session failed its integrity check and was quarantined.
    Corrupt,
    /// The engine was closed.
    Closed,
    /// The operating system gave no random bytes.
    Random,
    /// The configuration contradicts itself.
    Config,
    /// The session could not be loaded, and the request goes on with a [stand-in](crate::Engine::stand_in) for
    /// it, which accepts nothing.
    NotLoaded,
    /// The token that [`Session::issue`](crate::Session::issue) gave out did not come into service, because
    /// another request renewed or ended the session first. The response that carries it must not leave.
    Undeliverable,
}

/// An error of the engine.
///
/// Match on [`Error::kind`]; the rest is for people. The struct is opaque so that context can be added
/// without breaking anyone.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    key: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with the engine's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a message for people.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), key: None, source: None }))
    }

    /// Names the key the failing operation was called with (at most its first 64 bytes).
    #[must_use]
    pub(crate) fn with_key(mut self, key: &str) -> Self {
        let mut end = key.len().min(64);
        while !key.is_char_boundary(end) {
            end -= 1;
        }
        self.0.key = key.get(..end).map(Into::into);
        self
    }

    /// Keeps the underlying error.
    #[must_use]
    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The key the failing operation was called with, cut to 64 bytes.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The store's error, if a store caused this one.
    #[must_use]
    pub fn store_error(&self) -> Option<&StoreError> {
        self.0.source.as_deref().and_then(|s| s.downcast_ref())
    }

    /// Whether the session of this handle is gone: a normal outcome of a race with a logout.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.kind() == ErrorKind::Revoked
    }

    /// The status that an HTTP response about this error should have.
    ///
    /// | status | kinds | what the client should do |
    /// |---|---|---|
    /// | 401 | [`Revoked`](ErrorKind::Revoked) | sign in again |
    /// | 403 | [`OwnerLimit`](ErrorKind::OwnerLimit) | end another session first |
    /// | 503 | [`Store`](ErrorKind::Store), [`ReadOnly`](ErrorKind::ReadOnly), [`Closed`](ErrorKind::Closed), [`NotLoaded`](ErrorKind::NotLoaded), [`Undeliverable`](ErrorKind::Undeliverable), [`OutOfMemoryBudget`](ErrorKind::OutOfMemoryBudget) | try again later |
    /// | 500 | everything else: the application's mistake, or damage | nothing |
    ///
    /// An ended session is a 401 and not a 410: caches may keep a 410, and the page itself is still there.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.kind() {
            ErrorKind::Revoked => 401,
            ErrorKind::OwnerLimit => 403,
            ErrorKind::Store | ErrorKind::ReadOnly | ErrorKind::Closed => 503,
            _ if self.is_temporary() => 503,
            _ => 500,
        }
    }

    /// What an HTTP response about this error should say: nothing about the cause.
    #[must_use]
    pub fn http_text(&self) -> &'static str {
        match self.kind() {
            ErrorKind::Revoked => "the session has ended",
            ErrorKind::OwnerLimit => "there are too many sessions of this user",
            _ => "the session could not be used",
        }
    }

    /// Whether trying again later may succeed without anything being mended.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self.kind() {
            ErrorKind::OutOfMemoryBudget | ErrorKind::NotLoaded | ErrorKind::Undeliverable => true,
            ErrorKind::Store => self.store_error().is_some_and(|e| e.kind().is_temporary()),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.0.key {
            write!(f, "session key {key:?}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("key", &self.0.key)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(e: StoreError) -> Self {
        let kind = match e.kind() {
            StoreErrorKind::ReadOnly => ErrorKind::ReadOnly,
            StoreErrorKind::Closed => ErrorKind::Closed,
            _ => ErrorKind::Store,
        };
        Self::new(kind, "the session store failed").with_source(e)
    }
}

/// What kind of failure a [`StoreError`] is; it decides whether the engine retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached or is busy; a retry may succeed.
    Unavailable,
    /// No space is left; a retry succeeds once there is some.
    Full,
    /// An I/O error on the store's file. What the file now holds is unknown, so nothing is written to it
    /// any more until it has been reopened and checked.
    Io,
    /// The store's own structure is damaged.
    Corrupt,
    /// The file is in use by another process or another engine; also by the process of which this one is a fork.
    Locked,
    /// The file is not one of ours.
    Foreign,
    /// The file was written by a newer version of sessile.
    NewerFormat,
    /// The file was moved, deleted or replaced by another while it was open. It is written to no more: what reaches a
    /// file without a name is lost with the process.
    Moved,
    /// The store refuses writes after an earlier [`Io`](Self::Io), [`Corrupt`](Self::Corrupt) or
    /// [`Moved`](Self::Moved) error.
    ReadOnly,
    /// The store was closed.
    Closed,
    /// A row is larger than the store can hold.
    TooLarge,
    /// The store's configuration is wrong.
    Config,
    /// The row was sealed with a key that the engine was not given, or without one where that is not accepted. The
    /// row is as it was; see [`Keyring`](crate::Keyring).
    Key,
    /// The store does not support the operation; see its capabilities.
    Unsupported,
}

impl StoreErrorKind {
    /// Whether a retry may succeed without anybody mending anything.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Unavailable | Self::Full)
    }
}

/// A failure of a [`Store`](crate::store::Store). It names the store and keeps its source. Cloning shares
/// the source: one failed commit is reported to every request that waited for it.
#[derive(Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    store: &'static str,
    message: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// A failure of `kind` in the store called `store`.
    #[must_use]
    pub fn new(kind: StoreErrorKind, store: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, store, message: message.into(), source: None }
    }

    /// Keeps the driver's own error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The name of the store that failed.
    #[must_use]
    pub fn store(&self) -> &'static str {
        self.store
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} store: {}", self.store, self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreError")
            .field("kind", &self.kind)
            .field("store", &self.store)
            .field("message", &self.message)
            .field("source", &self.source)
            .finish()
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}
