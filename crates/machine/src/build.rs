//! A configuration becomes a board.

use crate::MachineError;
use crate::acpi::{self, Description, HotplugSlot};
use crate::address_map::{AddressMap, ECAM, PCI_IO, PCI_MEM32};
use crate::announcing::Announcing;
use crate::board::{Board, FIRST_PCI_LINE};
use crate::bus::BoardBus;
use crate::chardev::{Chardev, OutboxWriter};
use crate::chipset::PortDevice;
use crate::chipset::fw_cfg::{FW_CFG_PORT, FW_CFG_PORTS, FwCfg, FwCfgFacts};
use crate::chipset::lpc::LpcBridge;
use crate::chipset::power::{HOTPLUG_GPE, PM_PORT, PM_PORTS, Power};
use crate::chipset::reset::{KEYBOARD_STATUS, KeyboardReset, ResetControl};
use crate::chipset::rtc::{RTC_PORT, Rtc};
use crate::chipset::serial::{SERIAL_PORTS, SerialPort};
use crate::chipset::{PowerListener, PowerRequest};
use crate::control::Control;
use crate::devices::Devices;
use crate::event::MachineListener;
use crate::incoming::IncomingSide;
use crate::network::{FdSource, Netdevs};
use crate::outgoing::OutgoingSide;
use crate::pairs::{PairKeeper, SlotWatcher};
use crate::passthrough::Iommufds;
use crate::run_state::RunState;
use config::cpu_features;
use config::vm::{
    Accel, CpuConfig, DeviceKind, MemoryBackend, MemoryBackendSource, ObjectKind, RtcBase, VmConfig,
};
use hypervisor::{
    Accelerator, Bus, CpuChoices, CpuEvent, CpuListener, CpuSwitch, HypervisorError, Qtest,
    Topology, Vm,
};
use memory::{GuestRam, HugePages, Ram, RamBackend, RamConfig};
use pci::{
    AcpiHotplug, ConfigPorts, FirmwareWindows, HostBridge, HostWindows, Hotplug, Platform,
    RootComplex, RootPort, SlotDriver,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The PC's devices that are no PCI functions.
pub(crate) struct Chipset {
    pub(crate) power: Arc<Power>,
    pub(crate) rtc: Arc<Rtc>,
    pub(crate) fw_cfg: Arc<FwCfg>,
    /// In the order of their numbers.
    pub(crate) serials: Vec<Serial>,
    pub(crate) config_ports: Arc<ConfigPorts>,
}

/// A serial port and where it is.
pub(crate) struct Serial {
    /// COM1 is 0.
    pub(crate) index: u8,
    pub(crate) iobase: u16,
    pub(crate) irq: u8,
    pub(crate) port: Arc<SerialPort>,
}

impl Chipset {
    pub(crate) fn reset(&self) {
        self.power.reset();
        self.fw_cfg.reset();
        self.config_ports.set_address(0);
        for serial in &self.serials {
            serial.port.reset();
        }
    }
}

struct CpuPoster(Control);

impl CpuListener for CpuPoster {
    fn cpu_event(&self, event: CpuEvent) {
        self.0.post(move |board| board.cpu_event(event));
    }
}

/// Physical address bits where no processor has any: those of QEMU's model `qemu64`.
const CLIENT_PHYSICAL_BITS: u8 = 40;

/// Physical address bits: those of `-cpu`, or this host's CPUs', as CPUID tells, unless a client
/// stands in for them.
fn physical_bits(config: &VmConfig) -> Result<u8, MachineError> {
    if config.machine.accelerators() == [Accel::Qtest] {
        return Ok(config.cpu.phys_bits.unwrap_or(CLIENT_PHYSICAL_BITS));
    }
    let hosts = host_physical_bits();
    match config.cpu.phys_bits {
        Some(bits) if bits > hosts => Err(MachineError::refused(format!(
            "-cpu phys-bits={bits}: this host's processors have {hosts}; give that or less"
        ))),
        bits => Ok(bits.unwrap_or(hosts)),
    }
}

fn host_physical_bits() -> u8 {
    let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
    if highest < 0x8000_0008 {
        return 36;
    }
    std::arch::x86_64::__cpuid(0x8000_0008).eax.to_le_bytes()[0]
}

fn backend_of(config: &VmConfig) -> Result<Option<(&str, &MemoryBackend)>, MachineError> {
    let Some(wanted) = config.machine.memory_backend.as_deref() else {
        return Ok(None);
    };
    let found = config.objects.iter().find(|object| object.id == wanted);
    match found.map(|object| &object.kind) {
        Some(ObjectKind::Memory(memory)) => Ok(Some((wanted, memory))),
        Some(_) => Err(MachineError::refused(format!(
            "-machine memory-backend={wanted}: that object is no memory backend"
        ))),
        None => Err(MachineError::refused(format!(
            "-machine memory-backend={wanted}: give -object memory-backend-ram,id={wanted},size=..."
        ))),
    }
}

fn allocate(config: &VmConfig, map: &AddressMap) -> Result<Arc<Ram>, MachineError> {
    let mut wanted = RamConfig::anonymous(config.memory_bytes);
    wanted.dump = config.machine.dump_guest_core;
    if let Some((id, backend)) = backend_of(config)? {
        if backend.size_bytes != config.memory_bytes {
            return Err(MachineError::refused(format!(
                "-m: {} bytes differ from the {} of memory backend '{id}': give both the same size",
                config.memory_bytes, backend.size_bytes
            )));
        }
        if !backend.host_nodes.is_empty() {
            return Err(MachineError::refused(format!(
                "memory backend '{id}': host-nodes= and policy= are not supported; start this program under numactl"
            )));
        }
        wanted.name = id.to_owned();
        wanted.share = backend.share;
        wanted.prealloc = backend.prealloc;
        wanted.merge = backend.merge;
        wanted.dump = backend.dump;
        wanted.backend = match &backend.source {
            MemoryBackendSource::File {
                path, offset_bytes, ..
            } => RamBackend::File {
                path: path.clone(),
                offset_bytes: *offset_bytes,
            },
            MemoryBackendSource::Ram | MemoryBackendSource::MemFd => RamBackend::Memfd {
                huge_pages: backend.hugetlb.then(|| {
                    backend
                        .hugetlb_size_bytes
                        .map_or(HugePages::HostDefault, HugePages::SizeBytes)
                }),
            },
        };
    }
    Ok(memory::allocate(&wanted, &map.ram())?)
}

fn host_windows(map: &AddressMap) -> HostWindows {
    let mem64 = map.pci_mem64();
    let mut memory = vec![PCI_MEM32.start..=PCI_MEM32.end - 1];
    if !mem64.is_empty() {
        memory.push(mem64.start..=mem64.end - 1);
    }
    HostWindows {
        io: vec![u64::from(PCI_IO.start)..=u64::from(PCI_IO.end)],
        memory,
    }
}

/// Numbers the buses, opens the ports' windows and places the regions, as a firmware does.
pub(crate) fn assign_resources(root: &RootComplex, map: &AddressMap) {
    let mem64 = map.pci_mem64();
    let windows = FirmwareWindows {
        io: u64::from(PCI_IO.start)..=u64::from(PCI_IO.end),
        mem32: PCI_MEM32.start..=PCI_MEM32.end - 1,
        mem64_prefetch: (!mem64.is_empty()).then(|| mem64.start..=mem64.end - 1),
        interrupt_lines: std::array::from_fn(|pirq| {
            FIRST_PCI_LINE + u8::try_from(pirq).unwrap_or(0)
        }),
    };
    for (bdf, region) in pci::assign(root, &windows).unplaced {
        tracing::warn!(function = %bdf, region, "no room for a region: the function does not decode it");
    }
}

/// Seconds by which the host's local time is ahead of UTC at `now_s`.
#[allow(unsafe_code)]
fn local_offset_s(now_s: i64) -> i64 {
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to valid memory; on failure the structure stays zeroed, which is UTC.
    unsafe {
        libc::localtime_r(&now_s, local.as_mut_ptr());
        local.assume_init().tm_gmtoff
    }
}

fn rtc(base: RtcBase, control: &Control) -> Arc<Rtc> {
    let clock = Arc::clone(control.host_clock());
    let now = move || clock.wall_s();
    let offset = match base {
        RtcBase::Utc => 0,
        RtcBase::LocalTime => local_offset_s(now()),
        RtcBase::At(moment) => moment - now(),
    };
    // A guest may set its clock as fast as it likes; what is told is where it stands when the control thread gets to it.
    let told = Arc::new(AtomicBool::new(true));
    let control = control.clone();
    let changed = move || {
        if told.swap(false, Ordering::AcqRel) {
            let told = Arc::clone(&told);
            control.post(move |board| {
                told.store(true, Ordering::Release);
                board.rtc_changed();
            });
        }
    };
    Arc::new(Rtc::new(Arc::new(now), offset, Arc::new(changed)))
}

fn power_listener(control: &Control) -> PowerListener {
    let control = control.clone();
    Arc::new(move |request: PowerRequest| control.post(move |board| board.power_request(request)))
}

/// Who runs the guest, and the same when it is a client.
type Runner = (Arc<dyn Accelerator>, Option<Arc<Qtest>>);

fn start(accel: Accel, ram: &Arc<GuestRam>, cpu: &CpuConfig) -> Result<Runner, HypervisorError> {
    match accel {
        Accel::Kvm => Ok((Vm::new(Arc::clone(ram), choices(cpu))?, None)),
        Accel::Qtest => {
            let qtest = Qtest::new(Arc::clone(ram))?;
            Ok((qtest.clone(), Some(qtest)))
        }
    }
}

/// `-cpu` in the hypervisor's words.
fn choices(cpu: &CpuConfig) -> CpuChoices {
    let switch = |(name, on): &(String, bool)| {
        let place = cpu_features::find(name)?;
        Some(CpuSwitch {
            name: name.clone(),
            function: place.function,
            index: place.index,
            register: place.register,
            bit: place.bit,
            on: *on,
        })
    };
    CpuChoices {
        switches: cpu.features.iter().filter_map(switch).collect(),
        physical_bits: cpu.phys_bits,
        kvm: cpu.kvm,
        pmu: !cpu.features.contains(&("pmu".to_owned(), false)),
    }
}

/// The first accelerator of the configuration's that works here.
fn accelerator(config: &VmConfig, ram: &Arc<GuestRam>) -> Result<Runner, MachineError> {
    let mut accels = config.machine.accelerators().iter().peekable();
    while let Some(accel) = accels.next() {
        match (start(*accel, ram, &config.cpu), accels.peek()) {
            (Ok(runner), _) => return Ok(runner),
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(next)) => {
                let next = match next {
                    Accel::Kvm => "kvm",
                    Accel::Qtest => "qtest",
                };
                tracing::warn!("{error}; falling back to {next}");
            }
        }
    }
    Err(MachineError::refused("no accelerator is configured"))
}

/// Builds the machine, stopped, with all its devices. With the accelerator `qtest`, [`Board::qtest`] is what a client
/// drives it by.
///
/// `fds` resolves the descriptors that a monitor's client named.
///
/// # Errors
/// The first thing that cannot be had. Nothing is left behind: what was opened is closed.
pub fn build(
    config: VmConfig,
    control: Control,
    listener: Box<dyn MachineListener>,
    fds: &dyn FdSource,
) -> Result<Board, MachineError> {
    let map = AddressMap::new(config.memory_bytes, physical_bits(&config)?);
    let ram = allocate(&config, &map)?;
    let (vm, qtest) = accelerator(&config, ram.guest())?;

    let powers = power_listener(&control);
    let clock = {
        let clock = Arc::clone(control.guest_clock());
        Arc::new(move || clock.now())
    };
    let power = Power::new(
        vm.irq_line(u32::from(acpi::SCI)),
        Arc::clone(&powers),
        clock,
    );
    let rtc = rtc(config.rtc_base, &control);
    let fw_cfg = Arc::new(FwCfg::new(&FwCfgFacts {
        ram_bytes: config.memory_bytes,
        cpus: u16::try_from(config.smp.cpus).unwrap_or(u16::MAX),
        no_graphics: config.nographic,
        uuid: config.uuid.map_or([0; 16], |uuid| *uuid.as_bytes()),
    }));

    let lines = Arc::clone(&vm);
    let wiring = Box::new(move |pirq: u8| lines.irq_line(u32::from(FIRST_PCI_LINE + pirq)));
    let root = Arc::new(RootComplex::new(host_windows(&map), wiring));
    root.set_listener(Arc::new(SlotWatcher::new(control.clone())));
    let place = |devfn: u8, id: &str, device: Arc<dyn pci::PciDevice>| {
        let function = pci::Function {
            id: id.to_owned(),
            model: id.to_owned(),
            acpi_index: 0,
            device,
        };
        root.insert(pci::ROOT_BUS, devfn, function)
            .map_err(|e| MachineError::refused(e.to_string()))
    };
    place(0, "mch", Arc::new(HostBridge::new(ECAM.start, 256)))?;
    place(0x1f << 3, "ICH9-LPC", Arc::new(LpcBridge::new()))?;
    let ports = insert_ports(&config, &root, vm.as_ref())?;
    let gpe = Arc::clone(&power);
    let hotplug = Hotplug::new(
        Arc::clone(&root),
        ports,
        Box::new(move || gpe.raise_event(HOTPLUG_GPE)),
    );
    let config_ports = Arc::new(ConfigPorts::new(Arc::clone(&root)));

    let mut chardevs = Vec::with_capacity(config.chardevs.len());
    let mut serial_ports = config
        .serial_ports()
        .map_err(|e| MachineError::refused(e.to_string()))?;
    // Their state travels in this order, however the two sides were told of them.
    serial_ports.sort_by_key(|port| port.index);
    // One that can be shared is opened here, and monitors are given an end of it.
    let shared = |id: &str| config.chardevs.iter().any(|c| c.mux && c.id == id);
    let monitored: Vec<&str> = config
        .monitors
        .iter()
        .map(|m| m.chardev.as_str())
        .filter(|id| !shared(id))
        .chain(config.qtest.as_ref().map(|q| q.chardev.as_str()))
        .collect();
    for chardev in config
        .chardevs
        .iter()
        .filter(|c| !monitored.contains(&c.id.as_str()))
    {
        let control = control.clone();
        let end = Box::new(move || control.post(|board| board.quit("host-ui")));
        chardevs.push(Chardev::open(chardev, end, fds)?);
    }
    let mut io: Vec<(Range<u16>, Arc<dyn PortDevice>)> = Vec::new();
    let mut serials = Vec::new();
    for port in &serial_ports {
        let chardev = chardevs
            .iter()
            .find(|c| c.id() == port.chardev)
            .ok_or_else(|| {
                MachineError::refused(format!(
                    "serial port: chardev '{}' is in use by a monitor or does not exist",
                    port.chardev
                ))
            })?;
        let sink = Box::new(OutboxWriter(chardev.outbox()));
        let serial = SerialPort::new(vm.irq_line(u32::from(port.irq)), sink);
        chardev
            .connect(serial.clone())
            .map_err(|e| MachineError::refused(format!("chardev '{}': {e}", chardev.id())))?;
        io.push((port.iobase..port.iobase + SERIAL_PORTS, serial.clone()));
        serials.push(Serial {
            index: port.index,
            iobase: port.iobase,
            irq: port.irq,
            port: serial,
        });
    }
    io.push((PM_PORT..PM_PORT + PM_PORTS, power.clone()));
    io.push((RTC_PORT..RTC_PORT + 2, rtc.clone()));
    io.push((FW_CFG_PORT..FW_CFG_PORT + FW_CFG_PORTS, fw_cfg.clone()));
    io.push((
        KEYBOARD_STATUS..KEYBOARD_STATUS + 1,
        Arc::new(KeyboardReset::new(Arc::clone(&powers))),
    ));
    // With native hotplug the block is not there: a guest that looks for it must not find one that drives no slot.
    if config.machine.acpi_pci_hotplug {
        io.push((
            pci::ACPI_HOTPLUG_BASE..pci::ACPI_HOTPLUG_BASE + pci::ACPI_HOTPLUG_PORTS,
            Arc::new(HotplugPorts(hotplug.acpi().clone())),
        ));
    }
    let bus: Arc<dyn Bus> = Arc::new(BoardBus::new(
        Arc::clone(&root),
        Arc::clone(&config_ports),
        io,
        Arc::new(ResetControl::new(Arc::clone(&powers))),
    ));

    let topology = Topology {
        cpus: config.smp.cpus,
        threads: config.smp.threads,
        cores: config.smp.cores * config.smp.dies,
    };
    let cpu_listener: Arc<dyn CpuListener> = Arc::new(CpuPoster(control.clone()));
    let cpus = Arc::clone(&vm).processors(config.smp.cpus, topology, bus, cpu_listener)?;
    let cpu_threads = cpus.thread_ids()?;
    let power_on_irqchip = vm.save_irqchip()?;

    let incoming = config.incoming.is_some();
    let serial_resources: Vec<(u16, u8)> = serial_ports.iter().map(|p| (p.iobase, p.irq)).collect();
    let mut board = Board {
        control: control.clone(),
        listener,
        map,
        ram,
        vm,
        qtest,
        cpus,
        cpu_threads,
        power_on_irqchip,
        root,
        hotplug,
        chipset: Chipset {
            power,
            rtc,
            fw_cfg,
            serials,
            config_ports,
        },
        chardevs,
        devices: Devices::new(),
        netdevs: Netdevs::new(),
        announcing: Announcing::default(),
        pairs: PairKeeper::new(incoming),
        iommufds: Iommufds::default(),
        outgoing: OutgoingSide::new(),
        incoming: IncomingSide::new(),
        tables: Vec::new(),
        run_state: RunState::Prelaunch,
        pending_power: None,
        filter_news: crate::inspect::FilterNews::default(),
        exit: None,
        config,
    };
    for netdev in board.config.netdevs.clone() {
        board
            .netdevs
            .open(&netdev, fds, &board.ram)
            .map_err(|e| MachineError::refused(format!("-netdev {}: {e}", netdev.text)))?;
    }
    for object in board.config.objects.clone() {
        board
            .make_iommufd(&object, fds)
            .map_err(|e| MachineError::refused(format!("-object {}: {e}", object.text)))?;
    }
    for device in board.config.devices.clone() {
        let text = device.text.clone();
        board
            .add_at_start(device, fds)
            .map_err(|e| MachineError::Device(text, e.to_string()))?;
    }
    board.finish_pairs()?;
    board.tables = tables(&board, &serial_resources)?;
    Ok(board)
}

fn tables(board: &Board, serials: &[(u16, u8)]) -> Result<Vec<u8>, MachineError> {
    let acpi_slots = board.root.ports().into_iter().filter_map(|(id, port)| {
        let bsel = board.hotplug.acpi().select_number(&id)?;
        let (_, devfn) = board.root.slot_of(&id)?;
        Some(HotplugSlot {
            devfn,
            bsel,
            number: u32::from(port.config().slot),
        })
    });
    let slots: Vec<HotplugSlot> = acpi_slots.collect();
    let description = Description {
        cpus: board.config.smp.cpus,
        map: &board.map,
        slots: &slots,
        native_hotplug: !board.config.machine.acpi_pci_hotplug,
        serials,
    };
    Ok(acpi::tables(&description)?)
}

/// Puts the root ports into their places; the ids of those that ACPI hotplug drives, in order.
fn insert_ports(
    config: &VmConfig,
    root: &RootComplex,
    platform: &dyn Platform,
) -> Result<Vec<String>, MachineError> {
    let acpi = config.machine.acpi_pci_hotplug;
    let mut driven = Vec::new();
    let mut anonymous = 0;
    for device in &config.devices {
        let DeviceKind::RootPort(port) = &device.kind else {
            continue;
        };
        let failed = |reason: String| MachineError::Device(device.text.clone(), reason);
        let id = device.id.clone().unwrap_or_else(|| {
            anonymous += 1;
            format!("root-port[{}]", anonymous - 1)
        });
        let devfn = match device.addr {
            Some(addr) => addr.slot << 3 | addr.function & 7,
            None => match root.free_devfn(pci::ROOT_BUS) {
                Ok(Some(free)) => free,
                _ => return Err(failed(
                    "PCI: no slot/function available for pcie-root-port, all in use or reserved"
                        .into(),
                )),
            },
        };
        let wanted = pci::RootPortConfig {
            id: id.clone(),
            chassis: port.chassis,
            slot: port.slot,
            port: port.port,
            hotplug: port.hotplug,
            native_hotplug: port.hotplug && !acpi,
            driven_by: if acpi {
                SlotDriver::Acpi
            } else {
                SlotDriver::Native
            },
            multifunction: device.multifunction,
        };
        let made = RootPort::new(wanted, platform).map_err(|e| failed(e.to_string()))?;
        root.insert_port(devfn, Arc::new(made))
            .map_err(|e| failed(e.to_string()))?;
        if acpi && port.hotplug {
            driven.push(id);
        }
    }
    Ok(driven)
}

/// The hotplug block on the board's wires.
struct HotplugPorts(Arc<AcpiHotplug>);

impl PortDevice for HotplugPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }
}
