//! The cookie transport: candidates from `Cookie`, deliveries into `Set-Cookie`. How either is read and
//! written is in [`crate::cookie`].

use http::HeaderMap;
use sessile_engine::Delivery;

use super::{Candidates, Presented};
use crate::cookie::policy::CookiePolicy;
use crate::cookie::read;
use crate::cookie::write::{self, Validity};
use crate::headers::{self, CacheControl};

/// The tokens in the cookies called `name`.
pub(super) fn find(headers: &HeaderMap, name: &str) -> Candidates {
    let found = read::Candidates::find(headers, name);
    let mut presented = Presented::default();
    for value in found.as_slice() {
        presented.offer(value);
    }
    let malformed = found.malformed || presented.malformed;
    Candidates { malformed, over_budget: found.over_budget, ..presented.into() }
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

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HeaderValue};

    use super::*;

    #[test]
    fn fingerprints_tell_tokens_orders_and_counts_apart() {
        let (a, b) = ("A".repeat(43), format!("B{}", "A".repeat(42)));
        let all = [
            String::new(),
            format!("id={a}"),
            format!("id={b}"),
            format!("id={a}; id={b}"),
            format!("id={b}; id={a}"),
        ];
        let print = |line: &str| {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(line).unwrap())]);
            find(&headers, "id").fingerprint
        };
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(print(a) == print(b), i == j, "{a} {b}");
            }
        }
    }
}
