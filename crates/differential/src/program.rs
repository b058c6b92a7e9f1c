//! The two programs under comparison.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The reference.
    Qemu,
    /// Ours.
    Standfast,
}

impl Kind {
    /// As reports call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Standfast => "ours",
        }
    }
}

/// One of the two, and how it is started without a vCPU that runs.
#[derive(Debug, Clone)]
pub struct Program {
    /// Which one.
    pub kind: Kind,
    /// The file.
    pub path: PathBuf,
}

impl Program {
    /// The options that keep its vCPUs still: a client of the `qtest` socket stands in for them.
    ///
    /// A distribution's QEMU may be built without its accelerator of that name; its emulator, given a firmware that only halts,
    /// does the same.
    pub fn still(&self, folder: &Path) -> Vec<OsString> {
        match self.kind {
            Kind::Qemu => vec![
                "-accel".into(),
                "tcg".into(),
                "-bios".into(),
                folder.join(HALT).into(),
            ],
            Kind::Standfast => vec!["-accel".into(), "qtest".into()],
        }
    }
}

/// The firmware that only halts, by its name in a stage's folder.
pub const HALT: &str = "halt.bin";

/// Such a firmware: 64 KiB, with `cli; hlt; jmp` back to the `hlt` at the reset vector.
pub fn halting_firmware() -> Vec<u8> {
    const SIZE: usize = 0x1_0000;
    const RESET_VECTOR: usize = SIZE - 16;
    let code = [0xfa, 0xf4, 0xeb, 0xfd];
    let mut image = vec![0xff; SIZE];
    for (to, from) in image.iter_mut().skip(RESET_VECTOR).zip(code) {
        *to = from;
    }
    image
}

/// Both.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The reference.
    pub qemu: Program,
    /// Ours.
    pub ours: Program,
}

impl Programs {
    /// `standfast` is the program to compare; QEMU is the one in `STANDFAST_QEMU`, or on the `PATH`.
    ///
    /// # Errors
    /// There is no QEMU, or it is not the release line that is compared with.
    pub fn find(standfast: &Path) -> Result<Self> {
        let qemu = std::env::var_os("STANDFAST_QEMU")
            .map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from);
        let output = Command::new(&qemu)
            .arg("--version")
            .output()
            .with_context(|| qemu.display().to_string())?;
        let version = String::from_utf8_lossy(&output.stdout);
        if !version.contains("version 10.0.") {
            bail!(
                "{} is not QEMU 10.0 but {}",
                qemu.display(),
                version.lines().next().unwrap_or_default()
            );
        }
        let program = |kind, path: &Path| Program {
            kind,
            path: path.to_owned(),
        };
        Ok(Self {
            qemu: program(Kind::Qemu, &qemu),
            ours: program(Kind::Standfast, standfast),
        })
    }
}
