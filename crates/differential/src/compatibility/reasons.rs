//! Why what QEMU has is not here. Every name that the page lists as QEMU's alone is under one of these headings, or the page is not
//! made: a gap is a decision, or it is a bug.

use crate::intended::matches;

/// Names, as patterns in which `*` stands for anything, and why they are not here.
type Heading = (&'static str, &'static [&'static str]);

/// What a list of names is about: each has headings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Commands of the monitor.
    Commands,
    /// Events.
    Events,
    /// Options of the command line, and the parameters of those that are lists.
    Options,
    /// Properties of devices.
    Properties,
}

const NO_SCREEN: &str = "there is no screen, keyboard, mouse or sound";
const RAW_DISKS: &str = "a disk is a raw file: no formats, jobs, snapshots, exports, throttling";
const NO_TPM: &str = "there is no TPM";
const NO_XEN: &str = "there is no Xen, and no COLO";
const NO_LOAD: &str = "there is no firmware: the guest's kernel is loaded directly";
const NO_EMULATOR: &str = "of QEMU's emulator, its tracing and its record and replay";
const NO_VSOCK: &str = "no such device";
const PLAIN_CHARDEVS: &str = "character devices are those of the command line: sockets, files, terminals, without TLS or telnet";
const ONE_STREAM: &str = "migration is pre-copy over one connection, without TLS";
const NO_MEMORY_HOTPLUG: &str = "memory and processors stay as they were at the start";
const NO_SECRETS: &str = "guest memory is not encrypted, so it cannot be measured or sealed";

const COMMANDS: &[Heading] = &[
    (
        NO_SCREEN,
        &[
            "add_client",
            "change-vnc-password",
            "client_migrate_info",
            "display-*",
            "*_password",
            "input-send-event",
            "query-audiodevs",
            "query-display-options",
            "query-mice",
            "query-spice",
            "query-vnc*",
            "screendump",
            "send-key",
        ],
    ),
    (
        RAW_DISKS,
        &[
            "block-*",
            "block_*",
            "blockdev-*",
            "x-blockdev-*",
            "change-backing-file",
            "device-sync-config",
            "drive-*",
            "eject",
            "job-*",
            "nbd-server-*",
            "query-block-*",
            "query-blockstats",
            "query-pr-managers",
            "snapshot-*",
            "transaction",
            "x-debug-*",
        ],
    ),
    (
        ONE_STREAM,
        &[
            "calc-dirty-rate",
            "cancel-vcpu-dirty-limit",
            "migrate-start-postcopy",
            "query-dirty-rate",
            "query-migrationthreads",
            "query-vcpu-dirty-limit",
            "set-vcpu-dirty-limit",
        ],
    ),
    (
        PLAIN_CHARDEVS,
        &[
            "chardev-*",
            "query-chardev-backends",
            "query-yank",
            "ringbuf-*",
            "yank",
        ],
    ),
    (
        NO_MEMORY_HOTPLUG,
        &[
            "balloon",
            "query-balloon",
            "query-hv-balloon-*",
            "query-memdev",
            "query-memory-devices",
            "set-numa-node",
        ],
    ),
    (NO_SECRETS, &["query-sev*", "query-sgx*", "sev-*"]),
    (
        NO_XEN,
        &["query-colo-status", "query-xen-*", "x-colo-*", "xen-*"],
    ),
    (NO_TPM, &["query-tpm*"]),
    (
        NO_VSOCK,
        &[
            "cxl-*",
            "query-acpi-ospm-status",
            "query-cryptodev",
            "query-rocker*",
            "query-vm-generation-id",
            "request-ebpf",
            "x-query-usb",
            "x-query-virtio*",
        ],
    ),
    (
        "guest memory is not dumped, nor the device tree, of which there is none",
        &["*dump*", "memsave", "pmemsave"],
    ),
    (
        NO_EMULATOR,
        &[
            "query-replay",
            "query-stats*",
            "replay-*",
            "trace-event-*",
            "x-query-*",
        ],
    ),
    (
        "-action says at the start what happens; there is no watchdog",
        &["set-action", "watchdog-set-action"],
    ),
    (
        "the machine is built when the monitor answers, and what it is stands on the command line",
        &["query-current-machine", "x-exit-preconfig"],
    ),
    (
        "not simulated: NMIs, sleep, a clock's lost ticks",
        &["inject-nmi", "rtc-reset-reinjection", "system_wakeup"],
    ),
];

const EVENTS: &[Heading] = &[
    (NO_SCREEN, &["SPICE_*", "VNC_*"]),
    (
        RAW_DISKS,
        &[
            "BLOCK_*",
            "DEVICE_TRAY_MOVED",
            "JOB_*",
            "PR_MANAGER_*",
            "QUORUM_*",
        ],
    ),
    (NO_XEN, &["COLO_EXIT"]),
    (NO_MEMORY_HOTPLUG, &["ACPI_DEVICE_OST", "*BALLOON_*"]),
    (PLAIN_CHARDEVS, &["VSERPORT_CHANGE"]),
    (
        "a network's socket is watched by the program, and connects again by itself",
        &["NETDEV_*"],
    ),
    (
        "a primary is let go of before a migration: its state does not travel",
        &["VFIO_MIGRATION"],
    ),
    (NO_VSOCK, &["VFU_*", "WATCHDOG"]),
    (
        "the guest's memory is not dumped, and it tells nothing of its crash but that it panicked",
        &["DUMP_COMPLETED", "GUEST_CRASHLOADED", "GUEST_PVSHUTDOWN"],
    ),
    (
        "a memory error of the host's ends the program, as it does without a handler",
        &["MEMORY_FAILURE"],
    ),
    ("sleep to disk is not simulated", &["SUSPEND_DISK"]),
];

const OPTIONS: &[Heading] = &[
    (
        NO_SCREEN,
        &["-full-screen", "-spice", "-vnc", "vnc", "-echr"],
    ),
    (
        RAW_DISKS,
        &[
            "-cdrom",
            "-fd*",
            "-hd*",
            "-iscsi",
            "iscsi",
            "-mtdblock",
            "-pflash",
            "-sd",
            "-snapshot",
            "drive.*",
        ],
    ),
    (NO_TPM, &["-tpmdev", "tpmdev"]),
    (NO_XEN, &["-xen-*"]),
    (
        NO_LOAD,
        &[
            "-acpitable",
            "acpi",
            "-dtb",
            "-fw_cfg",
            "fw_cfg",
            "-loadvm",
            "-option-rom",
            "option-rom",
            "-shim",
            "-smbios",
            "smbios",
            "boot-opts.*",
            "machine.firmware",
            "machine.*dtb",
            "machine.dt-compatible",
            "machine.phandle-start",
            "machine.shim",
            "machine.max-fw-size",
            "machine.x-option-roms",
            "machine.smbios-*",
            "machine.x-oem-*",
        ],
    ),
    (
        NO_EMULATOR,
        &[
            "-debugcon",
            "-dfilter",
            "-enable-sync-profile",
            "-gdb",
            "-icount",
            "icount",
            "-jitdump",
            "-perfmap",
            "-plugin",
            "plugin",
            "-s",
            "-seed",
            "-trace",
            "trace",
            "-win2k-hack",
            "-dump-vmstate",
            "-compat",
            "compat",
        ],
    ),
    (
        "memory is described by -m and an object of memory-backend-*; there are no NUMA nodes, and none is added later",
        &[
            "-mem-path",
            "-mem-prealloc",
            "-numa",
            "numa",
            "memory.*",
            "machine.memory-encryption",
            "machine.max-ram-below-4g",
            "machine.aux-ram-share",
            "machine.sgx-epc",
            "machine.confidential-guest-support",
        ],
    ),
    (
        "the whole configuration stands on the command line",
        &[
            "--preconfig",
            "-readconfig",
            "-set",
            "-run-with",
            "run-with",
            "",
            "sandbox",
            "sandbox.*",
            "global.*",
            "net",
            "nic",
        ],
    ),
    (
        NO_VSOCK,
        &[
            "-fsdev",
            "fsdev",
            "-usb*",
            "-virtfs",
            "virtfs",
            "machine.vfio-user",
            "machine.cxl",
        ],
    ),
    (PLAIN_CHARDEVS, &["chardev.*"]),
    (
        "taken or refused by -machine itself, and told of in options.md; QEMU lists each device of its board as a switch",
        &["machine.*"],
    ),
    (
        "a level of the processors' topology that x86 has not, or that is refused",
        &["smp-opts.*"],
    ),
    (
        "there is no watchdog, and a guest that panicked is told of by its event",
        &["action.*"],
    ),
    ("the process's name is the program's", &["name.process"]),
];

const PROPERTIES: &[Heading] = &[
    (
        "how QEMU's tree of objects is built; it is not set by a user",
        &[
            "busnr",
            "virtio-backend",
            "backend_defaults",
            "serial",
            "index",
        ],
    ),
    (
        "a detail of PCI Express that older machine types of QEMU's switch off, for their own migration",
        &["x-pcie-*", "x-pci-express-*"],
    ),
    (
        "of a graphics device that is passed through",
        &["x-igd-*", "x-nv-*", "xres", "yres", "ramfb"],
    ),
    (
        "the state of a function is not migrated: a primary is let go of",
        &["migration-events", "x-migration-*", "skip-vsc-check"],
    ),
    (
        "the function is shown to the guest as it is",
        &["x-pci-*", "x-msix-relocation"],
    ),
    (
        "functions of a PF that vfio-pci has, too, are not opened",
        &["vf-token"],
    ),
    (
        "the receive-side filter is not loaded into the kernel",
        &["ebpf-rss-fds"],
    ),
    (
        RAW_DISKS,
        &[
            "account-*",
            "class",
            "cyls",
            "heads",
            "secs",
            "lcyls",
            "lheads",
            "lsecs",
            "discard_granularity",
            "iothread-vq-mapping",
            "max-*",
            "min_io_size",
            "opt_io_size",
            "report-discard-granularity",
            "rerror",
            "werror",
            "x-enable-wce-*",
        ],
    ),
    ("the clock of a serial port is not simulated", &["baudbase"]),
];

/// The headings of a kind, each with the names under it; and the names that are under none.
pub(super) fn sort<'n>(
    about: About,
    names: &[&'n str],
) -> (Vec<(&'static str, Vec<&'n str>)>, Vec<&'n str>) {
    let headings = match about {
        About::Commands => COMMANDS,
        About::Events => EVENTS,
        About::Options => OPTIONS,
        About::Properties => PROPERTIES,
    };
    let mut sorted: Vec<(&'static str, Vec<&str>)> =
        headings.iter().map(|(why, _)| (*why, Vec::new())).collect();
    let mut unknown = Vec::new();
    for name in names {
        let under = |(_, patterns): &Heading| patterns.iter().any(|each| matches(each, name));
        match headings
            .iter()
            .position(under)
            .and_then(|at| sorted.get_mut(at))
        {
            Some((_, list)) => list.push(name),
            None => unknown.push(*name),
        }
    }
    sorted.retain(|(_, list)| !list.is_empty());
    (sorted, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_under_the_first_heading_that_fits_or_under_none() {
        let (sorted, unknown) = sort(
            About::Commands,
            &["query-vnc-servers", "nope", "x-query-jit"],
        );
        assert_eq!(
            sorted,
            [
                (NO_SCREEN, vec!["query-vnc-servers"]),
                (NO_EMULATOR, vec!["x-query-jit"])
            ]
        );
        assert_eq!(unknown, ["nope"]);
    }
}
