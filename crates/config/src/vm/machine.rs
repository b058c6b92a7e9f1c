//! The board, the processors and the accelerator.

/// The kind of board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineKind {
    /// The q35-compatible board.
    Q35,
    /// `-machine none`: no board at all, a monitor that can be asked what there is.
    None,
}

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// KVM of the Linux kernel.
    Kvm,
    /// Nobody: a client on a socket stands in for the processors (`-qtest`).
    Qtest,
}

/// `kernel-irqchip=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqChip {
    /// All of it in the kernel.
    On,
    /// Local APICs in the kernel, the rest here. Refused while parsing: not implemented.
    Split,
}

/// `-machine` and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// The kind of board.
    pub kind: MachineKind,
    /// The type's versioned name, aliases resolved: `pc-q35-10.0`, `none`.
    pub type_name: String,
    /// Who may run the guest, by `-accel`, in the order in which they are tried: see
    /// [`accelerators`](Self::accelerators).
    pub accel: Vec<Accel>,
    /// The same by `-machine accel=`, which cannot be given together with `-accel`.
    pub machine_accel: Vec<Accel>,
    /// `memory-backend=`: the id of the object that is guest RAM.
    pub memory_backend: Option<String>,
    /// `acpi=`: tables for the guest.
    pub acpi: bool,
    /// Hotplug by ACPI eject (true) or native PCIe hotplug (false):
    /// `-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=`.
    pub acpi_pci_hotplug: bool,
    /// `dump-guest-core=`: whether guest RAM is part of a core dump.
    pub dump_guest_core: bool,
    /// `mem-merge=`: whether KSM may merge guest RAM.
    pub mem_merge: bool,
    /// `-overcommit mem-lock=`: lock guest RAM.
    pub mem_lock: MemLock,
}

/// `-overcommit mem-lock=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemLock {
    /// Memory may be swapped out.
    Off,
    /// All of it is taken and kept.
    On,
    /// It is kept once it has been touched.
    OnFault,
}

/// `-cpu`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuConfig {
    /// The model: `host` or `max` (the same here).
    pub model: String,
    /// `migratable=`: leave out what cannot be migrated.
    pub migratable: bool,
    /// CPUID features switched by name (`+avx`, `avx=off`), in order.
    pub features: Vec<(String, bool)>,
    /// `phys-bits=`; `None` is the host's.
    pub phys_bits: Option<u8>,
    /// Hypervisor leaf shown to the guest (`hypervisor=`, `kvm=`).
    pub kvm: bool,
}

/// `-smp`; the counts agree: `sockets * dies * cores * threads == max_cpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmpConfig {
    /// vCPUs at start.
    pub cpus: u32,
    /// vCPUs at most; the same as `cpus`.
    pub max_cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Dies a socket.
    pub dies: u32,
    /// Cores a die.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

impl MachineConfig {
    /// Who may run the guest, in the order in which they are tried; never empty.
    pub fn accelerators(&self) -> &[Accel] {
        match (self.accel.as_slice(), self.machine_accel.as_slice()) {
            ([], []) => &[Accel::Kvm],
            ([], by_machine) => by_machine,
            (by_option, _) => by_option,
        }
    }
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            kind: MachineKind::Q35,
            type_name: DEFAULT_MACHINE.to_owned(),
            accel: Vec::new(),
            machine_accel: Vec::new(),
            memory_backend: None,
            acpi: true,
            acpi_pci_hotplug: true,
            dump_guest_core: true,
            mem_merge: true,
            mem_lock: MemLock::Off,
        }
    }
}

/// What `q35` is short for.
pub const DEFAULT_MACHINE: &str = "pc-q35-10.0";

impl Default for CpuConfig {
    fn default() -> Self {
        Self {
            model: "host".to_owned(),
            migratable: true,
            features: Vec::new(),
            phys_bits: None,
            kvm: true,
        }
    }
}

impl Default for SmpConfig {
    fn default() -> Self {
        Self {
            cpus: 1,
            max_cpus: 1,
            sockets: 1,
            dies: 1,
            cores: 1,
            threads: 1,
        }
    }
}
