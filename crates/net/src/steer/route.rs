//! A routing netlink socket: the few requests that steering makes, each waited for; and the guest's address claimed on its PF.
//!
//! A socket belongs to the network namespace in which it was opened, wherever its user goes later.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkVfInfo, VfInfo,
    VfInfoMac, VfInfoVlan, VfLinkState,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::carrier::LinkOf;
use super::claim::Claims;
use super::discovery::VfVlan;
use crate::announce::Mac;

/// The kernel answers at once; this only keeps a mistake from becoming a hang.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Larger than what the kernel puts into one answer.
const BUFFER_BYTES: usize = 256 * 1024;
/// More messages than any host has links or entries: the bound of a dump.
const ANSWERS_MAX: usize = 100_000;

/// A network interface, as far as steering cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Index of its bridge, bond, …
    pub(super) master: Option<u32>,
    /// Index of the interface below (of a VLAN).
    pub(super) lower: Option<u32>,
    pub(super) kind: Kind,
    /// Address of the device behind it, on its bus.
    pub(super) parent: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    Bridge,
    Vlan,
    MacVtap,
    #[default]
    Other,
}

/// In which table an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The bridge that the interface is a port of (`master`). A frame that comes in at another port does not move an entry of
    /// ours (`sticky`); it ages as any other, and goes with the port's carrier.
    Bridge,
    /// The interface's own filter (`self`), where it stays for as long as this program runs ([`Claims`]); without
    /// `CAP_NET_RAW` an entry that a killed program leaves behind.
    Own,
}

/// What a PF says of a VF, as far as it says it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct VfState {
    pub(super) mac: Option<Mac>,
    pub(super) vlan: Option<VfVlan>,
}

impl VfState {
    fn take(&mut self, message: &LinkMessage, vf: u32) {
        let lists = message.attributes.iter().filter_map(|a| match a {
            LinkAttribute::VfInfoList(list) => Some(list),
            _ => None,
        });
        for info in lists.flatten().flat_map(|info| &info.0) {
            match info {
                VfInfo::Mac(mac) if mac.vf_id == vf => {
                    self.mac = self.mac.or(mac.mac.first_chunk().copied());
                }
                VfInfo::Vlan(vlan) if vlan.vf_id == vf => {
                    let id = u16::try_from(vlan.vlan_id).ok();
                    let vlan = id.map(|id| VfVlan { id, qos: vlan.qos });
                    self.vlan = self.vlan.or(vlan);
                }
                _ => {}
            }
        }
    }
}

/// What steering asks of the host's kernel; every change is carried out when the call returns.
pub(super) trait Kernel: Send {
    /// Every interface of the namespace, by index.
    fn links(&mut self) -> io::Result<BTreeMap<u32, Link>>;

    /// What the PF's interface `pf` says of its VF number `vf`.
    fn vf(&mut self, pf: u32, vf: u32) -> io::Result<VfState>;

    /// `ip link set dev PF vf N mac MAC`; all zeroes: none.
    fn set_vf_mac(&mut self, pf: u32, vf: u32, mac: Mac) -> io::Result<()>;

    /// `ip link set dev PF vf N vlan ID qos QOS`.
    fn set_vf_vlan(&mut self, pf: u32, vf: u32, vlan: VfVlan) -> io::Result<()>;

    /// `bridge fdb replace MAC dev PORT master dynamic sticky`, or `bridge fdb add MAC dev PORT self`.
    fn add_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()>;

    /// `bridge fdb del MAC dev PORT master`, or `… self`.
    fn delete_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()>;
}

pub(super) struct Route {
    socket: Socket,
    sequence: u32,
    claims: Option<Claims>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Route({})", self.socket.as_raw_fd())
    }
}

type Message = NetlinkMessage<RouteNetlinkMessage>;

impl Route {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
        let claims = Claims::open().inspect_err(
            |error| tracing::debug!(%error, "no packet socket for addresses of the guest"),
        );
        Ok(Self {
            socket,
            sequence: 0,
            claims: claims.ok(),
        })
    }

    /// Sends a request; `take` sees each answer until the kernel says that it is done.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Message::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        for _ in 0..ANSWERS_MAX {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while let Some((answer, next)) = split(rest) {
                rest = next;
                // One that the library cannot read is of a kind we did not ask for.
                let Ok(answer) = Message::deserialize(answer) else {
                    continue;
                };
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => {
                                Err(io::Error::from_raw_os_error(code.get().wrapping_neg()))
                            }
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => take(inner),
                    _ => {}
                }
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn set_vf(&mut self, pf: u32, info: VfInfo) -> io::Result<()> {
        let request = RouteNetlinkMessage::SetLink(vf_change(pf, info));
        self.ask(request, NLM_F_ACK, |_| {})
    }
}

impl Route {
    /// Whether the wire of an interface, or of a VF of it, is there.
    pub(super) fn is_up(&mut self, link: LinkOf) -> io::Result<bool> {
        let mut message = LinkMessage::default();
        message.header.index = link.interface;
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
        let mut up = false;
        self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                up = is_up(&message, link.vf);
            }
        })?;
        Ok(up)
    }
}

impl Kernel for Route {
    fn links(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        let mut links = BTreeMap::new();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.ask(request, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                let link = link_of(&message);
                links.insert(link.index, link);
            }
        })?;
        Ok(links)
    }

    fn vf(&mut self, pf: u32, vf: u32) -> io::Result<VfState> {
        let mut message = LinkMessage::default();
        message.header.index = pf;
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
        let mut found = VfState::default();
        // An acknowledgement marks the end, whatever comes before it.
        self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                found.take(&message, vf);
            }
        })?;
        Ok(found)
    }

    fn set_vf_mac(&mut self, pf: u32, vf: u32, mac: Mac) -> io::Result<()> {
        self.set_vf(pf, VfInfo::Mac(VfInfoMac::new(vf, &mac)))
    }

    fn set_vf_vlan(&mut self, pf: u32, vf: u32, vlan: VfVlan) -> io::Result<()> {
        let info = VfInfoVlan::new(vf, vlan.id.into(), vlan.qos);
        self.set_vf(pf, VfInfo::Vlan(info))
    }

    fn add_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()> {
        if let (Table::Own, Some(claims)) = (table, &self.claims) {
            return claims.add(port, mac);
        }
        let flags = match table {
            Table::Bridge => NLM_F_CREATE | NLM_F_REPLACE,
            Table::Own => NLM_F_CREATE,
        };
        let request = RouteNetlinkMessage::NewNeighbour(entry(port, mac, table));
        self.ask(request, NLM_F_ACK | flags, |_| {})
    }

    fn delete_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()> {
        if let (Table::Own, Some(claims)) = (table, &self.claims) {
            return claims.remove(port, mac);
        }
        let request = RouteNetlinkMessage::DelNeighbour(entry(port, mac, table));
        self.ask(request, NLM_F_ACK, |_| {})
    }
}

/// The first message of `bytes`, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)?;
    let length = usize::try_from(length).ok().filter(|l| *l >= 16)?;
    let message = bytes.get(..length)?;
    let next = length.checked_next_multiple_of(4)?;
    Some((message, bytes.get(next..).unwrap_or_default()))
}

fn entry(port: u32, mac: Mac, table: Table) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    (message.header.flags, message.header.state) = match table {
        Table::Bridge => (
            NeighbourFlags::Controller | NeighbourFlags::Sticky,
            NeighbourState::Reachable,
        ),
        Table::Own => (NeighbourFlags::Own, NeighbourState::Permanent),
    };
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

/// A VF goes with its PF's carrier, unless it was set up or down.
fn is_up(message: &LinkMessage, vf: Option<u32>) -> bool {
    let carrier = message.header.flags.contains(LinkFlags::LowerUp);
    let lists = message.attributes.iter().filter_map(|a| match a {
        LinkAttribute::VfInfoList(list) => Some(list),
        _ => None,
    });
    let set = lists
        .flatten()
        .flat_map(|info| &info.0)
        .find_map(|info| match info {
            VfInfo::LinkState(state) if Some(state.vf_id) == vf => Some(state.state),
            _ => None,
        });
    match set {
        Some(VfLinkState::Enable) => true,
        Some(VfLinkState::Disable) => false,
        _ => carrier,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.master = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Link(index) => link.lower = Some(*index),
            LinkAttribute::ParentDevName(name) => link.parent = Some(name.clone()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
                        LinkInfo::Kind(InfoKind::Vlan) => link.kind = Kind::Vlan,
                        LinkInfo::Kind(InfoKind::MacVtap) => link.kind = Kind::MacVtap,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn vf_change(pf: u32, info: VfInfo) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = pf;
    let list = vec![LinkVfInfo(vec![info])];
    message.attributes.push(LinkAttribute::VfInfoList(list));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::VfInfoLinkState;

    const MAC: Mac = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];

    fn bytes(request: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = Message::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// No VF is here to try it on: the request, byte by byte, as `linux/if_link.h` lays it out.
    #[test]
    fn setting_a_vf_mac_is_what_the_kernel_expects() {
        let change = vf_change(7, VfInfo::Mac(VfInfoMac::new(3, &MAC)));

        let bytes = bytes(RouteNetlinkMessage::SetLink(change));

        assert_eq!(bytes[4..6], 19u16.to_ne_bytes()); // RTM_SETLINK
        assert_eq!(bytes[20..24], 7u32.to_ne_bytes()); // ifi_index
        let attribute = |at: usize| {
            let word = |i: usize| u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
            (word(at), word(at + 2) & 0x3fff)
        };
        assert_eq!(attribute(32), (48, 22)); // IFLA_VFINFO_LIST
        assert_eq!(attribute(36), (44, 1)); // IFLA_VF_INFO
        assert_eq!(attribute(40), (40, 1)); // IFLA_VF_MAC
        assert_eq!(bytes[44..48], 3u32.to_ne_bytes()); // vf
        assert_eq!(bytes[48..54], MAC);
        assert_eq!(bytes[54..], [0; 26]);
    }

    #[test]
    fn setting_a_vf_vlan_is_what_the_kernel_expects() {
        let change = vf_change(7, VfInfo::Vlan(VfInfoVlan::new(3, 42, 5)));

        let bytes = bytes(RouteNetlinkMessage::SetLink(change));

        let attribute = |at: usize| {
            let word = |i: usize| u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
            (word(at), word(at + 2) & 0x3fff)
        };
        assert_eq!(attribute(32), (24, 22)); // IFLA_VFINFO_LIST
        assert_eq!(attribute(36), (20, 1)); // IFLA_VF_INFO
        assert_eq!(attribute(40), (16, 2)); // IFLA_VF_VLAN
        let words = [3u32, 42, 5].map(u32::to_ne_bytes).concat();
        assert_eq!(bytes[44..], words);
    }

    #[test]
    fn a_vf_is_read_from_what_its_pf_says_of_it() {
        let mut message = vf_change(7, VfInfo::Mac(VfInfoMac::new(3, &MAC)));
        let more = [
            VfInfo::Mac(VfInfoMac::new(2, &[1; 6])),
            VfInfo::Vlan(VfInfoVlan::new(3, 42, 5)),
            VfInfo::Vlan(VfInfoVlan::new(2, 7, 0)),
        ];
        for info in more {
            message.attributes.extend(vf_change(7, info).attributes);
        }
        let mut state = VfState::default();
        state.take(&message, 3);
        let vlan = Some(VfVlan { id: 42, qos: 5 });
        let mac = Some(MAC);
        assert_eq!(state, VfState { mac, vlan });
        let mut none = VfState::default();
        none.take(&message, 9);
        assert_eq!(none, VfState::default());
    }

    #[test]
    fn a_vf_goes_with_its_pf_unless_it_was_set() {
        let link = |carrier: bool, states: &[(u32, VfLinkState)]| {
            let mut message = LinkMessage::default();
            if carrier {
                message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
            }
            let of = |(vf, state): &(u32, VfLinkState)| {
                LinkVfInfo(vec![VfInfo::LinkState(VfInfoLinkState::new(*vf, *state))])
            };
            let list = states.iter().map(of).collect();
            message.attributes.push(LinkAttribute::VfInfoList(list));
            message
        };
        let auto = [(0, VfLinkState::Disable), (1, VfLinkState::Auto)];
        let up = [(0, VfLinkState::Auto), (1, VfLinkState::Enable)];
        let down = [(0, VfLinkState::Auto), (1, VfLinkState::Disable)];
        for carrier in [false, true] {
            assert_eq!(is_up(&link(carrier, &[]), None), carrier);
            assert_eq!(is_up(&link(carrier, &[]), Some(1)), carrier);
            assert_eq!(is_up(&link(carrier, &auto), Some(1)), carrier);
            assert!(is_up(&link(carrier, &up), Some(1)));
            assert!(!is_up(&link(carrier, &down), Some(1)));
        }
    }

    #[test]
    fn a_truncated_answer_ends_the_walk() {
        let mut two = bytes(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let one = two.len();
        two.extend(two.clone());
        let (first, rest) = split(&two).expect("one");
        assert_eq!((first.len(), rest.len()), (one, one));
        assert!(split(&rest[..one - 1]).is_none());
        assert!(split(&[0; 32]).is_none());
        assert!(split(&[]).is_none());
    }
}
