//! Scenarios: what is done with guests, and what has to be true then.

pub mod bad_input;
pub mod board;
pub mod boot;
pub mod demo;
pub mod faults;
pub mod hotplug;
pub mod iommufd;
pub mod lost;
pub mod measure;
pub mod memory;
pub mod migrate;
pub mod native;
mod operator;
pub mod pairs;
mod relay;
pub mod steered;
pub mod stubborn;
pub mod vhost;

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::guest::agent::Reply;
use crate::guest::links;
use crate::progress::say;
use crate::seen::Seen;
use crate::site::{MACS, PrimaryKind, Site, guest_address};
use crate::traffic::ping;
use crate::vm::{Config, Pair, Vm, Vmm};

/// How long a guest may take to boot: the lab is emulated, and the machine may be busy.
pub const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long a primary may take to be back in the guest and carry.
pub const PRIMARY_LIMIT: Duration = Duration::from_secs(90);
/// How long a guest may take to answer the client.
pub const REACH_LIMIT: Duration = Duration::from_secs(40);

/// Where and with what scenarios run.
pub struct Bench {
    /// The hosts.
    pub site: Site,
    /// The VMM under test.
    pub vmm: Vmm,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The folder of the guest's images.
    pub images: PathBuf,
    /// The folder in which every machine has its own.
    pub runs: PathBuf,
    /// Show the guests' consoles.
    pub show_console: bool,
    /// The NIC that is the primary.
    pub primary: PrimaryKind,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// What undoes the use of this machine itself, where that is the site.
    pub native: Option<crate::native::Guard>,
    /// Held as long as the site is in use.
    pub lock: fs::File,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.native.is_some() {
            let _ = fs::remove_dir_all(&self.runs);
        }
    }
}

impl Bench {
    /// The configuration of a guest with one pair on a host.
    pub fn config(&self, name: &str, host: usize) -> Result<Config> {
        let place = self.host(host)?;
        let primary = match self.primary {
            PrimaryKind::Vf => place.functions.first().cloned(),
            PrimaryKind::E1000e => place.e1000e.clone(),
        };
        Ok(Config {
            name: name.to_owned(),
            netns: place.netns.clone(),
            memory_mib: self.memory_mib,
            kernel: self.kernel.clone(),
            initrd: self.images.join("guest.img"),
            append: Vec::new(),
            pairs: vec![Pair {
                mac: mac(0),
                address: address(0).to_string(),
                tap: place.taps.first().cloned().context("the host has no tap")?,
                primary: Some(primary.context("the host has no NIC to pass through")?),
                failover: true,
                vhost: false,
                properties: String::new(),
            }],
            spare_ports: 0,
            native_hotplug: false,
            reboots: false,
            incoming: None,
            iommufd: None,
            extra: Vec::new(),
            show_console: self.show_console,
        })
    }

    /// The same, with a plain virtio-net device instead of the pair.
    pub fn plain_config(&self, name: &str, host: usize) -> Result<Config> {
        let mut config = self.config(name, host)?;
        for pair in &mut config.pairs {
            pair.primary = None;
            pair.failover = false;
        }
        Ok(config)
    }

    /// The same as [`Bench::config`], with `count` pairs.
    pub fn config_pairs(&self, name: &str, host: usize, count: usize) -> Result<Config> {
        let mut config = self.config(name, host)?;
        let place = self.host(host)?;
        for index in 1..count {
            let (Some(tap), Some(function)) = (place.taps.get(index), place.functions.get(index))
            else {
                bail!("the host has taps and VFs for {index} pairs only");
            };
            config.pairs.push(Pair {
                mac: mac(index),
                address: address(index).to_string(),
                tap: tap.clone(),
                primary: Some(function.clone()),
                failover: true,
                vhost: false,
                properties: String::new(),
            });
        }
        Ok(config)
    }

    /// One of the two hosts.
    pub fn host(&self, index: usize) -> Result<&crate::site::Host> {
        self.site
            .hosts
            .get(index)
            .context("there are two hosts only")
    }

    /// Where a machine on a host waits for a migration.
    pub fn uri(&self, host: usize) -> Result<String> {
        Ok(format!("tcp:{}:4444", self.host(host)?.address))
    }

    /// Starts a machine; its guest is not waited for.
    pub fn start(&self, config: Config) -> Result<Vm> {
        Vm::start(&self.vmm, config, &self.runs)
    }

    /// Starts a machine and waits for its guest's init to be done.
    pub fn boot(&self, config: Config) -> Result<Vm> {
        let mut vm = self.start(config)?;
        vm.wait_console("GUEST-READY", BOOT_LIMIT)?;
        Ok(vm)
    }

    /// Starts a machine, waits until all its primaries are in use, and checks that it answers.
    pub fn boot_with_primary(&self, config: Config) -> Result<Vm> {
        let mut vm = self.boot(config)?;
        self.settled(&mut vm)?;
        Ok(vm)
    }

    /// Waits until the guest has each of its primaries enslaved and carrying, and answers the
    /// client on every address.
    pub fn settled(&self, vm: &mut Vm) -> Result<Reply> {
        for index in 0..vm.config.pairs.len() {
            self.on_primary(vm, index)?;
        }
        for index in 0..vm.config.pairs.len() {
            self.reachable(index)?;
        }
        vm.check_alive()?;
        vm.state()
    }

    /// Waits until the guest has the primary of one pair enslaved and carrying.
    pub fn on_primary(&self, vm: &mut Vm, index: usize) -> Result<()> {
        let mac = mac(index);
        let has = |reply: &Reply| {
            links::primary(&reply.links, &mac).is_some_and(|(_, link)| link.carrying)
        };
        if has(&vm.state()?)
            || vm
                .agent
                .wait(crate::clock::now_us(), PRIMARY_LIMIT, has)
                .is_some()
        {
            return Ok(());
        }
        vm.check_alive()?;
        let links = vm.state()?.links;
        bail!(
            "{}: the guest has no primary with {mac} that carries: {links:?}",
            vm.config.name
        )
    }

    /// Waits until the guest has no primary for one pair.
    pub fn without_primary(&self, vm: &mut Vm, index: usize) -> Result<()> {
        let mac = mac(index);
        let hasnt = |reply: &Reply| links::primary(&reply.links, &mac).is_none();
        if hasnt(&vm.state()?)
            || vm
                .agent
                .wait(crate::clock::now_us(), PRIMARY_LIMIT, hasnt)
                .is_some()
        {
            return Ok(());
        }
        bail!(
            "{}: the guest still has its primary with {mac}",
            vm.config.name
        )
    }

    /// Steers by hand, for a VMM that leaves it to the operator; Standfast does it itself.
    pub fn operator_steers(&self, host: usize, to_standby: bool) -> Result<()> {
        if self.vmm.name == "standfast" || self.primary != PrimaryKind::Vf {
            return Ok(());
        }
        self.site.steer(host, 0, to_standby)
    }

    /// Once no machine runs on a host: its network is as it was found, no tap is in use, and each VF is with its driver.
    /// That a guest which runs elsewhere is to be found by the wire the bridge may have learned.
    pub fn nothing_left(&self, host: usize, found: &Seen) -> Result<()> {
        let uplink = &self.host(host)?.uplink;
        let own = |seen: &Seen| {
            let mut seen = seen.clone();
            seen.ports.retain(|port| port != uplink);
            seen
        };
        let left = self.site.seen(host, 0)?;
        ensure!(
            own(&left) == own(found),
            "left behind: {left:?}, found: {found:?}"
        );
        let busy = self.site.busy_taps(host)?;
        ensure!(busy.is_empty(), "still in use: {busy:?}");
        for function in &self.host(host)?.functions {
            let driver = fs::read_link(format!("/sys/bus/pci/devices/{function}/driver"));
            ensure!(
                driver.is_ok_and(|driver| driver.ends_with("vfio-pci")),
                "{function} is not with vfio-pci any more"
            );
        }
        Ok(())
    }

    /// Waits until the guest answers the client.
    pub fn reachable(&self, index: usize) -> Result<()> {
        ping::reachable(self.site.client.as_deref(), address(index), REACH_LIMIT)
    }
}

/// The MAC address of a guest's pair.
pub fn mac(index: usize) -> String {
    MACS.get(index).copied().unwrap_or_default().to_owned()
}

/// The IPv4 address of a guest's pair.
pub fn address(index: usize) -> Ipv4Addr {
    guest_address(index)
}

/// A scenario as a test: it fails with a reason or it passes.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The primary it needs.
    pub primary: PrimaryKind,
    run: fn(&Bench) -> Result<()>,
}

/// Why a scenario cannot run here; as its error it makes the scenario neither passed nor failed.
#[derive(Debug)]
pub struct Skipped(pub String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// How scenarios ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// How many passed.
    pub passed: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// How many could not run here.
    pub skipped: usize,
}

/// All scenarios, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "a guest boots, answers, reports its shutdown",
        primary: PrimaryKind::Vf,
        run: boot::boot,
    },
    Scenario {
        name: "board",
        about: "four processors, a disk, random numbers, the clock, resets and the power button, here and on the other host",
        primary: PrimaryKind::Vf,
        run: board::board,
    },
    Scenario {
        name: "memory-backends",
        about: "a guest moves between huge pages, files and plain memory",
        primary: PrimaryKind::Vf,
        run: memory::memory_backends,
    },
    Scenario {
        name: "hot-add",
        about: "a primary added by the monitor joins its standby",
        primary: PrimaryKind::Vf,
        run: hotplug::hot_add,
    },
    Scenario {
        name: "hot-remove-acpi",
        about: "ACPI: a primary leaves in order and comes back",
        primary: PrimaryKind::Vf,
        run: hotplug::remove_acpi,
    },
    Scenario {
        name: "hot-remove-native",
        about: "native PCIe hotplug: the same",
        primary: PrimaryKind::Vf,
        run: hotplug::remove_native,
    },
    Scenario {
        name: "pair-vf",
        about: "the pair with an SR-IOV VF",
        primary: PrimaryKind::Vf,
        run: pairs::pair_vf,
    },
    Scenario {
        name: "pair-e1000e",
        about: "the pair with an e1000e",
        primary: PrimaryKind::E1000e,
        run: pairs::pair_e1000e,
    },
    Scenario {
        name: "migrate-and-back",
        about: "a guest moves to the other host and back",
        primary: PrimaryKind::Vf,
        run: migrate::there_and_back,
    },
    Scenario {
        name: "migrate-e1000e",
        about: "a guest with an e1000e moves",
        primary: PrimaryKind::E1000e,
        run: migrate::once,
    },
    Scenario {
        name: "cancel-wait-unplug",
        about: "a migration cancelled before the guest let go",
        primary: PrimaryKind::Vf,
        run: faults::cancel_wait_unplug,
    },
    Scenario {
        name: "cancel-active",
        about: "a migration cancelled while memory is copied",
        primary: PrimaryKind::Vf,
        run: faults::cancel_active,
    },
    Scenario {
        name: "target-killed",
        about: "the target dies while memory is copied",
        primary: PrimaryKind::Vf,
        run: faults::target_killed,
    },
    Scenario {
        name: "target-refuses",
        about: "a target with another device layout refuses the guest",
        primary: PrimaryKind::Vf,
        run: faults::target_refuses,
    },
    Scenario {
        name: "two-pairs",
        about: "a guest with two pairs moves",
        primary: PrimaryKind::Vf,
        run: pairs::two_pairs,
    },
    Scenario {
        name: "no-standby",
        about: "a guest that does not accept STANDBY moves without a primary",
        primary: PrimaryKind::Vf,
        run: pairs::no_standby,
    },
    Scenario {
        name: "vhost",
        about: "vhost-net: a guest moves to a host without it and back, connected",
        primary: PrimaryKind::Vf,
        run: vhost::there_and_back,
    },
    Scenario {
        name: "iommufd",
        about: "a primary by iommufd leaves, comes back, and moves there and back",
        primary: PrimaryKind::Vf,
        run: iommufd::there_and_back,
    },
    Scenario {
        name: "steered",
        about: "the switch follows a guest by explicit properties, a hook and a VLAN; moved by hand under ping, then to a host with steering off",
        primary: PrimaryKind::Vf,
        run: steered::steered,
    },
    Scenario {
        name: "primary-lost",
        about: "a link down, a target whose VF has another driver, a VF taken from its guest, a target that dies after the guest ran there",
        primary: PrimaryKind::Vf,
        run: lost::primary_lost,
    },
    Scenario {
        name: "stubborn-guest",
        about: "a guest that ignores the request, a stream cut meanwhile, a guest that panics meanwhile",
        primary: PrimaryKind::Vf,
        run: stubborn::stubborn_guest,
    },
    Scenario {
        name: "native",
        about: "the demo on a machine of its own: a host with two NICs",
        primary: PrimaryKind::Vf,
        run: native::native,
    },
    Scenario {
        name: "bad-input",
        about: "wrong options, a busy NIC, a foreign stream: one error each, and nothing left behind",
        primary: PrimaryKind::Vf,
        run: bad_input::bad_input,
    },
];

/// How often a scenario is run at most.
const ATTEMPTS: u32 = 3;

/// Runs scenarios one after the other.
///
/// Logs of each go to `logs/VMM/SCENARIO`.
pub fn run_all(bench: &mut Bench, only: &[String], logs: &Path) -> Result<Ended> {
    for name in only {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!(
                "there is no scenario {name}; there are {}",
                known.join(", ")
            );
        }
    }
    let mut ended = Ended::default();
    let runs = bench.runs.clone();
    for scenario in SCENARIOS {
        if !only.is_empty() && !only.iter().any(|name| name == scenario.name) {
            continue;
        }
        say(format!("{}: {} …", scenario.name, scenario.about));
        bench.primary = scenario.primary;
        bench.runs = runs.join(scenario.name);
        let log = logs.join(&bench.vmm.name).join(scenario.name);
        let begun = Instant::now();
        let mut result = attempt(bench, scenario, &log);
        // In this lab guests are now and then reset by a triple fault or fall silent. It was seen under QEMU once and under
        // Standfast more often; whether the emulated processor or the VMM is at fault is not known. Until it is, a scenario
        // is repeated, each time told, and counted at the end: a pass with repeats is not a clean one.
        for number in 2..=ATTEMPTS {
            let Err(error) = &result else { break };
            if error.is::<Skipped>() {
                break;
            }
            println!("AGAIN   {}: {error:#}", scenario.name);
            result = attempt(bench, scenario, &log.with_extension(number.to_string()));
        }
        let seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                ended.passed += 1;
                println!("ok      {} ({seconds:.1} s)", scenario.name);
            }
            Err(error) if error.is::<Skipped>() => {
                println!("SKIPPED {}: {error:#}", scenario.name);
                ended.skipped += 1;
            }
            Err(error) => {
                println!("FAILED  {} ({seconds:.1} s): {error:#}", scenario.name);
                ended.failed.push(scenario.name.to_owned());
            }
        }
    }
    bench.runs = runs;
    Ok(ended)
}

/// Runs a scenario once, from a fresh site, and keeps its logs.
fn attempt(bench: &mut Bench, scenario: &Scenario, log: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(&bench.runs);
    let result = bench
        .site
        .reset(scenario.primary)
        .and_then(|()| (scenario.run)(bench));
    keep_logs(&bench.runs, log);
    result
}

/// Copies the text files of every machine's folder; its sockets stay.
pub fn keep_logs(runs: &Path, logs: &Path) {
    let _ = fs::remove_dir_all(logs);
    for machine in fs::read_dir(runs).into_iter().flatten().flatten() {
        let target = logs.join(machine.file_name());
        let _ = fs::create_dir_all(&target);
        for file in fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            if file.file_type().is_ok_and(|kind| kind.is_file()) {
                let _ = fs::copy(file.path(), target.join(file.file_name()));
            }
        }
    }
}
