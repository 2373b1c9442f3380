//! Sessile beside other session libraries: every subject in one binary and one run. `bench/run` calls it; see
//! docs/benchmarks.md for what each command measures.
//!
//! `peers COMMAND [--keys 5,50] [--sessions 100000,…] [--rounds N] [--batch N] [--seconds S] [--life] [--only A;B]
//! [--dir PATH]` prints one line of JSON for each figure.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod actix;
mod args;
mod axum_session;
mod bare;
mod crowd;
mod cycle;
mod disk;
mod gorilla;
mod http_load;
mod http_server;
mod life;
mod ours;
mod out;
mod parts;
mod remote;
mod subject;
mod tower_sessions;
mod work;

use std::path::Path;

use sessile::engine::Durability;
use sessile_bench::alloc::Counting;

use crate::args::Args;
use crate::subject::{Drive, Subject};
use crate::tower_sessions::{v0_14, v0_15};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    sessile_bench::alloc::counting(false);
    let args = Args::parse(std::env::args().skip(1))?;
    // Some libraries start tasks of their own; their requests do not run here.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _inside = runtime.enter();
    let dir = args.scratch()?;
    match args.command.as_str() {
        "cycle" => cycle::measure(&args, || {
            // Gone with `dir`.
            let dir = tempfile::tempdir_in(dir.path())?.keep();
            subjects(&args, &dir)
        })?,
        "crowd" => crowd::threads(&args, subjects(&args, dir.path())?),
        "race" => crowd::race(&args, subjects(&args, dir.path())?),
        "memory" => life::memory(&args, subjects(&args, dir.path())?),
        "expiry" => life::expiry(&args, subjects(&args, dir.path())?),
        "serve" => http_server::serve(&args, dir.path())?,
        "http" => http_load::measure(&args)?,
        "durable" => disk::durable(&args, dir.path())?,
        "cold" => disk::cold(&args, dir.path())?,
        "restart" => disk::restart(&args, dir.path())?,
        "restart-fill" => disk::restart_fill(&args)?,
        "restart-open" => disk::restart_open(&args)?,
        "parts" => parts::measure(&args)?,
        "remote" => remote::measure(&args)?,
        "versions" => versions(),
        other => return Err(format!("unknown command {other}").into()),
    }
    Ok(())
}

const OURS_MEMORY: &str = "sessile, in memory";
const OURS_EVENTUAL: &str = "sessile, Eventual";
const OURS_PROCESS: &str = "sessile, ProcessCrash";
const OURS_POWER: &str = "sessile, PowerLoss";

fn ours(name: &'static str, dir: &Path, level: Durability) -> Outcome<Box<dyn Subject>> {
    let file = name.replace([' ', ','], "-");
    let plain = ours::engine(dir, &format!("{file}.redb"), level, false)?;
    let idle = ours::engine(dir, &format!("{file}-idle.redb"), level, true)?;
    Ok(ours::subject(name, plain, idle))
}

/// Everything that runs in this process and keeps its sessions in memory or in the cookie.
fn subjects(args: &Args, dir: &Path) -> Outcome<Vec<Box<dyn Subject>>> {
    let all: [(&str, &dyn Fn() -> Outcome<Box<dyn Subject>>); 10] = [
        ("bare tower", &|| Ok(bare::tower())),
        ("bare actix", &|| Ok(actix::bare())),
        (OURS_MEMORY, &|| {
            let engine = sessile::Engine::builder().memory_limit(8 << 30).in_memory()?;
            Ok(ours::subject(OURS_MEMORY, engine.clone(), engine))
        }),
        (OURS_EVENTUAL, &|| ours(OURS_EVENTUAL, dir, Durability::eventual())),
        (OURS_PROCESS, &|| ours(OURS_PROCESS, dir, Durability::process_crash())),
        ("tower-sessions 0.15, MemoryStore", &|| {
            Ok(v0_15::subject("tower-sessions 0.15, MemoryStore", Drive::Poll, v0_15::memory()))
        }),
        ("tower-sessions 0.14, moka", &|| {
            Ok(v0_14::subject("tower-sessions 0.14, moka", Drive::Poll, v0_14::moka()))
        }),
        ("axum_session", &|| Ok(axum_session::subject(axum_session::store()?))),
        ("actix-session, cookie", &|| Ok(actix::subject())),
        ("signed cookie, gorilla's way", &|| Ok(gorilla::subject())),
    ];
    // Without a file is for measuring memory: asked for by name only.
    let wants = |name: &str| args.wants(name) && (name != OURS_MEMORY || !args.only.is_empty());
    all.into_iter().filter(|(name, _)| wants(name)).map(|(_, make)| make()).collect()
}

/// What was compiled in, from the lock file.
fn versions() {
    let lock = include_str!("../Cargo.lock");
    let wanted = [
        "actix-session",
        "actix-web",
        "axum",
        "axum_session",
        "moka",
        "sqlx",
        "tokio",
        "tower",
        "tower-sessions",
        "tower-sessions-moka-store",
        "tower-sessions-redis-store",
        "tower-sessions-sqlx-store",
        "libsqlite3-sys",
    ];
    let mut name = "";
    for line in lock.lines() {
        if let Some(rest) = line.strip_prefix("name = ") {
            name = rest.trim_matches('"');
        }
        if let Some(version) = line.strip_prefix("version = ")
            && wanted.contains(&name)
        {
            println!(
                "{}",
                serde_json::json!({"suite": "version", "subject": name, "version": version.trim_matches('"')})
            );
        }
    }
}
