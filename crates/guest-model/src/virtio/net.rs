//! The network device's driver (virtio 1.2, 5.1): one or more queue pairs, no offloads.

use super::ring::{Segment, SplitRing};
use super::transport::VirtioPci;
use crate::bus::{BusError, GuestBus};
use crate::error::GuestError;
use crate::pci::{Bdf, ConfigAccess, Function, MessageCell, MsiWords, regs};
use crate::ram::{Block, GuestRam};
use std::collections::VecDeque;

/// Feature bits that the driver knows (virtio 1.2, 5.1.3 and 6), as masks.
pub mod features {
    use virtio_bindings::{virtio_config as config, virtio_net as net};

    /// The device has an MTU to tell.
    pub const MTU: u64 = 1 << net::VIRTIO_NET_F_MTU;
    /// The device has an address to tell.
    pub const MAC: u64 = 1 << net::VIRTIO_NET_F_MAC;
    /// A frame may take several receive buffers.
    pub const MERGED_BUFFERS: u64 = 1 << net::VIRTIO_NET_F_MRG_RXBUF;
    /// The device tells whether its link is up.
    pub const STATUS: u64 = 1 << net::VIRTIO_NET_F_STATUS;
    /// There is a control queue.
    pub const CONTROL: u64 = 1 << net::VIRTIO_NET_F_CTRL_VQ;
    /// It sets what is received.
    pub const CONTROL_RX: u64 = 1 << net::VIRTIO_NET_F_CTRL_RX;
    /// It sets which VLANs are received.
    pub const CONTROL_VLAN: u64 = 1 << net::VIRTIO_NET_F_CTRL_VLAN;
    /// The device can ask the guest to announce itself.
    pub const ANNOUNCE: u64 = 1 << net::VIRTIO_NET_F_GUEST_ANNOUNCE;
    /// There are several queue pairs.
    pub const MULTIQUEUE: u64 = 1 << net::VIRTIO_NET_F_MQ;
    /// The control queue sets the address.
    pub const CONTROL_MAC: u64 = 1 << net::VIRTIO_NET_F_CTRL_MAC_ADDR;
    /// The device is the standby of a failover pair.
    pub const STANDBY: u64 = 1 << net::VIRTIO_NET_F_STANDBY;
    /// Modern device.
    pub const VERSION_1: u64 = 1 << config::VIRTIO_F_VERSION_1;

    /// All of these.
    pub const ALL: u64 = MTU
        | MAC
        | MERGED_BUFFERS
        | STATUS
        | CONTROL
        | CONTROL_RX
        | CONTROL_VLAN
        | ANNOUNCE
        | MULTIQUEUE
        | CONTROL_MAC
        | STANDBY
        | VERSION_1;
}

/// The header before each frame, of a modern device.
const HEADER_BYTES: u64 = 12;
const HEADER_BUFFERS: usize = 10;
const BUFFER_BYTES: u64 = 2048;

const CONFIG_MAC: u64 = 0;
const CONFIG_STATUS: u64 = 6;
const CONFIG_PAIRS: u64 = 8;
const CONFIG_MTU: u64 = 10;

const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;

/// How a driver sets its device up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOptions {
    /// Features to accept when offered, of [`features::ALL`].
    pub features: u64,
    /// Queue pairs to use, if the device has so many.
    pub queue_pairs: u16,
    /// Largest ring to make.
    pub ring_limit: u16,
    /// Whether to use MSI-X where there is any.
    pub msix: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            features: features::ALL,
            queue_pairs: 1,
            ring_limit: 64,
            msix: true,
        }
    }
}

/// What the device says of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus {
    /// The link is up.
    pub up: bool,
    /// The device asks for an announcement.
    pub announce: bool,
}

#[derive(Debug, Clone)]
struct Pair {
    receive: SplitRing,
    transmit: SplitRing,
    receive_buffers: Block,
    transmit_buffers: Block,
    transmit_free: Vec<u64>,
    interrupt: Option<MessageCell>,
    /// A frame whose later buffers are still to come: what there is, buffers missing.
    partial: (Vec<u8>, u16),
}

/// A network device in use.
#[derive(Debug, Clone)]
pub struct NetDriver {
    transport: VirtioPci,
    access: ConfigAccess,
    accepted: u64,
    mac: [u8; 6],
    mtu: Option<u16>,
    pairs: Vec<Pair>,
    pub(super) control: Option<(SplitRing, Block)>,
    config_interrupt: Option<MessageCell>,
    cells: Vec<MessageCell>,
    buffer_bytes: u64,
    link: LinkStatus,
    inbox: VecDeque<Vec<u8>>,
}

impl NetDriver {
    /// Brings a device up as Linux does: reset, features, queues, vectors, ready, buffers.
    ///
    /// # Errors
    /// It is no modern virtio network device, or does not do what one does; no RAM is left; the bus.
    pub fn probe(
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        words: &mut MsiWords,
        access: ConfigAccess,
        function: &Function,
        options: &NetOptions,
    ) -> Result<Self, GuestError> {
        access.command(
            bus,
            function.bdf,
            function.decodes() | regs::COMMAND_MASTER,
            0,
        )?;
        let transport = VirtioPci::find(bus, access, function)?;
        let wanted = options.features;
        let accepted = transport.negotiate(bus, |offered| {
            let mut accepted = offered & wanted;
            if accepted & features::MAC == 0 {
                // Without an address there is nothing to be paired by.
                accepted &= !features::STANDBY;
            }
            if accepted & features::CONTROL == 0 {
                accepted &= !(features::CONTROL_RX
                    | features::CONTROL_VLAN
                    | features::CONTROL_MAC
                    | features::MULTIQUEUE
                    | features::ANNOUNCE);
            }
            accepted
        })?;
        let mut driver = Self {
            transport,
            access,
            accepted,
            mac: [0; 6],
            mtu: None,
            pairs: Vec::new(),
            control: None,
            config_interrupt: None,
            cells: Vec::new(),
            buffer_bytes: BUFFER_BYTES,
            link: LinkStatus {
                up: true,
                announce: false,
            },
            inbox: VecDeque::new(),
        };
        match driver.start(bus, ram, words, options) {
            Ok(()) => Ok(driver),
            Err(error) => {
                // The first error is the one to tell.
                let _ = driver.transport.failed(bus);
                driver.release(ram, words);
                Err(error)
            }
        }
    }

    fn start(
        &mut self,
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        words: &mut MsiWords,
        options: &NetOptions,
    ) -> Result<(), GuestError> {
        if self.has(features::MAC) {
            let mut mac = [0; 6];
            self.transport.read_device(bus, CONFIG_MAC, &mut mac)?;
            self.mac = mac;
        }
        if self.has(features::MTU) {
            let mtu = self.config16(bus, CONFIG_MTU)?;
            self.mtu = Some(mtu);
            if !self.has(features::MERGED_BUFFERS) {
                let frame = u64::from(mtu) + 18 + HEADER_BYTES;
                self.buffer_bytes = self.buffer_bytes.max(frame.next_power_of_two());
            }
        }
        let pairs_there = if self.has(features::MULTIQUEUE) {
            self.config16(bus, CONFIG_PAIRS)?.max(1)
        } else {
            1
        };
        let pairs = options.queue_pairs.clamp(1, pairs_there);
        let vectors = self.set_vectors_up(bus, words, pairs, options)?;
        for pair in 0..pairs {
            let pair = self.make_pair(bus, ram, pair, options.ring_limit, vectors)?;
            self.pairs.push(pair);
        }
        if self.has(features::CONTROL) {
            let ring = self.make_ring(bus, ram, 2 * pairs_there, options.ring_limit, None)?;
            let page = ram.take(bus, 4096)?;
            self.control = Some((ring, page));
        }
        self.transport.driver_ok(bus)?;
        for at in 0..self.pairs.len() {
            self.fill(bus, at)?;
        }
        if pairs > 1 && !self.set_queue_pairs(bus, pairs)? {
            let what = format!("refuses to use {pairs} queue pairs");
            return Err(GuestError::unfit(self.bdf(), what));
        }
        self.read_link(bus)?;
        Ok(())
    }

    /// Vector 0 for changes of the configuration, then one a queue; or one for all queues if there are too few.
    fn set_vectors_up(
        &mut self,
        bus: &mut dyn GuestBus,
        words: &mut MsiWords,
        pairs: u16,
        options: &NetOptions,
    ) -> Result<Vectors, GuestError> {
        let msix = self.transport.msix().cloned();
        let Some(msix) = msix.filter(|msix| options.msix && msix.vectors() >= 2) else {
            return Ok(Vectors::None);
        };
        let own = msix.vectors() > 2 * pairs;
        let used = if own { 1 + 2 * pairs } else { 2 };
        msix.enable(bus, self.access)?;
        for vector in 0..used {
            let cell = words.take(bus)?;
            self.cells.push(cell);
            msix.set(bus, vector, cell)?;
        }
        self.transport.set_config_vector(bus, 0)?;
        self.config_interrupt = self.cells.first().copied();
        Ok(if own { Vectors::Own } else { Vectors::Shared })
    }

    fn make_ring(
        &self,
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        queue: u16,
        limit: u16,
        vector: Option<u16>,
    ) -> Result<SplitRing, GuestError> {
        let there = self.transport.queue_limit(bus, queue)?;
        if there == 0 {
            let what = format!("has no queue {queue}");
            return Err(GuestError::unfit(self.bdf(), what));
        }
        let size = there.min(limit.max(2));
        let mut ring = SplitRing::new(bus, ram, queue, size)?;
        let enabled = self
            .transport
            .enable_queue(bus, queue, size, ring.rings(), vector);
        match enabled {
            Ok(doorbell) => {
                ring.set_doorbell(doorbell);
                Ok(ring)
            }
            Err(error) => {
                ring.free(ram);
                Err(error)
            }
        }
    }

    fn make_pair(
        &self,
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        pair: u16,
        limit: u16,
        vectors: Vectors,
    ) -> Result<Pair, GuestError> {
        let vector = |queue: u16| match vectors {
            Vectors::None => None,
            Vectors::Shared => Some(1),
            Vectors::Own => Some(1 + queue),
        };
        let (rx, tx) = (2 * pair, 2 * pair + 1);
        let receive = self.make_ring(bus, ram, rx, limit, vector(rx))?;
        let transmit = self.make_ring(bus, ram, tx, limit, vector(tx))?;
        let receive_buffers = ram.take(bus, u64::from(receive.size()) * self.buffer_bytes)?;
        let transmit_buffers = ram.take(bus, u64::from(transmit.size()) * self.buffer_bytes)?;
        let transmit_free = (0..transmit.size().into()).rev().collect();
        Ok(Pair {
            receive,
            transmit,
            receive_buffers,
            transmit_buffers,
            transmit_free,
            interrupt: vector(rx).and_then(|v| self.cells.get(usize::from(v)).copied()),
            partial: (Vec::new(), 0),
        })
    }

    fn fill(&mut self, bus: &mut dyn GuestBus, at: usize) -> Result<(), BusError> {
        let bytes = self.buffer_bytes;
        let Some(pair) = self.pairs.get_mut(at) else {
            return Ok(());
        };
        for buffer in 0..u64::from(pair.receive.size()) {
            let address = pair.receive_buffers.address + buffer * bytes;
            let segment = Segment::writable(address, bytes as u32);
            if !pair.receive.add(bus, &[segment], buffer)? {
                break;
            }
        }
        pair.receive.kick(bus)
    }

    /// Where the function is.
    pub fn bdf(&self) -> Bdf {
        self.transport.bdf()
    }

    /// Its registers.
    pub fn transport(&self) -> &VirtioPci {
        &self.transport
    }

    /// Features in use.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether a feature is in use.
    pub fn has(&self, feature: u64) -> bool {
        self.accepted & feature != 0
    }

    /// The address the device had when it was probed; all zeros if it told none.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The device's MTU, if it told one.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The link as last read.
    pub fn link(&self) -> LinkStatus {
        self.link
    }

    /// Queue pairs in use.
    pub fn queue_pairs(&self) -> usize {
        self.pairs.len()
    }

    fn config16(&self, bus: &mut dyn GuestBus, offset: u64) -> Result<u16, GuestError> {
        let mut data = [0; 2];
        self.transport.read_device(bus, offset, &mut data)?;
        Ok(u16::from_le_bytes(data))
    }

    /// Reads the device's link status.
    ///
    /// # Errors
    /// The bus.
    pub fn read_link(&mut self, bus: &mut dyn GuestBus) -> Result<LinkStatus, GuestError> {
        if self.has(features::STATUS) {
            let status = self.config16(bus, CONFIG_STATUS)?;
            self.link = LinkStatus {
                up: status & LINK_UP != 0,
                announce: status & ANNOUNCE != 0 && self.has(features::ANNOUNCE),
            };
        }
        Ok(self.link)
    }

    /// Does what interrupts ask for, and nothing without one: takes frames in, reads a changed configuration.
    /// Returns whether the configuration changed.
    ///
    /// # Errors
    /// The device broke its rules; the bus.
    pub fn service(&mut self, bus: &mut dyn GuestBus) -> Result<bool, GuestError> {
        let (mut config, mut queues) = (false, false);
        match self.config_interrupt {
            Some(cell) => config = cell.take(bus)?,
            None => {
                let status = self.transport.interrupt_status(bus)?;
                // All ones: the device is not there any more.
                if status != 0xff {
                    (queues, config) = (status & 1 != 0, status & 2 != 0);
                }
            }
        }
        for at in 0..self.pairs.len() {
            let cell = self.pairs.get(at).and_then(|pair| pair.interrupt);
            let raised = match cell {
                Some(cell) => cell.take(bus)?,
                None => queues,
            };
            if raised {
                self.drain(bus, at)?;
            }
        }
        if config {
            self.read_link(bus)?;
        }
        Ok(config)
    }

    /// Takes what the device has received on all queues, interrupt or not, and offers the buffers again.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn drain_all(&mut self, bus: &mut dyn GuestBus) -> Result<(), GuestError> {
        (0..self.pairs.len()).try_for_each(|at| self.drain(bus, at))
    }

    fn drain(&mut self, bus: &mut dyn GuestBus, at: usize) -> Result<(), GuestError> {
        let bytes = self.buffer_bytes;
        let merged = self.has(features::MERGED_BUFFERS);
        let Some(pair) = self.pairs.get_mut(at) else {
            return Ok(());
        };
        let mut again = false;
        while let Some(used) = pair.receive.take_used(bus)? {
            let address = pair.receive_buffers.address + used.token * bytes;
            let written = u64::from(used.written);
            let (frame, missing) = &mut pair.partial;
            let header = if *missing == 0 { HEADER_BYTES } else { 0 };
            if written < header || written > bytes {
                let what = format!("a receive buffer with {written} bytes used");
                return Err(GuestError::Broken(what));
            }
            let mut data = vec![0; written as usize];
            bus.memory_read(address, &mut data)?;
            if *missing == 0 {
                let count = [data[HEADER_BUFFERS], data[HEADER_BUFFERS + 1]];
                *missing = if merged { u16::from_le_bytes(count) } else { 1 };
                if *missing == 0 {
                    return Err(GuestError::Broken("a frame in no buffer".into()));
                }
                frame.clear();
            }
            frame.extend_from_slice(&data[header as usize..]);
            *missing -= 1;
            if *missing == 0 {
                self.inbox.push_back(std::mem::take(frame));
            }
            let segment = Segment::writable(address, bytes as u32);
            pair.receive.add(bus, &[segment], used.token)?;
            again = true;
        }
        if again {
            pair.receive.kick(bus)?;
        }
        Ok(())
    }

    /// The next frame that was taken in, without its header.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.inbox.pop_front()
    }

    /// Sends a frame on the first queue pair; `false` when all buffers are under way.
    ///
    /// # Errors
    /// The frame is longer than a buffer; the device broke its rules; the bus.
    pub fn send(&mut self, bus: &mut dyn GuestBus, frame: &[u8]) -> Result<bool, GuestError> {
        let bytes = self.buffer_bytes;
        let Some(pair) = self.pairs.first_mut() else {
            return Ok(false);
        };
        while let Some(used) = pair.transmit.take_used(bus)? {
            pair.transmit_free.push(used.token);
        }
        let length = HEADER_BYTES + frame.len() as u64;
        if length > bytes {
            return Err(GuestError::NoRoom(format!(
                "a frame of {} bytes",
                frame.len()
            )));
        }
        let Some(buffer) = pair.transmit_free.pop() else {
            return Ok(false);
        };
        let address = pair.transmit_buffers.address + buffer * bytes;
        let mut data = vec![0; HEADER_BYTES as usize];
        data.extend_from_slice(frame);
        bus.memory_write(address, &data)?;
        let segment = Segment::readable(address, length as u32);
        pair.transmit.add(bus, &[segment], buffer)?;
        pair.transmit.kick(bus)?;
        Ok(true)
    }

    /// Frames sent that the device has not taken yet.
    ///
    /// # Errors
    /// The device broke its rules; the bus.
    pub fn sending(&mut self, bus: &mut dyn GuestBus) -> Result<usize, GuestError> {
        let mut under_way = 0;
        for pair in &mut self.pairs {
            while let Some(used) = pair.transmit.take_used(bus)? {
                pair.transmit_free.push(used.token);
            }
            under_way += pair.transmit.in_flight();
        }
        Ok(under_way)
    }

    /// Takes the driver off its device: reset, vectors and bus mastering off, memory back. A device that is not there
    /// any more is no error.
    ///
    /// # Errors
    /// The device does not reset; the bus. The memory then stays away from others.
    pub fn remove(
        mut self,
        bus: &mut dyn GuestBus,
        ram: &mut GuestRam,
        words: &mut MsiWords,
    ) -> Result<(), GuestError> {
        match self.transport.reset(bus) {
            Err(GuestError::Absent(_)) => {}
            other => {
                other?;
                if let Some(msix) = self.transport.msix().filter(|_| !self.cells.is_empty()) {
                    msix.disable(bus, self.access)?;
                }
                self.access
                    .command(bus, self.bdf(), 0, regs::COMMAND_MASTER)?;
            }
        }
        self.release(ram, words);
        Ok(())
    }

    fn release(&mut self, ram: &mut GuestRam, words: &mut MsiWords) {
        for pair in self.pairs.drain(..) {
            pair.receive.free(ram);
            pair.transmit.free(ram);
            ram.give_back(pair.receive_buffers);
            ram.give_back(pair.transmit_buffers);
        }
        if let Some((ring, page)) = self.control.take() {
            ring.free(ram);
            ram.give_back(page);
        }
        for cell in self.cells.drain(..) {
            words.give_back(cell);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Vectors {
    None,
    Shared,
    Own,
}
