//! The control queue (virtio 1.2, section 5.1.6.5).

use super::NetEvent;
use super::backend::Offloads;
use super::filter::{MAC_TABLE_ENTRIES, MacAddr};
use super::shared::{Context, Rules};
use crate::chain::{Buffers, RingError};
use crate::features::net;
use crate::io_buffer::{gather, total_len};
use crate::queue::Virtqueue;
use std::sync::atomic::Ordering;

/// The longest command read: class, command, and tables of more addresses than anyone has.
const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Commands after which others get their turn.
const COMMANDS_PER_TURN: usize = 64;

const ACK_OK: u8 = 0;
const ACK_ERROR: u8 = 1;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_ANNOUNCE: u8 = 3;
const CLASS_MQ: u8 = 4;
const CLASS_GUEST_OFFLOADS: u8 = 5;

pub(super) struct Control<'m> {
    queue: Virtqueue,
    index: usize,
    buffers: Buffers<'m>,
    command: Vec<u8>,
    pub(super) ready: bool,
}

/// The command is not known, not negotiated or makes no sense.
struct Refused;

impl<'m> Control<'m> {
    pub(super) fn new(queue: Virtqueue, index: usize) -> Self {
        Self {
            queue,
            index,
            buffers: Buffers::default(),
            command: Vec::new(),
            ready: true,
        }
    }

    pub(super) fn into_queue(self) -> Virtqueue {
        self.queue
    }

    pub(super) fn serve(&mut self, context: &Context<'m>) -> Result<(), RingError> {
        let ram = context.ram;
        for _ in 0..COMMANDS_PER_TURN {
            let Some(head) = self.queue.pop(ram)? else {
                if self.queue.enable_notification(ram)? {
                    continue;
                }
                self.ready = false;
                break;
            };
            self.buffers.clear();
            let room = self.queue.resolve(ram, head, &mut self.buffers)?;
            if room == 0 {
                return Err(RingError::Request(
                    "a control command without room for an answer",
                ));
            }
            let length = total_len(&self.buffers.readable);
            let answer = if length > COMMAND_BYTES_MAX {
                ACK_ERROR
            } else {
                self.command.resize(length, 0);
                gather(&self.buffers.readable, 0, &mut self.command);
                match carry_out(context, &self.command) {
                    Ok(()) => ACK_OK,
                    Err(Refused) => ACK_ERROR,
                }
            };
            self.buffers.write(ram, 0, &[answer]);
            self.queue.stage_used(ram, head, 1)?;
            self.queue.publish(ram)?;
        }
        self.buffers.clear();
        if self.queue.wants_interrupt(ram)? {
            context.signals.queue(self.index);
        }
        Ok(())
    }
}

fn carry_out(context: &Context<'_>, command: &[u8]) -> Result<(), Refused> {
    let shared = context.shared;
    let [class, code, data @ ..] = command else {
        return Err(Refused);
    };
    let needs = |feature: u64| {
        if shared.accepted(feature) {
            Ok(())
        } else {
            Err(Refused)
        }
    };
    match (*class, *code) {
        (CLASS_RX, code) => {
            needs(if code < 2 {
                net::CTRL_RX
            } else {
                net::CTRL_RX_EXTRA
            })?;
            rx_mode(context, code, data)?;
        }
        (CLASS_MAC, 0) => {
            needs(net::CTRL_RX)?;
            mac_table(context, data)?;
        }
        (CLASS_MAC, 1) => {
            needs(net::CTRL_MAC_ADDR)?;
            let mac = <[u8; 6]>::try_from(data).map_err(|_| Refused)?;
            shared.change(|rules| rules.filter.mac = MacAddr(mac));
        }
        (CLASS_VLAN, code @ (0 | 1)) => {
            needs(net::CTRL_VLAN)?;
            let id = u16::from_le_bytes(data.try_into().map_err(|_| Refused)?);
            let mut known = false;
            shared.change(|rules| known = rules.filter.set_vlan(id, code == 0));
            known.then_some(()).ok_or(Refused)?;
        }
        (CLASS_ANNOUNCE, 0) => {
            needs(net::GUEST_ANNOUNCE)?;
            if shared.announce.swap(false, Ordering::AcqRel) {
                shared.tell(NetEvent::AnnounceAcked);
            }
            return Ok(());
        }
        (CLASS_MQ, 0) => {
            needs(net::MQ)?;
            let pairs = u16::from_le_bytes(data.try_into().map_err(|_| Refused)?);
            if pairs == 0 || pairs > shared.pairs {
                return Err(Refused);
            }
            change_backend(context, |rules| rules.active_pairs = pairs);
            return Ok(());
        }
        (CLASS_GUEST_OFFLOADS, 0) => {
            needs(net::CTRL_GUEST_OFFLOADS)?;
            let bits = u64::from_le_bytes(data.try_into().map_err(|_| Refused)?);
            let offloads = Offloads::from_bits(bits).ok_or(Refused)?;
            let features = shared.features.load(Ordering::Acquire);
            if !Offloads::from_bits_truncate(features).contains(offloads) {
                return Err(Refused);
            }
            change_backend(context, |rules| rules.offloads = offloads);
            return Ok(());
        }
        _ => return Err(Refused),
    }
    shared.tell(NetEvent::RxFilterChanged);
    Ok(())
}

fn change_backend(context: &Context<'_>, change: impl FnOnce(&mut Rules)) {
    context.shared.change(change);
    context.shared.apply_to_backend(&context.shared.rules());
}

fn rx_mode(context: &Context<'_>, code: u8, data: &[u8]) -> Result<(), Refused> {
    let [on] = data else { return Err(Refused) };
    let on = *on != 0;
    let mut known = true;
    context.shared.change(|rules| {
        let filter = &mut rules.filter;
        let flag = match code {
            0 => &mut filter.promiscuous,
            1 => &mut filter.all_multicast,
            2 => &mut filter.all_unicast,
            3 => &mut filter.no_multicast,
            4 => &mut filter.no_unicast,
            5 => &mut filter.no_broadcast,
            _ => {
                known = false;
                return;
            }
        };
        *flag = on;
    });
    known.then_some(()).ok_or(Refused)
}

/// One table of addresses and what follows it.
fn table(data: &[u8]) -> Result<(Vec<MacAddr>, &[u8]), Refused> {
    let (count, rest) = data.split_first_chunk::<4>().ok_or(Refused)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| Refused)?;
    let bytes = count.checked_mul(6).ok_or(Refused)?;
    let (entries, rest) = rest.split_at_checked(bytes).ok_or(Refused)?;
    let addresses = entries
        .chunks_exact(6)
        .filter_map(|entry| entry.try_into().ok().map(MacAddr))
        .collect();
    Ok((addresses, rest))
}

fn mac_table(context: &Context<'_>, data: &[u8]) -> Result<(), Refused> {
    let (mut unicast, rest) = table(data)?;
    let (mut multicast, rest) = table(rest)?;
    if !rest.is_empty() {
        return Err(Refused);
    }
    let unicast_overflow = unicast.len() > MAC_TABLE_ENTRIES;
    if unicast_overflow {
        unicast.clear();
    }
    let multicast_overflow = unicast.len() + multicast.len() > MAC_TABLE_ENTRIES;
    if multicast_overflow {
        multicast.clear();
    }
    context.shared.change(|rules| {
        let filter = &mut rules.filter;
        filter.unicast = unicast;
        filter.multicast = multicast;
        filter.unicast_overflow = unicast_overflow;
        filter.multicast_overflow = multicast_overflow;
    });
    Ok(())
}
