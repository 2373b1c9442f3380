//! Writes the `Set-Cookie` values that hand a token out or take it back. Each value is one buffer and is
//! marked sensitive, so that nothing that logs headers shows it. It never decides whether to send one.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use httpdate::HttpDate;

use crate::cookie::policy::CookiePolicy;

#[cfg(test)]
mod tests;

/// Browsers cap a cookie's life at 400 days (RFC 6265bis); what we write is what they keep.
pub(crate) const MAX_AGE_SECS: u64 = 400 * 24 * 60 * 60;
/// The last second of the year 9999: an HTTP date has four digits for the year.
const LAST_DATE_SECS: u64 = 253_402_300_799;
const VALUE_TAIL: usize = "; Max-Age=34560000; Expires=Thu, 01 Jan 1970 00:00:00 GMT".len();

/// How long a persistent cookie is to be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    /// The time left.
    pub(crate) max_age: Duration,
    /// The same as a point in time, by the engine's clock.
    pub(crate) expires_at: Option<SystemTime>,
}

/// The cookie that carries `token`. Without a validity it ends with the browser.
///
/// Both ends are rounded up to a second, because a `Max-Age` of 0 would delete the cookie, and the server checks
/// the deadline itself anyway.
pub(crate) fn issue(policy: &CookiePolicy, token: &[u8], validity: Option<Validity>) -> HeaderValue {
    let mut line = start(policy, token);
    if let Some(Validity { max_age, expires_at }) = validity {
        let secs = max_age.as_secs().saturating_add(u64::from(max_age.subsec_nanos() > 0));
        let secs = secs.clamp(1, MAX_AGE_SECS);
        let _ = write!(line, "; Max-Age={secs}");
        let cut = max_age.saturating_sub(Duration::from_secs(MAX_AGE_SECS));
        if let Some(at) = expires_at.and_then(|at| at.checked_sub(cut)) {
            let _ = write!(line, "; Expires={}", date(at));
        }
    }
    finish(line)
}

/// The cookie that makes the browser forget ours: the same name and attributes, or it would be another one.
pub(crate) fn removal(policy: &CookiePolicy) -> HeaderValue {
    let mut line = start(policy, b"");
    line.extend_from_slice(b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    finish(line)
}

fn start(policy: &CookiePolicy, value: &[u8]) -> Vec<u8> {
    let (name, attributes) = (policy.name(), policy.attributes());
    let mut line = Vec::with_capacity(name.len() + 1 + value.len() + attributes.len() + VALUE_TAIL);
    line.extend_from_slice(name.as_bytes());
    line.push(b'=');
    line.extend_from_slice(value);
    line.extend_from_slice(attributes.as_bytes());
    line
}

fn finish(line: Vec<u8>) -> HeaderValue {
    let mut value = HeaderValue::try_from(line).expect("a checked policy and a token are visible ASCII");
    value.set_sensitive(true);
    value
}

/// `at`, rounded up to a second and moved into what an HTTP date can express.
fn date(at: SystemTime) -> HttpDate {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let secs = since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0)).min(LAST_DATE_SECS);
    HttpDate::from(UNIX_EPOCH + Duration::from_secs(secs))
}
