//! Load over loopback: 64 connections that each send a request when the last one is answered, to servers on another
//! core that take turns. It knows servers by the line they print, whatever they are written in.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use sessile_bench::data::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::args::Args;
use crate::out::{About, figure, processor_time, quantile};

const CONNECTIONS: usize = 64;

/// A server under load. It ends with its standard input.
struct Server {
    name: String,
    address: String,
    child: Child,
    _stdin: Option<ChildStdin>,
    requests: Vec<Vec<Vec<u8>>>,
}

const PATHS: [&str; 3] = ["untouched", "read", "write"];

impl Server {
    fn start(mut command: Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line)?;
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let stdin = child.stdin.take();
        Ok(Self { name: text("name"), address: text("address"), child, _stdin: stdin, requests: Vec::new() })
    }

    /// Nanoseconds that its threads have run.
    fn cpu(&self) -> f64 {
        processor_time(&self.child.id().to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self._stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(path: &str, cookie: Option<&str>) -> Vec<u8> {
    let cookie = cookie.map(|c| format!("Cookie: {c}\r\n")).unwrap_or_default();
    format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n{cookie}\r\n")
        .into_bytes()
}

/// Sends one request and returns the response's head. No response here has a body.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> std::io::Result<usize> {
    stream.write_all(request).await?;
    let mut filled = 0;
    loop {
        let n = stream.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        filled += n;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            return Ok(filled);
        }
    }
}

async fn populate(server: &mut Server, sessions: usize) -> Outcome {
    let mut stream = TcpStream::connect(&server.address).await?;
    let mut buffer = vec![0; 16 << 10];
    let new = request("new", None);
    let mut cookies = Vec::with_capacity(sessions);
    for i in 0..sessions {
        let n = exchange(&mut stream, &new, &mut buffer).await?;
        let head = String::from_utf8_lossy(&buffer[..n]);
        let mut pairs = head
            .lines()
            .filter(|line| line.len() > 11 && line[..11].eq_ignore_ascii_case("set-cookie:"))
            .filter_map(|line| line[11..].split(';').next())
            .map(str::trim)
            .filter(|pair| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty()))
            .collect::<Vec<_>>()
            .join("; ");
        if pairs.is_empty() {
            pairs = format!("session={i:043}");
        }
        cookies.push(pairs);
    }
    server.requests =
        PATHS.iter().map(|path| cookies.iter().map(|cookie| request(path, Some(cookie))).collect()).collect();
    Ok(())
}

struct Run {
    requests: u64,
    failed: u64,
    seconds: f64,
    cpu_us: f64,
    latencies_us: Vec<f64>,
}

async fn load(server: &Server, path: usize, length: Duration) -> Outcome<Run> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(&server.address).await?;
        stream.set_nodelay(true)?;
        connections.push(stream);
    }
    let (cpu, start) = (server.cpu(), Instant::now());
    let end = start + length;
    let tasks = connections.into_iter().enumerate().map(|(i, mut stream)| async move {
        let requests = &server.requests[path];
        let mut numbers = Stream::new(i as u64 * 7919 + 1);
        let mut buffer = vec![0; 16 << 10];
        let (mut done, mut failed, mut latencies) = (0_u64, 0_u64, Vec::new());
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok::<_, std::io::Error>((done, failed, latencies));
            }
            let n = exchange(&mut stream, &requests[numbers.below(requests.len())], &mut buffer).await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1e6);
            failed += u64::from(!buffer[..n].starts_with(b"HTTP/1.1 200"));
            done += 1;
        }
    });
    let ended = futures_util::future::join_all(tasks).await;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), server.cpu() - cpu);
    let mut run = Run { requests: 0, failed: 0, seconds, cpu_us: cpu / 1e3, latencies_us: Vec::new() };
    for connection in ended {
        let (done, failed, latencies) = connection?;
        run.requests += done;
        run.failed += failed;
        run.latencies_us.extend(latencies);
    }
    run.latencies_us.sort_by(f64::total_cmp);
    Ok(run)
}

/// All servers, one beside the other: `peers http NAME;NAME… [--go BINARY]`.
pub fn measure(args: &Args) -> Outcome {
    let mut commands = Vec::new();
    for name in &args.only {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        match name.strip_prefix("go:") {
            Some(which) => {
                let binary = args.rest.first().ok_or("no binary of the peers in Go")?;
                command.arg(binary).args(["serve", "-only", which]);
            }
            None => {
                command.arg(std::env::current_exe()?).args(["serve", "--only", name]);
            }
        }
        if let Some(dir) = &args.dir {
            command.args(if name.starts_with("go:") { ["-dir", dir] } else { ["--dir", dir] });
        }
        commands.push(command);
    }
    let mut servers = commands.into_iter().map(Server::start).collect::<Outcome<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sessions = args.sessions[0];
    for server in &mut servers {
        runtime.block_on(populate(server, sessions))?;
    }
    let length = Duration::from_secs_f64(args.seconds);
    for (path, workload) in PATHS.iter().enumerate() {
        let mut figures: Vec<[Vec<f64>; 6]> = servers.iter().map(|_| Default::default()).collect();
        for round in 0..=args.rounds {
            for (server, figures) in servers.iter().zip(&mut figures) {
                // The first round warms up, and is short.
                let run =
                    runtime.block_on(load(server, path, if round == 0 { length / 4 } else { length }))?;
                if round == 0 {
                    continue;
                }
                let n = run.requests as f64;
                let us = |q| quantile(&run.latencies_us, q);
                let values =
                    [n / run.seconds, us(0.5), us(0.99), us(0.999), run.cpu_us / n, run.failed as f64];
                for (all, value) in figures.iter_mut().zip(values) {
                    all.push(value);
                }
            }
        }
        for (server, figures) in servers.iter().zip(&figures) {
            let about = About {
                suite: "http",
                workload: (*workload).to_owned(),
                subject: server.name.clone(),
                keys: 5,
                sessions,
                threads: 1,
            };
            let names = [
                ("rate", "1/s"),
                ("p50", "us"),
                ("p99", "us"),
                ("p99.9", "us"),
                ("cpu", "us"),
                ("failed", "1"),
            ];
            for ((metric, unit), values) in names.iter().zip(figures) {
                figure(&about, metric, unit, values);
            }
        }
    }
    Ok(())
}
