//! Register offsets and bits of the configuration headers and of the capabilities that live here
//! (PCI Express Base 6.0, 7.5).

/// Vendor id, 16 bits.
pub const VENDOR_ID: u16 = 0x00;
/// Device id, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Command register, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Status register, 16 bits.
pub const STATUS: u16 = 0x06;
/// Revision id, 8 bits; the class code follows in 24 bits.
pub const REVISION_ID: u16 = 0x08;
/// Sub-class and base class, 16 bits.
pub const CLASS: u16 = 0x0a;
/// Header type, 8 bits.
pub const HEADER_TYPE: u16 = 0x0e;
/// First base address register, 32 bits each.
pub const BAR0: u16 = 0x10;
/// Bridge: primary bus number, 8 bits.
pub const PRIMARY_BUS: u16 = 0x18;
/// Bridge: secondary bus number, 8 bits.
pub const SECONDARY_BUS: u16 = 0x19;
/// Bridge: subordinate bus number, 8 bits.
pub const SUBORDINATE_BUS: u16 = 0x1a;
/// Bridge: I/O base, 8 bits; the limit follows.
pub const IO_BASE: u16 = 0x1c;
/// Bridge: secondary status, 16 bits.
pub const SECONDARY_STATUS: u16 = 0x1e;
/// Bridge: memory base, 16 bits; the limit follows.
pub const MEMORY_BASE: u16 = 0x20;
/// Bridge: prefetchable memory base, 16 bits; the limit follows.
pub const PREFETCH_BASE: u16 = 0x24;
/// Bridge: upper half of the prefetchable base, 32 bits; that of the limit follows.
pub const PREFETCH_BASE_UPPER: u16 = 0x28;
/// Bridge: upper half of the I/O base, 16 bits; that of the limit follows.
pub const IO_BASE_UPPER: u16 = 0x30;
/// Subsystem vendor id, 16 bits (type 0).
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Subsystem id, 16 bits (type 0).
pub const SUBSYSTEM_ID: u16 = 0x2e;
/// Expansion ROM base address of a type 0 header.
pub const ROM_TYPE0: u16 = 0x30;
/// Pointer to the first capability, 8 bits.
pub const CAPABILITIES: u16 = 0x34;
/// Expansion ROM base address of a type 1 header.
pub const ROM_TYPE1: u16 = 0x38;
/// Interrupt line, 8 bits.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits: 0 none, 1 INTA … 4 INTD.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Bridge control, 16 bits.
pub const BRIDGE_CONTROL: u16 = 0x3e;

/// Command: I/O space enable.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: memory space enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: bus master enable.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: INTx disable.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status: an INTx interrupt is pending.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Bridge control: secondary bus reset.
pub const BRIDGE_CONTROL_RESET: u16 = 1 << 6;
/// Header type: the device has several functions.
pub const HEADER_MULTIFUNCTION: u8 = 0x80;

/// Capability id: message signalled interrupts.
pub const CAP_MSI: u8 = 0x05;
/// Capability id: vendor specific.
pub const CAP_VENDOR: u8 = 0x09;
/// Capability id: subsystem ids of a bridge.
pub const CAP_SUBSYSTEM: u8 = 0x0d;
/// Capability id: PCI Express.
pub const CAP_EXPRESS: u8 = 0x10;
/// Capability id: MSI-X.
pub const CAP_MSIX: u8 = 0x11;
