//! A network namespace of a test's own: real interfaces, and nothing left of them afterwards.
#![allow(dead_code)] // each test program uses its part

#[path = "../../src/testing/program.rs"]
mod program;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "each test program uses its part")]
pub(crate) use program::program;

/// Runs `test` in a thread with a fresh network namespace. Without the right to make one the test is
/// SKIPPED, loudly.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(move || {
        if let Err(e) = unshare_network() {
            eprintln!("SKIPPED: no network namespace can be made here ({e}); run as root");
            return;
        }
        if std::fs::File::open("/dev/net/tun").is_err() {
            eprintln!("SKIPPED: /dev/net/tun cannot be opened");
            return;
        }
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[allow(unsafe_code)]
fn unshare_network() -> std::io::Result<()> {
    // SAFETY: only this thread's view of the network changes; it owns no sockets.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// `ip …` and `bridge …`: what an operator would type. Returns its output.
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let out = Command::new(program)
        .args(words)
        .output()
        .expect("iproute2 is installed");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// What must happen has happened by then, however busy the host is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives something.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
