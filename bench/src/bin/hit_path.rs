//! The hit path alone, for an instruction counter: a plain loop over a service in this thread, in functions that are
//! there to be found by name. No executor, no measuring harness, and a file for one work only: what those do would be
//! counted too, or runs where a simulated processor cannot follow. `bench/guard` runs it.
//!
//! `hit-path WORK ROUNDS`, where WORK is `bare`, `untouched`, `read`, `read-in-place`, `write`, `many` (reading in
//! place among 10,000 sessions rather than one) or `write-journal`: a write that is in the journal when the response
//! leaves, without the kernel's part of it.

use std::time::Duration;

use http::HeaderValue;
use sessile::Engine;
use sessile::engine::Durability;
use sessile_bench::cycle::{Body, Work, bare, cycle, populate, with_sessions};
use tower_service::Service;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let work = args.next().ok_or("which work?")?;
    let rounds: usize = args.next().ok_or("how many rounds?")?.parse()?;
    let dir = tempfile::tempdir()?;
    let engine = if work == "write-journal" {
        // The window never ends while it counts: a drain of the queue costs the next writes a place in it.
        let level = Durability::ProcessCrash { window: Duration::from_secs(60) };
        Engine::builder().durability(level).open_redb(dir.path().join("sessions.redb"))?
    } else {
        Engine::builder().in_memory()?
    };
    let cookies = populate(&engine, if work == "many" { 10_000 } else { 1 });
    let work = match work.as_str() {
        "bare" => {
            let mut service = bare();
            warm(&mut service, &cookies);
            counted(&mut service, &cookies, rounds);
            return Ok(());
        }
        "untouched" => Work::Nothing,
        "read" => Work::Read,
        "read-in-place" | "many" => Work::ReadSnapshot,
        "write" | "write-journal" => Work::Write,
        other => return Err(format!("unknown work {other}").into()),
    };
    let mut service = with_sessions(engine, work);
    warm(&mut service, &cookies);
    counted(&mut service, &cookies, rounds);
    Ok(())
}

/// First times: lazily made tables, thread-locals, the clock's calibration.
#[inline(never)]
fn warm<S>(service: &mut S, cookies: &[HeaderValue])
where
    S: Service<http::Request<()>, Response = http::Response<Body>, Error = std::convert::Infallible>,
{
    for cookie in cookies.iter().cycle().take(100) {
        std::hint::black_box(cycle(service, cookie.clone()));
    }
}

/// What is counted, by this name.
#[inline(never)]
fn counted<S>(service: &mut S, cookies: &[HeaderValue], rounds: usize)
where
    S: Service<http::Request<()>, Response = http::Response<Body>, Error = std::convert::Infallible>,
{
    for cookie in cookies.iter().cycle().take(rounds) {
        std::hint::black_box(cycle(service, cookie.clone()));
    }
}
