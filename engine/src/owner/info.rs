//! What a listing tells of a session, and the client's description that an application may have it remember.
//! It never shows a token or a value of the application's.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Seen;
use crate::clock::from_ms_saturating;
use crate::token::SessionId;
use crate::value::decode;

/// The key under which [`Session::set_client_info`](crate::Session::set_client_info) keeps its argument.
pub(crate) const CLIENT_KEY: &str = "sessile.client";
/// Bytes kept of a user agent and of an address: a client chooses the former, and must not fill the record.
const MAX_USER_AGENT: usize = 256;
const MAX_IP: usize = 64;

/// A session in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its public id.
    pub id: SessionId,
    /// Whom it belongs to.
    pub owner: Option<String>,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last used. Of a session that is not cached, as far as it was written down: a use may be up to a
    /// twentieth of the idle timeout later, and without an idle timeout only writes are noted.
    pub last_seen: SystemTime,
    /// When it ends if it is not used again.
    pub expires_at: SystemTime,
    /// When its user last proved who they are; see [`Session::login`](crate::Session::login).
    pub authenticated_at: Option<SystemTime>,
    /// The client's program, if the application recorded it.
    pub user_agent: Option<String>,
    /// The client's address, if the application recorded it.
    pub ip: Option<String>,
}

impl SessionInfo {
    pub(crate) fn of(seen: &Seen) -> Self {
        let meta = seen.record.meta();
        let last_seen = seen.last_seen.max(meta.last_seen);
        let idle_end = meta.idle_timeout.map_or(u64::MAX, |idle| last_seen.saturating_add(idle.get()));
        let client = seen.record.get(CLIENT_KEY).and_then(|v| decode::<Client>(v).ok()).unwrap_or_default();
        Self {
            id: seen.id,
            owner: seen.record.owner().map(str::to_owned),
            created_at: from_ms_saturating(meta.created_at),
            last_seen: from_ms_saturating(last_seen),
            expires_at: from_ms_saturating(meta.deadline.min(idle_end)),
            authenticated_at: meta.authenticated_at.map(|at| from_ms_saturating(at.get())),
            user_agent: client.user_agent,
            ip: client.ip,
        }
    }
}

/// What the application chose to remember of the client.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Client {
    user_agent: Option<String>,
    ip: Option<String>,
}

impl Client {
    pub(crate) fn new(user_agent: Option<&str>, ip: Option<&str>) -> Self {
        Self {
            user_agent: user_agent.map(|s| cut(s, MAX_USER_AGENT).to_owned()),
            ip: ip.map(|s| cut(s, MAX_IP).to_owned()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The longest beginning of `s` with at most `max` bytes.
fn cut(s: &str, max: usize) -> &str {
    let mut end = s.len().min(max);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    s.get(..end).unwrap_or_default()
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 3), "");
        let client = Client::new(Some(&"ü".repeat(1000)), Some(&"1".repeat(1000)));
        assert_eq!(client.user_agent.map(|s| s.len()), Some(256));
        assert_eq!(client.ip.map(|s| s.len()), Some(64));
    }
}
