//! The host's kernel moves the standby's frames.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, address, migrate};
use crate::packages;
use crate::traffic::tcp::Connection;
use crate::vm::{Config, Vm};

fn config(bench: &Bench, name: &str, host: usize, vhost: bool) -> Result<Config> {
    let mut config = bench.config(name, host)?;
    for pair in &mut config.pairs {
        pair.vhost = vhost;
    }
    Ok(config)
}

/// How often the kernel's threads for this VMM were given the processor; `None` if there are none.
fn kernel_turns(vm: &Vm) -> Option<u64> {
    // Since Linux 6.4 they are threads of the VMM itself; before, they are processes named after it.
    let pid = vm.pid().to_string();
    let folders = [format!("/proc/{pid}/task"), "/proc".to_owned()];
    let mut turns = None;
    for folder in folders {
        for task in fs::read_dir(folder).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            if read("comm").trim() != format!("vhost-{pid}") {
                continue;
            }
            let switches = read("status")
                .lines()
                .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .filter_map(|count| count.trim().parse::<u64>().ok())
                .sum::<u64>();
            turns = Some(turns.unwrap_or(0) + switches);
        }
    }
    turns
}

/// Checks that the kernel moves the standby's frames: what is sent to all reaches every tap on the wire.
fn served(bench: &Bench, vm: &Vm) -> Result<()> {
    const BROADCASTS: u64 = 5;
    let before = kernel_turns(vm).context("the kernel has no vhost thread for the VMM")?;
    for _ in 0..BROADCASTS {
        // The client has to ask for the guest's address anew.
        let mut command = Command::new("ip");
        if let Some(netns) = &bench.site.client {
            command.args(["-n", netns]);
        }
        command.args(["neigh", "flush", "to", &address(0).to_string()]);
        packages::run(&mut command, "ip neigh")?;
        bench.reachable(0)?;
    }
    let turns = kernel_turns(vm).unwrap_or(0).saturating_sub(before);
    ensure!(
        turns >= BROADCASTS,
        "the kernel's thread had {turns} turns only for {BROADCASTS} broadcasts"
    );
    Ok(())
}

/// From a host with vhost-net to one without and back, with a connection that has to live on.
pub fn there_and_back(bench: &Bench) -> Result<()> {
    let first = bench.boot_with_primary(config(bench, "first", 0, true)?)?;
    served(bench, &first)?;
    let connection = Connection::open(bench.site.client.as_deref(), address(0))?;
    let second = config(bench, "second", 1, false)?;
    let second = migrate::step_to(bench, first, second, 1)?;
    ensure!(
        kernel_turns(&second).is_none(),
        "vhost-net is in use without vhost=on"
    );
    let third = config(bench, "third", 0, true)?;
    let mut third = migrate::step_to(bench, second, third, 0)?;
    served(bench, &third)?;
    connection.finish(Duration::from_secs(20))?;
    ensure!(
        third.quit()?.success(),
        "the last VMM did not quit with status 0: {}",
        third.said().trim()
    );
    Ok(())
}
