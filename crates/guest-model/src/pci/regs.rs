//! Offsets and bits of the PCI Local Bus 3.0 and PCI Express 4.0 configuration header that the model uses.

/// Vendor in the low half, device in the high one.
pub const ID: u16 = 0x00;
/// Command register.
pub const COMMAND: u16 = 0x04;
/// Status register.
pub const STATUS: u16 = 0x06;
/// Revision, programming interface, subclass and class.
pub const CLASS_REVISION: u16 = 0x08;
/// Kind of header, and whether there are more functions.
pub const HEADER_TYPE: u16 = 0x0e;
/// The first base address register.
pub const BAR0: u16 = 0x10;
/// A bridge's bus numbers: primary, secondary, subordinate, latency timer.
pub const BUS_NUMBERS: u16 = 0x18;
/// A bridge's I/O window: base, limit.
pub const IO_WINDOW: u16 = 0x1c;
/// A bridge's memory window: base, limit.
pub const MEMORY_WINDOW: u16 = 0x20;
/// A bridge's prefetchable window: base, limit.
pub const PREFETCH_WINDOW: u16 = 0x24;
/// Upper half of the prefetchable window's base.
pub const PREFETCH_BASE_UPPER: u16 = 0x28;
/// Upper half of the prefetchable window's limit.
pub const PREFETCH_LIMIT_UPPER: u16 = 0x2c;
/// Upper halves of the I/O window's base and limit.
pub const IO_WINDOW_UPPER: u16 = 0x30;
/// Subsystem vendor and subsystem.
pub const SUBSYSTEM: u16 = 0x2c;
/// Offset of the first capability.
pub const CAPABILITIES: u16 = 0x34;

/// Command: decode I/O.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: decode memory.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: access memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: no INTx.
pub const COMMAND_INTX_OFF: u16 = 1 << 10;
/// Status: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Capability: MSI.
pub const CAP_MSI: u8 = 0x05;
/// Capability: a vendor's own.
pub const CAP_VENDOR: u8 = 0x09;
/// Capability: PCI Express.
pub const CAP_EXPRESS: u8 = 0x10;
/// Capability: MSI-X.
pub const CAP_MSIX: u8 = 0x11;

/// In the PCI Express capability: capabilities (port type, slot implemented).
pub const EXPRESS_FLAGS: u16 = 0x02;
/// In the PCI Express capability: link control.
pub const LINK_CONTROL: u16 = 0x10;
/// In the PCI Express capability: link status.
pub const LINK_STATUS: u16 = 0x12;
/// In the PCI Express capability: slot capabilities.
pub const SLOT_CAPABILITIES: u16 = 0x14;
/// In the PCI Express capability: slot control.
pub const SLOT_CONTROL: u16 = 0x18;
/// In the PCI Express capability: slot status.
pub const SLOT_STATUS: u16 = 0x1a;
