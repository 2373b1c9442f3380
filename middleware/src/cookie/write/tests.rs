//! The exact lines, their limits, and that a removal addresses the cookie that an issue made.

use super::*;
use crate::cookie::policy::SameSite;
use proptest::prelude::*;

const TOKEN: &[u8; 43] = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn text(value: &HeaderValue) -> &str {
    assert!(value.is_sensitive());
    value.to_str().unwrap()
}

fn validity(secs: u64, at: u64) -> Option<Validity> {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(at));
    Some(Validity { max_age: Duration::from_secs(secs), expires_at: at })
}

#[test]
fn the_default_lines_are_exactly_these() {
    let policy = CookiePolicy::default();
    assert_eq!(
        text(&issue(&policy, TOKEN, validity(86_400, 784_111_777))),
        "session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; Path=/; Secure; HttpOnly; SameSite=Lax; \
         Max-Age=86400; Expires=Sun, 06 Nov 1994 08:49:37 GMT"
    );
    assert_eq!(
        text(&issue(&policy, TOKEN, None)),
        "session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; Path=/; Secure; HttpOnly; SameSite=Lax"
    );
    assert_eq!(
        text(&removal(&policy)),
        "session=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    );
}

#[test]
fn a_life_is_cut_to_400_days_in_both_attributes_and_never_ends_at_once() {
    let policy = CookiePolicy::default();
    let of = |v: Option<Validity>| {
        let line = issue(&policy, TOKEN, v);
        let line = text(&line);
        let part = |name: &str| line.split("; ").find_map(|p| p.strip_prefix(name)).map(str::to_owned);
        (part("Max-Age=").unwrap(), part("Expires="))
    };
    let day = 86_400;
    let now = 1_700_000_000;
    let date = |secs: u64| Some(httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs)));
    assert_eq!(of(validity(400 * day, now + 400 * day)), ("34560000".to_owned(), date(now + 400 * day)));
    assert_eq!(of(validity(401 * day, now + 401 * day)), ("34560000".to_owned(), date(now + 400 * day)));
    assert_eq!(of(validity(0, now)).0, "1");
    let millis = Validity { max_age: Duration::from_millis(1001), expires_at: None };
    assert_eq!(of(Some(millis)), ("2".to_owned(), None));
    let between = UNIX_EPOCH.checked_add(Duration::from_millis(now * 1000 + 1));
    let millis = Validity { max_age: Duration::from_millis(1001), expires_at: between };
    assert_eq!(of(Some(millis)), ("2".to_owned(), date(now + 1)));
    let endless = Validity {
        max_age: Duration::MAX,
        expires_at: UNIX_EPOCH.checked_add(Duration::from_secs(u64::MAX >> 2)),
    };
    assert_eq!(of(Some(endless)).0, "34560000");
}

#[test]
fn a_removal_has_the_attributes_of_the_issue() {
    let policies = [
        CookiePolicy::builder().name("__Host-id").partitioned().same_site(SameSite::None),
        CookiePolicy::builder().path("/shop").domain("example.com").same_site(SameSite::Strict),
        CookiePolicy::builder().insecure_http().insecure_script_access(),
    ];
    for policy in policies {
        let policy = policy.build().unwrap();
        let strip = |value: &HeaderValue| {
            let line = text(value).to_owned();
            let (pair, rest) = line.split_once(';').unwrap();
            let kept = |p: &&str| !p.trim().starts_with("Max-Age") && !p.trim().starts_with("Expires");
            let rest: Vec<_> = rest.split(';').filter(kept).map(str::to_owned).collect();
            (pair.split_once('=').unwrap().0.to_owned(), rest)
        };
        assert_eq!(strip(&removal(&policy)), strip(&issue(&policy, TOKEN, validity(5, 5))));
    }
}

proptest! {
    #[test]
    fn no_duration_and_no_date_panics(secs: u64, nanos in 0..1_000_000_000u32, at: u64, before: bool) {
        let step = Duration::from_secs(at);
        let at = if before { UNIX_EPOCH.checked_sub(step) } else { UNIX_EPOCH.checked_add(step) };
        let value = issue(&CookiePolicy::default(), TOKEN, Some(Validity { max_age: Duration::new(secs, nanos), expires_at: at }));
        let line = text(&value);
        let age: u64 = line.split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
        prop_assert!((1..=MAX_AGE_SECS).contains(&age));
        prop_assert!(line.len() < 4096);
    }
}
