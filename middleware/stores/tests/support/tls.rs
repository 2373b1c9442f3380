//! An authority of the test's own, and a server's certificate from it.

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
