//! The request cycle beside the bare service: hot and random sessions, read and write.

use criterion::{Criterion, criterion_group, criterion_main};
use sessile::Engine;
use sessile::engine::Durability;
use sessile_bench::cycle::{Work, bare, cycle, populate, with_sessions};
use sessile_bench::data::Stream;

fn engine(durability: Durability) -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Engine::builder()
        .durability(durability)
        .memory_limit(4 << 30)
        .open_redb(dir.path().join("bench.redb"))
        .expect("an engine");
    (engine, dir)
}

fn benches(c: &mut Criterion) {
    let n = std::env::var("SESSILE_BENCH_SESSIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000_000);
    let (journaled, _journaled) = engine(Durability::process_crash());
    let journaled_cookies = populate(&journaled, n.min(1_000));
    let (engine, _dir) = engine(Durability::eventual());
    let cookies = populate(&engine, n);
    pollster::block_on(engine.flush()).expect("flushed");

    for (set, population) in [("hot", 1_000.min(n)), ("random", n)] {
        let mut group = c.benchmark_group(format!("cycle/{set}"));
        let mut stream = Stream::new(7);
        let mut service = bare();
        group.bench_function("bare", |b| {
            b.iter(|| cycle(&mut service, cookies[stream.below(population)].clone()));
        });
        for (name, work) in [
            ("untouched", Work::Nothing),
            ("read", Work::Read),
            ("read-snapshot", Work::ReadSnapshot),
            ("write", Work::Write),
        ] {
            let mut service = with_sessions(engine.clone(), work);
            group.bench_function(name, |b| {
                b.iter(|| cycle(&mut service, cookies[stream.below(population)].clone()));
            });
        }
        if set == "hot" {
            let mut service = with_sessions(journaled.clone(), Work::Write);
            group.bench_function("write-process-crash", |b| {
                b.iter(|| cycle(&mut service, journaled_cookies[stream.below(population)].clone()));
            });
        }
        group.finish();
    }
}

criterion_group!(cycles, benches);
criterion_main!(cycles);
