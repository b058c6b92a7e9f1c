//! The board around the pair: processors, disk, random numbers, clock, resets and the power button.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{BOOT_LIMIT, Bench, migrate};
use crate::packages;
use crate::vm::{Config, Vm};

/// More processors than the lab host has, so that they take turns.
const CPUS: u32 = 4;
const DISK_BYTES: u64 = 16 << 20;
/// Where the guest writes on its disk, and what it reads there on the other host.
const MARK_AT: u64 = 5 << 20;
const MARK: &str = "written by the guest";
/// The time the guest sets its clock to, in seconds since the epoch: 2031-02-03 04:05:06.
const SET_CLOCK: u64 = 1_927_857_906;

/// A guest with all that a board has and a plain NIC.
fn config(bench: &Bench, name: &str, host: usize, disk: &Path) -> Result<Config> {
    let mut config = bench.plain_config(name, host)?;
    config.reboots = true;
    let options = [
        "-smp",
        &CPUS.to_string(),
        "-drive",
        &format!("file={},format=raw,if=none,id=image", disk.display()),
        "-device",
        "virtio-blk-pci,drive=image,id=disk,serial=lab-disk",
        "-object",
        "rng-random,id=source,filename=/dev/urandom",
        "-device",
        "virtio-rng-pci,rng=source,id=rng",
    ];
    config.extra = options.map(str::to_owned).to_vec();
    Ok(config)
}

/// All of it works, before and after each way in which a machine starts anew, and moves with the guest.
pub fn board(bench: &Bench) -> Result<()> {
    let folder = bench.runs.join("board");
    fs::create_dir_all(&folder)?;
    let image = folder.join("disk");
    let content: Vec<u8> = (0..DISK_BYTES / 8)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    fs::write(&image, &content)?;

    let mut vm = bench.boot(config(bench, "board-here", 0, &image)?)?;
    bench.reachable(0)?;
    processors(&vm)?;
    whole_disk(&vm, &image)?;
    random_numbers(&vm)?;
    clock(&vm)?;

    // Reset by the monitor: another boot, on a clock that went on.
    vm.agent
        .shell(&format!("date -u -s @{SET_CLOCK} && hwclock -w -u"))?;
    let reset = |vm: &mut Vm| vm.qmp.execute("system_reset", json!({})).map(drop);
    boots_anew(&mut vm, "host-qmp-system-reset", reset).context("system_reset")?;
    bench.reachable(0)?;
    let read = rtc(&vm)?;
    ensure!(
        (SET_CLOCK..SET_CLOCK + 3600).contains(&read),
        "the clock was set to {SET_CLOCK} and shows {read} after the reset"
    );
    // Reset by the guest.
    let reboot = |vm: &mut Vm| {
        // A little later, so that the answer gets out: nobody but the agent would wait for it.
        let later = "(sleep 1; reboot -f) > /dev/null 2>&1 &";
        vm.agent.shell(later).map(drop)
    };
    boots_anew(&mut vm, "guest-reset", reboot).context("the guest's reboot")?;
    bench.reachable(0)?;
    processors(&vm)?;

    // What the guest writes is in the image, and there for it on the other host.
    let device = disk(&vm)?;
    vm.agent.shell(&format!(
        "printf '{MARK}' | dd of={device} bs=1 seek={MARK_AT} conv=fsync,notrunc 2>&1"
    ))?;
    let mut written = [0; MARK.len()];
    File::open(&image)?.read_exact_at(&mut written, MARK_AT)?;
    ensure!(
        written == MARK.as_bytes(),
        "what the guest wrote is not in the image"
    );
    let moved = config(bench, "board-there", 1, &image)?;
    let mut vm = migrate::plain_step(bench, vm, moved, 1)?;
    bench.reachable(0)?;
    processors(&vm)?;
    whole_disk(&vm, &image)?;
    random_numbers(&vm)?;

    power_button(&mut vm)?;
    // And off by the guest.
    let _ = vm.agent.shell("poweroff -f &");
    let status = vm.wait_exit(BOOT_LIMIT)?;
    ensure!(
        status.success(),
        "the VMM ended with {status} after the guest's power-off: {}",
        vm.said().trim()
    );
    Ok(())
}

fn processors(vm: &Vm) -> Result<()> {
    let online = vm.agent.shell("cat /sys/devices/system/cpu/online")?;
    ensure!(
        online.trim() == format!("0-{}", CPUS - 1),
        "processors {} are online, of {CPUS}",
        online.trim()
    );
    // Each of them does something.
    for cpu in 0..CPUS {
        vm.agent
            .shell(&format!("taskset {:x} true", 1u32 << cpu))
            .with_context(|| format!("processor {cpu}"))?;
    }
    Ok(())
}

/// The guest's name of its disk, found by the serial number.
fn disk(vm: &Vm) -> Result<String> {
    let found = vm
        .agent
        .shell("grep -l lab-disk /sys/block/*/serial")
        .context("no disk with its serial number")?;
    let name = found
        .trim()
        .strip_prefix("/sys/block/")
        .and_then(|rest| rest.strip_suffix("/serial"))
        .with_context(|| format!("a disk at {found:?}"))?;
    Ok(format!("/dev/{name}"))
}

/// The guest reads what is in the image, all of it.
fn whole_disk(vm: &Vm, image: &Path) -> Result<()> {
    let device = disk(vm)?;
    let inside = vm.agent.shell(&format!(
        "echo 3 > /proc/sys/vm/drop_caches; sha256sum {device}"
    ))?;
    let mut command = std::process::Command::new("sha256sum");
    let outside = packages::output(command.arg(image), "sha256sum")?;
    let sum = |text: &str| text.split_whitespace().next().map(str::to_owned);
    ensure!(
        sum(&inside).is_some() && sum(&inside) == sum(&outside),
        "the guest reads {inside:?}, the image is {outside:?}"
    );
    Ok(())
}

fn random_numbers(vm: &Vm) -> Result<()> {
    let source = vm
        .agent
        .shell("cat /sys/class/misc/hw_random/rng_current")?;
    ensure!(
        source.starts_with("virtio_rng"),
        "the guest's random numbers come from {source:?}"
    );
    let draw = || {
        vm.agent
            .shell("dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum")
    };
    ensure!(draw()? != draw()?, "the same random numbers twice");
    Ok(())
}

/// What the guest's real-time clock shows, in seconds since the epoch.
fn rtc(vm: &Vm) -> Result<u64> {
    let shown = vm.agent.shell("cat /sys/class/rtc/rtc0/since_epoch")?;
    shown
        .trim()
        .parse()
        .with_context(|| format!("the clock shows {shown:?}"))
}

/// The guest's clock shows the host's time: not before it was asked, nor after it answered.
fn clock(vm: &Vm) -> Result<()> {
    let now = || -> Result<u64> { Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()) };
    let before = now()?;
    let shown = rtc(vm)?;
    // The clock's seconds begin when it was switched on, not when the host's do.
    ensure!(
        (before.saturating_sub(1)..=now()? + 1).contains(&shown),
        "the guest's clock shows {shown}, the host's {before}"
    );
    Ok(())
}

/// The guest starts anew by what `reset` does, which the monitor tells for this reason.
fn boots_anew(vm: &mut Vm, reason: &str, reset: impl Fn(&mut Vm) -> Result<()>) -> Result<()> {
    let booted = vm.state()?.boot;
    let from = vm.qmp.events().len();
    let asked = crate::clock::now_us();
    reset(vm)?;
    let event = vm
        .qmp
        .wait_event(from, "RESET", BOOT_LIMIT)
        .context("no RESET event")?;
    ensure!(
        event.data.get("reason") == Some(&json!(reason)),
        "RESET for another reason: {}",
        event.data
    );
    vm.agent
        .wait(asked, BOOT_LIMIT, |reply| {
            !reply.boot.is_empty() && reply.boot != booted
        })
        .context("the guest did not boot anew")?;
    Ok(())
}

/// The guest is told of its power button.
fn power_button(vm: &mut Vm) -> Result<()> {
    let from = vm.qmp.events().len();
    vm.qmp.execute("system_powerdown", json!({}))?;
    vm.qmp
        .wait_event(from, "POWERDOWN", BOOT_LIMIT)
        .context("no POWERDOWN event")?;
    vm.agent
        .shell("until grep -q '^ *[1-9]' /sys/firmware/acpi/interrupts/ff_pwr_btn; do usleep 100000; done")
        .context("the guest's power button was not pressed")?;
    Ok(())
}
