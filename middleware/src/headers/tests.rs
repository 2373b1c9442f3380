//! Tables of what a handler wrote and what comes out.

use super::*;

fn map(name: &HeaderName, lines: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        map.append(name, HeaderValue::from_str(line).unwrap());
    }
    map
}

fn lines(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

#[test]
fn vary_is_merged() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["Cookie"]),
        (&[""], &["Cookie"]),
        (&["Origin"], &["Origin, Cookie"]),
        (&["Origin", "Accept"], &["Origin, Cookie", "Accept"]),
        (&["cookie"], &["cookie"]),
        (&["Accept,COOKIE , Origin"], &["Accept,COOKIE , Origin"]),
        (&["Origin", "Cookie"], &["Origin", "Cookie"]),
        (&["*"], &["*"]),
        (&["Accept, *"], &["Accept, *"]),
        (&["X-Cookie"], &["X-Cookie, Cookie"]),
        (&["Cookie2"], &["Cookie2, Cookie"]),
    ];
    for (before, after) in table {
        let mut headers = map(&VARY, before);
        for _ in 0..3 {
            vary_on_cookie(&mut headers);
            assert_eq!(lines(&headers, &VARY), *after, "{before:?}");
        }
    }
}

#[test]
fn cache_control_is_merged() {
    use CacheControl::{Keep, NoCacheSetCookie as Default, NoStore};
    let ours = "no-cache=\"Set-Cookie\"";
    let table: &[(CacheControl, &[&str], &[&str])] = &[
        (Default, &[], &[ours]),
        (Default, &["public, max-age=60"], &["public, max-age=60, no-cache=\"Set-Cookie\""]),
        (Default, &["max-age=60", "public"], &["max-age=60, no-cache=\"Set-Cookie\"", "public"]),
        (Default, &["no-store"], &["no-store"]),
        (Default, &["max-age=0, Private"], &["max-age=0, Private"]),
        (Default, &["max-age=0", "no-cache"], &["max-age=0", "no-cache"]),
        (Default, &["no-cache=\"X-A, set-cookie\""], &["no-cache=\"X-A, set-cookie\""]),
        (Default, &["private=Set-Cookie"], &["private=Set-Cookie"]),
        // The words inside a quoted string, and other fields, do not count.
        (Default, &["x=\"a, no-store\""], &["x=\"a, no-store\", no-cache=\"Set-Cookie\""]),
        (Default, &["x=\"\\\", no-store\""], &["x=\"\\\", no-store\", no-cache=\"Set-Cookie\""]),
        (Default, &["no-cache=\"X-A\""], &["no-cache=\"X-A\", no-cache=\"Set-Cookie\""]),
        (NoStore, &[], &["no-store"]),
        (NoStore, &["public"], &["public, no-store"]),
        (NoStore, &["NO-STORE"], &["NO-STORE"]),
        (NoStore, &["private"], &["private"]),
        (NoStore, &["no-cache"], &["no-cache, no-store"]),
        (NoStore, &[ours], &["no-cache=\"Set-Cookie\", no-store"]),
        (Keep, &[], &[]),
        (Keep, &["public"], &["public"]),
    ];
    for (policy, before, after) in table {
        let mut headers = map(&CACHE_CONTROL, before);
        for _ in 0..3 {
            cache_control(&mut headers, *policy);
            assert_eq!(lines(&headers, &CACHE_CONTROL), *after, "{policy:?} {before:?}");
        }
    }
}

#[test]
fn one_cookie_of_ours_and_all_others_in_order() {
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["id=new"]),
        (&["a=1", "b=2"], &["a=1", "b=2", "id=new"]),
        (&["a=1", "id=old; Path=/", "b=2"], &["a=1", "b=2", "id=new"]),
        (&["id=x", "id=y", "id=z"], &["id=new"]),
        (&["id = x", " id=y"], &["id=new"]),
        (&["ID=1", "id2=2", "xid=3", "a=id=4"], &["ID=1", "id2=2", "xid=3", "a=id=4", "id=new"]),
        (&["id", "=id"], &["id", "=id", "id=new"]),
    ];
    for (before, after) in table {
        let mut headers = map(&SET_COOKIE, before);
        for _ in 0..3 {
            set_cookie(&mut headers, "id", HeaderValue::from_static("id=new"));
            assert_eq!(lines(&headers, &SET_COOKIE), *after, "{before:?}");
        }
    }
}
