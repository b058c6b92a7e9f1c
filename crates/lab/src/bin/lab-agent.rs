//! The lab's one program inside its machines: init of the lab host, agent of the lab host, init of
//! the guest, launcher, and the runner of scenarios. Static, so that it runs in all of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use lab::native::NativeOptions;
use lab::progress::say;
use lab::scenario::demo::DemoOptions;
use lab::scenario::{self, Bench};
use lab::site::{PrimaryKind, Site};
use lab::vm::Vmm;
use rustix::fs::{FlockOperation, flock};

#[derive(Parser)]
#[command(about = "The lab's program inside its machines")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve commands in the lab host.
    HostServer,
    /// Become another program.
    Exec(lab::launch::Launch),
    /// Run scenarios; each is said to have passed or failed.
    Scenarios {
        #[command(flatten)]
        place: Place,
        /// The scenarios to run [default: all].
        names: Vec<String>,
    },
    /// Boot a guest with its pair and keep it until this is interrupted.
    Guest {
        #[command(flatten)]
        place: Place,
        /// Boot it without the primary.
        #[arg(long)]
        no_primary: bool,
    },
    /// Do the main job once; the report is the last line of stdout.
    Demo {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        options: DemoOptions,
    },
}

/// Where scenarios run, and with what.
#[derive(Args)]
struct Place {
    /// The VMM under test: `qemu`, `standfast`, or NAME=PROGRAM.
    #[arg(long, default_value = "standfast")]
    vmm: String,
    /// Show the guests' consoles.
    #[arg(long)]
    console: bool,
    /// The NIC that is the primary.
    #[arg(long, value_enum, default_value = "vf")]
    primary: PrimaryKind,
    #[command(flatten)]
    native: NativeOptions,
    /// Locked for as long as the site is in use.
    #[arg(long, default_value = "/run/lab-site.lock")]
    lock: PathBuf,
}

impl Place {
    fn bench(&self) -> Result<Bench> {
        let lab = Path::new(lab::host::init::LAB);
        let stage = self
            .native
            .share
            .clone()
            .unwrap_or_else(|| lab.join("stage"));
        let (name, program) = match (self.vmm.as_str(), self.vmm.split_once('=')) {
            (_, Some((name, program))) => (name, PathBuf::from(program)),
            ("qemu", _) => {
                let program = lab::packages::find_program("qemu-system-x86_64");
                (
                    "qemu",
                    program.context("qemu-system-x86_64 is not installed")?,
                )
            }
            (name, _) => (name, stage.join(name)),
        };
        if !program.is_file() {
            bail!("there is no {}", program.display());
        }
        let lock = File::create(&self.lock).context("cannot create the site's lock")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another scenario, demo or guest is running in this lab host");
        }
        let (site, native) = match lab::native::site(&self.native)? {
            Some((site, guard)) => (site, Some(guard)),
            None => (Site::ensure(&site_record())?, None),
        };
        let runs = match &native {
            Some(_) => PathBuf::from(format!("/run/lab-{}", std::process::id())),
            None => lab.join("vm"),
        };
        Ok(Bench {
            lock,
            site,
            vmm: Vmm {
                name: name.to_owned(),
                program,
            },
            kernel: stage.join("vmlinuz"),
            images: stage,
            runs,
            show_console: self.console,
            primary: self.primary,
            memory_mib: 256,
            native,
        })
    }

    fn logs(&self) -> PathBuf {
        match self.native.share.as_deref().and_then(Path::parent) {
            Some(state) => state.join("out"),
            None => Path::new(lab::host::init::LAB).join("out"),
        }
    }
}

/// Where it is noted what the two hosts have.
fn site_record() -> PathBuf {
    Path::new(lab::host::init::LAB).join("site.json")
}

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        return init();
    }
    match act(Cli::parse().role) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(role: Role) -> Result<ExitCode> {
    match role {
        Role::HostServer => lab::host::server::run()?,
        Role::Exec(launch) => launch.exec()?,
        Role::Scenarios { place, names } => return scenarios(&place, &names),
        Role::Guest { place, no_primary } => guest(&place, no_primary)?,
        Role::Demo { place, options } => {
            let mut bench = place.bench()?;
            bench.memory_mib = options.memory;
            // No more than are needed: a NIC with all its functions in use gives each fewer queues.
            let wanted = options.pairs.max(2);
            let there = bench.site.hosts.iter().all(|h| h.functions.len() == wanted);
            if bench.native.is_some() {
                anyhow::ensure!(
                    options.pairs == 1,
                    "on this machine itself one pair is measured"
                );
            } else if !there {
                bench.site.set_pairs(&site_record(), wanted)?;
            }
            let result = scenario::demo::run(&bench, &options);
            scenario::keep_logs(
                &bench.runs,
                &place.logs().join(&bench.vmm.name).join("demo"),
            );
            println!("{}", serde_json::to_string(&result?)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn scenarios(place: &Place, names: &[String]) -> Result<ExitCode> {
    let mut bench = place.bench()?;
    let ended = scenario::run_all(&mut bench, names, &place.logs())?;
    println!(
        "lab scenarios: {} passed, {} failed, {} skipped",
        ended.passed,
        ended.failed.len(),
        ended.skipped
    );
    Ok(if ended.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn guest(place: &Place, no_primary: bool) -> Result<()> {
    let mut bench = place.bench()?;
    bench.show_console = true;
    bench.site.reset(bench.primary)?;
    let mut config = bench.config("guest", 0)?;
    if no_primary {
        for pair in &mut config.pairs {
            pair.primary = None;
        }
    }
    let mut vm = bench.start(config)?;
    say(format!(
        "sockets, command line and output: {}",
        bench.runs.join("guest").display()
    ));
    let init = vm.wait_console("GUEST-INIT", scenario::BOOT_LIMIT)?;
    say(format!(
        "{} ms from exec to init",
        (init - vm.started_us()?) / 1000
    ));
    vm.wait_console("GUEST-READY", scenario::BOOT_LIMIT)?;
    if no_primary {
        bench.reachable(0)?;
    } else {
        bench.settled(&mut vm)?;
    }
    say("the guest is up and answers; interrupt to end it");
    loop {
        vm.check_alive()?;
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Process 1 never ends by returning: the kernel would panic before the reason is read.
fn init() -> ExitCode {
    // The two images are told apart by what they hold.
    let host = Path::new("/").join(lab::initramfs::HOST_MARK).exists();
    let ended = if host {
        lab::host::init::run()
    } else {
        lab::guest::init::run()
    };
    match ended {
        Ok(()) => println!("lab: init is done"),
        Err(error) => println!("lab: init failed: {error:#}"),
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::FAILURE
}
