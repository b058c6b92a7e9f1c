//! `query-rx-filter`, and the view of the network for a person.

use machine::inspect::{Inspect, MacAddr, NetdevView, NicView, RxFilter};
use monitor::QmpError;
use monitor::types::{NetworkClientInfo, NetworkClientKind, RxFilterInfo, RxState};

/// `query-rx-filter`.
pub(super) fn rx_filters(
    machine: &dyn Inspect,
    name: Option<&str>,
) -> Result<Vec<RxFilterInfo>, QmpError> {
    let nics = machine.nics();
    let wanted = |nic: &&NicView| name.is_none_or(|name| nic.key == name);
    let look = |nic: &NicView| {
        machine.filter_looked_at(&nic.key);
        rx_filter(nic)
    };
    let found: Vec<_> = nics.iter().filter(wanted).map(look).collect();
    match name {
        Some(name) if found.is_empty() => Err(QmpError::generic(format!(
            "invalid net client name: {name}"
        ))),
        _ => Ok(found),
    }
}

fn state(none: bool, all: bool) -> RxState {
    match (none, all) {
        (true, _) => RxState::None,
        (false, true) => RxState::All,
        (false, false) => RxState::Normal,
    }
}

fn rx_filter(nic: &NicView) -> RxFilterInfo {
    let filter: &RxFilter = &nic.filter;
    let mut vlans: Vec<i64> = filter.vlans().map(i64::from).collect();
    // Highest first, as QEMU lists them.
    vlans.reverse();
    let addresses = |list: &[MacAddr]| list.iter().map(ToString::to_string).collect();
    RxFilterInfo {
        name: nic.key.clone(),
        promiscuous: filter.promiscuous,
        multicast: state(filter.no_multicast, filter.all_multicast),
        unicast: state(filter.no_unicast, filter.all_unicast),
        vlan: state(vlans.is_empty(), vlans.len() == 4096),
        // QEMU tells the opposite of what the member's name says; we tell what it says.
        broadcast_allowed: !filter.no_broadcast,
        multicast_overflow: filter.multicast_overflow,
        unicast_overflow: filter.unicast_overflow,
        main_mac: filter.mac.to_string(),
        vlan_table: vlans,
        unicast_table: addresses(&filter.unicast),
        multicast_table: addresses(&filter.multicast),
    }
}

/// The kind of a netdev; one that is not known here has nothing to say of itself.
fn kind(name: &str) -> NetworkClientKind {
    match name {
        "tap" => NetworkClientKind::Tap,
        "hubport" => NetworkClientKind::HubPort,
        "dgram" => NetworkClientKind::Dgram,
        "stream" => NetworkClientKind::Stream,
        "socket" => NetworkClientKind::Socket,
        "user" => NetworkClientKind::User,
        _ => NetworkClientKind::Null,
    }
}

fn client(netdev: &NetdevView, index: u16) -> NetworkClientInfo {
    NetworkClientInfo {
        name: netdev.id.clone(),
        index: index.into(),
        kind: kind(netdev.kind),
        info: netdev.description.clone(),
        link_down: false,
        peer: None,
    }
}

/// `x-query-network`: each NIC with what is behind it, a line a queue pair, then the netdevs without a NIC.
pub(super) fn clients(machine: &dyn Inspect) -> Vec<NetworkClientInfo> {
    let mut clients = Vec::new();
    for nic in machine.nics() {
        let (pairs, active) = nic.queue_pairs;
        for index in 0..pairs.max(1) {
            let mut peer = nic.netdev.as_ref().map(|netdev| client(netdev, index));
            if let (0, Some(peer), Some(steering)) = (index, &mut peer, &nic.steering) {
                peer.info += &format!(",steering={steering}");
            }
            clients.push(NetworkClientInfo {
                name: nic.key.clone(),
                index: index.into(),
                kind: NetworkClientKind::Nic,
                info: if index == 0 {
                    nic_info(&nic, active)
                } else {
                    format!("model={},macaddr={}", nic.driver, nic.mac)
                },
                link_down: !nic.link_up,
                peer: peer.map(Box::new),
            });
        }
    }
    clients.extend(
        machine
            .spare_netdevs()
            .iter()
            .map(|netdev| client(netdev, 0)),
    );
    clients
}

fn nic_info(nic: &NicView, active_pairs: u16) -> String {
    let c = &nic.counters;
    let mut info = format!("model={},macaddr={}", nic.driver, nic.mac);
    if nic.queue_pairs.0 > 1 {
        info += &format!(",active-queue-pairs={active_pairs}");
    }
    for (name, count) in [
        ("rx-frames", c.rx_frames),
        ("rx-bytes", c.rx_bytes),
        ("rx-dropped", c.rx_dropped),
        ("rx-filtered", c.rx_filtered),
        ("rx-starved", c.rx_starved),
        ("tx-frames", c.tx_frames),
        ("tx-bytes", c.tx_bytes),
        ("tx-dropped", c.tx_dropped),
    ] {
        info += &format!(",{name}={count}");
    }
    info
}
