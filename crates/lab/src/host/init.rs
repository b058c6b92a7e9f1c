//! L1's init: loads modules, puts the machine's own file system below it read-only, and becomes
//! the reaper of the agent.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::WaitOptions;

use crate::modules;

/// The root of everything of the lab's inside L1.
pub const LAB: &str = "/run/lab";

/// Runs as process 1 of L1; returns only on failure.
pub fn run() -> Result<()> {
    let none = MountFlags::empty();
    mount("proc", "/proc", "proc", none, None).context("mount /proc")?;
    mount("sysfs", "/sys", "sysfs", none, None).context("mount /sys")?;
    mount("devtmpfs", "/dev", "devtmpfs", none, None).context("mount /dev")?;
    modules::load_all(&[]);
    let loose = c"trans=virtio,version=9p2000.L,msize=1048576,cache=loose";
    let fresh = c"trans=virtio,version=9p2000.L,msize=1048576,cache=none";
    mount("root", "/host", "9p", MountFlags::RDONLY, Some(loose))
        .context("mount the machine's root")?;
    for folder in ["run", "tmp"] {
        mount("tmpfs", format!("/host/{folder}"), "tmpfs", none, None).context("mount tmpfs")?;
    }
    mount_bind("/dev", "/host/dev")?;
    mount_bind("/proc", "/host/proc")?;
    mount_bind("/sys", "/host/sys")?;
    for folder in ["pts", "shm"] {
        fs::create_dir_all(format!("/host/dev/{folder}"))?;
    }
    mount(
        "devpts",
        "/host/dev/pts",
        "devpts",
        none,
        Some(c"ptmxmode=666"),
    )
    .context("mount devpts")?;
    mount("tmpfs", "/host/dev/shm", "tmpfs", none, None)?;
    let lab = format!("/host{LAB}");
    for folder in ["share", "out", "stage", "vm"] {
        fs::create_dir_all(format!("{lab}/{folder}"))?;
    }
    fs::create_dir_all("/host/run/netns")?;
    fs::create_dir_all("/host/run/lock")?;
    mount(
        "share",
        format!("{lab}/share"),
        "9p",
        MountFlags::RDONLY,
        Some(fresh),
    )
    .context("mount share")?;
    mount("out", format!("{lab}/out"), "9p", none, Some(fresh)).context("mount out")?;
    fs::copy("/init", format!("{lab}/lab-agent")).context("copy the agent")?;
    rustix::process::chroot("/host").context("chroot")?;
    std::env::set_current_dir("/")?;
    let _ = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    println!(
        "L1-UP {}",
        fs::read_to_string("/proc/uptime")
            .unwrap_or_default()
            .trim()
    );
    let agent = Path::new(LAB).join("lab-agent");
    let server = Command::new(agent)
        .arg("host-server")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", LAB)
        .env("TERM", "linux")
        .spawn()
        .context("start the agent")?;
    // Process 1 inherits every orphan; it waits for them all, and ends with the agent.
    while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::empty()) {
        if u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| pid == server.id()) {
            break;
        }
    }
    Ok(())
}
