//! The root complex: configuration accesses to the tree of functions, and the way of memory and I/O accesses
//! to their regions.

use crate::address::Bdf;
use crate::address_map::{AddressMap, Hit, HostWindows, Space};
use crate::bridge_windows::read_u8;
use crate::device::PciDevice;
use crate::intx::{IntxWiring, pirq, swizzle};
use crate::lock::{lock, read, write};
use crate::regs;
use crate::root_port::RootPort;
use crate::slot_error::SlotError;
use crate::slot_event::{LetGoCause, SlotEvent, SlotListener};
use crate::topology::{Function, Location, ROOT_BUS, Slotted, Topology};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

/// The root complex of segment 0.
///
/// Every method takes `&self` and may be called by any thread. Configuration accesses and changes of the tree
/// are serialised; memory and I/O accesses run beside each other and wait only while the map is exchanged.
///
/// Regions that overlap, lie outside of the machine's windows or of those of the port above are not placed;
/// of two that overlap, the one of the lower device and function number is.
pub struct RootComplex {
    windows: HostWindows,
    wiring: IntxWiring,
    topology: Mutex<Topology>,
    /// What memory and I/O accesses go by. An access holds it for reading until the function has answered, so
    /// that a function taken out of the map is not being accessed any more.
    map: RwLock<AddressMap>,
    listener: OnceLock<Arc<dyn SlotListener>>,
}

impl RootComplex {
    /// An empty bus 0. `wiring` makes a function's share of one of the lines PIRQA (0) to PIRQH (7).
    pub fn new(windows: HostWindows, wiring: IntxWiring) -> Self {
        Self {
            windows,
            wiring,
            topology: Mutex::default(),
            map: RwLock::default(),
            listener: OnceLock::new(),
        }
    }

    /// Who hears of slot events from now on. Returns false when there is a listener already; the first stays.
    pub fn set_listener(&self, listener: Arc<dyn SlotListener>) -> bool {
        self.listener.set(listener).is_ok()
    }

    pub(crate) fn tell(&self, events: Vec<SlotEvent>) {
        for event in events {
            tracing::debug!(?event, "slot");
            if let Some(listener) = self.listener.get() {
                listener.slot_event(event);
            }
        }
    }

    pub(crate) fn with_topology<R>(&self, look: impl FnOnce(&Topology) -> R) -> R {
        look(&lock(&self.topology))
    }

    /// The address ranges left to PCI.
    pub fn windows(&self) -> &HostWindows {
        &self.windows
    }

    // ---- configuration space ----

    /// Reads configuration space, little-endian, any length and alignment; all ones where no function is.
    pub fn config_read(&self, bdf: Bdf, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let topology = lock(&self.topology);
        let slotted = topology
            .route(bdf)
            .and_then(|location| topology.get(location));
        let Some(slotted) = slotted else { return };
        let mut rest = data;
        let mut at = usize::from(offset);
        while let Some(len) = piece(at, rest.len()) {
            let (now, later) = rest.split_at_mut(len);
            let Ok(offset) = u16::try_from(at) else {
                return;
            };
            slotted.device().config_read(offset, now);
            rest = later;
            at += len;
        }
    }

    /// Writes configuration space, little-endian, any length and alignment; nothing happens where no function
    /// is. Regions are placed and moved before it returns, and slot events told.
    pub fn config_write(&self, bdf: Bdf, offset: u16, data: &[u8]) {
        let mut events = Vec::new();
        let mut rest = data;
        let mut at = usize::from(offset);
        while let Some(len) = piece(at, rest.len()) {
            let (now, later) = rest.split_at(len);
            let Ok(offset) = u16::try_from(at) else { break };
            self.write_piece(bdf, offset, now, &mut events);
            rest = later;
            at += len;
        }
        self.tell(events);
    }

    fn write_piece(&self, bdf: Bdf, offset: u16, data: &[u8], events: &mut Vec<SlotEvent>) {
        let device = self.with_topology(|topology| {
            let slotted = topology.get(topology.route(bdf)?)?;
            Some(Arc::clone(slotted.device()))
        });
        let Some(device) = device else {
            return;
        };
        device.before_config_write(offset, data);
        let mut topology = lock(&self.topology);
        let Some(location) = topology.route(bdf) else {
            return;
        };
        let Some(slotted) = topology.get_mut(location) else {
            return;
        };
        slotted.device().config_write(offset, data);
        slotted.mark_touched();
        let change = slotted.look_again();
        let mut remap = change.decode;
        match location {
            Location::Below { port, .. } if change.bus_master_off => {
                let id = slotted.function.id.clone();
                if let Some(below) = topology.below_mut(port)
                    && below.port.unplug_asked()
                    && !below.driver_let_go_told
                {
                    below.driver_let_go_told = true;
                    let bus = below.port.config().id.clone();
                    events.push(SlotEvent::DriverLetGo { bus, id });
                }
            }
            Location::Below { .. } => {}
            Location::Root { devfn } => {
                remap |= self.carry_out_port_effects(&mut topology, devfn, events);
            }
        }
        if remap {
            self.remap(&mut topology);
        }
    }

    fn carry_out_port_effects(
        &self,
        topology: &mut Topology,
        devfn: u8,
        events: &mut Vec<SlotEvent>,
    ) -> bool {
        let Some(below) = topology.below_mut(devfn) else {
            return false;
        };
        let effects = below.port.take_effects();
        let bus = || below.port.config().id.clone();
        if effects.noticed {
            events.push(SlotEvent::Noticed { bus: bus() });
        }
        if effects.kept {
            events.push(SlotEvent::Kept { bus: bus() });
        }
        if let Some(asked) = effects.let_go {
            events.extend(self.empty_slot(topology, devfn, LetGoCause::PowerOff, asked));
            return true;
        }
        if effects.reset_below {
            for child in below.functions.values_mut() {
                child.reset_if_touched();
                child.look_again();
            }
        }
        effects.reset_below
    }

    // ---- memory and I/O ----

    /// Reads memory. False, and `data` untouched, where `address` is in no function's region. An access that
    /// ends after the region it begins in reads all ones.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) -> bool {
        read_from(&read(&self.map).memory, address, data)
    }

    /// Writes memory; false where no function's region is. An access that ends after the region it begins in
    /// is dropped.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> bool {
        write_to(&read(&self.map).memory, address, data)
    }

    /// Reads I/O ports, as [`mmio_read`](Self::mmio_read) does memory.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) -> bool {
        read_from(&read(&self.map).io, u64::from(port), data)
    }

    /// Writes I/O ports, as [`mmio_write`](Self::mmio_write) does memory.
    pub fn pio_write(&self, port: u16, data: &[u8]) -> bool {
        write_to(&read(&self.map).io, u64::from(port), data)
    }

    /// Exchanges the map for what is reachable now and tells each function what changed for it.
    fn remap(&self, topology: &mut Topology) {
        let new = topology.reachable(&self.windows);
        let old = std::mem::replace(&mut topology.placed, new.clone());
        *write(&self.map) = new;
        let new = &topology.placed;
        for region in old.regions() {
            if !new.regions().any(|other| other.same_place(region)) {
                region.device.bar_placed(region.bar, None);
            }
        }
        for region in new.regions() {
            if !old.regions().any(|other| other.same_place(region)) {
                region.device.bar_placed(region.bar, Some(region.start));
            }
        }
    }

    // ---- the tree ----

    /// Puts a root port into bus 0; its id becomes that of the bus below it.
    ///
    /// # Errors
    /// The place, the id, or chassis and slot are taken.
    pub fn insert_port(&self, devfn: u8, port: Arc<RootPort>) -> Result<(), SlotError> {
        let function = Function {
            id: port.config().id.clone(),
            model: "pcie-root-port".to_owned(),
            acpi_index: 0,
            device: Arc::clone(&port) as Arc<dyn PciDevice>,
        };
        let mut topology = lock(&self.topology);
        let (chassis, slot) = (port.config().chassis, port.config().slot);
        let same = topology.all().find_map(|(_, slotted)| {
            let other = slotted.below.as_ref()?.port.config();
            ((other.chassis, other.slot) == (chassis, slot)).then(|| other.id.clone())
        });
        if let Some(by) = same {
            return Err(SlotError::DuplicateSlot {
                chassis,
                slot,
                by,
                new: function.id,
            });
        }
        let location = topology.vacancy(ROOT_BUS, devfn, &function)?;
        self.place(&mut topology, location, Slotted::new(function, Some(port)));
        Ok(())
    }

    /// Puts a function into a slot of a machine that does not run yet; nobody is told. `bus` is [`ROOT_BUS`]
    /// or the id of a port, below which only device 0 exists.
    ///
    /// # Errors
    /// No such bus, or the place or the id is taken.
    pub fn insert(&self, bus: &str, devfn: u8, function: Function) -> Result<(), SlotError> {
        let mut topology = lock(&self.topology);
        let location = topology.vacancy(bus, devfn, &function)?;
        self.place(&mut topology, location, Slotted::new(function, None));
        if let Location::Below { port, .. } = location
            && let Some(below) = topology.below_mut(port)
        {
            below.port.set_present(true, true);
            below.powered = below.port.powered();
            self.remap(&mut topology);
        }
        Ok(())
    }

    /// Puts a function into a running machine's port, after a reset of the function. The slot shows it; telling
    /// the guest by ACPI is the caller's part. Returns whether the guest is to be told: a function other than 0
    /// waits for function 0.
    ///
    /// # Errors
    /// As of [`insert`](Self::insert), and the bus has no hotplug.
    pub(crate) fn insert_hot(
        &self,
        bus: &str,
        devfn: u8,
        function: Function,
    ) -> Result<bool, SlotError> {
        let check = |topology: &Topology| {
            let Location::Below { port, .. } = topology.vacancy(bus, devfn, &function)? else {
                return Err(SlotError::NoHotplug(bus.to_owned()));
            };
            let below = topology
                .below(port)
                .filter(|below| below.port.config().hotplug)
                .ok_or_else(|| SlotError::NoHotplug(bus.to_owned()))?;
            // Nobody would look for further functions once function 0 is there.
            if let Some(first) = below.functions.get(&0) {
                return Err(SlotError::Occupied {
                    slot: 0,
                    function: 0,
                    by: first.function.model.clone(),
                    new: function.model.clone(),
                });
            }
            Ok(port)
        };
        self.with_topology(check)?;
        // A reset of a physical function takes its time: not while the guest waits for the lock.
        function.device.reset();
        let mut topology = lock(&self.topology);
        let port = check(&topology)?;
        self.place(
            &mut topology,
            Location::Below { port, devfn },
            Slotted::new(function, None),
        );
        if devfn != 0 {
            return Ok(false);
        }
        if let Some(below) = topology.below_mut(port) {
            below.driver_let_go_told = false;
            below.port.set_present(true, false);
            below.powered = below.port.powered();
        }
        self.remap(&mut topology);
        Ok(true)
    }

    fn place(&self, topology: &mut Topology, location: Location, slotted: Slotted) {
        let device = Arc::clone(slotted.device());
        let (root_device, at, bus) = match location {
            Location::Root { devfn } => (devfn >> 3, devfn, &mut topology.functions),
            Location::Below { port, devfn } => match topology.below_mut(port) {
                Some(below) => (port >> 3, devfn, &mut below.functions),
                None => return,
            },
        };
        if let Some(pin) = read_u8(&*device, regs::INTERRUPT_PIN)
            .checked_sub(1)
            .filter(|pin| *pin < 4)
        {
            let pin = match location {
                Location::Root { .. } => pin,
                Location::Below { devfn, .. } => swizzle(devfn >> 3, pin),
            };
            device.connect_intx((self.wiring)(pirq(root_device, pin)));
        }
        bus.insert(at, slotted);
        self.remap(topology);
    }

    /// Takes a function out of its slot, whatever the guest thinks of it. `None` for an id that is in no slot,
    /// or a port with something below it.
    pub fn remove(&self, id: &str) -> Option<Arc<dyn PciDevice>> {
        let mut topology = lock(&self.topology);
        let location = topology.find(id)?;
        let slotted = topology.get(location)?;
        if slotted
            .below
            .as_ref()
            .is_some_and(|below| !below.functions.is_empty())
        {
            return None;
        }
        self.take_out(&mut topology, location)
            .map(|function| function.device)
    }

    fn take_out(&self, topology: &mut Topology, location: Location) -> Option<Function> {
        let slotted = match location {
            Location::Root { devfn } => topology.functions.remove(&devfn)?,
            Location::Below { port, devfn } => {
                let below = topology.below_mut(port)?;
                let slotted = below.functions.remove(&devfn)?;
                if below.functions.is_empty() {
                    below.port.set_present(false, false);
                    below.powered = below.port.powered();
                }
                slotted
            }
        };
        self.remap(topology);
        slotted.device().detached();
        Some(slotted.function)
    }

    /// Takes every function out of a port's slot, and says what to tell of it.
    fn empty_slot(
        &self,
        topology: &mut Topology,
        port: u8,
        cause: LetGoCause,
        asked: bool,
    ) -> Vec<SlotEvent> {
        let Some(below) = topology.below(port) else {
            return Vec::new();
        };
        let bus = below.port.config().id.clone();
        // Function 0 last, so that whoever waits for it finds the slot empty.
        let functions: Vec<u8> = below.functions.keys().rev().copied().collect();
        functions
            .into_iter()
            .filter_map(|devfn| self.take_out(topology, Location::Below { port, devfn }))
            .map(|function| SlotEvent::LetGo {
                bus: bus.clone(),
                id: function.id,
                device: function.device,
                cause,
                asked,
            })
            .collect()
    }

    /// The guest, or a reset, let go of what is in a port's slot: takes it out and tells the listener.
    pub(crate) fn let_go(&self, bus: &str, cause: LetGoCause) {
        let events = {
            let mut topology = lock(&self.topology);
            let Some(port) = topology.port_devfn(bus) else {
                return;
            };
            let asked = topology
                .below(port)
                .is_some_and(|below| below.port.unplug_asked());
            self.empty_slot(&mut topology, port, cause, asked)
        };
        self.tell(events);
    }

    /// An unplug of what is in a port's slot is asked for, or no longer.
    pub(crate) fn set_unplug_asked(&self, bus: &str, asked: bool) {
        let mut topology = lock(&self.topology);
        let Some(port) = topology.port_devfn(bus) else {
            return;
        };
        if let Some(below) = topology.below_mut(port) {
            below.driver_let_go_told = false;
            below.port.set_unplug_asked(asked);
        }
    }

    /// The port with this id.
    pub fn port(&self, id: &str) -> Option<Arc<RootPort>> {
        let topology = lock(&self.topology);
        let below = topology.below(topology.port_devfn(id)?)?;
        Some(Arc::clone(&below.port))
    }

    /// Every port with its id, by device and function number.
    pub fn ports(&self) -> Vec<(String, Arc<RootPort>)> {
        let topology = lock(&self.topology);
        let ports = topology.functions.values().filter_map(|slotted| {
            let below = slotted.below.as_ref()?;
            Some((slotted.function.id.clone(), Arc::clone(&below.port)))
        });
        ports.collect()
    }

    /// The ACPI index of the device below a port; 0 for none.
    pub(crate) fn acpi_index_below(&self, bus: &str) -> u32 {
        let topology = lock(&self.topology);
        let below = topology
            .port_devfn(bus)
            .and_then(|port| topology.below(port));
        below
            .and_then(|below| below.functions.get(&0))
            .map_or(0, |slotted| slotted.function.acpi_index)
    }

    /// The function with this id.
    pub fn function(&self, id: &str) -> Option<Function> {
        let topology = lock(&self.topology);
        let slotted = topology.get(topology.find(id)?)?;
        Some(slotted.function.clone())
    }

    /// The bus a function is on, and its device and function number there.
    pub fn slot_of(&self, id: &str) -> Option<(String, u8)> {
        let topology = lock(&self.topology);
        match topology.find(id)? {
            Location::Root { devfn } => Some((ROOT_BUS.to_owned(), devfn)),
            Location::Below { port, devfn } => {
                let bus = topology.below(port)?.port.config().id.clone();
                Some((bus, devfn))
            }
        }
    }

    /// Every function, ports included, each port before what is below it.
    pub fn functions(&self) -> Vec<Function> {
        self.with_topology(|topology| {
            topology
                .all()
                .map(|(_, slotted)| slotted.function.clone())
                .collect()
        })
    }

    /// The device and function number a function without `addr=` gets on a bus: the first free device on bus
    /// 0, and 0 below a port.
    ///
    /// # Errors
    /// No such bus. `None` when bus 0 is full.
    pub fn free_devfn(&self, bus: &str) -> Result<Option<u8>, SlotError> {
        let topology = lock(&self.topology);
        if bus == ROOT_BUS {
            let free = |devfn: &u8| !topology.functions.contains_key(devfn);
            return Ok((0..=0xf8).step_by(8).find(free));
        }
        match topology.port_devfn(bus) {
            Some(_) => Ok(Some(0)),
            None => Err(SlotError::BusNotFound(bus.to_owned())),
        }
    }

    /// Resets every function, as the machine is reset. Slots with something in them come up powered.
    pub fn reset(&self) {
        let mut topology = lock(&self.topology);
        for location in topology.locations() {
            if let Some(slotted) = topology.get_mut(location) {
                slotted.mark_touched();
                slotted.reset_if_touched();
                slotted.look_again();
            }
        }
        self.remap(&mut topology);
    }

    /// After a restore of the functions: takes over what they claim now and places their regions. A slot whose
    /// restored registers say other than what is in it tells the guest so.
    pub fn redecode_all(&self) {
        let mut topology = lock(&self.topology);
        for location in topology.locations() {
            let Some(slotted) = topology.get_mut(location) else {
                continue;
            };
            if let Some(below) = &slotted.below {
                below
                    .port
                    .set_present(below.functions.contains_key(&0), false);
            }
            slotted.mark_touched();
            slotted.look_again();
        }
        self.remap(&mut topology);
    }
}

/// Length of the next access a function takes, of `left` bytes from `offset` on: 1, 2 or 4, not across a
/// double word. `None` at the end.
fn piece(offset: usize, left: usize) -> Option<usize> {
    match left.min(4 - offset % 4) {
        0 => None,
        3 => Some(if offset.is_multiple_of(2) { 2 } else { 1 }),
        len => Some(len),
    }
    .filter(|_| offset < crate::config_space::CONFIG_SPACE_BYTES)
}

fn read_from(space: &Space, address: u64, data: &mut [u8]) -> bool {
    match space.find(address, data.len()) {
        Hit::Inside(region, offset) => region.device.bar_read(region.bar, offset, data),
        Hit::Torn => data.fill(0xff),
        Hit::Miss => return false,
    }
    true
}

fn write_to(space: &Space, address: u64, data: &[u8]) -> bool {
    match space.find(address, data.len()) {
        Hit::Inside(region, offset) => region.device.bar_write(region.bar, offset, data),
        Hit::Torn => {}
        Hit::Miss => return false,
    }
    true
}
