//! The parts of a request: parse, hash, lookup, read, touch, write, commit.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sessile::{Engine, Token};
use sessile_bench::cycle::run;
use sessile_bench::data::{Stream, create, fill};

fn benches(c: &mut Criterion) {
    let engine = Engine::builder().memory_limit(4 << 30).in_memory().expect("an engine");
    let tokens: Vec<Token> =
        (0..1000).filter_map(|i| pollster::block_on(create(&engine, i)).ok().flatten()).collect();
    let mut stream = Stream::new(3);
    let token = Token::generate().expect("random");
    let text = token.encode();

    let mut group = c.benchmark_group("parts");
    group.bench_function("token/parse", |b| b.iter(|| Token::parse(black_box(text.as_str().as_bytes()))));
    group.bench_function("token/hash", |b| b.iter(|| black_box(&token).id()));
    group.bench_function("token/generate", |b| b.iter(Token::generate));
    group.bench_function("engine/lookup-hot", |b| {
        b.iter(|| run(engine.session(Some(&tokens[stream.below(1000)]))));
    });
    let session = run(engine.session(Some(&tokens[0]))).expect("found");
    group.bench_function("session/get-i64", |b| b.iter(|| session.get::<i64>(black_box("user_id"))));
    group.bench_function("session/get-string", |b| b.iter(|| session.get::<String>(black_box("name"))));
    group.bench_function("session/snapshot", |b| b.iter(|| session.snapshot()));
    let snapshot = session.snapshot().expect("live");
    group.bench_function("snapshot/i64", |b| b.iter(|| snapshot.i64(black_box("user_id"))));
    group.bench_function("snapshot/str", |b| {
        b.iter(|| snapshot.str(black_box("name")).map(|s| s.map(str::len)))
    });
    group.bench_function("session/put-str", |b| {
        b.iter(|| session.put("last_page", black_box("/a/page/of/thirty/characters")))
    });
    group.bench_function("session/put-i64", |b| b.iter(|| session.put("user_id", black_box(&7_i64))));
    group.bench_function("session/update-i64", |b| {
        b.iter(|| session.update("user_id", |n: Option<i64>| n.unwrap_or(0) + 1))
    });
    group.bench_function("session/commit-untouched", |b| {
        b.iter_batched(
            || run(engine.session(Some(&tokens[1]))).expect("found"),
            |session| run(session.commit()),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("session/new-five-keys", |b| {
        b.iter_batched(
            || run(engine.session(None)).expect("begun"),
            |session| fill(&session, 1),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(parts, benches);
criterion_main!(parts);
