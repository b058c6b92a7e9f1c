//! L1 from outside: starting and stopping the nested lab host.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::channel::Channel;
use crate::initramfs::{self, Image};
use crate::kernel::Kernel;
use crate::progress::say;
use crate::state::{CHANNELS, StateDir};
use crate::topology;
use crate::{kernel, packages};

/// How long L1 may take from its start until its agent answers; a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// How L1 is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// L1's memory in MiB.
    pub memory_mib: u32,
    /// L1's processors.
    pub cpus: u32,
    /// L1's niceness on this machine.
    pub nice: i32,
    /// Whether L1 ends when the process that started it ends.
    pub die_with_parent: bool,
    /// L1's kernel, as `make install modules_install` leaves it in a folder; Debian's, if none is named. Guests always
    /// have Debian's.
    pub kernel: Option<PathBuf>,
    /// The program to start L1 through: one that has the `exec` subcommand of [`crate::launch`].
    pub launcher: PathBuf,
}

/// A running L1.
#[derive(Debug)]
pub struct L1 {
    state: StateDir,
    process: Recorded,
    kernel: String,
}

/// A process id and what tells it from a later process of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Recorded {
    pid: i32,
    started: u64,
}

impl Recorded {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let mut fields = after_name.split_whitespace();
        if fields.next() == Some("Z") {
            return None;
        }
        // Field 22 of the whole line, the start time; the state was field 3.
        Some(Self {
            pid,
            started: fields.nth(18)?.parse().ok()?,
        })
    }

    fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn kill(self, signal: Signal) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl L1 {
    /// The L1 of this state folder, if it runs.
    pub fn running(state: &StateDir) -> Option<Self> {
        let text = fs::read_to_string(state.l1_pid()).ok()?;
        let mut words = text.split_whitespace();
        let process = Recorded {
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
        };
        let kernel = words.next().unwrap_or_default().to_owned();
        process.alive().then(|| Self {
            state: state.clone(),
            process,
            kernel,
        })
    }

    /// Starts L1, installing and building what it needs, and waits for its agent.
    pub fn start(state: &StateDir, agent: &Path, options: &Options) -> Result<Self> {
        let lock = File::create(state.lock())?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            say("waiting for another lab command on the same folder");
            flock(&lock, FlockOperation::LockExclusive)?;
        }
        if let Some(running) = Self::running(state) {
            return Ok(running);
        }
        prepare(state, agent)?;
        let (debian, busybox) = kernel::ensure(state)?;
        let kernel = match &options.kernel {
            Some(folder) => Kernel::installed(folder)?,
            None => debian,
        };
        let image = initramfs::ensure(Image::Host, &state.cache(), &kernel, &busybox, agent)?;
        say(format!("lab host: starting (kernel {})", kernel.release));
        let begun = Instant::now();
        let mut child = spawn(state, &kernel.image, &image, options)?;
        let pid = i32::try_from(child.id())?;
        let process = Recorded::of(pid).context("the lab host's VMM ended at once")?;
        fs::write(
            state.l1_pid(),
            format!("{} {} {}\n", process.pid, process.started, kernel.release),
        )?;
        let l1 = Self {
            state: state.clone(),
            process,
            kernel: kernel.release,
        };
        if let Err(error) = l1.wait_for_agent(&mut child) {
            l1.stop();
            return Err(error);
        }
        say(format!(
            "lab host: up after {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(l1)
    }

    fn wait_for_agent(&self, child: &mut Child) -> Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the lab host ended ({status}): {}\n{}",
                    tail(&self.state.l1_vmm_log()),
                    tail(&self.state.l1_log())
                );
            }
            // The console says when there is somebody to greet.
            if fs::read_to_string(self.state.l1_log()).is_ok_and(|log| log.contains("L1-UP")) {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "the lab host did not come up within {} s:\n{}",
                    BOOT_LIMIT.as_secs(),
                    tail(&self.state.l1_log())
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Channel::take(&self.state)?.greet(Duration::from_secs(60))
    }

    /// The process that emulates L1.
    pub fn pid(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// The release of its kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// A channel to the agent, greeted.
    pub fn channel(&self) -> Result<Channel> {
        let mut channel = Channel::take(&self.state)?;
        channel.greet(Duration::from_secs(30))?;
        Ok(channel)
    }

    /// Ends L1 and everything in it; waits until it is gone.
    pub fn stop(&self) {
        self.process.kill(Signal::TERM);
        let patience = Instant::now() + Duration::from_secs(5);
        while self.process.alive() {
            if Instant::now() > patience {
                self.process.kill(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_file(self.state.l1_pid());
        for index in 0..CHANNELS {
            let _ = fs::remove_file(self.state.root().join(StateDir::channel_socket(index)));
        }
        let _ = fs::remove_file(self.state.root().join("l1.qmp"));
    }
}

/// Puts what guests need where L1 sees it: the kernel and the two guest images.
pub fn prepare(state: &StateDir, agent: &Path) -> Result<()> {
    packages::ensure(state)?;
    let (kernel, busybox) = kernel::ensure(state)?;
    let share = state.share();
    publish(&kernel.image, &share.join("vmlinuz"))?;
    fs::write(share.join("kernel-release"), &kernel.release)?;
    initramfs::ensure(Image::Guest, &share, &kernel, &busybox, agent)?;
    initramfs::ensure(Image::GuestIperf, &share, &kernel, &busybox, agent)?;
    publish(agent, &share.join("lab-agent"))
}

/// Makes `target` the same as `source`; a hard link where that is possible.
pub fn publish(source: &Path, target: &Path) -> Result<()> {
    let fresh = target.with_extension("new");
    let _ = fs::remove_file(&fresh);
    if fs::hard_link(source, &fresh).is_err() {
        fs::copy(source, &fresh)
            .with_context(|| format!("cannot copy {} to {}", source.display(), fresh.display()))?;
    }
    fs::rename(&fresh, target).with_context(|| format!("cannot replace {}", target.display()))
}

fn spawn(state: &StateDir, kernel: &Path, image: &Path, options: &Options) -> Result<Child> {
    let qemu = packages::find_program("qemu-system-x86_64")
        .context("qemu-system-x86_64 is not installed")?;
    let _ = fs::remove_file(state.l1_log());
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(state.l1_vmm_log())?;
    let mut command = Command::new(&options.launcher);
    command.args(["exec", "--session", &format!("--nice={}", options.nice)]);
    if options.die_with_parent {
        command.arg("--die-with-parent");
    }
    command.arg("--").arg(qemu);
    // phys-bits: with more, the BARs of igb's VFs land above 4 GiB, where QEMU maps them wrongly.
    command.args([
        "-name",
        "lab-host",
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
    ]);
    command.args(["-cpu", "EPYC-v4,+svm,+npt,+x2apic,phys-bits=36"]);
    command.args([
        "-smp",
        &options.cpus.to_string(),
        "-m",
        &options.memory_mib.to_string(),
    ]);
    command.args(["-display", "none", "-no-reboot", "-nodefaults"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command.args([
        "-append",
        "console=ttyS0 panic=-1 quiet mitigations=off intel_iommu=on iommu=pt",
    ]);
    command.args([
        "-serial",
        "file:l1.log",
        "-qmp",
        "unix:l1.qmp,server=on,wait=off",
    ]);
    command.args([
        "-device",
        "intel-iommu,intremap=on,eim=on",
        "-device",
        "virtio-serial-pci,max_ports=8",
    ]);
    for index in 0..CHANNELS {
        let socket = StateDir::channel_socket(index);
        command.args([
            "-chardev",
            &format!("socket,id=agent{index},path={socket},server=on,wait=off"),
        ]);
        command.args([
            "-device",
            &format!("virtserialport,chardev=agent{index},name=lab.{index}"),
        ]);
    }
    for (tag, path, writable) in [
        ("root", PathBuf::from("/"), false),
        ("share", state.share(), false),
        ("out", state.out(), true),
    ] {
        let path = path
            .to_str()
            .context("the state folder's name is not UTF-8")?
            .replace(',', ",,");
        let access = if writable { "" } else { ",readonly=on" };
        command.args([
            "-fsdev",
            &format!("local,id={tag},path={path},security_model=none,multidevs=remap{access}"),
        ]);
        command.args([
            "-device",
            &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        ]);
    }
    command.args(topology::l1_devices());
    command
        .current_dir(state.root())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", options.launcher.display()))
}

fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let from = text.len().saturating_sub(3000);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}
