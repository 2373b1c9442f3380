//! Finds the session cookie in a request: one pass over the `Cookie` lines, within a budget, without
//! allocating and without decoding. It does not judge what it finds beyond its length.

use http::{HeaderMap, HeaderValue, header};

#[cfg(test)]
mod tests;

/// What all `Cookie` lines of a request may hold together. A request beyond it has no session.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// How many pairs they may hold.
pub(crate) const MAX_PAIRS: usize = 64;
/// How many values of our name are tried. A sibling domain can plant cookies beside ours, so the first value
/// need not be the right one; more than this are a flood.
pub(crate) const MAX_CANDIDATES: usize = 4;
const TOKEN_CHARS: usize = 43;

/// The values that may be tokens, in the order in which the client sent them, without repetitions.
#[derive(Default)]
pub(crate) struct Candidates<'h> {
    values: [&'h [u8]; MAX_CANDIDATES],
    len: usize,
    /// The budget was exceeded; there are no values then.
    pub(crate) over_budget: bool,
    /// A value of our name cannot be a token.
    pub(crate) malformed: bool,
    /// How many bytes were looked at.
    #[cfg(test)]
    steps: usize,
}

/// The value, if `headers` have one `Cookie` line and it looks like the cookie called `name` and nothing else: 43
/// bytes behind `name=`. A caller who finds a token in them knows that there was no other cookie, as no token has a
/// semicolon. `None` says nothing.
#[inline]
pub(crate) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let value = single(headers)?.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    (value.len() == TOKEN_CHARS).then_some(value)
}

/// The `Cookie` line, if no header of the request has a second line: then there is one line or none, and looking for
/// others is saved.
#[inline]
fn single(headers: &HeaderMap) -> Option<&HeaderValue> {
    if headers.len() == headers.keys_len() { headers.get(header::COOKIE) } else { None }
}

impl<'h> Candidates<'h> {
    /// Scans the `Cookie` lines of `headers` for the cookie called exactly `name`.
    ///
    /// Names are compared byte for byte, case included; percent signs and quotes are ordinary characters, as
    /// RFC 6265bis has it (we never write either into a value, so a value that has them is not ours).
    ///
    /// # Complexity
    /// Linear in the bytes of the lines, bounded by the budget. Allocates nothing.
    pub(crate) fn find(headers: &'h HeaderMap, name: &str) -> Self {
        let mut found = Self::default();
        let mut bytes = 0;
        let mut pairs = 0;
        for line in headers.get_all(header::COOKIE) {
            let mut rest = line.as_bytes();
            bytes += rest.len();
            if bytes > MAX_BYTES {
                return found.refused();
            }
            loop {
                let end = memchr::memchr(b';', rest);
                let pair = &rest[..end.unwrap_or(rest.len())];
                found.count(pair.len() + 1);
                pairs += 1;
                if pairs > MAX_PAIRS {
                    return found.refused();
                }
                found.consider(pair, name);
                match end {
                    Some(end) => rest = &rest[end + 1..],
                    None => break,
                }
            }
        }
        found
    }

    /// The values found.
    pub(crate) fn as_slice(&self) -> &[&'h [u8]] {
        &self.values[..self.len]
    }

    fn consider(&mut self, pair: &'h [u8], name: &str) {
        let pair = pair.trim_ascii();
        let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) else {
            return;
        };
        if value.len() != TOKEN_CHARS {
            // Empty is what a removed cookie may leave behind.
            self.malformed |= !value.is_empty();
            return;
        }
        if self.len == MAX_CANDIDATES || self.as_slice().contains(&value) {
            return;
        }
        self.values[self.len] = value;
        self.len += 1;
        self.count(MAX_CANDIDATES * TOKEN_CHARS);
    }

    fn refused(mut self) -> Self {
        self.over_budget = true;
        self.len = 0;
        self
    }

    #[cfg(test)]
    fn count(&mut self, steps: usize) {
        self.steps += steps;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "only tests count")]
    fn count(&self, _: usize) {}
}
