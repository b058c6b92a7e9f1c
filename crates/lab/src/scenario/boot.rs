//! A guest boots.

use anyhow::{Result, ensure};

use super::Bench;

/// A guest with a plain virtio-net device boots, answers, and ends the VMM by powering off.
pub fn boot(bench: &Bench) -> Result<()> {
    bench.site.steer(0, 0, true)?;
    let mut vm = bench.boot(bench.plain_config("guest", 0)?)?;
    bench.reachable(0)?;
    ensure!(
        vm.state()?.links.len() == 1,
        "a guest with one NIC shows {:?}",
        vm.state()?.links
    );
    let from = vm.qmp.events().len();
    // The answer may not get out before the power is off.
    let _ = vm.agent.shell("poweroff -f &");
    let status = vm.wait_exit(super::BOOT_LIMIT)?;
    ensure!(
        status.success(),
        "the VMM ended with {status} after the guest's power-off: {}",
        vm.said().trim()
    );
    let labels: Vec<String> = vm
        .qmp
        .events()
        .iter()
        .skip(from)
        .map(|event| event.label())
        .collect();
    ensure!(
        labels.iter().any(|label| label == "SHUTDOWN"),
        "no SHUTDOWN event, only {labels:?}"
    );
    Ok(())
}
