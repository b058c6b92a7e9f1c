//! Finds or installs what the lab needs on a Debian machine.
//!
//! QEMU must be 8.0 or newer (the first with igb, the NIC with SR-IOV). Where the configured suites
//! have an older one, the machine's own mirror is asked for its backports suite. That extra source,
//! and the package lists fetched with it, live in the lab's state folder: the machine's own apt
//! configuration is not changed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::say;
use crate::state::StateDir;

/// QEMU's first release with the igb device.
const QEMU_MIN_MAJOR: u32 = 8;

/// Packages that are installed, each with a program that shows it is there.
const INSTALLED: &[(&str, &str)] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("iproute2", "ip"),
    // The client library of QMP, which a test drives the monitor with, comes from PyPI.
    ("python3-pip", "pip3"),
    ("kmod", "depmod"),
    ("iperf3", "iperf3"),
    ("iputils-ping", "ping"),
    // libFuzzer comes as C++ source.
    ("g++", "c++"),
];

/// Where a program is, looked for on PATH and in the system folders.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(
            [
                "/usr/local/sbin",
                "/usr/local/bin",
                "/usr/sbin",
                "/usr/bin",
                "/sbin",
                "/bin",
            ]
            .map(PathBuf::from),
        )
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The major version of the QEMU that is installed, if one is.
pub fn qemu_major() -> Option<u32> {
    let program = find_program("qemu-system-x86_64")?;
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("version ").nth(1)?;
    version.split('.').next()?.trim().parse().ok()
}

/// The names of the packages that are missing or too old.
fn missing() -> Vec<&'static str> {
    INSTALLED
        .iter()
        .filter(|(package, program)| {
            let too_old = *package == "qemu-system-x86"
                && qemu_major().is_none_or(|major| major < QEMU_MIN_MAJOR);
            too_old || find_program(program).is_none()
        })
        .map(|(package, _)| *package)
        .collect()
}

/// The machine's apt, seen through the lab's own sources and lists.
pub struct Apt {
    folder: PathBuf,
    codename: String,
    backports: bool,
}

impl Apt {
    /// Prepares the lab's view of apt, without any network access.
    pub fn open(state: &StateDir) -> Result<Self> {
        if find_program("apt-get").is_none() {
            bail!(
                "this machine has no apt-get: install QEMU {QEMU_MIN_MAJOR}.0 or newer, iproute2, kmod, \
                 iperf3 and ping by hand, and set LAB_KERNEL_DEB and LAB_BUSYBOX (see crates/lab/README.md)"
            );
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
        };
        if field("ID").as_deref() != Some("debian") {
            bail!(
                "the lab installs its packages on Debian only; this is {}",
                field("ID").unwrap_or_default()
            );
        }
        let codename = field("VERSION_CODENAME")
            .context("/etc/os-release names no VERSION_CODENAME: which Debian is this?")?;
        let folder = state.cache().join("apt");
        for part in ["parts", "lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mut apt = Self {
            folder,
            codename,
            backports: false,
        };
        apt.link_system_sources()?;
        apt.backports = apt.backports_file().exists();
        Ok(apt)
    }

    fn backports_file(&self) -> PathBuf {
        self.folder.join("parts/lab-backports.sources")
    }

    /// The suite that holds the newest packages this lab may use.
    fn suite(&self) -> String {
        if self.backports {
            format!("{}-backports", self.codename)
        } else {
            self.codename.clone()
        }
    }

    fn link_system_sources(&self) -> Result<()> {
        let parts = self.folder.join("parts");
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = parts.join(entry.file_name());
            let _ = fs::remove_file(&target);
            if entry
                .path()
                .extension()
                .is_some_and(|e| e == "list" || e == "sources")
            {
                std::os::unix::fs::symlink(entry.path(), &target)
                    .with_context(|| format!("cannot create {}", target.display()))?;
            }
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let at = |part: &str| self.folder.join(part).to_string_lossy().into_owned();
        option("Dir::Etc::SourceParts", &at("parts"));
        option("Dir::State::Lists", &at("lists"));
        option("Dir::Cache::Archives", &at("archives"));
        option("Dir::Cache::pkgcache", "");
        option("Dir::Cache::srcpkgcache", "");
        option("APT::Sandbox::User", "root");
        option("Acquire::Retries", "3");
        option("Dpkg::Use-Pty", "0");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn update(&self) -> Result<()> {
        run(
            self.command("apt-get").args(["-q", "update"]),
            "apt-get update",
        )
    }

    /// Fetches the package lists, with the backports suite where the main one has too old a QEMU.
    pub fn refresh(&mut self) -> Result<()> {
        self.update()?;
        if self.backports || self.candidate_major("qemu-system-x86")? >= QEMU_MIN_MAJOR {
            return Ok(());
        }
        let targets = output(
            self.command("apt-get").args([
                "indextargets",
                "--format",
                "$(REPO_URI)|$(CODENAME)|$(COMPONENT)",
                "Identifier: Packages",
            ]),
            "apt-get indextargets",
        )?;
        let wanted = format!("|{}|main", self.codename);
        let mirror = targets
            .lines()
            .find_map(|line| line.strip_suffix(wanted.as_str()))
            .with_context(|| format!("apt knows no mirror of {} main", self.codename))?;
        say(format!(
            "packages: adding {}-backports of {mirror} for the lab only",
            self.codename
        ));
        let mut stanza = format!(
            "Types: deb\nURIs: {mirror}\nSuites: {}-backports\nComponents: main\n",
            self.codename
        );
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        if Path::new(keyring).exists() {
            stanza.push_str(&format!("Signed-By: {keyring}\n"));
        }
        fs::write(self.backports_file(), stanza)?;
        self.backports = true;
        self.update().inspect_err(|_| {
            let _ = fs::remove_file(self.backports_file());
        })
    }

    fn candidate_major(&self, package: &str) -> Result<u32> {
        let policy = output(
            self.command("apt-cache").args(["policy", package]),
            "apt-cache policy",
        )?;
        let version = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .with_context(|| format!("apt knows no package {package}"))?;
        let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
        Ok(upstream
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .unwrap_or(0))
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let suite = self.suite();
        let mut command = self.command("apt-get");
        command.args([
            "-q",
            "-y",
            "--no-install-recommends",
            "install",
            "-t",
            suite.as_str(),
        ]);
        command.args(packages);
        run(&mut command, "apt-get install")
    }

    /// Downloads a package file into `folder` without installing it; returns the file.
    pub fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let mut command = self.command("apt-get");
        command
            .current_dir(folder)
            .args(["-q", "download", "-t", self.suite().as_str(), package]);
        run(&mut command, "apt-get download")?;
        fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.path())
            .find(|file| {
                let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .with_context(|| format!("apt-get download left no file of {package}"))
    }

    /// The first package that `package` depends on whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let suite = self.suite();
        let shown = output(
            self.command("apt-cache").args([
                "-t",
                suite.as_str(),
                "--no-all-versions",
                "show",
                package,
            ]),
            "apt-cache show",
        )?;
        shown
            .lines()
            .filter_map(|line| line.strip_prefix("Depends: "))
            .flat_map(|list| list.split(", "))
            .filter_map(|entry| entry.split_whitespace().next())
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}*"))
    }
}

/// Installs what is missing; quick when nothing is.
pub fn ensure(state: &StateDir) -> Result<()> {
    let absent = missing();
    if absent.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing ({}) and only root can install them",
            absent.join(", ")
        );
    }
    say(format!("packages: installing {}", absent.join(", ")));
    let mut apt = Apt::open(state)?;
    apt.refresh()?;
    apt.install(&absent)?;
    let left = missing();
    if !left.is_empty() {
        bail!("still missing after the installation: {}", left.join(", "));
    }
    Ok(())
}

/// Runs a command to its end; its output is shown only if it fails.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    output(command, what).map(drop)
}

/// Runs a command and returns its stdout; an error carries what it said on stderr.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {what}"))?;
    if !output.status.success() {
        bail!(
            "{what} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
