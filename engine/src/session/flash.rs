//! Flash messages: short texts for the next page, each delivered once. They are one value under a key of
//! sessile's own; nothing else of a session is touched.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Session, Transaction};
use crate::error::Result;
use crate::record::{Limits, Meta, Record};
use crate::value::{Encoded, decode};

/// The key of the messages.
pub(super) const KEY: &str = "sessile.flash";
/// Messages that a session keeps; the oldest make room.
const MAX_MESSAGES: usize = 64;

/// How a flash message is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For developers.
    Debug,
    /// Worth knowing.
    Info,
    /// It worked.
    Success,
    /// It worked, but.
    Warning,
    /// It did not work.
    Error,
}

impl Level {
    /// The name in lower case, e.g. for a CSS class.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A string is none of the five levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLevelError(());

impl fmt::Display for ParseLevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a level is debug, info, success, warning or error")
    }
}

impl std::error::Error for ParseLevelError {}

/// The names of [`as_str`](Level::as_str).
impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(s: &str) -> std::result::Result<Self, ParseLevelError> {
        [Self::Debug, Self::Info, Self::Success, Self::Warning, Self::Error]
            .into_iter()
            .find(|level| level.as_str() == s)
            .ok_or(ParseLevelError(()))
    }
}

/// A message for the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flash {
    /// How it is meant.
    pub level: Level,
    /// Where it goes: empty, or what [`Session::flash_to`] was given.
    pub name: String,
    /// What it says. Not escaped for HTML.
    pub text: String,
}

/// The messages as they are stored.
type Stored<S> = Vec<(Level, S, S)>;

fn stored(record: &Record) -> Result<Stored<&str>> {
    match record.get(KEY) {
        Some(value) => decode(value).map_err(|e| e.with_key(KEY)),
        None => Ok(Vec::new()),
    }
}

fn flash((level, name, text): (Level, &str, &str)) -> Flash {
    Flash { level, name: name.to_owned(), text: text.to_owned() }
}

fn with(record: &Record, meta: &Meta, messages: &Stored<&str>, limits: &Limits) -> Result<Record> {
    record.put(meta, KEY, &Encoded::of(messages).map_err(|e| e.with_key(KEY))?, limits)
}

/// What `record` becomes when the messages for `name`, or all of them, are taken out, and those messages. `None` if
/// there are none.
fn taken(record: &Record, name: Option<&str>, limits: &Limits) -> Result<Option<(Record, Vec<Flash>)>> {
    let (taken, left): (Stored<&str>, Stored<&str>) =
        stored(record)?.into_iter().partition(|(_, n, _)| name.is_none_or(|name| name == *n));
    if taken.is_empty() {
        return Ok(None);
    }
    let meta = record.meta();
    let rest = match record.remove(&meta, KEY) {
        Some(without) if left.is_empty() => without,
        _ => with(record, &meta, &left, limits)?,
    };
    Ok(Some((rest, taken.into_iter().map(flash).collect())))
}

fn pushed(record: &Record, message: (Level, &str, &str), limits: &Limits) -> Result<Record> {
    let mut messages = stored(record)?;
    messages.push(message);
    let oldest = messages.len().saturating_sub(MAX_MESSAGES);
    messages.drain(..oldest);
    with(record, &record.meta(), &messages, limits)
}

impl Session {
    /// Leaves a message for the next page that asks for it, by [`flashes`](Self::flashes). (gorilla: `AddFlash`.)
    ///
    /// Messages are data of the session, under the key `sessile.flash`: they survive redirects, restarts and
    /// [`renew`](Self::renew), and go with [`destroy`](Self::destroy); a message after that begins a new session.
    /// [`keys`](Self::keys) lists their key and [`clear`](Self::clear) removes them. A session keeps
    /// 64 messages; one more pushes the oldest out, because a client that never shows its messages must not make
    /// requests fail.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Durability
    /// As [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use sessile_engine::Level;
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.flash(Level::Success, "Saved.")?;
    /// // … redirect; then, in the next request:
    /// for message in session.flashes()? {
    ///     assert_eq!((message.level.as_str(), &*message.text), ("success", "Saved."));
    /// }
    /// assert!(session.flashes()?.is_empty());
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn flash(&self, level: Level, text: &str) -> Result<()> {
        self.flash_to("", level, text)
    }

    /// As [`flash`](Self::flash), for one place of the page: [`flashes_of`](Self::flashes_of) takes the messages of a
    /// name alone.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use sessile_engine::Level;
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.flash_to("login", Level::Error, "Wrong password.")?;
    /// session.flash(Level::Info, "Welcome.")?;
    /// assert_eq!(session.flashes_of("login")?.len(), 1);
    /// assert_eq!(session.flashes()?.len(), 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn flash_to(&self, name: &str, level: Level, text: &str) -> Result<()> {
        self.transact(|tx| tx.flash_to(name, level, text))
    }

    /// Takes all messages out, whatever their names, the oldest first. Of all requests that ask at the same time,
    /// one gets them (promise P2). If there are none, nothing is written. (gorilla: `Flashes`.)
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn flashes(&self) -> Result<Vec<Flash>> {
        self.take_flashes(None)
    }

    /// Takes the messages for `name` out; others stay. The empty name is that of [`flash`](Self::flash).
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    pub fn flashes_of(&self, name: &str) -> Result<Vec<Flash>> {
        self.take_flashes(Some(name))
    }

    /// All messages, left where they are.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// use sessile_engine::Level;
    /// # let engine = sessile_engine::Engine::builder().in_memory()?;
    /// # let session = engine.session(None).await?;
    /// session.flash(Level::Info, "Still here.")?;
    /// assert_eq!(session.peek_flashes()?, session.peek_flashes()?);
    /// assert_eq!(session.flashes()?.len(), 1);
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub fn peek_flashes(&self) -> Result<Vec<Flash>> {
        let Some(record) = self.record() else { return Ok(Vec::new()) };
        Ok(stored(&record)?.into_iter().map(flash).collect())
    }

    fn take_flashes(&self, name: Option<&str>) -> Result<Vec<Flash>> {
        let limits = self.core().config.limits;
        loop {
            let Some(record) = self.record() else { return Ok(Vec::new()) };
            let Some((rest, messages)) = taken(&record, name, &limits)? else { return Ok(Vec::new()) };
            // They count as delivered only if the record is still the one they were read from.
            let done = self.edit(false, Some(&record), |_, meta| Ok((Some(rest.with_meta(&meta)), ())))?;
            if done.is_some() {
                return Ok(messages);
            }
        }
    }
}

impl Transaction {
    /// As [`Session::flash`].
    ///
    /// # Errors
    /// As there.
    pub fn flash(&mut self, level: Level, text: &str) -> Result<()> {
        self.flash_to("", level, text)
    }

    /// As [`Session::flash_to`].
    ///
    /// # Errors
    /// As there.
    pub fn flash_to(&mut self, name: &str, level: Level, text: &str) -> Result<()> {
        self.work = pushed(&self.work, (level, name, text), &self.limits)?;
        Ok(())
    }

    /// As [`Session::flashes`].
    ///
    /// # Errors
    /// As there.
    pub fn flashes(&mut self) -> Result<Vec<Flash>> {
        let Some((rest, messages)) = taken(&self.work, None, &self.limits)? else { return Ok(Vec::new()) };
        self.work = rest;
        Ok(messages)
    }
}
