//! Builds the library (`tests/preload/shim.c`) and says how to load it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The built library; built once per test program with the C compiler that linking needs anyway.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/preload/shim.c");
        let built = Command::new("cc")
            .args(["-Wall", "-Wextra", "-O1", "-shared", "-fPIC", "-o"])
            .arg(&path)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        (dir, path)
    });
    path
}

/// The environment that loads it, with what it is told.
pub(crate) fn environment(told: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    let mut all = vec![("LD_PRELOAD", library().display().to_string())];
    all.extend(told);
    all
}
