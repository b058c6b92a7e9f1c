//! A virtual machine under test: which VMM, with which command line, and its running process.
//!
//! QEMU and Standfast are given the very same options.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::guest::agent::Reply;
use crate::qmp::Qmp;
use crate::serial::{Agent, Console};

/// A virtual machine monitor under test.
#[derive(Debug, Clone)]
pub struct Vmm {
    /// Its name in reports: `qemu` or `standfast`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
}

/// A standby with the primary that belongs to it.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The guest's MAC address on it.
    pub mac: String,
    /// The guest's IPv4 address on it.
    pub address: String,
    /// The tap behind the standby.
    pub tap: String,
    /// The primary's PCI address on the host, if it has one from the start.
    pub primary: Option<String>,
    /// The standby's `failover` property.
    pub failover: bool,
    /// The tap's frames are moved by the host's kernel.
    pub vhost: bool,
    /// Further properties of the standby, each after a comma.
    pub properties: String,
}

/// How the VMM comes by `/dev/iommu` and by the first primary's character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iommufd {
    /// It opens them.
    Opened,
    /// It is started with them open, as these descriptors.
    Given {
        /// `/dev/iommu`.
        iommu: i32,
        /// `/dev/vfio/devices/vfioN`.
        function: i32,
    },
}

impl Iommufd {
    /// The object's id.
    pub const ID: &str = "iommufd0";
}

/// What a virtual machine is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, which names its folder too.
    pub name: String,
    /// The network namespace the VMM runs in.
    pub netns: Option<String>,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's image.
    pub initrd: PathBuf,
    /// Words added to the kernel's command line.
    pub append: Vec<String>,
    /// Its pairs, the first on root1 and root2, the next on root3 and root4.
    pub pairs: Vec<Pair>,
    /// Root ports beyond those of the pairs.
    pub spare_ports: usize,
    /// Native PCIe hotplug instead of ACPI's.
    pub native_hotplug: bool,
    /// A guest that resets its machine boots again; without, the VMM ends.
    pub reboots: bool,
    /// Wait for a migration from here.
    pub incoming: Option<String>,
    /// Primaries are had by iommufd, not by their groups.
    pub iommufd: Option<Iommufd>,
    /// Options added at the end.
    pub extra: Vec<String>,
    /// Show the console while it runs.
    pub show_console: bool,
}

impl Config {
    /// The options: those of the seed document for one pair.
    pub fn options(&self, folder: &Path) -> Vec<String> {
        let mut options = Vec::new();
        let mut option = |name: &str, value: &str| {
            options.push(name.to_owned());
            if !value.is_empty() {
                options.push(value.to_owned());
            }
        };
        let socket =
            |name: &str| format!("unix:{},server=on,wait=off", folder.join(name).display());
        let mut append = "console=ttyS0 panic=-1 quiet mitigations=off".to_owned();
        for word in self
            .pairs
            .iter()
            .map(|pair| format!("lab.ip={},{}/24", pair.mac, pair.address))
        {
            append.push(' ');
            append.push_str(&word);
        }
        for word in &self.append {
            append.push(' ');
            append.push_str(word);
        }
        option("-name", &self.name);
        option("-M", "q35");
        option("-accel", "kvm");
        option("-cpu", "host");
        option("-m", &self.memory_mib.to_string());
        option("-nodefaults", "");
        option("-display", "none");
        if !self.reboots {
            option("-no-reboot", "");
        }
        option("-kernel", &self.kernel.to_string_lossy());
        option("-initrd", &self.initrd.to_string_lossy());
        option("-append", &append);
        option("-serial", &socket("console"));
        option("-serial", &socket("agent"));
        option("-qmp", &socket("qmp"));
        if self.native_hotplug {
            option(
                "-global",
                "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            );
        }
        for port in 1..=self.pairs.len() * 2 + self.spare_ports {
            option(
                "-device",
                &format!("pcie-root-port,id=root{port},bus=pcie.0,chassis={port},slot={port}"),
            );
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            let (number, standby_port) = (index + 1, index * 2 + 2);
            let failover = if pair.failover { ",failover=on" } else { "" };
            let vhost = if pair.vhost { ",vhost=on" } else { "" };
            let Pair {
                mac,
                tap,
                properties,
                ..
            } = pair;
            option(
                "-netdev",
                &format!("tap,id=hostnet{number},ifname={tap},script=no,downscript=no{vhost}"),
            );
            option(
                "-device",
                &format!(
                    "virtio-net-pci,netdev=hostnet{number},id=net{number},mac={mac},bus=root{standby_port}{failover}{properties}"
                ),
            );
        }
        let fd = |fd: Option<i32>| fd.map_or_else(String::new, |fd| format!(",fd={fd}"));
        let (iommu, function) = match self.iommufd {
            Some(Iommufd::Given { iommu, function }) => (Some(iommu), Some(function)),
            _ => (None, None),
        };
        let by = self.iommufd.map_or_else(String::new, |_| {
            format!(",iommufd={}{}", Iommufd::ID, fd(function))
        });
        if self.iommufd.is_some() {
            option(
                "-object",
                &format!("iommufd,id={}{}", Iommufd::ID, fd(iommu)),
            );
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            if let Some(host) = &pair.primary {
                option(
                    "-device",
                    &format!(
                        "vfio-pci,host={host},id=hostdev{index},bus=root{},failover_pair_id=net{}{by}",
                        index * 2 + 1,
                        index + 1
                    ),
                );
            }
        }
        if let Some(uri) = &self.incoming {
            option("-incoming", uri);
        }
        options.extend(self.extra.iter().cloned());
        options
    }
}

/// A running virtual machine; it ends when this is dropped.
pub struct Vm {
    /// What it was started as.
    pub config: Config,
    /// Its monitor.
    pub qmp: Qmp,
    /// Its console.
    pub console: Console,
    /// Its guest's agent.
    pub agent: Agent,
    child: Child,
    folder: PathBuf,
}

/// How long the VMM may take to open its sockets.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

impl Vm {
    /// Starts the VMM and connects with it; the guest is not waited for. `runs` is where the
    /// machine's folder goes.
    pub fn start(vmm: &Vmm, config: Config, runs: &Path) -> Result<Self> {
        let folder = runs.join(&config.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let options = config.options(&folder);
        let mut shown = format!("{}", vmm.program.display());
        for word in &options {
            shown.push_str(if word.starts_with('-') {
                " \\\n  "
            } else {
                " "
            });
            shown.push_str(&if word.contains(' ') {
                format!("'{word}'")
            } else {
                word.clone()
            });
        }
        fs::write(folder.join("command-line"), shown + "\n")?;
        let said = File::create(folder.join("said"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["exec", "--session", "--die-with-parent"]);
        if let Some(name) = &config.netns {
            command.args(["--netns", name]);
        }
        command
            .arg("--stamp")
            .arg(folder.join("started"))
            .arg("--")
            .arg(&vmm.program)
            .args(&options);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("cannot start the launcher")?;
        match Self::connect(&mut child, &folder, &config) {
            Ok((qmp, console, agent)) => Ok(Self {
                config,
                qmp,
                console,
                agent,
                child,
                folder,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn connect(child: &mut Child, folder: &Path, config: &Config) -> Result<(Qmp, Console, Agent)> {
        let deadline = Instant::now() + SOCKET_LIMIT;
        let mut open = |name: &str| -> Result<UnixStream> {
            loop {
                if let Ok(stream) = UnixStream::connect(folder.join(name)) {
                    return Ok(stream);
                }
                let said = || fs::read_to_string(folder.join("said")).unwrap_or_default();
                if let Some(status) = child.try_wait()? {
                    bail!("the VMM ended ({status}): {}", said().trim());
                }
                if Instant::now() > deadline {
                    bail!(
                        "the VMM opened no socket for its {name} within {} s: {}",
                        SOCKET_LIMIT.as_secs(),
                        said().trim()
                    );
                }
                thread::sleep(Duration::from_millis(2));
            }
        };
        let echo = config.show_console.then(|| format!("{}|", config.name));
        let console = Console::follow(open("console")?, echo);
        let agent = Agent::follow(open("agent")?)?;
        let qmp = Qmp::open(open("qmp")?)?;
        Ok((qmp, console, agent))
    }

    /// When the VMM was started, in microseconds.
    pub fn started_us(&self) -> Result<i64> {
        fs::read_to_string(self.folder.join("started"))?
            .trim()
            .parse()
            .context("no start time")
    }

    /// What the VMM said on stdout and stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the VMM's last words and events if its process has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let events = self.qmp.events();
            let last: Vec<String> = events
                .iter()
                .skip(events.len().saturating_sub(3))
                .map(|event| format!("{} {}", event.name, event.data))
                .collect();
            bail!(
                "{}: the VMM ended ({status}) and said {:?}; its last events: {}",
                self.config.name,
                self.said().trim(),
                last.join(", ")
            );
        }
        Ok(())
    }

    /// The guest's state now; fails with the VMM's last words if that is why there is none.
    pub fn state(&mut self) -> Result<Reply> {
        let state = self.agent.state();
        if state.is_err() {
            // The sockets of a process that ends are closed before it can be waited for.
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline {
                self.check_alive()?;
                thread::sleep(Duration::from_millis(10));
            }
        }
        state.with_context(|| self.config.name.clone())
    }

    /// Waits for a line of the guest's console, and fails early if the VMM ends.
    pub fn wait_console(&mut self, text: &str, limit: Duration) -> Result<i64> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((time, _)) = self.console.wait(text, Duration::from_secs(1)) {
                return Ok(time);
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                let lines = self.console.lines();
                let last: Vec<&str> = lines
                    .iter()
                    .skip(lines.len().saturating_sub(8))
                    .map(|(_, line)| line.as_str())
                    .collect();
                bail!(
                    "{}: no \"{text}\" on the console within {} s; it ends with:\n  {}",
                    self.config.name,
                    limit.as_secs(),
                    last.join("\n  ")
                );
            }
        }
    }

    /// Asks the VMM to quit and waits for its end.
    pub fn quit(&mut self) -> Result<ExitStatus> {
        // The connection may close before the answer is out.
        let _ = self.qmp.execute("quit", json!({}));
        self.wait_exit(Duration::from_secs(20))
    }

    /// Waits for the VMM's end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{}: the VMM did not end within {} s",
                    self.config.name,
                    limit.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the VMM, as a crash of its host would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Writes the console and the events beside what the VMM said.
    pub fn save_logs(&self) {
        let console: String = self
            .console
            .lines()
            .iter()
            .map(|(time, line)| format!("{:.6} {line}\n", seconds(*time)))
            .collect();
        let _ = fs::write(self.folder.join("console.log"), console);
        let events: String = self
            .qmp
            .events()
            .iter()
            .map(|event| {
                format!(
                    "{:.6} {} {}\n",
                    seconds(event.time_us),
                    event.name,
                    event.data
                )
            })
            .collect();
        let _ = fs::write(self.folder.join("events.log"), events);
    }
}

fn seconds(time_us: i64) -> f64 {
    time_us as f64 / 1e6
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.save_logs();
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_is_the_seed_documents() {
        let config = Config {
            name: "vm".into(),
            netns: None,
            memory_mib: 256,
            kernel: "k".into(),
            initrd: "i".into(),
            append: vec!["lab.skip=x".into()],
            pairs: vec![Pair {
                mac: "52:54:00:6f:55:cc".into(),
                address: "10.9.0.2".into(),
                tap: "tap0".into(),
                primary: Some("5e:00.2".into()),
                failover: true,
                vhost: false,
                properties: String::new(),
            }],
            spare_ports: 0,
            native_hotplug: false,
            reboots: false,
            incoming: Some("tcp:10.1.0.2:4444".into()),
            iommufd: None,
            extra: Vec::new(),
            show_console: false,
        };
        let options = config.options(Path::new("/run/x"));
        let devices: Vec<&str> = options
            .windows(2)
            .filter(|pair| pair[0] == "-device")
            .map(|pair| pair[1].as_str())
            .collect();
        assert_eq!(
            devices,
            [
                "pcie-root-port,id=root1,bus=pcie.0,chassis=1,slot=1",
                "pcie-root-port,id=root2,bus=pcie.0,chassis=2,slot=2",
                "virtio-net-pci,netdev=hostnet1,id=net1,mac=52:54:00:6f:55:cc,bus=root2,failover=on",
                "vfio-pci,host=5e:00.2,id=hostdev0,bus=root1,failover_pair_id=net1",
            ]
        );
        assert!(
            options.contains(&"tap,id=hostnet1,ifname=tap0,script=no,downscript=no".to_owned())
        );
        assert!(
            options
                .iter()
                .any(|word| word.ends_with(" lab.ip=52:54:00:6f:55:cc,10.9.0.2/24 lab.skip=x"))
        );
        assert!(!options.iter().any(|word| word.is_empty()));
    }
}
