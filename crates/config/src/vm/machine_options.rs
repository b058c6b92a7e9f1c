//! `-machine`, `-accel`, `-cpu`, `-smp`, `-m`, `-overcommit` and the chipset's globals.

use super::machine::{
    Accel, CpuConfig, DEFAULT_MACHINE, IrqChip, MachineConfig, MachineKind, MemLock, SmpConfig,
};
use crate::cpu_features;
use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source, nearest, parse_bool, parse_number};

/// The machine types there are, with a line each: for `-machine help` and `query-machines`.
pub const MACHINE_TYPES: &[(&str, &str)] = &[
    (
        "none",
        "no machine: a monitor that can be asked what there is",
    ),
    (
        "q35",
        "Standard PC (Q35 + ICH9), PCI Express (alias of pc-q35-10.0)",
    ),
    (
        "pc-q35-10.0",
        "Standard PC (Q35 + ICH9), PCI Express (default)",
    ),
];

/// The accelerators there are.
pub const ACCELERATORS: &[(&str, &str)] = &[
    ("kvm", "Linux's KVM, by /dev/kvm"),
    (
        "qtest",
        "nobody: a client on the socket of -qtest stands in for the processors",
    ),
];

/// The CPU models there are.
pub const CPU_MODELS: &[(&str, &str)] = &[
    ("host", "all that the host's processor and KVM can give"),
    ("max", "the same as host"),
];

/// The most vCPUs a machine can have.
pub const MAX_CPUS: u32 = 64;

/// `pc-q35-` versions QEMU 10.0 knows; all are the one board here.
pub const Q35_VERSIONS: &[&str] = &[
    "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "3.0", "3.1", "4.0", "4.0.1",
    "4.1", "4.2", "5.0", "5.1", "5.2", "6.0", "6.1", "6.2", "7.0", "7.1", "7.2", "8.0", "8.1",
    "8.2", "9.0", "9.1", "9.2", "10.0",
];

/// What `-machine` takes and does: name, type and a few words. `kernel_irqchip` is another name for `kernel-irqchip`.
const EFFECTIVE: &[(&str, &str, &str)] = &[
    ("accel", "str", "Who runs the guest, as by -accel"),
    ("acpi", "OnOffAuto", "ACPI tables for the guest"),
    (
        "dump-guest-core",
        "bool",
        "Include guest memory in a core dump",
    ),
    (
        "kernel-irqchip",
        "on|off|split",
        "Who delivers interrupts (only on)",
    ),
    ("mem-merge", "bool", "(accepted, no effect)"),
    ("memory-backend", "str", "The -object that is guest RAM"),
];

/// Switches that may only be off, and why.
const ONLY_OFF: &[(&str, &str)] = &[
    ("usb", "there is no USB controller"),
    ("nvdimm", "there are no NVDIMMs"),
    ("hmat", "there is no HMAT"),
    (
        "aux-ram-share",
        "RAM is shared by share=on of its memory back end",
    ),
];

/// What a QEMU board has, and this one has not: taken, since it changes nothing that is there.
const IGNORED: &[&str] = &[
    "graphics",
    "vmport",
    "smm",
    "hpet",
    "pit",
    "pic",
    "sata",
    "smbus",
    "i8042",
    "fd-bootchk",
    "default-bus-bypass-iommu",
    "suppress-vmdesc",
    "smbios-entry-point-type",
    "pcspk-audiodev",
    "kvm-shadow-mem",
    "kvm_shadow_mem",
    "x-oem-id",
    "x-oem-table-id",
    "rtc",
    "cxl",
    "enforce-config-section",
];

/// What `-machine` takes: each option's name, its type, and a few words.
pub fn machine_options() -> Vec<(&'static str, &'static str, String)> {
    let effective = EFFECTIVE.iter().map(|&(n, t, w)| (n, t, w.to_owned()));
    let off = ONLY_OFF.iter();
    let off = off.map(|&(name, why)| (name, "bool", format!("(only off: {why})")));
    let ignored = IGNORED.iter();
    let ignored = ignored.map(|&name| (name, "str", "(accepted, no effect)".to_owned()));
    let mut all: Vec<_> = effective.chain(off).chain(ignored).collect();
    all.sort();
    all
}

/// Boards QEMU has and this program has not.
const OTHER_BOARDS: &[&str] = &[
    "pc",
    "microvm",
    "isapc",
    "x-remote",
    "nitro-enclave",
    "xenfv",
    "xenpv",
];

impl MachineConfig {
    /// Takes the options of `-machine` over what is there; it may be given several times.
    ///
    /// # Errors
    /// An unknown type, accelerator or option, one that asks for what cannot be had.
    pub fn apply_machine(&mut self, options: Options) -> Result<()> {
        let mut reader = Reader::new(options, Source::CommandLine);
        if let Some(name) = reader.string("type")? {
            (self.kind, self.type_name) = machine_type(&name)?;
        }
        if let Some(list) = reader.string("accel")? {
            self.machine_accel = accel(&list)?;
        }
        if let Some(id) = reader.string("memory-backend")? {
            self.memory_backend = Some(id);
        }
        if let Some(acpi) = on_off_auto(&mut reader, "acpi")? {
            self.acpi = acpi;
        }
        self.dump_guest_core = reader.flag_or("dump-guest-core", self.dump_guest_core)?;
        self.mem_merge = reader.flag_or("mem-merge", self.mem_merge)?;
        irqchip(&mut reader)?;
        for (key, why) in ONLY_OFF {
            if reader.flag_or(key, false)? {
                return Err(Error::Other(format!("{key}=on is not supported: {why}")));
            }
        }
        for key in [
            "confidential-guest-support",
            "igd-passthru",
            "pflash0",
            "pflash1",
            "firmware",
        ] {
            if reader.has(key) {
                return Err(Error::Other(format!("{key}= is not supported")));
            }
        }
        reader.ignore(IGNORED);
        reader.finish()
    }

    /// Takes the options of `-accel`.
    ///
    /// # Errors
    /// An unknown accelerator or option.
    pub fn apply_accel(&mut self, options: Options) -> Result<()> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let name = reader.required("accel")?;
        // Given again it is tried when those before it fail.
        self.accel.extend(accel(&name)?);
        irqchip(&mut reader)?;
        if reader
            .number("dirty-ring-size", 0, u64::from(u32::MAX))?
            .is_some_and(|size| size != 0)
        {
            return Err(Error::other(
                "dirty-ring-size= is not supported; the dirty log is used",
            ));
        }
        reader.ignore(&[
            "kvm-shadow-mem",
            "notify-vmexit",
            "notify-window",
            "thread",
            "eager-split-size",
        ]);
        reader.finish()
    }

    /// Takes the options of `-overcommit`.
    ///
    /// # Errors
    /// An unknown option or a bad value.
    pub fn apply_overcommit(&mut self, options: Options) -> Result<()> {
        let mut reader = Reader::new(options, Source::CommandLine);
        match reader.string("mem-lock")?.as_deref() {
            None => {}
            Some("on-fault") => self.mem_lock = MemLock::OnFault,
            Some(text) => {
                self.mem_lock = match parse_bool(text) {
                    Some(true) => MemLock::On,
                    Some(false) => MemLock::Off,
                    None => {
                        return Err(Error::BadValue {
                            name: "mem-lock".to_owned(),
                            expected: "'on', 'off' or 'on-fault'".to_owned(),
                        });
                    }
                };
            }
        }
        if reader.flag_or("cpu-pm", false)? {
            return Err(Error::other(
                "cpu-pm=on is not supported: a guest that idles gives its processor up",
            ));
        }
        reader.finish()
    }

    /// Takes a `-global` that is about the chipset. `Ok(false)` if it is not.
    ///
    /// # Errors
    /// A bad value.
    pub fn apply_global(&mut self, driver: &str, property: &str, value: &str) -> Result<bool> {
        let flag = || {
            parse_bool(value).ok_or_else(|| Error::BadValue {
                name: property.to_owned(),
                expected: "'on' or 'off'".to_owned(),
            })
        };
        match (driver, property) {
            ("ICH9-LPC", "acpi-pci-hotplug-with-bridge-support") => self.acpi_pci_hotplug = flag()?,
            (
                "ICH9-LPC",
                "noreboot" | "disable_s3" | "disable_s4" | "smm-enabled" | "acpi-root-pci-hotplug",
            )
            | ("mc146818rtc", "lost_tick_policy" | "driftfix")
            | ("kvm-pit", "lost_tick_policy")
            | ("PIIX4_PM", _) => {}
            ("ICH9-LPC", other) => {
                return Err(Error::UnknownProperty {
                    device: driver.to_owned(),
                    name: other.to_owned(),
                    suggestion: nearest(
                        other,
                        ["acpi-pci-hotplug-with-bridge-support", "noreboot"],
                    )
                    .map(str::to_owned),
                });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The machine type of a name that `-machine` is given, and its name in full.
///
/// # Errors
/// There is none of that name.
pub fn machine_type(name: &str) -> Result<(MachineKind, String)> {
    match name {
        "none" => return Ok((MachineKind::None, name.to_owned())),
        "q35" => return Ok((MachineKind::Q35, DEFAULT_MACHINE.to_owned())),
        _ => {}
    }
    if name
        .strip_prefix("pc-q35-")
        .is_some_and(|version| Q35_VERSIONS.contains(&version))
    {
        return Ok((MachineKind::Q35, name.to_owned()));
    }
    if OTHER_BOARDS.contains(&name) || name.starts_with("pc-i440fx-") {
        return Err(Error::Other(format!(
            "machine type '{name}' is not supported; use q35"
        )));
    }
    let known = MACHINE_TYPES.iter().map(|(name, _)| *name);
    let hint = nearest(name, known).map_or_else(
        || "; use q35, pc-q35-10.0 or none".to_owned(),
        |near| format!(" (did you mean '{near}'?)"),
    );
    Err(Error::Other(format!(
        "unsupported machine type: \"{name}\"{hint}"
    )))
}

/// Accelerators that QEMU has and that are not here. One of them may be named beside one that is: the next is tried.
pub const ELSEWHERE: &[&str] = &["tcg", "xen", "hvf", "whpx", "nvmm"];

/// Those of a list such as `kvm:tcg` that exist here.
fn accel(list: &str) -> Result<Vec<Accel>> {
    let here: Vec<Accel> = list
        .split(':')
        .filter_map(|name| match name {
            "kvm" => Some(Accel::Kvm),
            "qtest" => Some(Accel::Qtest),
            _ => None,
        })
        .collect();
    if !here.is_empty() {
        return Ok(here);
    }
    Err(Error::Other(if ELSEWHERE.contains(&list) {
        format!("accelerator '{list}' is not supported; use kvm")
    } else {
        format!("invalid accelerator {list}; use kvm")
    }))
}

fn on_off_auto(reader: &mut Reader, key: &str) -> Result<Option<bool>> {
    match reader.string(key) {
        Ok(None) => Ok(None),
        Ok(Some(text)) if text == "auto" => Ok(None),
        Ok(Some(text)) => match parse_bool(&text) {
            Some(on) => Ok(Some(on)),
            None => Err(Error::BadValue {
                name: key.to_owned(),
                expected: "'on', 'off' or 'auto'".to_owned(),
            }),
        },
        Err(error) => Err(error),
    }
}

fn irqchip(reader: &mut Reader) -> Result<IrqChip> {
    for key in ["kernel-irqchip", "kernel_irqchip"] {
        match reader.string(key)?.as_deref() {
            None | Some("on") => {}
            Some("off" | "split") => {
                return Err(Error::Other(format!(
                    "only {key}=on is supported: interrupts are delivered by KVM"
                )));
            }
            Some(_) => {
                return Err(Error::BadValue {
                    name: key.to_owned(),
                    expected: "'on', 'off' or 'split'".to_owned(),
                });
            }
        }
    }
    Ok(IrqChip::On)
}

impl CpuConfig {
    /// Reads the argument of `-cpu`: `host,migratable=off,+avx,-pmu,topoext=on`.
    ///
    /// # Errors
    /// An unknown model, a feature that is not switched on or off.
    pub fn from_argument(text: &str) -> Result<Self> {
        let mut config = Self::default();
        let mut parts = text.split(',');
        config.model = match parts.next().unwrap_or("") {
            "host" | "max" => text.split(',').next().unwrap_or("host").to_owned(),
            model => {
                return Err(Error::Other(format!(
                    "unable to find CPU model '{model}'; use host: the guest gets the host's own processor"
                )));
            }
        };
        for part in parts {
            let (name, on) = if let Some(name) = part.strip_prefix('+') {
                (name, true)
            } else if let Some(name) = part.strip_prefix('-') {
                (name, false)
            } else {
                let (name, value) = part.split_once('=').unwrap_or((part, "on"));
                match (name, parse_bool(value)) {
                    ("phys-bits", _) => {
                        config.phys_bits = match parse_number(value) {
                            Some(0) => None,
                            Some(bits @ 32..=52) => u8::try_from(bits).ok(),
                            _ => {
                                return Err(Error::BadValue {
                                    name: name.to_owned(),
                                    expected: "0 (the host's) or a number from 32 to 52".to_owned(),
                                });
                            }
                        };
                        continue;
                    }
                    (_, Some(on)) => (name, on),
                    (_, None) => {
                        return Err(Error::BadValue {
                            name: name.to_owned(),
                            expected: "'on' or 'off'".to_owned(),
                        });
                    }
                }
            };
            let name = name.replace('_', "-");
            let well_formed = !name.is_empty()
                && name.len() <= 64
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
            if !well_formed {
                return Err(Error::UnknownParameter {
                    name,
                    suggestion: None,
                });
            }
            match name.as_str() {
                "migratable" => config.migratable = on,
                "kvm" => config.kvm = on,
                "check" | "enforce" | "host-phys-bits" | "host-cache-info" | "l3-cache"
                | "legacy-cache" | "fill-mtrr-mask" => {}
                "vmx" | "svm" | "invtsc" if on => {
                    return Err(Error::Other(format!(
                        "'{name}' is not supported: it would not survive a migration"
                    )));
                }
                _ if name != "pmu" && cpu_features::find(&name).is_none() => {
                    return Err(Error::Other(format!(
                        "Property 'host-x86_64-cpu.{name}' not found"
                    )));
                }
                _ => {
                    config.features.retain(|(known, _)| *known != name);
                    config.features.push((name, on));
                }
            }
        }
        Ok(config)
    }
}

impl SmpConfig {
    /// Reads the options of `-smp`; counts left out are made to fit, cores before sockets.
    ///
    /// # Errors
    /// Zero or too many vCPUs, counts that do not multiply to the total.
    pub fn from_options(options: Options) -> Result<Self> {
        let mut reader = Reader::new(options, Source::CommandLine);
        let mut count = |key: &str| {
            reader
                .number(key, 0, u64::from(u32::MAX))
                .and_then(|count| match count {
                    Some(0) => Err(Error::other(
                        "Invalid CPU topology: CPU topology parameters must be greater than zero",
                    )),
                    count => Ok(count.and_then(|count| u32::try_from(count).ok())),
                })
        };
        let cpus = count("cpus")?;
        let max_cpus = count("maxcpus")?;
        let sockets = count("sockets")?;
        let dies = count("dies")?.unwrap_or(1);
        let cores = count("cores")?;
        let threads = count("threads")?;
        for level in ["clusters", "modules", "books", "drawers"] {
            if count(level)?.is_some_and(|n| n != 1) {
                return Err(Error::Other(format!(
                    "{level} > 1 not supported by this machine's CPU topology"
                )));
            }
        }
        reader.finish()?;

        let product = |counts: &[u32]| counts.iter().try_fold(1u32, |all, n| all.checked_mul(*n));
        let too_many = || {
            Error::Other(format!(
                "Invalid SMP CPUs: at most {MAX_CPUS} are supported"
            ))
        };
        let wanted = max_cpus.or(cpus);
        let threads_known = threads.unwrap_or(1);
        let fill = |others: u32| wanted.map_or(1, |total| (total / others.max(1)).max(1));
        let (sockets, cores, threads) = match (sockets, cores) {
            (Some(sockets), Some(cores)) => {
                let others = product(&[sockets, dies, cores]).ok_or_else(too_many)?;
                (sockets, cores, threads.unwrap_or_else(|| fill(others)))
            }
            (None, Some(cores)) => {
                let others = product(&[dies, cores, threads_known]).ok_or_else(too_many)?;
                (fill(others), cores, threads_known)
            }
            (sockets, None) => {
                let sockets = sockets.unwrap_or(1);
                let others = product(&[sockets, dies, threads_known]).ok_or_else(too_many)?;
                (sockets, fill(others), threads_known)
            }
        };
        let total = product(&[sockets, dies, cores, threads]).ok_or_else(too_many)?;
        let max_cpus = wanted.unwrap_or(total);
        let cpus = cpus.unwrap_or(max_cpus);
        if cpus > MAX_CPUS || max_cpus > MAX_CPUS {
            return Err(Error::Other(format!(
                "Invalid SMP CPUs {}. The max CPUs supported by machine 'pc-q35' is {MAX_CPUS}",
                cpus.max(max_cpus)
            )));
        }
        if total != max_cpus {
            return Err(Error::Other(format!(
                "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads}) != maxcpus ({max_cpus})"
            )));
        }
        if cpus != max_cpus {
            return Err(Error::Other(format!(
                "maxcpus={max_cpus} differs from cpus={cpus}, and vCPUs cannot be added later; leave maxcpus= out"
            )));
        }
        Ok(Self {
            cpus,
            max_cpus,
            sockets,
            dies,
            cores,
            threads,
        })
    }
}

/// Reads the options of `-m`: `512` (MiB), `size=262144k`; gives bytes, rounded up to whole pages.
///
/// # Errors
/// No size, or room for memory hotplug, which there is not.
pub fn memory_bytes(options: Options) -> Result<u64> {
    let mut reader = Reader::new(options, Source::CommandLine);
    let size = reader
        .size_in("size", 1 << 20)?
        .unwrap_or(super::DEFAULT_MEMORY_BYTES);
    let slots = reader.number("slots", 0, u64::MAX)?.unwrap_or(0);
    let max = reader.size_in("maxmem", 1 << 20)?;
    reader.finish()?;
    if size < MIN_MEMORY_BYTES {
        return Err(Error::Other(format!(
            "guest RAM of {size} bytes is too small; at least 1M, such as -m 512M"
        )));
    }
    if slots != 0 || max.is_some_and(|max| max != size) {
        return Err(Error::other(
            "slots= and maxmem= are not supported: memory cannot be added later",
        ));
    }
    size.checked_next_multiple_of(8192)
        .ok_or_else(|| Error::other("guest RAM is too large"))
}

/// Less than this holds no kernel.
const MIN_MEMORY_BYTES: u64 = 1 << 20;
