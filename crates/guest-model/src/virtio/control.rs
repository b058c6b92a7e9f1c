//! The control queue's commands (virtio 1.2, 5.1.6.5).

use super::net::NetDriver;
use super::ring::Segment;
use crate::bus::{BusWords, GuestBus};
use crate::error::GuestError;
use std::time::Duration;

const OK: u8 = 0;

/// How often a completion is looked for, and how long in between.
const LOOKS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(1);

/// A command's bytes before its data, the data's limit, and the place of the answer in the command's page.
const HEADER: u64 = 2;
const DATA_LIMIT: usize = 2048;
const ANSWER: u64 = 3072;

impl NetDriver {
    /// Sends a command and waits for its end; `true` when the device accepts it.
    ///
    /// # Errors
    /// The driver has no control queue; the device does not answer; the bus.
    pub fn control(
        &mut self,
        bus: &mut dyn GuestBus,
        class: u8,
        command: u8,
        data: &[u8],
    ) -> Result<bool, GuestError> {
        let bdf = self.bdf();
        let Some((ring, page)) = &mut self.control else {
            return Err(GuestError::unfit(bdf, "has no control queue"));
        };
        if data.len() > DATA_LIMIT {
            return Err(GuestError::NoRoom("a control command's data".into()));
        }
        let page = page.address;
        bus.memory_write(page, &[class, command])?;
        bus.memory_write(page + HEADER, data)?;
        bus.write8(page + ANSWER, 0xff)?;
        let mut segments = vec![Segment::readable(page, HEADER as u32)];
        if !data.is_empty() {
            segments.push(Segment::readable(page + HEADER, data.len() as u32));
        }
        segments.push(Segment::writable(page + ANSWER, 1));
        if !ring.add(bus, &segments, 0)? {
            return Err(GuestError::NoRoom("a control command".into()));
        }
        ring.kick(bus)?;
        for _ in 0..LOOKS {
            if ring.take_used(bus)?.is_some() {
                return Ok(bus.read8(page + ANSWER)? == OK);
            }
            bus.pause(PAUSE)?;
        }
        Err(GuestError::Waited(format!("{bdf}'s answer to a command")))
    }

    /// Receive everything, or not.
    ///
    /// # Errors
    /// As [`control`](Self::control); so for all of these. A refusal is `false`.
    pub fn set_promiscuous(
        &mut self,
        bus: &mut dyn GuestBus,
        on: bool,
    ) -> Result<bool, GuestError> {
        self.control(bus, 0, 0, &[on.into()])
    }

    /// Receive all multicasts, or not.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn set_all_multicast(
        &mut self,
        bus: &mut dyn GuestBus,
        on: bool,
    ) -> Result<bool, GuestError> {
        self.control(bus, 0, 1, &[on.into()])
    }

    /// Sets the tables of further addresses to be received.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn set_address_tables(
        &mut self,
        bus: &mut dyn GuestBus,
        unicast: &[[u8; 6]],
        multicast: &[[u8; 6]],
    ) -> Result<bool, GuestError> {
        let mut data = Vec::new();
        for table in [unicast, multicast] {
            data.extend_from_slice(&(table.len() as u32).to_le_bytes());
            data.extend(table.iter().flatten());
        }
        self.control(bus, 1, 0, &data)
    }

    /// Sets the device's own address.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn set_address(
        &mut self,
        bus: &mut dyn GuestBus,
        address: [u8; 6],
    ) -> Result<bool, GuestError> {
        self.control(bus, 1, 1, &address)
    }

    /// Receive a VLAN, or not.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn set_vlan(
        &mut self,
        bus: &mut dyn GuestBus,
        vlan: u16,
        on: bool,
    ) -> Result<bool, GuestError> {
        self.control(bus, 2, u8::from(!on), &vlan.to_le_bytes())
    }

    /// Says that the guest has announced itself.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn acknowledge_announce(&mut self, bus: &mut dyn GuestBus) -> Result<bool, GuestError> {
        self.control(bus, 3, 0, &[])
    }

    /// Sets the number of queue pairs in use.
    ///
    /// # Errors
    /// As [`control`](Self::control).
    pub fn set_queue_pairs(
        &mut self,
        bus: &mut dyn GuestBus,
        pairs: u16,
    ) -> Result<bool, GuestError> {
        self.control(bus, 4, 0, &pairs.to_le_bytes())
    }
}
