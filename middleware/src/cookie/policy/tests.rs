//! Every prefix with every combination of attributes, and names and paths that could break out of a header.

use super::*;
use proptest::prelude::*;

/// What RFC 6265bis (and the layered-cookies draft for `__Http-`) makes of a cookie, written down the other
/// way round: as the browser's algorithm.
fn browser_keeps(name: &str, secure: bool, http_only: bool, root: bool, domain: bool) -> bool {
    let name = name.to_ascii_lowercase();
    if name.starts_with("__host-http-") {
        return secure && http_only && root && !domain;
    }
    if name.starts_with("__host-") {
        return secure && root && !domain;
    }
    if name.starts_with("__http-") {
        return secure && http_only;
    }
    if name.starts_with("__secure-") {
        return secure;
    }
    true
}

#[test]
fn exactly_what_browsers_keep_is_accepted() {
    let names = [
        "session",
        "__Secure-id",
        "__Host-id",
        "__Http-id",
        "__Host-Http-id",
        "__host-id",
        "__SECURE-id",
        "__hOsT-hTtP-id",
        "__http-id",
        "__Host",
        "_Host-id",
        "x__Host-id",
    ];
    let mut kept = 0;
    for name in names {
        for bits in 0..64u32 {
            let on = |bit: u32| bits & 1 << bit != 0;
            let (secure, http_only, root, domain) = (on(0), on(1), on(2), on(3));
            let (none, partitioned) = (on(4), on(5));
            let mut builder = CookiePolicy::builder().name(name);
            if !secure {
                builder = builder.insecure_http();
            }
            if !http_only {
                builder = builder.insecure_script_access();
            }
            if !root {
                builder = builder.path("/shop");
            }
            if domain {
                builder = builder.domain("example.com");
            }
            if none {
                builder = builder.same_site(SameSite::None);
            }
            if partitioned {
                builder = builder.partitioned();
            }
            let wanted =
                browser_keeps(name, secure, http_only, root, domain) && (secure || !none && !partitioned);
            let built = builder.build();
            assert_eq!(built.is_ok(), wanted, "{name} {bits:06b}: {built:?}");
            if let Ok(policy) = built {
                kept += 1;
                let attributes = policy.attributes();
                assert_eq!(attributes.contains("; Secure"), secure);
                assert_eq!(attributes.contains("; HttpOnly"), http_only);
                assert_eq!(attributes.contains("; Domain=example.com"), domain);
                assert_eq!(attributes.contains("; Partitioned"), partitioned);
                assert_eq!(attributes.contains("; SameSite=None"), none);
                assert_eq!(attributes.contains("; Path=/shop"), !root);
            }
        }
    }
    assert!(kept > 100, "the table has both outcomes: {kept}");
}

#[test]
fn the_default_is_the_safe_one_and_would_pass_its_own_check() {
    let policy = CookiePolicy::default();
    assert_eq!(policy, CookiePolicy::builder().build().unwrap());
    assert_eq!(policy.name(), "session");
    assert_eq!(policy.attributes(), "; Path=/; Secure; HttpOnly; SameSite=Lax");
    assert!(policy.is_persistent());
}

#[test]
fn each_rule_names_itself() {
    use ConfigErrorKind as K;
    let kind = |b: CookiePolicyBuilder| b.build().unwrap_err().kind();
    let b = CookiePolicy::builder;
    assert_eq!(kind(b().name("")), K::Name);
    assert_eq!(kind(b().name("n".repeat(65))), K::Name);
    assert!(b().name("n".repeat(64)).build().is_ok());
    assert_eq!(kind(b().name("__Host-id").insecure_http()), K::Prefix);
    assert_eq!(kind(b().path("shop")), K::Path);
    assert_eq!(kind(b().path("")), K::Path);
    assert_eq!(kind(b().path("/a b")), K::Path);
    assert_eq!(kind(b().path("/ä")), K::Path);
    assert_eq!(kind(b().path(format!("/{}", "p".repeat(1024)))), K::Path);
    assert!(b().path(format!("/{}", "p".repeat(1023))).build().is_ok());
    for domain in ["", ".example.com", "example.com.", "a..b", "exa mple", "a;b", "a,b", "ä.de", "a\r\nb"] {
        assert_eq!(kind(b().domain(domain)), K::Domain, "{domain:?}");
    }
    for domain in ["-a.de", "a-.de", "127.0.0.1", "[::1]", "::1", "1"] {
        assert_eq!(kind(b().domain(domain)), K::Domain, "{domain:?}");
    }
    for domain in ["example.com", "xn--bcher-kva.example", "a_b.example", "localhost", "1.example", "x1"] {
        assert!(b().domain(domain).build().is_ok(), "{domain:?}");
    }
    assert!(b().domain("d".repeat(63)).build().is_ok());
    assert_eq!(kind(b().domain("d".repeat(64))), K::Domain);
    let long = ["d".repeat(63).as_str(); 4].join(".");
    assert_eq!(kind(b().domain(long.clone())), K::Domain, "{} bytes", long.len());
    assert!(b().domain(long.get(2..).unwrap().to_owned()).build().is_ok());
    assert_eq!(kind(b().same_site(SameSite::None).insecure_http()), K::SameSite);
    assert_eq!(kind(b().partitioned().insecure_http()), K::Partitioned);
}

proptest! {
    #[test]
    fn no_name_path_or_domain_breaks_out_of_its_place(
        name in "[a-z\r\n;=, \t\"\\x00\\x7f()ä]{0,6}",
        path in "/?[a-z/\r\n;=, \t\\x00\\x7fä]{0,6}",
        domain in "[a-z.\r\n;=, \t\\x00\\x7fä]{0,6}",
    ) {
        let built = CookiePolicy::builder().name(name.clone()).path(path.clone()).domain(domain.clone()).build();
        if let Ok(policy) = built {
            let line = format!("{}=v{}", policy.name(), policy.attributes());
            let parts: Vec<_> = line.split("; ").collect();
            prop_assert_eq!(parts.len(), 6);
            prop_assert_eq!(parts[0], format!("{name}=v"));
            prop_assert_eq!(parts[1], format!("Path={path}"));
            prop_assert_eq!(parts[2], format!("Domain={domain}"));
            prop_assert!(line.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert!(!name.contains(['=', ';', ',', ' ', '"']));
            prop_assert_eq!(line.matches(';').count(), 5);
        }
    }
}
