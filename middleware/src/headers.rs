//! Merges the session's headers into a response that a handler made: nothing a handler wrote is lost, and
//! layers that are nested add nothing twice. It knows nothing of sessions.

use http::header::{CACHE_CONTROL, Entry, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

#[cfg(test)]
mod tests;

/// What a response that sets or removes the session cookie tells caches.
///
/// A handler's own `no-store`, `private` or unqualified `no-cache` is stronger than anything added here and
/// stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CacheControl {
    /// Adds `no-cache="Set-Cookie"`: the response may be stored, its cookie may not be replayed. The default.
    #[default]
    NoCacheSetCookie,
    /// Adds `no-store`. Some shared caches ignore the qualified form of `no-cache`; choose this behind one of
    /// them.
    NoStore,
    /// Adds nothing.
    Keep,
}

/// Adds `Cookie` to `Vary`, unless it is there or `*` is.
pub(crate) fn vary_on_cookie(headers: &mut HeaderMap) {
    let covers = |member: &[u8]| member == b"*" || member.eq_ignore_ascii_case(b"cookie");
    if let Entry::Vacant(vacant) = headers.entry(VARY) {
        vacant.insert(const { HeaderValue::from_static("Cookie") });
        return;
    }
    if headers.get_all(VARY).iter().any(|line| members(line).any(covers)) {
        return;
    }
    append_member(headers, VARY, "Cookie", HeaderValue::from_static("Cookie"));
}

/// Adds `name` to `Vary`, unless it is there or `*` is.
pub(crate) fn vary_on(headers: &mut HeaderMap, name: &HeaderName) {
    let covers = |member: &[u8]| member == b"*" || member.eq_ignore_ascii_case(name.as_str().as_bytes());
    if headers.get_all(VARY).iter().any(|line| members(line).any(covers)) {
        return;
    }
    append_member(headers, VARY, name.as_str(), HeaderValue::from(name.clone()));
}

/// Adds `no-store` to `Cache-Control`, whatever else it says.
pub(crate) fn no_store(headers: &mut HeaderMap) {
    let covers = |member: &[u8]| member.eq_ignore_ascii_case(b"no-store");
    if !headers.get_all(CACHE_CONTROL).iter().any(|line| members(line).any(covers)) {
        append_member(headers, CACHE_CONTROL, "no-store", HeaderValue::from_static("no-store"));
    }
}

/// Applies `policy` to `Cache-Control`.
pub(crate) fn cache_control(headers: &mut HeaderMap, policy: CacheControl) {
    let addition = match policy {
        CacheControl::NoCacheSetCookie => "no-cache=\"Set-Cookie\"",
        CacheControl::NoStore => "no-store",
        CacheControl::Keep => return,
    };
    let covers = |member: &[u8]| {
        let stronger: &[&[u8]] = match policy {
            CacheControl::NoStore => &[b"no-store", b"private"],
            _ => &[b"no-store", b"private", b"no-cache"],
        };
        stronger.iter().any(|s| member.eq_ignore_ascii_case(s))
            || policy == CacheControl::NoCacheSetCookie && withholds_set_cookie(member)
    };
    if headers.get_all(CACHE_CONTROL).iter().any(|line| members(line).any(covers)) {
        return;
    }
    append_member(headers, CACHE_CONTROL, addition, HeaderValue::from_static(addition));
}

/// Puts our `cookie` on the response, in place of any earlier one called `name`. All others stay, in order.
pub(crate) fn set_cookie(headers: &mut HeaderMap, name: &str, cookie: HeaderValue) {
    let ours = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
        let (key, _) = split_once(pair, b'=').unwrap_or((&[], pair));
        key.trim_ascii() == name.as_bytes()
    };
    if headers.get_all(SET_COOKIE).iter().any(ours) {
        let others: Vec<_> = headers.get_all(SET_COOKIE).iter().filter(|l| !ours(l)).cloned().collect();
        headers.remove(SET_COOKIE);
        for other in others {
            headers.append(SET_COOKIE, other);
        }
    }
    headers.append(SET_COOKIE, cookie);
}

/// Whether `member` is a `no-cache="…"` or `private="…"` whose list names `Set-Cookie`.
fn withholds_set_cookie(member: &[u8]) -> bool {
    let Some((directive, list)) = split_once(member, b'=') else { return false };
    let directive = directive.trim_ascii();
    if !directive.eq_ignore_ascii_case(b"no-cache") && !directive.eq_ignore_ascii_case(b"private") {
        return false;
    }
    let list = list.trim_ascii();
    let list = list.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")).unwrap_or(list);
    list.split(|&b| b == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"set-cookie"))
}

/// Extends the first line of a list header, or makes that line.
fn append_member(headers: &mut HeaderMap, name: HeaderName, member: &str, alone: HeaderValue) {
    let Some(first) = headers.get_mut(&name) else {
        headers.insert(name, alone);
        return;
    };
    let old = first.as_bytes().trim_ascii();
    if old.is_empty() {
        *first = alone;
        return;
    }
    let joined = [old, b", ", member.as_bytes()].concat();
    *first = HeaderValue::try_from(joined).expect("a header value extended by visible ASCII is one");
}

/// The members of a comma-separated list; commas inside quoted strings separate nothing.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = move |&byte: &u8| {
        if escaped {
            escaped = false;
        } else {
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => return byte == b',' && !quoted,
            }
        }
        false
    };
    line.as_bytes().split(separates).map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = bytes.iter().position(|&b| b == at)?;
    Some((&bytes[..i], &bytes[i + 1..]))
}
