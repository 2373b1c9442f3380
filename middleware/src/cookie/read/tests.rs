//! Which values are found, in any order and splitting, and how much work a hostile request can cause.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA";

fn headers<T: AsRef<[u8]>>(lines: &[T]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        map.append(header::COOKIE, HeaderValue::from_bytes(line.as_ref()).unwrap());
    }
    map
}

fn found(lines: &[&str]) -> Vec<String> {
    let map = headers(lines);
    let found = Candidates::find(&map, "id");
    assert!(!found.over_budget);
    found.as_slice().iter().map(|v| String::from_utf8(v.to_vec()).unwrap()).collect()
}

#[test]
fn the_cookie_is_found_wherever_it_stands() {
    for line in
        ["id={A}", "a=b; id={A}", "id={A}; a=b", "a=b;id={A};c=d", " id={A} ", "x; id={A}; ;;", "\tid={A}\t;"]
    {
        assert_eq!(found(&[&line.replace("{A}", A)]), [A], "{line}");
    }
    assert_eq!(found(&["a=b", &format!("id={A}")]), [A]);
    assert_eq!(found(&[]), [""; 0]);
}

#[test]
fn a_cookie_alone_takes_the_short_way() {
    let alone = format!("id={A}");
    assert_eq!(only(&headers(&[&alone]), "id"), Some(A.as_bytes()));
    for lines in [vec![], vec![&alone, &alone], vec![&format!("{alone}; a=b")], vec![&format!("{alone}A")]] {
        assert_eq!(only(&headers(&lines), "id"), None);
    }
    assert_eq!(only(&headers(&[&alone]), "i"), None);
}

#[test]
fn only_the_exact_name_counts_and_nothing_is_decoded() {
    let not = [
        "ID={A}",
        "Id={A}",
        "%69d={A}",
        "i%64={A}",
        "xid={A}",
        "id2={A}",
        "={A}",
        "=id={A}",
        "id",
        "id;={A}",
        "id =;{A}",
        "\"id\"={A}",
        "id=\"{A}\"",
        "id={A}x",
        "id=x{A}",
        "id=",
        "id={A}=",
        "other=id={A}",
    ];
    for line in not {
        assert_eq!(found(&[&line.replace("{A}", A)]), [""; 0], "{line}");
    }
}

#[test]
fn planted_cookies_stand_beside_ours_in_any_order_and_splitting() {
    let short = "id=short".to_owned();
    let pairs = [format!("id={A}"), format!("id={B}"), short, "other=1".to_owned()];
    let mut orders = 0;
    for i in 0..256usize {
        let order = [i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6];
        if (0..4).any(|n| !order.contains(&n)) {
            continue;
        }
        orders += 1;
        let wanted: Vec<_> = order.iter().filter(|&&n| n < 2).map(|&n| [A, B][n]).collect();
        let pick: Vec<&str> = order.iter().map(|&n| pairs[n].as_str()).collect();
        assert_eq!(found(&[&pick.join("; ")]), wanted);
        assert_eq!(found(&pick), wanted, "a line each");
        assert_eq!(found(&[&pick[..2].join(";"), &pick[2..].join("; ")]), wanted);
    }
    assert_eq!(orders, 24);
}

#[test]
fn repetitions_count_once_and_a_flood_of_values_is_cut() {
    assert_eq!(found(&[&format!("id={A}; id={A}; id={B}; id={A}")]), [A, B]);
    let many: Vec<_> = (0..20).map(|i| format!("id={}{:02}", &A[2..], i)).collect();
    assert_eq!(found(&[&many.join("; ")]).len(), MAX_CANDIDATES);
}

#[test]
fn a_request_at_the_budget_is_read_and_one_beyond_it_is_not() {
    let cookie = format!("id={A}; pad=");
    let at = format!("{cookie}{}", "x".repeat(MAX_BYTES - cookie.len()));
    assert_eq!(found(&[&at]), [A]);
    let map = headers(&[format!("{at}x")]);
    let over = Candidates::find(&map, "id");
    assert!(over.over_budget && over.as_slice().is_empty());
    // The same over two lines.
    let map = headers(&[format!("id={A}"), "y".repeat(MAX_BYTES - 3 - A.len() + 1)]);
    assert!(Candidates::find(&map, "id").over_budget);

    let pairs = |n: usize| format!("id={A}{}", "; a=b".repeat(n - 1));
    assert_eq!(found(&[&pairs(MAX_PAIRS)]), [A]);
    let map = headers(&[pairs(MAX_PAIRS + 1)]);
    let over = Candidates::find(&map, "id");
    assert!(over.over_budget && over.as_slice().is_empty());
}

#[test]
fn work_is_linear_in_the_bytes_and_bounded() {
    let steps = |bytes: usize, unit: &str| {
        let line: String = unit.chars().cycle().take(bytes).collect();
        let map = headers(&[line]);
        Candidates::find(&map, "id").steps
    };
    for unit in ["x", "id=", "=", "i", ";", "; ", "id=AAAA", "\"", " "] {
        for bytes in [64, 512, 4096, MAX_BYTES] {
            let (once, twice) = (steps(bytes, unit), steps(2 * bytes, unit));
            assert!(
                once <= 2 * bytes + 2 + MAX_CANDIDATES * MAX_CANDIDATES * TOKEN_CHARS,
                "{unit} {bytes}: {once}"
            );
            assert!(twice <= 2 * once + 2, "{unit} {bytes}: {once} {twice}");
        }
        assert!(steps(10 * MAX_BYTES, unit) <= MAX_BYTES + MAX_PAIRS, "{unit}: beyond the budget");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_every_value_has_its_length(
        lines in proptest::collection::vec("[id=;, \t\"a-zA\\x80-\u{ff}]{0,80}", 0..6)
    ) {
        let map = headers(&lines);
        let found = Candidates::find(&map, "id");
        for value in found.as_slice() {
            prop_assert_eq!(value.len(), TOKEN_CHARS);
            prop_assert!(!value.contains(&b';'));
        }
    }

    /// The short way must find what the long one does, also with lines and other headers around.
    #[test]
    fn the_only_cookie_is_the_one_that_is_found(
        lines in proptest::collection::vec(
            prop_oneof![Just(format!("id={A}")), "id=[A-Za;]{43}", "[id=;A]{46}", "[a-d]=[A;=]{0,9}"], 0..3),
        other_twice: bool,
    ) {
        let mut map = headers(&lines);
        if other_twice {
            map.append(header::ACCEPT, HeaderValue::from_static("a"));
            map.append(header::ACCEPT, HeaderValue::from_static("b"));
        }
        if let Some(value) = only(&map, "id").filter(|value| sessile_engine::Token::parse(value).is_some()) {
            let found = Candidates::find(&map, "id");
            prop_assert_eq!(found.as_slice(), [value]);
            prop_assert!(!found.over_budget && !found.malformed);
        }
    }

    #[test]
    fn a_real_cookie_among_any_others_is_found(
        before in proptest::collection::vec("[a-h]{1,5}=[A-Za-z0-9=\"]{0,9}", 0..9),
        after in proptest::collection::vec("[a-h]{1,5}=[A-Za-z0-9=\"]{0,9}", 0..9),
        gap in "; |;|;  ",
    ) {
        let ours = [format!("id={A}")];
        let line = before.iter().chain(&ours).chain(&after).cloned().collect::<Vec<_>>().join(&gap);
        prop_assert_eq!(found(&[&line]), [A]);
    }
}
