//! Feature bits (virtio 1.2, sections 2.2, 5.1.3, 5.2.3 and 6).

/// Reserved feature bits of every device type (virtio 1.2, section 6).
pub mod ring {
    /// A descriptor may point to a table of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say at which index they want to be notified.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Compliance with virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Feature bits of a network device (virtio 1.2, section 5.1.3).
pub mod net {
    /// The device takes packets with a partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes packets with a partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver may change the offloads of reception at run time.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// The device advises a maximum MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TSOv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TSOv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The driver takes TSO with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The driver takes UFO.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// The device takes TSOv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes TSOv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device takes TSO with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// The device takes UFO.
    pub const HOST_UFO: u64 = 1 << 14;
    /// The driver takes a packet in several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The configuration has a status field.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The control queue takes reception modes.
    pub const CTRL_RX: u64 = 1 << 18;
    /// The control queue takes VLAN filters.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// The control queue takes the extra reception modes.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// The driver announces itself when asked.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// Several queue pairs.
    pub const MQ: u64 = 1 << 22;
    /// The control queue takes a MAC address.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    /// The device is a standby for a primary device with the same MAC address.
    pub const STANDBY: u64 = 1 << 62;
}

/// Feature bits of a block device (virtio 1.2, section 5.2.3).
pub mod blk {
    /// The configuration tells the largest number of segments in a request.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// The configuration tells the block size.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Flush command.
    pub const FLUSH: u64 = 1 << 9;
    /// Discard command.
    pub const DISCARD: u64 = 1 << 13;
    /// Write-zeroes command.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}
