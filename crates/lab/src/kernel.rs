//! Debian's own kernel, unpacked but not installed, and its modules in load order.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Apt};
use crate::progress::say;
use crate::state::StateDir;

/// A kernel of Debian's, unmodified, unpacked below the state folder.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The release as `uname -r` says it.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    modules: PathBuf,
}

/// A module ready for `finit_module`: its name and its uncompressed bytes.
pub struct Module {
    /// The file name without its suffixes.
    pub name: String,
    /// The ELF object.
    pub bytes: Vec<u8>,
}

/// Unpacks (once) the kernel and a static busybox; returns them.
///
/// `LAB_KERNEL_DEB` and `LAB_BUSYBOX` name a package file and a program to use instead of the ones
/// apt would fetch.
pub fn ensure(state: &StateDir) -> Result<(Kernel, PathBuf)> {
    let mut apt = None;
    let kernel_root = state.cache().join("kernel");
    let kernel = match Kernel::find(&kernel_root) {
        Some(kernel) => kernel,
        None => {
            fetch_kernel(state, &mut apt, &kernel_root)?;
            Kernel::find(&kernel_root).context("the kernel package holds no kernel")?
        }
    };
    if let Some(file) = std::env::var_os("LAB_BUSYBOX") {
        return Ok((kernel, file.into()));
    }
    let busybox_root = state.cache().join("busybox");
    let find = || {
        ["bin/busybox", "usr/bin/busybox"]
            .map(|p| busybox_root.join(p))
            .into_iter()
            .find(|p| p.exists())
    };
    if find().is_none() {
        say("packages: fetching busybox-static");
        let deb =
            ready(state, &mut apt)?.download("busybox-static", &state.cache().join("debs"))?;
        unpack(&deb, &busybox_root)?;
    }
    Ok((kernel, find().context("busybox-static holds no busybox")?))
}

fn ready<'a>(state: &StateDir, apt: &'a mut Option<Apt>) -> Result<&'a Apt> {
    if apt.is_none() {
        let mut fresh = Apt::open(state)?;
        fresh.refresh()?;
        *apt = Some(fresh);
    }
    apt.as_ref().context("apt was just opened")
}

fn fetch_kernel(state: &StateDir, apt: &mut Option<Apt>, root: &Path) -> Result<()> {
    let deb = match std::env::var_os("LAB_KERNEL_DEB") {
        Some(file) => PathBuf::from(file),
        None => {
            let apt = ready(state, apt)?;
            let package = apt.dependency("linux-image-amd64", "linux-image-")?;
            say(format!("packages: fetching {package}"));
            apt.download(&package, &state.cache().join("debs"))?
        }
    };
    say("packages: unpacking the kernel");
    unpack(&deb, root)
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let fresh = root.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    packages::run(
        Command::new("dpkg").arg("-x").arg(deb).arg(&fresh),
        "dpkg -x",
    )?;
    let _ = fs::remove_dir_all(root);
    fs::rename(&fresh, root).with_context(|| format!("cannot move {} into place", root.display()))
}

impl Kernel {
    /// The kernel unpacked at `root`, if one is.
    pub fn find(root: &Path) -> Option<Self> {
        let image = fs::read_dir(root.join("boot"))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|file| {
                file.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))
            })?;
        let release = image
            .file_name()?
            .to_str()?
            .strip_prefix("vmlinuz-")?
            .to_owned();
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|folder| root.join(folder).join(&release))
            .into_iter()
            .find(|folder| folder.is_dir())?;
        Some(Self {
            release,
            image,
            modules,
        })
    }

    /// The kernel that was built and installed into a folder: `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`.
    pub fn installed(folder: &Path) -> Result<Self> {
        Self::find(folder).with_context(|| {
            format!(
                "{} holds no boot/vmlinuz-RELEASE with its lib/modules/RELEASE",
                folder.display()
            )
        })
    }

    /// The named modules and all they depend on, each after what it needs.
    ///
    /// A name that is built into the kernel is left out; one that the kernel does not have at all
    /// is an error, unless it ends in `?`.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let depends = self.dependencies()?;
        let by_name: HashMap<String, &String> = depends
            .keys()
            .map(|path| (module_name(path), path))
            .collect();
        let builtin = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let builtin: HashSet<String> = builtin.lines().map(module_name).collect();
        let mut order: Vec<&String> = Vec::new();
        for name in names {
            let plain = name.trim_end_matches('?').replace('-', "_");
            let Some(path) = by_name.get(&plain) else {
                if builtin.contains(&plain) || name.ends_with('?') {
                    continue;
                }
                bail!("kernel {} has no module {name}", self.release);
            };
            // modules.dep lists what a module needs with the deepest need last.
            let needs = depends.get(*path).into_iter().flatten().rev();
            for need in needs.chain([*path]) {
                if !order.contains(&need) {
                    order.push(need);
                }
            }
        }
        order
            .into_iter()
            .map(|path| {
                Ok(Module {
                    name: module_name(path),
                    bytes: self.read_module(path)?,
                })
            })
            .collect()
    }

    fn dependencies(&self) -> Result<HashMap<String, Vec<String>>> {
        let file = self.modules.join("modules.dep");
        if !file.exists() {
            let base = self
                .modules
                .ancestors()
                .nth(3)
                .context("the module folder has no root")?;
            packages::run(
                Command::new(packages::find_program("depmod").context("depmod is not installed")?)
                    .arg("-b")
                    .arg(base)
                    .arg(&self.release),
                "depmod",
            )?;
        }
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                (
                    path.to_owned(),
                    needs.split_whitespace().map(str::to_owned).collect(),
                )
            })
            .collect())
    }

    fn read_module(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.modules.join(path);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if !path.ends_with(".xz") {
            return Ok(bytes);
        }
        let mut plain = Vec::new();
        lzma_rust2::XzReader::new(bytes.as_slice(), true)
            .read_to_end(&mut plain)
            .with_context(|| format!("cannot decompress {}", file.display()))?;
        Ok(plain)
    }
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(root: &Path) -> Kernel {
        let modules = root.join("lib/modules/6.1.0-test/kernel");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(root.join("boot/vmlinuz-6.1.0-test"), b"image").unwrap();
        for name in ["a", "b-c", "d"] {
            fs::write(modules.join(format!("{name}.ko")), name).unwrap();
        }
        let folder = root.join("lib/modules/6.1.0-test");
        fs::write(
            folder.join("modules.dep"),
            "kernel/a.ko: kernel/b-c.ko kernel/d.ko\nkernel/b-c.ko: kernel/d.ko\nkernel/d.ko:\n",
        )
        .unwrap();
        fs::write(folder.join("modules.builtin"), "kernel/in-built.ko\n").unwrap();
        Kernel::find(root).unwrap()
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let root = tempfile::tempdir().unwrap();
        let kernel = kernel(root.path());
        assert_eq!(kernel.release, "6.1.0-test");
        let names: Vec<String> = kernel
            .modules(&["b_c", "a", "in-built", "gone?"])
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["d", "b_c", "a"]);
        assert!(kernel.modules(&["gone"]).is_err());
    }
}
