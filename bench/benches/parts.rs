//! The parts of a request: parse, hash, lookup, read, touch, write, commit; and of the writer and a load: seal, open.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sessile::engine::record::Record;
use sessile::engine::store::{MemoryStore, Store};
use sessile::engine::{Key, Keyring, Protection};
use sessile::{Engine, SessionId, Token};
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

/// The five-key session as a record, and its id.
fn record() -> (SessionId, Record) {
    let store = MemoryStore::new();
    let engine = Engine::builder().open(store.clone()).expect("an engine");
    let token = pollster::block_on(create(&engine, 1)).expect("created").expect("a token");
    pollster::block_on(engine.flush()).expect("flushed");
    let row = pollster::block_on(store.load(&token.id())).expect("loaded").expect("a row");
    (token.id(), Record::open(&token.id(), &row.bytes).expect("a record"))
}

fn seals(c: &mut Criterion) {
    let (id, record) = record();
    let mut group = c.benchmark_group("seal");
    let sealed = record.seal(&id);
    group.bench_function("unkeyed/seal", |b| b.iter(|| record.seal(black_box(&id))));
    group.bench_function("unkeyed/open", |b| b.iter(|| Record::open(&id, black_box(&sealed))));
    for (name, protection) in [("authenticate", Protection::Authenticate), ("encrypt", Protection::Encrypt)] {
        let ring = Keyring::new(protection, Key::generate().expect("random"));
        let sealed = record.seal_with(&id, &ring).expect("sealed");
        group.bench_function(format!("{name}/seal"), |b| b.iter(|| record.seal_with(black_box(&id), &ring)));
        group.bench_function(format!("{name}/open"), |b| {
            b.iter(|| Record::open_with(&id, record.version(), black_box(&sealed), &ring));
        });
    }
    group.finish();
}

criterion_group!(parts, benches, seals);
criterion_main!(parts);
