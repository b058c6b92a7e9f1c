//! The typed configuration: what the machine is built from.
//!
//! These are plain values. [`VmConfig`] is what a command line amounts to; its parts ([`DeviceConfig`],
//! [`NetdevConfig`], [`ChardevConfig`], [`ObjectConfig`]) are also what `device_add`, `netdev_add`, `chardev-add` and
//! `object-add` hand to a running machine.

mod chardev;
mod chardev_options;
mod device;
mod device_options;
mod drive;
mod machine;
mod machine_options;
mod netdev;
mod object;
mod placement;
mod small_options;
mod validate;

pub use chardev::{ChardevBackend, ChardevConfig, SocketAddress, SocketConfig};
pub use chardev_options::{CHARDEV_TYPES, Shorthand};
pub use device::{
    BlkConfig, DeviceConfig, DeviceKind, IsaSerialConfig, RngConfig, RootPortConfig,
    SteeredInterface, SteeringConfig, VfioPciConfig, VfioSource, VirtioCommon, VirtioNetConfig,
};
pub use drive::DriveConfig;
pub use machine::{
    Accel, CpuConfig, DEFAULT_MACHINE, IrqChip, MachineConfig, MachineKind, MemLock, SmpConfig,
};
pub use machine_options::{
    ACCELERATORS, CPU_MODELS, ELSEWHERE, MACHINE_TYPES, MAX_CPUS, Q35_VERSIONS, machine_options,
    machine_type, memory_bytes,
};
pub use netdev::{
    DatagramConfig, FdRef, HubPortConfig, NETDEV_TYPES, NetAddress, NetdevBackend, NetdevConfig,
    SocketNetdev, StreamConfig, TapConfig, TapScript, TapSource, UserConfig,
};
pub use object::{
    MemoryBackend, MemoryBackendSource, NumaPolicy, OBJECT_TYPES, ObjectConfig, ObjectKind,
};

pub use placement::{ISA_BUS, Place, ROOT_BUS, place_devices};
pub use small_options::{MetricsAddress, NameConfig};

use std::path::PathBuf;
use uuid::Uuid;

/// Everything a command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct VmConfig {
    /// `-name`: the guest's name, as `query-name` tells it.
    pub name: Option<String>,
    /// `-name …,debug-threads=on`: threads carry names of their own.
    pub debug_threads: bool,
    /// `-uuid`: as SMBIOS and `query-uuid` tell it.
    pub uuid: Option<Uuid>,
    /// `-machine`, `-accel` and the globals of the chipset.
    pub machine: MachineConfig,
    /// `-cpu`.
    pub cpu: CpuConfig,
    /// `-smp`.
    pub smp: SmpConfig,
    /// `-m`: guest RAM in bytes.
    pub memory_bytes: u64,
    /// `-kernel`, `-initrd`, `-append`.
    pub boot: BootConfig,
    /// `-object`.
    pub objects: Vec<ObjectConfig>,
    /// `-chardev`, and those which `-serial`, `-qmp` and `-monitor` imply.
    pub chardevs: Vec<ChardevConfig>,
    /// `-serial`, in order of the ports.
    pub serials: Vec<SerialConfig>,
    /// `-mon`, `-qmp`, `-monitor`.
    pub monitors: Vec<MonitorConfig>,
    /// `-netdev`.
    pub netdevs: Vec<NetdevConfig>,
    /// `-drive` and `-blockdev`.
    pub drives: Vec<DriveConfig>,
    /// `-device`, in order.
    pub devices: Vec<DeviceConfig>,
    /// `-incoming`.
    pub incoming: Option<Incoming>,
    /// `-S`: do not start the vCPUs.
    pub start_paused: bool,
    /// `-no-reboot`: leave when the guest resets.
    pub no_reboot: bool,
    /// `-no-shutdown`: stay, paused, when the guest powers off.
    pub no_shutdown: bool,
    /// `-pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `-daemonize`.
    pub daemonize: bool,
    /// `-D`, `-d` and `-msg`.
    pub log: LogConfig,
    /// `-nographic`.
    pub nographic: bool,
    /// `-global`, those which are a device's property (the chipset's are in [`MachineConfig`] already).
    pub globals: Vec<GlobalProperty>,
    /// `-add-fd`.
    pub fd_sets: Vec<FdSetMember>,
    /// `-rtc base=`.
    pub rtc_base: RtcBase,
    /// `-qtest`.
    pub qtest: Option<QtestConfig>,
    /// `-failover-report`: where the page of the last migrations and failovers goes.
    pub failover_report: Option<PathBuf>,
    /// `-metrics`.
    pub metrics: Option<MetricsAddress>,
}

/// Where the client is that stands in for the processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QtestConfig {
    /// The character device it talks on.
    pub chardev: String,
    /// `-qtest-log`: where what is said is written down.
    pub log: QtestLog,
}

/// `-qtest-log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QtestLog {
    /// Standard error, without the option.
    #[default]
    Stderr,
    /// `none`.
    Off,
    /// A file.
    File(PathBuf),
}

/// What is booted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// A bzImage or a PVH ELF image.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
}

/// A serial port given by `-serial`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialConfig {
    /// 0 for COM1, up to 3.
    pub index: u8,
    /// The character device behind it.
    pub chardev: String,
}

/// A serial port of the machine, by `-serial` or as an `isa-serial` device: see [`VmConfig::serial_ports`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPort {
    /// 0 for COM1, up to 3.
    pub index: u8,
    /// First I/O port.
    pub iobase: u16,
    /// ISA interrupt.
    pub irq: u8,
    /// The character device behind it.
    pub chardev: String,
    /// The id, when it is a device with one.
    pub id: Option<String>,
}

/// How a monitor talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorMode {
    /// QMP.
    Control,
    /// The human monitor.
    Readline,
}

/// A monitor on a character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConfig {
    /// `id=`.
    pub id: Option<String>,
    /// The character device it listens on.
    pub chardev: String,
    /// QMP or human.
    pub mode: MonitorMode,
    /// QMP answers are indented.
    pub pretty: bool,
}

/// Where a migration comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// `-incoming defer`: wait for `migrate-incoming`.
    Defer,
    /// `-incoming URI`.
    Uri(String),
}

/// What is logged and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// `-d`: the items, in order.
    pub items: Vec<String>,
    /// `-D`: the file; `None` is standard error.
    pub file: Option<PathBuf>,
    /// `-msg timestamp=on`.
    pub timestamp: bool,
}

/// `-global DRIVER.PROPERTY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalProperty {
    /// The device type.
    pub driver: String,
    /// Its property.
    pub property: String,
    /// The new default.
    pub value: String,
}

/// `-add-fd`: an inherited descriptor that `/dev/fdset/SET` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdSetMember {
    /// The set.
    pub set: u32,
    /// The descriptor's number in this process.
    pub fd: i32,
    /// A note of the client's.
    pub opaque: Option<String>,
}

/// What the real-time clock starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtcBase {
    /// The host's UTC.
    #[default]
    Utc,
    /// The host's local time.
    LocalTime,
    /// A given moment, in seconds since 1970.
    At(i64),
}

impl Default for VmConfig {
    /// What an empty command line amounts to, but for the serial port and the monitor QEMU would add.
    fn default() -> Self {
        Self {
            name: None,
            debug_threads: true,
            uuid: None,
            machine: MachineConfig::default(),
            cpu: CpuConfig::default(),
            smp: SmpConfig::default(),
            memory_bytes: DEFAULT_MEMORY_BYTES,
            boot: BootConfig::default(),
            objects: Vec::new(),
            chardevs: Vec::new(),
            serials: Vec::new(),
            monitors: Vec::new(),
            netdevs: Vec::new(),
            drives: Vec::new(),
            devices: Vec::new(),
            incoming: None,
            start_paused: false,
            no_reboot: false,
            no_shutdown: false,
            pidfile: None,
            daemonize: false,
            log: LogConfig::default(),
            nographic: false,
            globals: Vec::new(),
            fd_sets: Vec::new(),
            rtc_base: RtcBase::default(),
            qtest: None,
            failover_report: None,
            metrics: None,
        }
    }
}

/// Guest RAM when `-m` is absent: QEMU's 128 MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 128 << 20;
