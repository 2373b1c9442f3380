//! An authority of the test's own, a server's certificate from it, and a process whose system trusts that authority.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

fn openssl(dir: &Path, args: &[&str]) -> bool {
    let status = Command::new("openssl").args(args).current_dir(dir).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// An authority `ca.pem`, and `server.pem` of it for the loopback. `None`, and a line that says so, without openssl.
pub(crate) fn certificates() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(
        dir.path().join("server.ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
    )
    .expect("a file");
    let key = ["-newkey", "rsa:2048", "-nodes", "-subj"];
    let ca = [&["req", "-x509"][..], &key, &["/CN=test", "-keyout", "ca.key", "-out", "ca.pem"]].concat();
    let request =
        [&["req"][..], &key, &["/CN=server", "-keyout", "server.key", "-out", "server.csr"]].concat();
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile server.ext -out server.pem";
    let sign: Vec<_> = sign.split(' ').collect();
    if [ca, request, sign].iter().all(|args| openssl(dir.path(), args)) {
        return Some(dir);
    }
    let _ = writeln!(io::stderr(), "\nSKIPPED: no openssl to make certificates with");
    None
}

/// The URL for a process that [`trusts`] made.
pub(crate) fn url_of_child() -> Option<String> {
    std::env::var(CHILD).ok()
}

const CHILD: &str = "SESSILE_TEST_OVER_TLS";

/// Runs the test of this name again with a URL, in a process for which the authority in `dir` is one of the system's:
/// which those are is a matter of the environment, and so the whole process's.
pub(crate) fn trusts(dir: &Path, test: &str, url: &str) {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(CHILD, url)
        .env("SSL_CERT_FILE", dir.join("ca.pem"))
        .output()
        .expect("this program runs again");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}
