//! How device types and their properties are declared.
//!
//! The table itself is in [`crate::device_types`]. It is the one place where a property has its name, type, default and
//! description; the command line, `device_add`, `-device NAME,help`, `device-list-properties` and docs/options.md all
//! read it.

mod values;

pub use values::{Parsed, PropertyValues};

/// What a property's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    /// on, off.
    Bool,
    /// on, off, auto.
    OnOffAuto,
    /// 0 to 255.
    U8,
    /// 0 to 65535.
    U16,
    /// 0 to 2^32 - 1.
    U32,
    /// 0 to 2^64 - 1.
    U64,
    /// -2^31 to 2^31 - 1.
    I32,
    /// Bytes, with the suffixes k, M, G, ...
    Size,
    /// Any text.
    Str,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A MAC address.
    Mac,
    /// Slot and optional function on the bus.
    PciAddr,
    /// A PCI function of the host.
    HostPciAddr,
    /// The id of a netdev.
    Netdev,
    /// The id of a chardev.
    Chardev,
    /// The id of a drive or the name of a block node.
    Drive,
    /// The id of an object.
    Object,
    /// A file descriptor: its number, or the name it was handed over with.
    Fd,
}

impl PropertyKind {
    /// The type's name as `device-list-properties` and `-device NAME,help` tell it.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::OnOffAuto => "OnOffAuto",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::I32 => "int32",
            Self::Size => "size",
            Self::Choice(_)
            | Self::Str
            | Self::Mac
            | Self::HostPciAddr
            | Self::Netdev
            | Self::Chardev
            | Self::Drive => "str",
            Self::PciAddr => "str",
            Self::Object => "link",
            Self::Fd => "string",
        }
    }

    /// What would be right, for messages and help: completes "expects …".
    pub fn expects(self) -> String {
        match self {
            Self::Bool => "'on' or 'off'".to_owned(),
            Self::OnOffAuto => "'on', 'off' or 'auto'".to_owned(),
            Self::U8 => "a number from 0 to 255".to_owned(),
            Self::U16 => "a number from 0 to 65535".to_owned(),
            Self::U32 => "a number from 0 to 4294967295".to_owned(),
            Self::U64 => "a number below 2^64".to_owned(),
            Self::I32 => "a number from -2147483648 to 2147483647".to_owned(),
            Self::Size => "a size below 2^64, such as 512M or 4G".to_owned(),
            Self::Str => "text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Mac => "a MAC address such as 52:54:00:12:34:56".to_owned(),
            Self::PciAddr => "a slot and function such as 0x1 or 0x1.0x3".to_owned(),
            Self::HostPciAddr => "a host device such as 0000:5e:00.2".to_owned(),
            Self::Netdev => "the id of a netdev".to_owned(),
            Self::Chardev => "the id of a chardev".to_owned(),
            Self::Drive => "the id of a drive".to_owned(),
            Self::Object => "the id of an object".to_owned(),
            Self::Fd => "a file descriptor's number or getfd name".to_owned(),
        }
    }
}

/// What this program does with a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Does what it says.
    Full,
    /// Takes any value of the right type and does nothing with it.
    Ignored,
    /// Takes only these values, since they ask for nothing; any other is refused with the reason.
    Only(&'static [&'static str], &'static str),
}

/// A property of a device type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: PropertyKind,
    /// Its default in option syntax; `None` if it has none.
    pub default: Option<&'static str>,
    /// What it is, one line.
    pub description: &'static str,
    /// What this program does with it.
    pub support: Support,
}

/// The bus a device goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusKind {
    /// PCI Express: the root bus or a root port.
    Pcie,
    /// ISA, behind the LPC bridge.
    Isa,
}

impl BusKind {
    /// The bus type's name in `-device help`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcie => "PCI",
            Self::Isa => "ISA",
        }
    }
}

/// The heading a device type is listed under in `-device help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Bridges and ports.
    Bridge,
    /// Disks.
    Storage,
    /// NICs.
    Network,
    /// Serial ports.
    Input,
    /// The rest.
    Misc,
}

impl Category {
    /// All of them, in the order of the help.
    pub const ALL: [Self; 5] = [
        Self::Bridge,
        Self::Storage,
        Self::Network,
        Self::Input,
        Self::Misc,
    ];

    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Bridge => "Controller/Bridge/Hub devices",
            Self::Storage => "Storage devices",
            Self::Network => "Network devices",
            Self::Input => "Input devices",
            Self::Misc => "Misc devices",
        }
    }
}

/// Which of [`crate::vm::DeviceKind`] a device type makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// [`crate::vm::DeviceKind::RootPort`].
    RootPort,
    /// [`crate::vm::DeviceKind::VirtioNet`].
    VirtioNet,
    /// [`crate::vm::DeviceKind::VfioPci`].
    VfioPci,
    /// [`crate::vm::DeviceKind::VirtioRng`].
    VirtioRng,
    /// [`crate::vm::DeviceKind::VirtioBlk`].
    VirtioBlk,
    /// [`crate::vm::DeviceKind::IsaSerial`].
    IsaSerial,
}

/// A type of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType {
    /// Its name, as `driver=` gives it.
    pub name: &'static str,
    /// Another name of it.
    pub alias: Option<&'static str>,
    /// The bus it goes on.
    pub bus: BusKind,
    /// Its heading in the help.
    pub category: Category,
    /// What it is, one line.
    pub description: &'static str,
    /// Can be added to and removed from a running machine.
    pub hotpluggable: bool,
    /// What it makes.
    pub model: Model,
    /// Its properties in groups (own ones, those of all virtio devices, those of all PCI devices).
    pub groups: &'static [&'static [Property]],
}

impl DeviceType {
    /// All properties, in the order of declaration.
    pub fn properties(&self) -> impl Iterator<Item = &'static Property> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// The type that a message about the property names: a virtio device's own properties (its first group) belong, as in
    /// QEMU, to the device behind the transport.
    pub fn owner(&self, property: &str) -> String {
        let own = self.groups.first().into_iter().copied().flatten();
        let transport = self
            .name
            .split_once("-pci")
            .filter(|_| self.name.starts_with("virtio-"));
        match transport {
            Some((model, _)) if own.into_iter().any(|own| own.name == property) => {
                format!("{model}-device")
            }
            _ => self.name.to_owned(),
        }
    }

    /// The property of this name.
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        self.properties().find(|property| property.name == name)
    }
}
