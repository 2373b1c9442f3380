#![allow(unsafe_code, clippy::disallowed_methods)]
use super::tests::meta;
use super::*;
use crate::token::SessionId;
use crate::value::Encoded;
use std::hint::black_box;
use std::time::Instant;

fn time(name: &str, mut f: impl FnMut()) {
    let n = 200_000u32;
    let mut best = Vec::new();
    for _ in 0..9 {
        let t = Instant::now();
        for _ in 0..n {
            f();
        }
        best.push(t.elapsed().as_nanos() as f64 / f64::from(n));
    }
    best.sort_by(f64::total_cmp);
    println!("{name:32} median {:7.1} ns  min {:7.1}", best[4], best[0]);
}

pub(super) fn five() -> Record {
    let l = Limits::default();
    let mut r = Record::empty(&meta());
    for (k, v) in [
        ("name", "twenty bytes of name"),
        ("role", "operator"),
        ("csrf", "0123456789abcdef0123456789abcdef"),
        ("last_page", "012345678901234567890123456789012345678901234567890123456789"),
    ] {
        r = r.put(&meta(), k, &Encoded::of(v).unwrap(), &l).unwrap();
    }
    r.put(&meta(), "user_id", &Encoded::of(&7_i64).unwrap(), &l).unwrap()
}

#[test]
#[ignore]
fn timing() {
    let l = Limits::default();
    let r5 = five();
    let mut r50 = r5.clone();
    for i in 0..45 {
        r50 = r50.put(&meta(), &format!("key{i:02}"), &Encoded::of("0123456789abcdef").unwrap(), &l).unwrap();
    }
    println!("5 keys: {} bytes, 50 keys: {} bytes", r5.byte_len(), r50.byte_len());
    let m = meta();
    let v = "/some/other/page/that/the/user/looked/at/just/now/and/more12";
    time("put 5 (encode+put)", || {
        black_box(
            black_box(&r5).put(&m, black_box("last_page"), &Encoded::of(black_box(v)).unwrap(), &l).unwrap(),
        );
    });
    time("put 50 (encode+put)", || {
        black_box(
            black_box(&r50).put(&m, black_box("last_page"), &Encoded::of(black_box(v)).unwrap(), &l).unwrap(),
        );
    });
    time("encode 60B", || {
        black_box(Encoded::of(black_box(v)).unwrap());
    });
    time("with_meta 5", || {
        black_box(black_box(&r5).with_meta(&m));
    });
    time("alloc+copy+free 288", || {
        black_box(Record::copy_body(black_box(r5.body())));
    });
    time("Record::get 2 keys of 5", || {
        let r = black_box(&r5);
        black_box((r.get(black_box("user_id")), r.get(black_box("name"))));
    });
    time("Record::get 2 keys of 50", || {
        let r = black_box(&r50);
        black_box((r.get(black_box("user_id")), r.get(black_box("name"))));
    });
    for (n, r) in [("5", &r5), ("50", &r50)] {
        time(&format!("get 2 of {n} checked"), || {
            let r = black_box(r);
            for k in ["user_id", "name"] {
                let root = access::checked(r.body()).unwrap();
                black_box(root.index(black_box(k).as_bytes()).and_then(|i| value(root, i)));
            }
        });
    }
    time("meta", || {
        black_box(black_box(&r5).meta());
    });
    let id = SessionId::from_bytes([3; 32]);
    let s5 = r5.seal(&id);
    let s50 = r50.seal(&id);
    time("seal 5", || {
        black_box(black_box(&r5).seal(&id));
    });
    time("open 5", || {
        black_box(Record::open(&id, black_box(&s5)).unwrap());
    });
    time("seal 50", || {
        black_box(black_box(&r50).seal(&id));
    });
    time("open 50", || {
        black_box(Record::open(&id, black_box(&s50)).unwrap());
    });
}
