//! What reaches the disk: writes a second at each level of durability, reads of sessions that are only on the disk, and
//! the time from a start to the first answer.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::HeaderValue;
use sessile::engine::Durability;
use sessile::{Engine, Token};
use sessile_bench::cycle::run;
use sessile_bench::data::{Stream, create};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use tower_sessions_sqlx_store::SqliteStore;

use crate::args::Args;
use crate::crowd::TASKS;
use crate::out::{About, figure, quantile};
use crate::subject::{Aim, Drive, Subject, Until};
use crate::tower_sessions::v0_14;
use crate::work::Work;
use crate::{OURS_EVENTUAL, OURS_POWER, OURS_PROCESS, Outcome, ours};

const SQLITE: &str = "tower-sessions 0.14, SQLite WAL FULL";

fn sqlite(dir: &Path) -> Outcome<Box<dyn Subject>> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("sessions.sqlite"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let store = tokio::runtime::Handle::current().block_on(async {
        let store = SqliteStore::new(SqlitePool::connect_with(options).await?);
        store.migrate().await?;
        Ok::<_, sqlx::Error>(store)
    })?;
    Ok(v0_14::subject(SQLITE, Drive::Block, store))
}

fn about(suite: &'static str, workload: String, subject: &str, args: &Args, sessions: usize) -> About {
    About { suite, workload, subject: subject.to_owned(), keys: args.keys[0], sessions, threads: 2 }
}

/// What a bare log does: a record of 400 bytes, or 64 of them, and an fdatasync.
fn floor(args: &Args, dir: &Path) -> Outcome {
    for writers in [1, TASKS] {
        let mut file = File::create(dir.join("floor"))?;
        let batch = vec![7_u8; 400 * writers];
        let mut rates = Vec::new();
        for _ in 0..args.rounds {
            let start = Instant::now();
            let mut records = 0;
            while start.elapsed().as_secs_f64() < args.seconds / 2.0 {
                file.write_all(&batch)?;
                file.sync_data()?;
                records += writers;
            }
            rates.push(records as f64 / start.elapsed().as_secs_f64());
        }
        let about = about("durable", format!("{writers} writers"), "a bare log and fdatasync", args, 0);
        figure(&about, "rate", "1/s", &rates);
    }
    Ok(())
}

/// Requests that write, for as long as their answer takes to leave.
pub fn durable(args: &Args, dir: &Path) -> Outcome {
    floor(args, dir)?;
    let sessions = args.sessions[0];
    let level = |name: &'static str, level| crate::ours(name, dir, level);
    let mut subjects = vec![
        level(OURS_EVENTUAL, Durability::eventual())?,
        level(OURS_PROCESS, Durability::process_crash())?,
        level(OURS_POWER, Durability::PowerLoss)?,
        sqlite(dir)?,
    ];
    let mut cookies = Vec::new();
    for subject in &mut subjects {
        let n = if subject.name() == SQLITE { sessions.min(1000) } else { sessions };
        // In a crowd, or the disk would be waited for by one after the other.
        cookies.push(
            subject.populate(
                if subject.name() == OURS_POWER { n.min(1000) } else { n },
                Work::New(args.keys[0]),
            ),
        );
        subject.settle();
    }
    let until = Until::After(Duration::from_secs_f64(args.seconds));
    for writers in [1, TASKS] {
        let mut figures: Vec<[Vec<f64>; 2]> = subjects.iter().map(|_| Default::default()).collect();
        for _ in 0..args.rounds {
            for (s, subject) in subjects.iter_mut().enumerate() {
                let crowd = subject.crowd(Work::Write, &cookies[s], Aim::Spread, 2, writers, until);
                if let Some(crowd) = crowd {
                    figures[s][0].push(crowd.requests as f64 / crowd.seconds);
                    figures[s][1].push(quantile(&crowd.latencies_us, 0.99));
                }
                subject.settle();
            }
        }
        for (subject, [rates, waits]) in subjects.iter().zip(&figures) {
            let about = about("durable", format!("{writers} writers"), subject.name(), args, sessions);
            figure(&about, "rate", "1/s", rates);
            figure(&about, "p99", "us", waits);
        }
    }
    Ok(())
}

/// Reads of random sessions by a process that has next to none of them in memory. The system's page cache is warm.
pub fn cold(args: &Args, dir: &Path) -> Outcome {
    let sessions = args.sessions[0];
    let mut cookies = Vec::new();
    {
        let engine = ours::engine(dir, "cold.redb", Durability::eventual(), false)?;
        for i in 0..sessions as u64 {
            if let Some(token) = run(create(&engine, i))? {
                cookies.push(HeaderValue::from_str(&format!("session={}", token.encode().as_str()))?);
            }
        }
        pollster::block_on(engine.close())?;
    }
    let small = Engine::builder().memory_limit(8 << 20).open_redb(dir.join("cold.redb"))?;
    let mut subjects = vec![(ours::subject(OURS_PROCESS, small.clone(), small), cookies, Work::ReadInPlace)];
    let mut other = sqlite(dir)?;
    // At four thousand a second a million would take minutes; what is measured is a read by its primary key.
    let few = other.populate(sessions.min(5_000), Work::New(args.keys[0]));
    subjects.push((other, few, Work::Read));
    let mut stream = Stream::new(5);
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for round in 0..=args.rounds {
        for ((subject, cookies, work), times) in subjects.iter_mut().zip(&mut times) {
            let cost = subject.random(*work, cookies, &mut stream, args.batch);
            if round > 0 {
                times.push(cost.ns);
            }
        }
    }
    for ((subject, cookies, _), times) in subjects.iter().zip(&times) {
        let mut about = about("cold", "read".to_owned(), subject.name(), args, cookies.len());
        about.threads = 1;
        figure(&about, "time", "ns", times);
    }
    Ok(())
}

/// A file of many sessions, left as a crash leaves it, and the time until a new process answers from it.
pub fn restart(args: &Args, dir: &Path) -> Outcome {
    let exe = std::env::current_exe()?;
    for &sessions in &args.sessions {
        let path = dir.join(format!("restart-{sessions}.redb"));
        let step = |step: &str| -> Outcome<String> {
            let output = Command::new(&exe)
                .arg(step)
                .arg(&path)
                .args(["--sessions", &sessions.to_string()])
                .output()?;
            Ok(String::from_utf8(output.stdout)?)
        };
        step("restart-fill")?;
        for (workload, opener) in [("after a shutdown", "restart-open"), ("after a kill", "restart-open")] {
            let mut times = Vec::new();
            // The opener ends itself by a signal: every opening after the first is one after a crash.
            for _ in 0..if workload == "after a kill" { args.rounds } else { 1 } {
                times.push(step(opener)?.trim().parse::<f64>().map_err(|e| format!("{workload}: {e}"))?);
            }
            figure(
                &about("restart", workload.to_owned(), OURS_PROCESS, args, sessions),
                "first answer",
                "ms",
                &times,
            );
        }
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

pub fn restart_fill(args: &Args) -> Outcome {
    let path = Path::new(args.rest.first().ok_or("a path")?);
    let engine =
        Engine::builder().durability(Durability::eventual()).memory_limit(256 << 20).open_redb(path)?;
    let mut last: Option<Token> = None;
    for i in 0..args.sessions[0] as u64 {
        last = run(create(&engine, i))?;
    }
    pollster::block_on(engine.close())?;
    std::fs::write(path.with_extension("token"), last.ok_or("no session")?.encode().as_str())?;
    Ok(())
}

pub fn restart_open(args: &Args) -> Outcome {
    let path = Path::new(args.rest.first().ok_or("a path")?);
    let text = std::fs::read_to_string(path.with_extension("token"))?;
    let token = Token::parse(text.as_bytes()).ok_or("a token")?;
    let start = Instant::now();
    let engine = Engine::builder().open_redb(path)?;
    let session = pollster::block_on(engine.session(Some(&token)))?;
    let user: Option<i64> = session.get("user_id")?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    if user.is_none() {
        return Err("the session is lost".into());
    }
    println!("{ms}");
    // As a crash leaves it: the next opening is one after a kill.
    std::process::abort();
}
