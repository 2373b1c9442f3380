//! What a test does with the process of a server, and how it waits for it. Of no server in particular.

use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(60);

/// Whether `holds` comes true before the bound.
pub(crate) fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > BOUND {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Stops or resumes a process: its connections stay and nothing is answered.
///
/// The signal is delivered when one of the threads runs, and the others go on until then: a busy machine lets them
/// answer a few more calls. It is frozen when the last of them is.
pub(crate) fn freeze(pid: u32, stop: bool) {
    let signal = if stop { "-STOP" } else { "-CONT" };
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    assert!(!stop || soon(|| is_stopped(pid)), "process {pid} does not stop");
}

/// Whether every thread is stopped, as proc(5) tells it: the state follows the name, which may hold anything.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}
