//! What a remote store takes and gives: bytes of a session on the server, reads and commits a second. It fills the store at
//! each URL with sessions of its own, which it removes again.
//!
//! `cargo run --release -p sessile-stores --features redis,postgres --example capacity -- [--rows N] [--write] URL…`;
//! `--write` puts the table into `docs/scale.md`.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures and tells")]

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sessile_engine::SessionId;
use sessile_engine::store::{Change, Row, Store};
use sessile_stores::postgres::PostgresStore;
use sessile_stores::redis::RedisStore;

/// Of five keys, as everywhere in the benchmarks.
const RECORD: usize = 320;
const TASKS: usize = 16;
const RUNS: usize = 5;
const ENDS: u64 = 4_000_000_000_000;
const BEGIN: &str = "<!-- begin: example capacity --write -->\n";
const END: &str = "<!-- end -->";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn id(n: usize) -> SessionId {
    // As evenly spread as the hashes of tokens.
    let mut bytes = [0; 32];
    let mut x = n as u64 + 1;
    for chunk in bytes.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        chunk.copy_from_slice(&x.to_le_bytes());
    }
    SessionId::from_bytes(bytes)
}

fn row(version: u64, n: usize) -> Row {
    let owner = Some(format!("user:{n}").into());
    Row { version, expires_at: ENDS, owner, bytes: vec![0x5a; RECORD] }
}

/// Runs `call` for each of `0..count` from 16 tasks; calls a second.
async fn rate<F>(count: usize, call: impl Fn(usize) -> F + Send + Sync + Clone + 'static) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (next, call) = (next.clone(), call.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return Ok::<(), Box<dyn Error + Send + Sync>>(());
                    }
                    call(n).await?;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(f64::from(u32::try_from(count)?) / start.elapsed().as_secs_f64())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

async fn fill<S: Store>(store: &Arc<S>, rows: usize, change: impl Fn(usize) -> Change) -> Result<()> {
    for from in (0..rows).step_by(1024) {
        let changes: Vec<_> = (from..rows.min(from + 1024)).map(&change).collect();
        let _ = store.commit(1, &changes).await?;
    }
    Ok(())
}

struct Figures {
    bytes: f64,
    loads: f64,
    commits: f64,
    batches: f64,
}

async fn measure<S: Store>(store: S, rows: usize, size: impl AsyncFn() -> Result<f64>) -> Result<Figures> {
    let store = Arc::new(store);
    let before = size().await?;
    fill(&store, rows, |n| Change::Insert { id: id(n), row: row(1, n) }).await?;
    let bytes = (size().await? - before) / f64::from(u32::try_from(rows)?);
    let (mut loads, mut commits, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    let each = (rows / 20).clamp(1000, 20_000);
    for run in 1..=RUNS {
        let from = store.clone();
        loads.push(
            rate(each, move |n| {
                let store = from.clone();
                async move { store.load(&id(n * 7919 % rows)).await.map(drop).map_err(Into::into) }
            })
            .await?,
        );
        let base = run * each % rows;
        let to = store.clone();
        commits.push(
            rate(each / 4, move |n| {
                let (store, n) = (to.clone(), base + n);
                async move {
                    let change = Change::Put { id: id(n % rows), row: row(2, n) };
                    let _ = store.commit(1, &[change]).await?;
                    Ok(())
                }
            })
            .await?,
        );
        let to = store.clone();
        let batched = rate(each / 64, move |n| {
            let (store, n) = (to.clone(), base + n * 64);
            async move {
                let changes: Vec<_> =
                    (n..n + 64).map(|n| Change::Put { id: id(n % rows), row: row(3, n) }).collect();
                let _ = store.commit(1, &changes).await?;
                Ok(())
            }
        });
        batches.push(batched.await? * 64.0);
    }
    fill(&store, rows, |n| Change::Delete { id: id(n) }).await?;
    store.close().await?;
    Ok(Figures { bytes, loads: median(loads), commits: median(commits), batches: median(batches) })
}

async fn redis(url: &str, rows: usize) -> Result<(String, Figures)> {
    let client = redis::Client::open(url)?;
    let info = async |section: &str, key: &str| -> Result<String> {
        let mut connection = client.get_multiplexed_async_connection().await?;
        let text: String = redis::cmd("INFO").arg(section).query_async(&mut connection).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned));
        line.ok_or_else(|| format!("the server does not tell its {key}").into())
    };
    let name = format!("Redis {}", info("server", "redis_version").await?.trim());
    let store = RedisStore::builder(url).prefix("capacity:").deadline(Duration::from_secs(10));
    let store = store.connect_async().await?;
    let size = async || Ok(info("memory", "used_memory").await?.trim().parse()?);
    Ok((name, measure(store, rows, size).await?))
}

async fn postgres(url: &str, rows: usize) -> Result<(String, Figures)> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let version: String = client.query_one("SHOW server_version", &[]).await?.try_get(0)?;
    let name = version.split(' ').next().unwrap_or_default();
    let store = PostgresStore::builder(url).table("sessile_capacity")?.deadline(Duration::from_secs(10));
    store.migrate().await?;
    let store = store.open().await?;
    let size = async || -> Result<f64> {
        client.batch_execute("VACUUM sessile_capacity").await?;
        let text = "SELECT pg_total_relation_size('sessile_capacity')::float8";
        Ok(client.query_one(text, &[]).await?.try_get(0)?)
    };
    let figures = measure(store, rows, size).await?;
    let tables = ["", "_quarantine", "_marks", "_changes"].map(|end| format!("sessile_capacity{end}"));
    client.batch_execute(&format!("DROP TABLE IF EXISTS {}", tables.join(", "))).await?;
    Ok((format!("PostgreSQL {name}"), figures))
}

#[tokio::main]
async fn main() -> Result<()> {
    let (mut rows, mut write, mut urls) = (100_000_usize, false, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rows" => rows = args.next().ok_or("how many rows?")?.parse()?,
            "--write" => write = true,
            _ => urls.push(arg),
        }
    }
    let mut table = format!(
        "{rows} sessions with an owner, records of {RECORD} bytes; client and server on one machine of {} processors; {TASKS} \
         callers at once; medians of {RUNS} runs.\n\n\
         | server | bytes of a session | reads/s | commits of one change/s | changes/s, 64 a commit | servers for 10⁹ sessions, \
         64 GiB each |\n|---|---|---|---|---|---|\n",
        std::thread::available_parallelism()?
    );
    for url in &urls {
        let (name, f) =
            if url.starts_with("redis") { redis(url, rows).await? } else { postgres(url, rows).await? };
        let servers = (f.bytes * 1e9 / f64::from(1_u32 << 30) / 64.0).ceil();
        writeln!(
            table,
            "| {name} | {:.0} | {:.1} k | {:.1} k | {:.1} k | {servers:.0} |",
            f.bytes,
            f.loads / 1e3,
            f.commits / 1e3,
            f.batches / 1e3
        )?;
    }
    print!("{table}");
    if write {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/scale.md");
        let text = std::fs::read_to_string(page)?;
        let from = text.find(BEGIN).ok_or("the page has no place for it")? + BEGIN.len();
        let to = from + text[from..].find(END).ok_or("the place on the page has no end")?;
        std::fs::write(page, format!("{}{table}{}", &text[..from], &text[to..]))?;
    }
    Ok(())
}
