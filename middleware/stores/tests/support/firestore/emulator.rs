//! Google's emulator, where its command-line tools are installed with it, or the server that `SESSILE_TEST_FIRESTORE` names.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value as Json;

use super::super::process::soon;
use super::super::{first_of, free_port, program, skipped};
use super::PROJECT;

pub const NAMED: &str = "SESSILE_TEST_FIRESTORE";

pub struct Emulator {
    authority: String,
    process: Option<Child>,
}

fn jar() -> Option<PathBuf> {
    const JAR: &str = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar";
    let of_gcloud = program("gcloud").and_then(|path| path.canonicalize().ok());
    let root = of_gcloud.and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let roots = root.into_iter().chain(["/usr/lib/google-cloud-sdk".into(), "/opt/google-cloud-sdk".into()]);
    first_of(roots.map(|root| root.join(JAR))).filter(|_| program("java").is_some())
}

/// What the suite is run against.
pub fn label() -> &'static str {
    match std::env::var(NAMED) {
        Ok(named) if !named.is_empty() => "the server that was named",
        _ => "Google's emulator, compatible",
    }
}

impl Emulator {
    /// `None`, and a line that says so, where there is none.
    pub fn start() -> Option<Self> {
        if let Some(authority) = std::env::var(NAMED).ok().filter(|named| !named.is_empty()) {
            return Some(Self { authority, process: None });
        }
        let Some(jar) = jar() else {
            skipped("no emulator of Firestore, and SESSILE_TEST_FIRESTORE names no server");
            return None;
        };
        // A port may be taken by another between looking and starting.
        for _ in 0..3 {
            let port = free_port();
            let mut process = Command::new("java")
                .args(["-Duser.language=en", "-cp"])
                .arg(&jar)
                .arg("com.google.cloud.datastore.emulator.firestore.CloudFirestore")
                .args(["start", "--host=127.0.0.1", &format!("--port={port}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let authority = format!("127.0.0.1:{port}");
            let answers = soon(|| {
                process.try_wait().unwrap().is_some() || try_ask(&authority, "batchGet", "{}").is_some()
            });
            let emulator = Self { authority, process: Some(process) };
            if answers && try_ask(&emulator.authority, "batchGet", "{}").is_some() {
                return Some(emulator);
            }
        }
        panic!("the emulator does not start");
    }

    pub fn url(&self) -> String {
        format!("firestore://{PROJECT}?emulator={}", self.authority)
    }

    pub fn ask(&self, verb: &str, body: &Json) -> (u16, Json) {
        try_ask(&self.authority, verb, &body.to_string()).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn try_ask(authority: &str, verb: &str, body: &str) -> Option<(u16, Json)> {
    let mut stream = TcpStream::connect(authority).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let head = format!(
        "POST /v1/{}:{verb} HTTP/1.0\r\nAuthorization: Bearer owner\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        super::root("(default)"),
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    // It leaves the connection open, whatever it is asked.
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut line) = (None, 0, String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?
            }
            Some(_) => {}
            None => status = line.split(' ').nth(1).and_then(|status| status.parse().ok()),
        }
        line.clear();
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer).ok()?;
    Some((status?, serde_json::from_slice(&answer).ok()?))
}
