//! What cargo has to build before the lab can run it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The folders of this clone.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// Where the workspace's Cargo.toml is.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask lies in no workspace")?
            .to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Runs cargo in the workspace; its own progress is shown.
    pub(crate) fn cargo<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        env: &[(&str, &str)],
    ) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root);
        for (name, value) in env {
            command.env(name, value);
        }
        // `cargo run` tells its child where the package is; a nested cargo must not hear of it.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_BIN_NAME"] {
            command.env_remove(name);
        }
        let status = command.status().context("cannot run cargo")?;
        if !status.success() {
            let words: Vec<_> = arguments
                .iter()
                .map(|word| word.as_ref().to_string_lossy())
                .collect();
            bail!("cargo {} failed", words.join(" "));
        }
        Ok(())
    }

    /// Builds `lab-agent`, static, so that it runs in the lab host and in the guest.
    pub(crate) fn agent(&self) -> Result<PathBuf> {
        let triple = host_triple()?;
        let flags = format!(
            "CARGO_TARGET_{}_RUSTFLAGS",
            triple.to_uppercase().replace('-', "_")
        );
        let folder = self.target.join("lab-agent");
        let folder_text = folder
            .to_str()
            .context("the target folder's name is not UTF-8")?;
        self.cargo(
            &[
                "build",
                "--quiet",
                "--profile",
                "lab",
                "--package",
                "lab",
                "--bin",
                "lab-agent",
                "--target",
                &triple,
                "--target-dir",
                folder_text,
            ],
            &[(&flags, "-C target-feature=+crt-static -C strip=symbols")],
        )?;
        Ok(folder.join(triple).join("lab/lab-agent"))
    }

    /// Builds the program of this project as the lab runs it.
    pub(crate) fn standfast(&self) -> Result<PathBuf> {
        self.cargo(
            &[
                "build",
                "--quiet",
                "--profile",
                "lab",
                "--package",
                "standfast",
            ],
            &[],
        )?;
        Ok(self.target.join("lab/standfast"))
    }
}

/// The triple that rustc builds for when it is not told.
pub(crate) fn host_triple() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say what host it is for")
}
