//! The table of all options.

mod apply;

use super::{Builder, Stop};

/// The heading an option is listed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The machine and its parts.
    Standard,
    /// Disks.
    Block,
    /// NICs and their back ends.
    Network,
    /// Character devices, serial ports, monitors.
    Character,
    /// What is booted.
    Boot,
    /// Migration.
    Migration,
    /// The process itself: logs, daemon, pid file.
    Process,
    /// Taken for compatibility.
    Accepted,
}

impl Section {
    /// All of them, in the order of the help.
    pub const ALL: [Self; 8] = [
        Self::Standard,
        Self::Boot,
        Self::Network,
        Self::Character,
        Self::Block,
        Self::Migration,
        Self::Process,
        Self::Accepted,
    ];

    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Standard => "Machine options",
            Self::Block => "Block device options",
            Self::Network => "Network options",
            Self::Character => "Character device and monitor options",
            Self::Boot => "Boot options",
            Self::Migration => "Migration options",
            Self::Process => "Process and debug options",
            Self::Accepted => "Taken where they ask for nothing, refused otherwise",
        }
    }
}

/// An option.
pub struct OptionSpec {
    /// Its name without dashes.
    pub name: &'static str,
    /// Its other names.
    pub aliases: &'static [&'static str],
    /// The form of its argument; `None` if it takes none.
    pub argument: Option<&'static str>,
    /// Where it is listed.
    pub section: Section,
    /// What it does.
    pub help: &'static str,
    /// Takes it.
    pub apply: fn(&mut Builder, &str) -> Result<(), Stop>,
}

const fn option(
    name: &'static str,
    aliases: &'static [&'static str],
    argument: Option<&'static str>,
    section: Section,
    help: &'static str,
    apply: fn(&mut Builder, &str) -> Result<(), Stop>,
) -> OptionSpec {
    OptionSpec {
        name,
        aliases,
        argument,
        section,
        help,
        apply,
    }
}

use Section::{Accepted, Block, Boot, Character, Migration, Network, Process, Standard};

/// All options, by section.
pub static OPTIONS: &[OptionSpec] = &[
    option(
        "help",
        &["h", "?"],
        None,
        Standard,
        "print this help and leave",
        apply::help,
    ),
    option(
        "version",
        &[],
        None,
        Standard,
        "print the version and leave",
        apply::version,
    ),
    option(
        "machine",
        &["M"],
        Some(
            "[type=]q35|pc-q35-VERSION|none[,accel=kvm][,memory-backend=ID][,acpi=on|off][,mem-merge=on|off][,dump-guest-core=on|off]",
        ),
        Standard,
        "the board; memory-backend= names the -object that is guest RAM; '-machine help' lists the types",
        apply::machine,
    ),
    option(
        "accel",
        &[],
        Some("[accel=]kvm"),
        Standard,
        "who runs the guest; '-accel help' lists them",
        apply::accel,
    ),
    option(
        "enable-kvm",
        &[],
        None,
        Standard,
        "the same as -accel kvm",
        apply::nothing,
    ),
    option(
        "cpu",
        &[],
        Some("host|max[,migratable=on|off][,phys-bits=N][,+FEATURE][,-FEATURE][,FEATURE=on|off]"),
        Standard,
        "the processor the guest sees; '-cpu help' lists the models",
        apply::cpu,
    ),
    option(
        "smp",
        &[],
        Some("[cpus=]N[,sockets=N][,dies=N][,cores=N][,threads=N][,maxcpus=N]"),
        Standard,
        "the number of vCPUs (default 1, at most 64) and their topology",
        apply::smp,
    ),
    option(
        "m",
        &[],
        Some("[size=]SIZE"),
        Standard,
        "guest RAM, in MiB or with a suffix k, M, G, T (default 128M, or the size of the memory back end)",
        apply::memory,
    ),
    option(
        "device",
        &[],
        Some("DRIVER[,id=ID][,bus=BUS][,addr=SLOT[.FUNCTION]][,PROPERTY=VALUE...] | JSON"),
        Standard,
        "add a device; '-device help' lists the drivers, '-device DRIVER,help' the properties of one",
        apply::device,
    ),
    option(
        "object",
        &[],
        Some("TYPE,id=ID[,PROPERTY=VALUE...] | JSON"),
        Standard,
        "create an object: a memory back end, a source of random bytes, ...; '-object help' lists the types",
        apply::object,
    ),
    option(
        "global",
        &[],
        Some("DRIVER.PROPERTY=VALUE"),
        Standard,
        "change a property's default; ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off selects native PCIe hotplug in place of ACPI's",
        apply::global,
    ),
    option(
        "name",
        &[],
        Some("[guest=]NAME[,debug-threads=on|off]"),
        Standard,
        "the guest's name",
        apply::name,
    ),
    option(
        "uuid",
        &[],
        Some("UUID"),
        Standard,
        "the guest's UUID",
        apply::uuid,
    ),
    option(
        "rtc",
        &[],
        Some("[base=utc|localtime|DATE][,clock=host][,driftfix=none|slew]"),
        Standard,
        "what the real-time clock starts from (default utc)",
        apply::rtc,
    ),
    option(
        "overcommit",
        &[],
        Some("[mem-lock=on|off|on-fault][,cpu-pm=on|off]"),
        Standard,
        "mem-lock=on locks guest RAM; cpu-pm=on lets an idle guest keep its processor",
        apply::overcommit,
    ),
    option(
        "nodefaults",
        &[],
        None,
        Standard,
        "no serial port and no monitor but those asked for",
        apply::nodefaults,
    ),
    option(
        "S",
        &[],
        None,
        Standard,
        "do not start the vCPUs; 'cont' on a monitor does",
        apply::paused,
    ),
    option(
        "no-reboot",
        &[],
        None,
        Standard,
        "leave when the guest resets",
        apply::no_reboot,
    ),
    option(
        "no-shutdown",
        &[],
        None,
        Standard,
        "stay, stopped, when the guest powers off",
        apply::no_shutdown,
    ),
    option(
        "action",
        &[],
        Some("[reboot=reset|shutdown][,shutdown=poweroff|pause]"),
        Standard,
        "the same as -no-reboot and -no-shutdown, as values",
        apply::action,
    ),
    option(
        "kernel",
        &[],
        Some("FILE"),
        Boot,
        "the guest's kernel: a bzImage, or an ELF image with a PVH entry",
        apply::kernel,
    ),
    option(
        "initrd",
        &[],
        Some("FILE"),
        Boot,
        "its initial RAM disk",
        apply::initrd,
    ),
    option(
        "append",
        &[],
        Some("TEXT"),
        Boot,
        "its command line",
        apply::append,
    ),
    option(
        "netdev",
        &[],
        Some(
            "tap,id=ID[,ifname=NAME][,fd=N|fds=N:N...][,script=FILE|no][,downscript=FILE|no][,vhost=on|off][,vhostfd=N|vhostfds=N:N...][,queues=N][,sndbuf=SIZE][,vnet_hdr=on|off] | JSON",
        ),
        Network,
        "the host side of a NIC; '-netdev help' lists the types",
        apply::netdev,
    ),
    option(
        "nic",
        &[],
        Some("none"),
        Network,
        "no default NIC (there never is one)",
        apply::no_nic,
    ),
    option(
        "net",
        &[],
        Some("none"),
        Network,
        "no default NIC (there never is one)",
        apply::no_nic,
    ),
    option(
        "chardev",
        &[],
        Some("TYPE,id=ID[,mux=on|off][,logfile=FILE][,logappend=on|off][,OPTION=VALUE...]"),
        Character,
        "a character device; '-chardev help' lists the types",
        apply::chardev,
    ),
    option(
        "serial",
        &[],
        Some(
            "unix:PATH[,server=on][,wait=off] | tcp:HOST:PORT[,...] | stdio | mon:stdio | file:PATH | pipe:PATH | pty | null | none | chardev:ID",
        ),
        Character,
        "the next serial port, COM1 first; mon: shares it with a human monitor (Ctrl-A c switches)",
        apply::serial,
    ),
    option(
        "qmp",
        &[],
        Some("unix:PATH[,server=on][,wait=off] | tcp:HOST:PORT[,...] | stdio | chardev:ID | none"),
        Character,
        "a QMP monitor",
        apply::qmp,
    ),
    option(
        "qmp-pretty",
        &[],
        Some("as -qmp"),
        Character,
        "a QMP monitor that indents its answers",
        apply::qmp_pretty,
    ),
    option(
        "monitor",
        &[],
        Some("as -qmp"),
        Character,
        "a human monitor",
        apply::monitor,
    ),
    option(
        "mon",
        &[],
        Some("[chardev=]ID[,mode=readline|control][,pretty=on|off][,id=ID]"),
        Character,
        "a monitor on a -chardev; mode=control is QMP",
        apply::mon,
    ),
    option(
        "nographic",
        &[],
        None,
        Character,
        "no display; without -nodefaults the first serial port and a human monitor share the terminal",
        apply::nographic,
    ),
    option(
        "add-fd",
        &[],
        Some("fd=N,set=N[,opaque=TEXT]"),
        Character,
        "an inherited descriptor for path=/dev/fdset/SET of a -chardev",
        apply::add_fd,
    ),
    option(
        "drive",
        &[],
        Some("file=FILE,format=raw,if=virtio|none[,id=ID][,readonly=on|off][,cache=MODE]"),
        Block,
        "a raw disk image; if=virtio makes its virtio-blk-pci too",
        apply::drive,
    ),
    option(
        "blockdev",
        &[],
        Some("raw,node-name=NAME,file.driver=file,file.filename=FILE[,read-only=on|off] | JSON"),
        Block,
        "a raw disk image, for -device virtio-blk-pci,drive=NAME",
        apply::blockdev,
    ),
    option(
        "incoming",
        &[],
        Some("defer | tcp:HOST:PORT | unix:PATH | fd:N"),
        Migration,
        "wait for a migration to come in, by 'migrate-incoming' or from there",
        apply::incoming,
    ),
    option(
        "only-migratable",
        &[],
        None,
        Migration,
        "refuse devices that would block migration: a vfio-pci without failover_pair_id=",
        apply::only_migratable,
    ),
    option(
        "pidfile",
        &[],
        Some("FILE"),
        Process,
        "write the process id there, locked; removed at the end",
        apply::pidfile,
    ),
    option(
        "daemonize",
        &[],
        None,
        Process,
        "go to the background; the command returns with status 0 once all sockets listen",
        apply::daemonize,
    ),
    option(
        "D",
        &[],
        Some("FILE"),
        Process,
        "log there instead of standard error (%d is the process id)",
        apply::log_file,
    ),
    option(
        "d",
        &[],
        Some("ITEM[,ITEM...]"),
        Process,
        "log more; '-d help' lists the items",
        apply::log_items,
    ),
    option(
        "msg",
        &[],
        Some("[timestamp=on|off][,guest-name=on|off]"),
        Process,
        "timestamp=on puts the time before each log line",
        apply::msg,
    ),
    option(
        "display",
        &[],
        Some("none"),
        Accepted,
        "no display (there never is one)",
        apply::display,
    ),
    option(
        "vga",
        &[],
        Some("none"),
        Accepted,
        "no graphics adapter (there never is one)",
        apply::only_none,
    ),
    option(
        "parallel",
        &[],
        Some("none|null"),
        Accepted,
        "no parallel port (there never is one)",
        apply::only_none,
    ),
    option(
        "audio",
        &[],
        Some("none|driver=none"),
        Accepted,
        "no sound",
        apply::audio,
    ),
    option(
        "audiodev",
        &[],
        Some("none,id=ID"),
        Accepted,
        "no sound",
        apply::audio,
    ),
    option(
        "sandbox",
        &[],
        Some("off"),
        Accepted,
        "no seccomp filter (there is none yet)",
        apply::sandbox,
    ),
    option(
        "boot",
        &[],
        Some("[order=DRIVES][,menu=on|off][,strict=on|off]"),
        Accepted,
        "order of the firmware's boot devices; a kernel is booted directly",
        apply::boot,
    ),
    option(
        "watchdog-action",
        &[],
        Some("ACTION"),
        Accepted,
        "what a watchdog does; there is none",
        apply::nothing,
    ),
    option(
        "no-user-config",
        &[],
        None,
        Accepted,
        "no configuration files (there are none)",
        apply::nothing,
    ),
    option(
        "no-hpet",
        &[],
        None,
        Accepted,
        "no HPET (there is none)",
        apply::nothing,
    ),
    option(
        "no-acpi",
        &[],
        None,
        Accepted,
        "the same as -machine acpi=off",
        apply::no_acpi,
    ),
    option(
        "no-fd-bootchk",
        &[],
        None,
        Accepted,
        "a matter of the firmware",
        apply::nothing,
    ),
    option(
        "k",
        &[],
        Some("LANGUAGE"),
        Accepted,
        "keyboard layout of a display",
        apply::nothing,
    ),
    option(
        "L",
        &[],
        Some("PATH"),
        Accepted,
        "folder of firmware images; none is loaded",
        apply::nothing,
    ),
    option(
        "bios",
        &[],
        Some("FILE"),
        Accepted,
        "refused: there is no firmware, a kernel is booted directly",
        apply::no_firmware,
    ),
];
