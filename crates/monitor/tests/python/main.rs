//! The public Python client of QMP (`qemu.qmp` of PyPI) drives a monitor: what it understands, scripts written for QEMU understand.
//!
//! The package is installed into the target folder. Where Python or PyPI cannot be had, the test is SKIPPED, loudly; with
//! `STANDFAST_NO_SKIP=1` that is a failure.

#[allow(dead_code, reason = "another test uses the rest")]
#[path = "../session/machine.rs"]
mod machine;

use monitor::{Endpoint, Mode, Monitors};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PACKAGE: &str = "qemu.qmp==0.0.6";

/// Installs the package, once, and gives the folder to import it from; or why it cannot be had.
fn package() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-qmp-0.0.6");
    if folder.join("qemu/qmp/qmp_client.py").exists() {
        return Ok(folder);
    }
    let fresh =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let mut why = String::new();
    for pip in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]] {
        let Some((program, arguments)) = pip.split_first() else {
            continue;
        };
        let output = Command::new(program)
            .args(arguments)
            .args([
                "install",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--target",
            ])
            .arg(fresh.path())
            .arg(PACKAGE)
            .env("PIP_BREAK_SYSTEM_PACKAGES", "1")
            .output();
        match output {
            Ok(output) if output.status.success() => {
                // Another run may have been quicker.
                let _ = std::fs::rename(fresh.keep(), &folder);
                return Ok(folder);
            }
            Ok(output) => {
                why += &format!(
                    "{program}: {}\n",
                    String::from_utf8_lossy(&output.stderr).trim()
                )
            }
            Err(error) => why += &format!("{program}: {error}\n"),
        }
    }
    Err(why)
}

#[test]
fn the_public_client_drives_a_monitor() {
    let package = match package() {
        Ok(package) => package,
        Err(why) => {
            // Past the test harness, which hides what a passing test prints.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: {PACKAGE} cannot be installed, so it drove nothing:\n{why}"
            );
            assert!(
                std::env::var_os("STANDFAST_NO_SKIP").is_none(),
                "STANDFAST_NO_SKIP is set"
            );
            return;
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("qmp.sock");
    let machine = machine::start();
    let mut monitors = Monitors::new(machine::identity(), machine.clone(), machine.events.clone())
        .expect("descriptors");
    let endpoint = Endpoint::UnixServer {
        path: socket.clone(),
        wait: false,
    }
    .open()
    .expect("a socket");
    monitors
        .serve(Mode::Qmp { pretty: false }, endpoint)
        .expect("threads");
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/drive.py"))
        .arg(&socket)
        .env("PYTHONPATH", package)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("all done\n"), "{text}");
    monitors.close(Duration::from_secs(1));
}
