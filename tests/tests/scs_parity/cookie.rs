//! The fields of `SessionCookie` and the exact lines that SCS emits.

use sessile::{CookiePolicy, CookiePolicyBuilder, SameSite};

use crate::support::{Seen, Site};

/// The line that a new session gets from a policy.
async fn line(policy: impl FnOnce(CookiePolicyBuilder) -> CookiePolicyBuilder) -> String {
    let site = Site::new().change(|layer| layer.cookie(policy(CookiePolicy::builder()).build().unwrap()));
    let seen = site.browser().visit(async |session| session.put("k", "v").unwrap()).await;
    seen.cookie()
}

async fn default_line() -> String {
    line(|policy| policy).await
}

fn has(line: &str, attribute: &str) -> bool {
    line.split("; ").skip(1).any(|part| part == attribute || part.starts_with(&format!("{attribute}=")))
}

#[tokio::test]
async fn the_default_line_is_exactly_this() {
    // SCS: no `Secure`, and the order of Go's `http.Cookie`.
    let line = default_line().await;
    let (token, rest) = line.strip_prefix("session=").unwrap().split_at(43);
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    assert_eq!(
        rest,
        "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=86400; Expires=Wed, 15 Nov 2023 22:13:20 GMT"
    );
}

#[tokio::test]
async fn the_line_without_persist_is_exactly_this() {
    let line = line(|policy| policy.persistent(false)).await;
    assert_eq!(line.split_at("session=".len() + 43).1, "; Path=/; Secure; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn the_line_of_a_destroyed_session_is_exactly_this() {
    // SCS: `Expires` one second later, at `time.Unix(1, 0)`. Both are past.
    let site = Site::new();
    let mut browser = site.visitor("k", "v").await;
    let seen = browser.visit(async |session| session.destroy().unwrap()).await;
    assert_eq!(
        seen.cookie(),
        "session=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    );
}

#[tokio::test]
async fn name_is_session_by_default() {
    assert!(default_line().await.starts_with("session="));
    assert!(line(|policy| policy.name("id")).await.starts_with("id="));
}

#[test]
fn name_must_not_contain_whitespace_separators_or_control_characters() {
    // SCS: documented, not enforced.
    for bad in ["", "a b", "a,b", "a:b", "a;b", "a\\b", "a=b", "a\tb", "a\u{7f}b", "ä"] {
        assert!(CookiePolicy::builder().name(bad).build().is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn domain_is_absent_by_default_so_that_the_cookie_is_host_only() {
    assert!(!has(&default_line().await, "Domain"));
    assert!(has(&line(|policy| policy.domain("example.com")).await, "Domain=example.com"));
}

#[tokio::test]
async fn http_only_is_true_by_default() {
    assert!(has(&default_line().await, "HttpOnly"));
    assert!(!has(&line(|policy| policy.insecure_script_access()).await, "HttpOnly"));
}

#[tokio::test]
async fn path_is_slash_by_default() {
    assert!(has(&default_line().await, "Path=/"));
    assert!(has(&line(|policy| policy.path("/shop")).await, "Path=/shop"));
}

#[test]
fn an_empty_path_is_refused() {
    // SCS: the attribute is left out and the path of the request counts, a different cookie per folder.
    assert!(CookiePolicy::builder().path("").build().is_err());
}

#[tokio::test]
async fn same_site_is_lax_by_default() {
    assert!(has(&default_line().await, "SameSite=Lax"));
    assert!(has(&line(|policy| policy.same_site(SameSite::Strict)).await, "SameSite=Strict"));
    assert!(has(&line(|policy| policy.same_site(SameSite::None)).await, "SameSite=None"));
}

#[tokio::test]
async fn same_site_cannot_be_left_out() {
    // SCS: 0 and `SameSiteDefaultMode` write no attribute, and the browser's default counts.
    assert!(has(&line(|policy| policy.same_site(SameSite::default())).await, "SameSite"));
}

#[tokio::test]
async fn secure_is_true_by_default() {
    // SCS: false. A token in clear on any open network is the worse default; browsers except localhost.
    assert!(has(&default_line().await, "Secure"));
    assert!(!has(&line(|policy| policy.insecure_http()).await, "Secure"));
}

#[tokio::test]
async fn partitioned_is_false_by_default() {
    assert!(!has(&default_line().await, "Partitioned"));
    assert!(has(&line(|policy| policy.partitioned()).await, "Partitioned"));
}

#[tokio::test]
async fn persist_is_true_by_default_and_writes_expires_and_max_age() {
    let line = default_line().await;
    assert!(has(&line, "Expires") && has(&line, "Max-Age"));
}

#[tokio::test]
async fn without_persist_the_cookie_ends_with_the_browser() {
    let line = line(|policy| policy.persistent(false)).await;
    assert!(!has(&line, "Expires") && !has(&line, "Max-Age"));
}

#[tokio::test]
async fn max_age_is_rounded_up_to_a_second() {
    // SCS: always adds a second, also to whole ones.
    let site = Site::with(|b| b.lifetime(std::time::Duration::from_millis(1500)));
    let seen = site.browser().visit(async |session| session.put("k", "v").unwrap()).await;
    assert!(has(&seen.cookie(), "Max-Age=2"), "{}", seen.cookie());
}

#[tokio::test]
async fn expires_is_rounded_up_to_a_second() {
    let site = Site::with(|b| b.lifetime(std::time::Duration::from_millis(1500)));
    let seen = site.browser().visit(async |session| session.put("k", "v").unwrap()).await;
    assert!(has(&seen.cookie(), "Expires=Tue, 14 Nov 2023 22:13:22 GMT"), "{}", seen.cookie());
}

#[tokio::test]
async fn the_delete_cookie_repeats_name_domain_path_and_flags() {
    let policy = CookiePolicy::builder().name("id").domain("example.com").path("/shop").partitioned();
    let site = Site::new().change(|layer| layer.cookie(policy.build().unwrap()));
    let mut browser = site.browser();
    let issued = browser.visit(async |session| session.put("k", "v").unwrap()).await;
    let removed = browser.visit(async |session| session.destroy().unwrap()).await;
    let attributes = |seen: &Seen| {
        let line = seen.cookie();
        let kept = |p: &&str| !p.starts_with("Max-Age") && !p.starts_with("Expires");
        line.split("; ").skip(1).filter(kept).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(attributes(&issued), attributes(&removed));
    assert!(removed.cookie().starts_with("id=;"));
}

#[tokio::test]
async fn exactly_one_cookie_of_our_name_leaves_with_a_response() {
    // SCS: a handler that sets a cookie of that name, or a second commit, makes two.
    let site = Site::new();
    let seen = site
        .browser()
        .respond(async |session| {
            session.put("k", "v").unwrap();
            let response = http::Response::builder().header("set-cookie", "session=forged");
            response.body(String::new()).unwrap()
        })
        .await;
    assert!(seen.issues_a_token());
}
