//! What the gateway answers: ARP (RFC 826), DHCP (RFC 2131), echo requests and, with an error, everything else
//! (RFC 792). One frame in, at most one out.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr,
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use std::net::Ipv4Addr;

use super::Plan;

/// Addresses that are leased, one after the other from the plan's first on.
pub(super) const LEASES_MAX: usize = 16;
/// A day, in seconds.
const LEASE_S: u32 = 86_400;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const HOP_LIMIT: u8 = 64;
/// Of the packet that an ICMP error answers: what RFC 792 quotes behind the header, in bytes.
const QUOTED_BYTES: usize = 8;
/// DHCP's options of RFC 2132 that the packet builder has no field for.
const OPTION_HOST_NAME: u8 = 12;
const OPTION_DOMAIN_NAME: u8 = 15;

/// The far end of the network.
#[derive(Debug)]
pub(super) struct Gateway {
    plan: Plan,
    /// Who has which address: the place in the list.
    leases: Vec<EthernetAddress>,
    checksums: ChecksumCapabilities,
}

impl Gateway {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            leases: Vec::new(),
            checksums: ChecksumCapabilities::default(),
        }
    }

    /// The answer to a frame of the guest's, if it gets one.
    pub(super) fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let from = frame.src_addr();
        if !from.is_unicast() {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.ipv4(from, frame.dst_addr(), frame.payload()),
            _ => None,
        }
    }

    /// The hardware address of one of our own.
    fn hardware(address: Ipv4Addr) -> EthernetAddress {
        let [a, b, c, d] = address.octets();
        EthernetAddress([0x52, 0x55, a, b, c, d])
    }

    fn is_ours(&self, address: Ipv4Addr) -> bool {
        address == self.plan.gateway || address == self.plan.name_server
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        self.plan.subnet.contains(address)
    }

    fn arp(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let packet = ArpPacket::new_checked(packet).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        if !self.is_ours(target_protocol_addr) || !source_hardware_addr.is_unicast() {
            return None;
        }
        let ours = Self::hardware(target_protocol_addr);
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: ours,
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let ethernet = EthernetRepr {
            src_addr: ours,
            dst_addr: source_hardware_addr,
            ethertype: EthernetProtocol::Arp,
        };
        Some(framed(ethernet, reply.buffer_len(), |bytes| {
            reply.emit(&mut ArpPacket::new_unchecked(bytes));
        }))
    }

    fn ipv4(
        &mut self,
        from: EthernetAddress,
        to: EthernetAddress,
        packet: &[u8],
    ) -> Option<Vec<u8>> {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        // Fragments are refused here: nothing is put together.
        let header = Ipv4Repr::parse(&packet, &self.checksums).ok()?;
        let payload = packet.payload();
        if header.next_header == IpProtocol::Udp
            && let Some(answer) = self.udp(from, &header, payload)
        {
            return Some(answer);
        }
        let meant_for_us =
            to == Self::hardware(self.plan.gateway) || to == Self::hardware(self.plan.name_server);
        let asks_from_inside = self.is_inside(header.src_addr) && !self.is_ours(header.src_addr);
        let to_all = header.dst_addr.is_broadcast()
            || header.dst_addr.is_multicast()
            || header.dst_addr.is_unspecified();
        if !meant_for_us || !asks_from_inside || to_all {
            return None;
        }
        if header.next_header == IpProtocol::Icmp {
            return self.icmp(from, &header, payload);
        }
        let reason = match header.next_header {
            _ if !self.is_inside(header.dst_addr) => Icmpv4DstUnreachable::NetUnreachable,
            _ if !self.is_ours(header.dst_addr) => Icmpv4DstUnreachable::HostUnreachable,
            IpProtocol::Udp | IpProtocol::Tcp => Icmpv4DstUnreachable::PortUnreachable,
            _ => Icmpv4DstUnreachable::ProtoUnreachable,
        };
        Some(self.unreachable(from, &header, payload, reason))
    }

    fn icmp(&self, from: EthernetAddress, header: &Ipv4Repr, payload: &[u8]) -> Option<Vec<u8>> {
        let packet = Icmpv4Packet::new_checked(payload).ok()?;
        let Icmpv4Repr::EchoRequest {
            ident,
            seq_no,
            data,
        } = Icmpv4Repr::parse(&packet, &self.checksums).ok()?
        else {
            return None;
        };
        if !self.is_ours(header.dst_addr) {
            let reason = Icmpv4DstUnreachable::NetUnreachable;
            return Some(self.unreachable(from, header, payload, reason));
        }
        let reply = Icmpv4Repr::EchoReply {
            ident,
            seq_no,
            data,
        };
        Some(self.icmp_answer(from, header.dst_addr, header.src_addr, &reply))
    }

    fn unreachable(
        &self,
        from: EthernetAddress,
        header: &Ipv4Repr,
        payload: &[u8],
        reason: Icmpv4DstUnreachable,
    ) -> Vec<u8> {
        let quoted = payload.len().min(QUOTED_BYTES);
        let error = Icmpv4Repr::DstUnreachable {
            reason,
            header: *header,
            data: payload.get(..quoted).unwrap_or(&[]),
        };
        self.icmp_answer(from, self.plan.gateway, header.src_addr, &error)
    }

    fn icmp_answer(
        &self,
        hardware: EthernetAddress,
        from: Ipv4Addr,
        to: Ipv4Addr,
        message: &Icmpv4Repr<'_>,
    ) -> Vec<u8> {
        let length = message.buffer_len();
        self.packet(hardware, from, to, IpProtocol::Icmp, length, |bytes| {
            message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &self.checksums);
        })
    }

    /// An IP packet from `from` to `to` with `length` bytes of payload, in a frame.
    fn packet(
        &self,
        hardware: EthernetAddress,
        from: Ipv4Addr,
        to: Ipv4Addr,
        protocol: IpProtocol,
        length: usize,
        payload: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let header = Ipv4Repr {
            src_addr: from,
            dst_addr: to,
            next_header: protocol,
            payload_len: length,
            hop_limit: HOP_LIMIT,
        };
        let ethernet = EthernetRepr {
            src_addr: Self::hardware(from),
            dst_addr: hardware,
            ethertype: EthernetProtocol::Ipv4,
        };
        framed(ethernet, header.buffer_len() + length, |bytes| {
            let mut packet = Ipv4Packet::new_unchecked(bytes);
            header.emit(&mut packet, &self.checksums);
            payload(packet.payload_mut());
        })
    }

    /// DHCP is the only service over UDP.
    fn udp(&mut self, from: EthernetAddress, header: &Ipv4Repr, payload: &[u8]) -> Option<Vec<u8>> {
        let for_us = header.dst_addr.is_broadcast() || header.dst_addr == self.plan.gateway;
        let packet = UdpPacket::new_checked(payload).ok()?;
        let (source, target) = (header.src_addr.into(), header.dst_addr.into());
        let udp = UdpRepr::parse(&packet, &source, &target, &self.checksums).ok()?;
        if udp.dst_port != DHCP_SERVER || !for_us {
            return None;
        }
        let request = DhcpPacket::new_checked(packet.payload()).ok()?;
        let request = DhcpRepr::parse(&request).ok()?;
        self.dhcp(from, &request)
    }

    /// The address of whoever asks, leased to it now if it has none; `None` if all are taken.
    fn lease(&mut self, client: EthernetAddress) -> Option<Ipv4Addr> {
        let known = self.leases.iter().position(|holder| *holder == client);
        let at = match known {
            Some(at) => at,
            None if self.leases.len() < LEASES_MAX => {
                self.leases.push(client);
                self.leases.len() - 1
            }
            None => return None,
        };
        let first = self.plan.first_lease.to_bits();
        let address = Ipv4Addr::from_bits(first.checked_add(u32::try_from(at).ok()?)?);
        self.is_inside(address).then_some(address)
    }

    fn dhcp(&mut self, from: EthernetAddress, request: &DhcpRepr<'_>) -> Option<Vec<u8>> {
        let host = self.plan.gateway;
        if request
            .server_identifier
            .is_some_and(|server| server != host)
        {
            return None;
        }
        let client = request.client_hardware_address;
        let wanted = request.requested_ip.unwrap_or(request.client_ip);
        let (kind, address) = match request.message_type {
            DhcpMessageType::Discover => (DhcpMessageType::Offer, self.lease(client)?),
            DhcpMessageType::Request => match self.lease(client)? {
                leased if leased == wanted => (DhcpMessageType::Ack, leased),
                _ => (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED),
            },
            DhcpMessageType::Inform => (DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED),
            _ => return None,
        };
        let granted = kind != DhcpMessageType::Nak;
        let open = granted && self.plan.routed;
        let names = [
            (OPTION_HOST_NAME, &self.plan.names.host),
            (OPTION_DOMAIN_NAME, &self.plan.names.domain),
        ];
        let names: Vec<DhcpOption<'_>> = names
            .iter()
            .filter_map(|(kind, name)| {
                let data = name.as_deref().filter(|_| granted)?.as_bytes();
                Some(DhcpOption { kind: *kind, data })
            })
            .collect();
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: client,
            client_ip: if granted {
                request.client_ip
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            your_ip: address,
            server_ip: host,
            router: open.then_some(host),
            subnet_mask: granted.then_some(self.plan.subnet.mask),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(host),
            parameter_request_list: None,
            dns_servers: open.then(|| [self.plan.name_server].into_iter().collect()),
            max_size: None,
            lease_duration: (granted && !address.is_unspecified()).then_some(LEASE_S),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &names,
        };
        let to = if granted && !request.client_ip.is_unspecified() {
            request.client_ip
        } else {
            Ipv4Addr::BROADCAST
        };
        let udp = UdpRepr {
            src_port: DHCP_SERVER,
            dst_port: DHCP_CLIENT,
        };
        let (length, header) = (reply.buffer_len(), udp.header_len());
        let mut whole = true;
        let answer = self.packet(from, host, to, IpProtocol::Udp, header + length, |bytes| {
            let mut packet = UdpPacket::new_unchecked(bytes);
            let (source, target) = (host.into(), to.into());
            let emit = |bytes: &mut [u8]| {
                whole = reply.emit(&mut DhcpPacket::new_unchecked(bytes)).is_ok();
            };
            udp.emit(&mut packet, &source, &target, length, emit, &self.checksums);
        });
        whole.then_some(answer)
    }
}

/// A frame with `length` bytes of payload, and what a short one is padded with.
fn framed(ethernet: EthernetRepr, length: usize, payload: impl FnOnce(&mut [u8])) -> Vec<u8> {
    const SHORTEST: usize = 60;
    let header = EthernetFrame::<&[u8]>::header_len();
    let mut bytes = vec![0; header + length];
    let mut frame = EthernetFrame::new_unchecked(bytes.as_mut_slice());
    ethernet.emit(&mut frame);
    payload(frame.payload_mut());
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

#[cfg(test)]
mod tests;
