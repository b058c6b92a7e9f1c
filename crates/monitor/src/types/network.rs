//! The network: announcing, receive filters, and the view for a person.

use crate::qapi::{qapi_enum, qapi_struct};

qapi_enum! {
    /// Which frames of a kind pass a receive filter.
    pub enum RxState {
        /// Those that are listed.
        Normal = "normal",
        /// None.
        None = "none",
        /// All.
        All = "all",
    }

    /// What a network client is.
    pub enum NetworkClientKind {
        /// A NIC that a guest sees.
        Nic = "nic",
        /// A tap device.
        Tap = "tap",
        /// No network at all behind it.
        Null = "null",
        /// A user-mode network.
        User = "user",
        /// A port of a hub.
        HubPort = "hubport",
        /// A stream socket.
        Stream = "stream",
        /// A datagram socket.
        Dgram = "dgram",
        /// A stream or datagram socket, the older form.
        Socket = "socket",
    }
}

qapi_struct! {
    /// When and how often to announce: `announce-self`, and the `announce-*` migration parameters.
    pub struct AnnounceParameters {
        /// Delay before the first announcement, in ms.
        initial_ms: i64 = "initial",
        /// The longest delay, in ms.
        max_ms: i64 = "max",
        /// How many announcements.
        rounds: i64 = "rounds",
        /// By how much the delay grows each time, in ms.
        step_ms: i64 = "step",
        /// Only the NICs of these ids.
        interfaces: Option<Vec<String>> = "interfaces",
        /// A name for this run, so that a later command can stop it.
        id: Option<String> = "id",
    }

    /// One NIC of `query-rx-filter`.
    pub struct RxFilterInfo {
        /// The NIC's id.
        name: String = "name",
        /// Everything passes.
        promiscuous: bool = "promiscuous",
        /// Multicast frames.
        multicast: RxState = "multicast",
        /// Unicast frames.
        unicast: RxState = "unicast",
        /// VLANs.
        vlan: RxState = "vlan",
        /// Broadcast frames pass.
        broadcast_allowed: bool = "broadcast-allowed",
        /// The multicast table is too small for what the guest asked.
        multicast_overflow: bool = "multicast-overflow",
        /// The unicast table is too small for what the guest asked.
        unicast_overflow: bool = "unicast-overflow",
        /// The NIC's address.
        main_mac: String = "main-mac",
        /// The VLAN ids that pass.
        vlan_table: Vec<i64> = "vlan-table",
        /// The unicast addresses that pass.
        unicast_table: Vec<String> = "unicast-table",
        /// The multicast addresses that pass.
        multicast_table: Vec<String> = "multicast-table",
    }

    /// A NIC or a back end, for `info network`.
    pub struct NetworkClientInfo {
        /// Its id.
        name: String = "name",
        /// The queue pair this is, from 0.
        index: i64 = "index",
        /// What it is.
        kind: NetworkClientKind = "type",
        /// What there is to say about it, as `model=virtio-net-pci,macaddr=52:54:00:6f:55:cc`.
        info: String = "info",
        /// `set_link` took its link down.
        link_down: bool = "link-down",
        /// For a NIC: the back end it is on.
        peer: Option<Box<NetworkClientInfo>> = "peer",
    }
}
