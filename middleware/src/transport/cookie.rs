//! The cookie transport: candidates from `Cookie`, deliveries into `Set-Cookie`. How either is read and
//! written is in [`crate::cookie`].

use http::HeaderMap;
use sessile_engine::{Delivery, Token};

use super::Candidates;
use crate::cookie::policy::CookiePolicy;
use crate::cookie::read;
use crate::cookie::write::{self, Validity};
use crate::headers::{self, CacheControl};

/// The tokens in the cookies called `name`.
pub(super) fn find(headers: &HeaderMap, name: &str) -> Candidates {
    let found = read::Candidates::find(headers, name);
    let values = found.as_slice();
    let mut tokens = values.iter().filter_map(|value| Token::parse(value));
    let first = tokens.next();
    let rest: Vec<Token> = tokens.collect();
    let parsed = usize::from(first.is_some()) + rest.len();
    Candidates {
        first,
        fingerprint: found.fingerprint(),
        malformed: found.malformed || parsed < values.len(),
        over_budget: found.over_budget,
        rest: rest.into_iter(),
    }
}

/// Writes the cookie, if there is one to write.
pub(super) fn deliver(
    delivery: &Delivery,
    policy: &CookiePolicy,
    cache_control: CacheControl,
    head: &mut HeaderMap,
) {
    let cookie = match delivery {
        Delivery::Issue(issue) => {
            let persistent = issue.persistent && policy.is_persistent();
            let validity =
                persistent.then_some(Validity { max_age: issue.max_age, expires_at: Some(issue.expires_at) });
            write::issue(policy, issue.token.encode().as_bytes(), validity)
        }
        Delivery::Remove => write::removal(policy),
        _ => return,
    };
    headers::set_cookie(head, policy.name(), cookie);
    headers::cache_control(head, cache_control);
}
