//! What is wired to what in L1.
//!
//! ```text
//!        host A (namespace hA)                     switch (namespace sw)              client (namespace)
//!   guest ─ VF ─┐
//!               igb PF ── cable ── virtio-net ──── port igbA ┐
//!   guest ─ tap ─ brA ┘                                      │
//!   guest ─ e1000e ───── cable ── virtio-net ───── port e1kA ┤ sw0, learning ─── veth ─── 10.9.0.1, 10.9.1.1
//!        host B (namespace hB)                               │
//!   the same: igb ─ cable ─ … igbB, e1000e ─ cable ─ … e1kB ─┘
//!        hA ─ veth 10.1.0.1 ── 10.1.0.2 ─ hB, for the migration
//! ```
//! A cable is a QEMU hub with two ports. Every device has a fixed slot, so that L1 finds it by its
//! place and not by a name the kernel gave it.

/// A cable between a NIC of a host and a port of the switch.
pub struct Cable {
    /// The name of the port on the switch.
    pub port: &'static str,
    /// The slot of the root port that holds the NIC.
    pub nic_slot: u8,
    /// The slot of the virtio-net device at the switch's end.
    pub port_slot: u8,
    /// The NIC's model.
    pub model: &'static str,
    /// The NIC's address.
    pub mac: &'static str,
}

/// The address of a guest's first pair: the seed document's.
pub const GUEST_MAC: &str = "52:54:00:6f:55:cc";

/// The four cables: the two hosts' uplinks, then the two hosts' e1000e.
pub const CABLES: [Cable; 4] = [
    Cable {
        port: "igbA",
        nic_slot: 0x10,
        port_slot: 0x14,
        model: "igb",
        mac: "52:54:00:00:00:0a",
    },
    Cable {
        port: "igbB",
        nic_slot: 0x11,
        port_slot: 0x15,
        model: "igb",
        mac: "52:54:00:00:00:0b",
    },
    Cable {
        port: "e1kA",
        nic_slot: 0x12,
        port_slot: 0x16,
        model: "e1000e",
        mac: GUEST_MAC,
    },
    Cable {
        port: "e1kB",
        nic_slot: 0x13,
        port_slot: 0x17,
        model: "e1000e",
        mac: GUEST_MAC,
    },
];

/// The options that give L1's VMM these devices.
pub fn l1_devices() -> Vec<String> {
    let mut options = Vec::new();
    let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
    for (index, cable) in CABLES.iter().enumerate() {
        let Cable {
            nic_slot,
            port_slot,
            model,
            mac,
            ..
        } = cable;
        option(
            "-device",
            format!(
                "pcie-root-port,id=rp{index},chassis={},slot={},addr={nic_slot:#x}",
                index + 1,
                index + 1
            ),
        );
        option("-netdev", format!("hubport,hubid={index},id=nic{index}"));
        option("-netdev", format!("hubport,hubid={index},id=port{index}"));
        option(
            "-device",
            format!("{model},bus=rp{index},netdev=nic{index},mac={mac},romfile="),
        );
        option(
            "-device",
            format!(
                "virtio-net-pci,netdev=port{index},mac=52:54:00:00:01:{index:02x},addr={port_slot:#x},disable-legacy=on,romfile="
            ),
        );
    }
    options
}
