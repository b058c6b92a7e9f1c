//! What each option does to the configuration.

use config::vm::{
    ACCELERATORS, BootConfig, CHARDEV_TYPES, CPU_MODELS, CpuConfig, ELSEWHERE, FdSetMember,
    Incoming, MACHINE_TYPES, MetricsAddress, MonitorMode, NETDEV_TYPES, NameConfig, OBJECT_TYPES,
    QtestLog, RtcBase, SmpConfig, memory_bytes,
};
use config::{Error, OptionError, Options, Source};

use super::super::{Builder, Stop, help, one_line};
use crate::log;

type Outcome = Result<(), Stop>;

/// Text for an option that asks what there is to choose from.
fn choices(argument: &str, heading: &str, rows: &[(&str, &str)]) -> Outcome {
    match argument {
        "help" | "?" => Err(Stop::Print(help::list(heading, rows))),
        _ => Ok(()),
    }
}

/// The same for one that asks with `help` behind a choice, too.
fn listing(argument: &str, heading: &str, rows: &[(&str, &str)]) -> Outcome {
    let behind = argument.contains(',') && argument.ends_with(",help");
    choices(if behind { "help" } else { argument }, heading, rows)
}

fn refuse(message: impl Into<String>) -> Outcome {
    Err(Stop::Wrong(Error::Other(message.into())))
}

pub(super) fn nothing(_: &mut Builder, _: &str) -> Outcome {
    Ok(())
}

pub(super) fn help(_: &mut Builder, _: &str) -> Outcome {
    Err(Stop::Print(help::options()))
}

pub(super) fn version(_: &mut Builder, _: &str) -> Outcome {
    Err(Stop::Print(format!("{}\n", crate::VERSION)))
}

/// Text for an option that asks what one type, its `implied` first part, takes. One that does not exist is refused further on.
fn details(argument: &str, implied: &str, text: impl Fn(&str) -> Option<String>) -> Outcome {
    let options = Options::parse(argument, Some(implied))?;
    let asked = options.text(implied).filter(|_| options.asks_for_help());
    match asked.and_then(|kind| text(&kind)) {
        Some(text) => Err(Stop::Print(text)),
        None => Ok(()),
    }
}

pub(super) fn machine(builder: &mut Builder, argument: &str) -> Outcome {
    details(argument, "type", help::machine)?;
    listing(argument, "Supported machines are:", MACHINE_TYPES)?;
    Ok(builder
        .config
        .machine
        .apply_machine(Options::parse(argument, Some("type"))?)?)
}

pub(super) fn accel(builder: &mut Builder, argument: &str) -> Outcome {
    listing(argument, "Accelerators supported:", ACCELERATORS)?;
    let options = Options::parse(argument, Some("accel"))?;
    match builder.config.machine.apply_accel(options) {
        Err(error) if ELSEWHERE.contains(&argument.split(',').next().unwrap_or_default()) => {
            let error = OptionError::new("-accel", &one_line(argument), error);
            builder.accel_elsewhere.get_or_insert(error);
            Ok(())
        }
        applied => Ok(applied?),
    }
}

pub(super) fn enable_kvm(builder: &mut Builder, _: &str) -> Outcome {
    accel(builder, "kvm")
}

pub(super) fn qtest(builder: &mut Builder, argument: &str) -> Outcome {
    builder.qtest(argument)
}

pub(super) fn qtest_log(builder: &mut Builder, argument: &str) -> Outcome {
    builder.qtest_log = match argument {
        "" => return refuse("expected a file, or 'none'"),
        "none" => QtestLog::Off,
        path => QtestLog::File(path.into()),
    };
    Ok(())
}

pub(super) fn cpu(builder: &mut Builder, argument: &str) -> Outcome {
    listing(argument, "Available CPUs:", CPU_MODELS)?;
    builder.config.cpu = CpuConfig::from_argument(argument)?;
    Ok(())
}

pub(super) fn smp(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.smp = SmpConfig::from_options(Options::parse(argument, Some("cpus"))?)?;
    Ok(())
}

pub(super) fn memory(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.memory_bytes = memory_bytes(Options::parse(argument, Some("size"))?)?;
    builder.memory_given = true;
    Ok(())
}

pub(super) fn device(builder: &mut Builder, argument: &str) -> Outcome {
    builder.device(argument)
}

pub(super) fn object(builder: &mut Builder, argument: &str) -> Outcome {
    let known = |kind: &str| OBJECT_TYPES.iter().any(|(name, _)| *name == kind);
    details(argument, "qom-type", |kind| {
        known(kind).then(|| help::object(kind)).flatten()
    })?;
    choices(argument, "List of user creatable objects:", OBJECT_TYPES)?;
    builder.object(argument)
}

pub(super) fn netdev(builder: &mut Builder, argument: &str) -> Outcome {
    details(argument, "type", help::netdev)?;
    choices(argument, "Available netdev backend types:", NETDEV_TYPES)?;
    builder.netdev(argument)
}

pub(super) fn chardev(builder: &mut Builder, argument: &str) -> Outcome {
    listing(argument, "Available chardev backend types:", CHARDEV_TYPES)?;
    builder.chardev(argument)
}

pub(super) fn drive(builder: &mut Builder, argument: &str) -> Outcome {
    builder.drive(argument)
}

pub(super) fn blockdev(builder: &mut Builder, argument: &str) -> Outcome {
    builder.blockdev(argument)
}

pub(super) fn global(builder: &mut Builder, argument: &str) -> Outcome {
    builder.global(argument)
}

pub(super) fn serial(builder: &mut Builder, argument: &str) -> Outcome {
    builder.serial(argument)
}

pub(super) fn qmp(builder: &mut Builder, argument: &str) -> Outcome {
    builder.monitor(argument, MonitorMode::Control, false)
}

pub(super) fn qmp_pretty(builder: &mut Builder, argument: &str) -> Outcome {
    builder.monitor(argument, MonitorMode::Control, true)
}

pub(super) fn monitor(builder: &mut Builder, argument: &str) -> Outcome {
    builder.monitor(argument, MonitorMode::Readline, false)
}

pub(super) fn mon(builder: &mut Builder, argument: &str) -> Outcome {
    builder.mon(argument)
}

pub(super) fn nographic(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.nographic = true;
    Ok(())
}

pub(super) fn nodefaults(builder: &mut Builder, _: &str) -> Outcome {
    builder.nodefaults = true;
    Ok(())
}

pub(super) fn paused(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.start_paused = true;
    Ok(())
}

pub(super) fn no_reboot(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.no_reboot = true;
    Ok(())
}

pub(super) fn no_shutdown(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.no_shutdown = true;
    Ok(())
}

pub(super) fn no_acpi(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.machine.acpi = false;
    Ok(())
}

pub(super) fn action(builder: &mut Builder, argument: &str) -> Outcome {
    let mut reader =
        config::syntax::Reader::new(Options::parse(argument, None)?, Source::CommandLine);
    if let Some(word) = reader.choice("reboot", &["reset", "shutdown"])? {
        builder.config.no_reboot = word == "shutdown";
    }
    if let Some(word) = reader.choice("shutdown", &["poweroff", "pause"])? {
        builder.config.no_shutdown = word == "pause";
    }
    reader.ignore(&["panic", "watchdog"]);
    Ok(reader.finish()?)
}

pub(super) fn name(builder: &mut Builder, argument: &str) -> Outcome {
    let name = NameConfig::from_options(Options::parse(argument, Some("guest"))?)?;
    builder.config.name = name.guest;
    builder.config.debug_threads = name.debug_threads;
    Ok(())
}

pub(super) fn uuid(builder: &mut Builder, argument: &str) -> Outcome {
    let uuid = uuid::Uuid::try_parse(argument).map_err(|_| {
        Error::other("failed to parse UUID string: expected 8-4-4-4-12 hexadecimal digits")
    })?;
    builder.config.uuid = Some(uuid);
    Ok(())
}

pub(super) fn rtc(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.rtc_base = RtcBase::from_options(Options::parse(argument, Some("base"))?)?;
    Ok(())
}

pub(super) fn overcommit(builder: &mut Builder, argument: &str) -> Outcome {
    Ok(builder
        .config
        .machine
        .apply_overcommit(Options::parse(argument, None)?)?)
}

pub(super) fn kernel(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.boot.kernel = Some(argument.into());
    Ok(())
}

pub(super) fn initrd(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.boot.initrd = Some(argument.into());
    Ok(())
}

pub(super) fn append(builder: &mut Builder, argument: &str) -> Outcome {
    argument.clone_into(&mut builder.config.boot.append);
    Ok(())
}

pub(super) fn boot(_: &mut Builder, argument: &str) -> Outcome {
    Ok(BootConfig::check_boot_options(Options::parse(
        argument,
        Some("order"),
    )?)?)
}

pub(super) fn incoming(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.incoming = Some(Incoming::from_argument(argument)?);
    Ok(())
}

pub(super) fn failover_report(builder: &mut Builder, argument: &str) -> Outcome {
    if argument.is_empty() {
        return refuse("expected a file");
    }
    builder.config.failover_report = Some(argument.into());
    Ok(())
}

pub(super) fn metrics(builder: &mut Builder, argument: &str) -> Outcome {
    builder.config.metrics = Some(MetricsAddress::from_argument(argument)?);
    Ok(())
}

pub(super) fn only_migratable(builder: &mut Builder, _: &str) -> Outcome {
    builder.only_migratable = true;
    Ok(())
}

pub(super) fn add_fd(builder: &mut Builder, argument: &str) -> Outcome {
    builder
        .config
        .fd_sets
        .push(FdSetMember::from_options(Options::parse(argument, None)?)?);
    Ok(())
}

pub(super) fn pidfile(builder: &mut Builder, argument: &str) -> Outcome {
    if argument.is_empty() {
        return refuse("expected a file");
    }
    builder.config.pidfile = Some(argument.into());
    Ok(())
}

pub(super) fn daemonize(builder: &mut Builder, _: &str) -> Outcome {
    builder.config.daemonize = true;
    Ok(())
}

pub(super) fn log_file(builder: &mut Builder, argument: &str) -> Outcome {
    if argument.is_empty() {
        return refuse("expected a file");
    }
    builder.config.log.file = Some(argument.into());
    Ok(())
}

pub(super) fn log_items(builder: &mut Builder, argument: &str) -> Outcome {
    listing(argument, "Log items (comma separated):", log::ITEMS)?;
    for item in argument.split(',') {
        log::directive(item).map_err(Error::Other)?;
        builder.config.log.items.push(item.to_owned());
    }
    Ok(())
}

pub(super) fn msg(builder: &mut Builder, argument: &str) -> Outcome {
    let mut reader = config::syntax::Reader::new(
        Options::parse(argument, Some("timestamp"))?,
        Source::CommandLine,
    );
    builder.config.log.timestamp = reader.flag_or("timestamp", builder.config.log.timestamp)?;
    reader.flag("guest-name")?;
    Ok(reader.finish()?)
}

pub(super) fn no_nic(_: &mut Builder, argument: &str) -> Outcome {
    match argument {
        "none" => Ok(()),
        _ => refuse(
            "only 'none' is supported; use -netdev tap,id=… and -device virtio-net-pci,netdev=…",
        ),
    }
}

pub(super) fn display(_: &mut Builder, argument: &str) -> Outcome {
    match argument {
        "none" => Ok(()),
        "help" => Err(Stop::Print(help::list(
            "Available display backend types:",
            &[("none", "no display")],
        ))),
        _ => refuse("there is no display; use -display none, and -serial for the guest's console"),
    }
}

pub(super) fn only_none(_: &mut Builder, argument: &str) -> Outcome {
    match argument {
        "none" | "null" => Ok(()),
        _ => refuse("only 'none' is supported: there is no such device"),
    }
}

pub(super) fn audio(_: &mut Builder, argument: &str) -> Outcome {
    let options = Options::parse(argument, Some("driver"))?;
    match options.text("driver").as_deref() {
        Some("none") => Ok(()),
        _ => refuse("only 'none' is supported: there is no sound"),
    }
}

pub(super) fn sandbox(_: &mut Builder, argument: &str) -> Outcome {
    let options = Options::parse(argument, Some("enable"))?;
    match options.text("enable").as_deref() {
        Some("off") => Ok(()),
        _ => refuse("only 'off' is supported: there is no seccomp filter yet"),
    }
}

pub(super) fn no_firmware(_: &mut Builder, _: &str) -> Outcome {
    refuse("there is no firmware; boot the guest's kernel by -kernel FILE")
}
