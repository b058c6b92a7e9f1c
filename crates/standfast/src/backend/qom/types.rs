//! The types of objects: their family tree and their properties.

use super::super::cpus::type_of;
use super::values;
use config::device_types::DEVICE_TYPES;
use config::property::{BusKind, DeviceType, Model};
use config::vm::{CPU_MODELS, OBJECT_TYPES, Q35_VERSIONS};
use monitor::types::{ObjectPropertyInfo, ObjectTypeInfo};
use monitor::{ErrorClass, QmpError};

/// A type. The property lists of abstract types are those that all their descendants here share.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Type {
    name: String,
    parent: Option<String>,
    is_abstract: bool,
}

/// Name, parent, abstract.
const FIXED: &[(&str, &str, bool)] = &[
    ("object", "", true),
    ("container", "object", false),
    ("accel", "object", true),
    ("kvm-accel", "accel", false),
    ("machine", "object", true),
    ("x86-machine", "machine", true),
    ("generic-pc-machine", "x86-machine", true),
    ("none-machine", "machine", false),
    ("bus", "object", true),
    ("System", "bus", false),
    ("PCI", "bus", false),
    ("PCIE", "PCI", false),
    ("ISA", "bus", false),
    ("device", "object", true),
    ("sys-bus-device", "device", true),
    ("pci-host-bridge", "sys-bus-device", true),
    ("pcie-host-bridge", "pci-host-bridge", true),
    ("q35-pcihost", "pcie-host-bridge", false),
    ("pci-device", "device", true),
    ("mch", "pci-device", false),
    ("ICH9-LPC", "pci-device", false),
    ("base-pci-bridge", "pci-device", true),
    ("pcie-port", "base-pci-bridge", true),
    ("pcie-slot", "pcie-port", true),
    ("pcie-root-port-base", "pcie-slot", true),
    ("virtio-pci", "pci-device", true),
    ("virtio-net-pci-base", "virtio-pci", true),
    ("virtio-blk-pci-base", "virtio-pci", true),
    ("virtio-rng-pci-base", "virtio-pci", true),
    ("virtio-device", "device", true),
    ("virtio-net-device", "virtio-device", false),
    ("virtio-blk-device", "virtio-device", false),
    ("virtio-rng-device", "virtio-device", false),
    ("isa-device", "device", true),
    ("mc146818rtc", "isa-device", false),
    ("cpu", "device", true),
    ("x86_64-cpu", "cpu", true),
    ("chardev", "object", true),
    ("chardev-fd", "chardev", true),
    ("chardev-file", "chardev-fd", false),
    ("chardev-null", "chardev", false),
    ("chardev-pipe", "chardev-fd", false),
    ("chardev-pty", "chardev", false),
    ("chardev-ringbuf", "chardev", false),
    ("chardev-socket", "chardev", false),
    ("chardev-stdio", "chardev-fd", false),
    ("memory-backend", "object", true),
    ("rng-backend", "object", true),
    ("secret_common", "object", true),
    ("event-loop-base", "object", true),
];

/// The interface of objects that `object-add` makes.
const USER_CREATABLE: &str = "user-creatable";

fn parent_of_device(model: Model) -> &'static str {
    match model {
        Model::RootPort => "pcie-root-port-base",
        Model::VirtioNet => "virtio-net-pci-base",
        Model::VirtioBlk => "virtio-blk-pci-base",
        Model::VirtioRng => "virtio-rng-pci-base",
        Model::VfioPci => "pci-device",
        Model::IsaSerial => "isa-device",
    }
}

fn parent_of_object(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("memory-backend-") => "memory-backend",
        _ if name.starts_with("rng-") => "rng-backend",
        "secret" => "secret_common",
        "iothread" => "event-loop-base",
        _ => "object",
    }
}

fn all() -> Vec<Type> {
    let of = |name: String, parent: &str, is_abstract| Type {
        name,
        parent: (!parent.is_empty()).then(|| parent.to_owned()),
        is_abstract,
    };
    let fixed = FIXED.iter().map(|(n, p, a)| of((*n).to_owned(), p, *a));
    let machines = Q35_VERSIONS
        .iter()
        .map(|v| of(format!("pc-q35-{v}-machine"), "generic-pc-machine", false));
    let devices = DEVICE_TYPES
        .iter()
        .map(|d| of(d.name.to_owned(), parent_of_device(d.model), false));
    let objects = OBJECT_TYPES
        .iter()
        .map(|(name, _)| of((*name).to_owned(), parent_of_object(name), false));
    let cpus = CPU_MODELS.iter().map(|(model, _)| {
        let parent = if *model == "host" {
            type_of("max")
        } else {
            "x86_64-cpu".to_owned()
        };
        of(type_of(model), &parent, false)
    });
    fixed
        .chain(machines)
        .chain(devices)
        .chain(objects)
        .chain(cpus)
        .collect()
}

/// The type and its ancestors, the nearest first.
fn line<'a>(types: &'a [Type], name: &str) -> Vec<&'a Type> {
    let find = |name: &str| types.iter().find(|t| t.name == name);
    // The table is ours and has no circles; a length that no line has ends the walk if it ever had one.
    std::iter::successors(find(name), |t| t.parent.as_deref().and_then(find))
        .take(types.len())
        .collect()
}

fn implements(types: &[Type], name: &str, wanted: &str) -> bool {
    let user_creatable =
        wanted == USER_CREATABLE && OBJECT_TYPES.iter().any(|(object, _)| *object == name);
    user_creatable || line(types, name).iter().any(|t| t.name == wanted)
}

/// `qom-list-types`.
pub(crate) fn list(wanted: Option<&str>, with_abstract: bool) -> Vec<ObjectTypeInfo> {
    let types = all();
    let fits = |t: &&Type| {
        (with_abstract || !t.is_abstract) && wanted.is_none_or(|w| implements(&types, &t.name, w))
    };
    types
        .iter()
        .filter(fits)
        .map(|t| ObjectTypeInfo {
            name: t.name.clone(),
            is_abstract: t.is_abstract.then_some(true),
            parent: t.parent.clone(),
        })
        .collect()
}

fn property(name: &str, kind: &str, description: Option<&str>) -> ObjectPropertyInfo {
    ObjectPropertyInfo {
        name: name.to_owned(),
        kind: kind.to_owned(),
        description: description.map(str::to_owned),
        default_value: None,
    }
}

/// Name, type, what it is for.
type Row = (&'static str, &'static str, &'static str);

/// Of every machine.
pub(super) const MACHINE: &[Row] = &[
    ("kernel", "string", "Linux kernel image file"),
    ("initrd", "string", "Linux initial ramdisk file"),
    ("append", "string", "Linux kernel command line"),
    (
        "memory",
        "MemorySizeConfiguration",
        "Memory size configuration",
    ),
    ("smp", "SMPConfiguration", "CPU topology"),
    (
        "memory-backend",
        "link<memory-backend>",
        "The object that is guest RAM",
    ),
    (
        "dump-guest-core",
        "bool",
        "Include guest memory in a core dump",
    ),
    ("mem-merge", "bool", "Taken, no effect"),
    ("graphics", "bool", "Graphics emulation; there is none"),
    ("usb", "bool", "USB; there is none"),
];

/// Of the PC machines beside those.
pub(super) const PC: &[Row] = &[("acpi", "OnOffAuto", "ACPI tables for the guest")];

/// Of every device.
pub(super) const DEVICE: &[Row] = &[
    ("parent_bus", "link<bus>", "The bus it is on"),
    ("realized", "bool", "It is made"),
    ("hotplugged", "bool", "It came after the start"),
    (
        "hotpluggable",
        "bool",
        "It can come and go while the machine runs",
    ),
];

const MEMORY: &[Row] = &[
    ("share", "bool", "Map the memory shared"),
    ("size", "int", "Size of the memory (ex: 500M)"),
    ("dump", "bool", "Part of a core dump"),
    ("prealloc", "bool", "Preallocate memory"),
    ("prealloc-threads", "int", "Taken, no effect"),
    ("reserve", "bool", "Reserve swap space or huge pages"),
    ("merge", "bool", "Let identical pages be merged"),
    ("policy", "HostMemPolicy", "NUMA policy (only default)"),
    ("host-nodes", "int", "NUMA nodes of the host (only none)"),
    (
        "x-use-canonical-path-for-ramblock-id",
        "bool",
        "Taken, no effect",
    ),
];
const MEMORY_FILE: &[Row] = &[
    ("mem-path", "string", "The file or folder"),
    ("offset", "int", "Offset into the file (ex: 1G)"),
    ("align", "int", "Taken, no effect"),
    ("readonly", "bool", "Open the file for reading only"),
    ("discard-data", "bool", "Drop the contents at the end"),
    ("rom", "OnOffAuto", "Taken, no effect"),
];
const MEMFD: &[Row] = &[
    ("hugetlb", "bool", "Use huge pages"),
    ("hugetlbsize", "int", "Huge pages size (ex: 2M, 1G)"),
    ("seal", "bool", "Taken, no effect"),
];
const RNG_RANDOM: &[Row] = &[(
    "filename",
    "string",
    "The device random bytes are read from",
)];
const IOMMUFD: &[Row] = &[("fd", "string", "An open /dev/iommu")];
const SECRET: &[Row] = &[
    ("data", "string", "Taken, no effect"),
    ("file", "string", "Taken, no effect"),
    ("format", "QCryptoSecretFormat", "Taken, no effect"),
    ("keyid", "string", "Taken, no effect"),
    ("iv", "string", "Taken, no effect"),
];
const IOTHREAD: &[Row] = &[
    ("poll-max-ns", "int", "Taken, no effect"),
    ("poll-grow", "int", "Taken, no effect"),
    ("poll-shrink", "int", "Taken, no effect"),
    ("aio-max-batch", "int", "Taken, no effect"),
    ("thread-pool-min", "int", "Taken, no effect"),
    ("thread-pool-max", "int", "Taken, no effect"),
];

/// The rows that a type adds to those of its ancestors.
fn own_rows(name: &str) -> &'static [Row] {
    match name {
        "machine" => MACHINE,
        "generic-pc-machine" => PC,
        "device" => DEVICE,
        "memory-backend" => MEMORY,
        "memory-backend-file" => MEMORY_FILE,
        "memory-backend-memfd" => MEMFD,
        "rng-random" => RNG_RANDOM,
        "iommufd" => IOMMUFD,
        "secret" => SECRET,
        "iothread" => IOTHREAD,
        _ => &[],
    }
}

fn cpu_properties() -> Vec<ObjectPropertyInfo> {
    let switches = ["migratable", "kvm", "host-phys-bits"]
        .into_iter()
        .chain(config::cpu_features::names());
    let mut all: Vec<_> = switches.map(|name| property(name, "bool", None)).collect();
    all.push(property("phys-bits", "uint32", None));
    all
}

fn declared(device: &'static DeviceType) -> Vec<ObjectPropertyInfo> {
    let info = |p: &config::property::Property| ObjectPropertyInfo {
        name: p.name.to_owned(),
        kind: values::type_name(p),
        description: Some(p.description.to_owned()),
        default_value: values::declared_default(device, p),
    };
    let own = device.properties().filter(|p| p.name != "addr").map(info);
    let mut all: Vec<_> = own.collect();
    if device.bus == BusKind::Pcie {
        all.push(ObjectPropertyInfo {
            default_value: Some((-1).into()),
            ..property(
                "addr",
                "str",
                Some("Slot and optional function number, example: 06.0 or 06"),
            )
        });
    }
    all
}

fn declared_type(name: &str) -> Option<&'static DeviceType> {
    DEVICE_TYPES.iter().find(|d| d.name == name)
}

/// `qom-list-properties`.
///
/// # Errors
/// There is no such type.
pub(crate) fn properties(name: &str) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
    let types = all();
    let line = line(&types, name);
    if line.is_empty() {
        return Err(not_found("Class", name));
    }
    let rows = line.iter().rev().flat_map(|t| own_rows(&t.name));
    let mut all = vec![property("type", "string", None)];
    all.extend(rows.map(|(name, kind, what)| property(name, kind, Some(what))));
    all.extend(declared_type(name).map(declared).unwrap_or_default());
    if line.iter().any(|t| t.name == "x86_64-cpu") {
        all.extend(cpu_properties());
    }
    Ok(all)
}

/// `device-list-properties`: what can be given with `-device`.
///
/// # Errors
/// There is no such type, or it is no type of device.
pub(crate) fn device_properties(name: &str) -> Result<Vec<ObjectPropertyInfo>, QmpError> {
    if let Some(device) = declared_type(name) {
        return Ok(declared(device));
    }
    let types = all();
    let line = line(&types, name);
    match line.first() {
        None => Err(not_found("Device", name)),
        Some(t) if !t.is_abstract && line.iter().any(|t| t.name == "device") => {
            if line.iter().any(|t| t.name == "cpu") {
                Ok(cpu_properties())
            } else {
                Ok(Vec::new())
            }
        }
        Some(_) => Err(QmpError::invalid_value(
            "typename",
            "a non-abstract device type",
        )),
    }
}

fn not_found(what: &str, name: &str) -> QmpError {
    QmpError {
        class: ErrorClass::DeviceNotFound,
        desc: format!("{what} '{name}' not found"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_type_descends_from_object_and_has_one_name() {
        let types = all();
        let names: BTreeSet<_> = types.iter().map(|t| &t.name).collect();
        assert_eq!(names.len(), types.len());
        for t in &types {
            let line = line(&types, &t.name);
            assert_eq!(
                line.last().map(|t| t.name.as_str()),
                Some("object"),
                "{t:?}"
            );
        }
    }

    #[test]
    fn types_are_found_by_what_they_implement() {
        let names = |wanted: &str, with_abstract| {
            let found = list(Some(wanted), with_abstract);
            found.into_iter().map(|t| t.name).collect::<Vec<_>>()
        };
        assert_eq!(
            names("virtio-net-pci-base", true),
            [
                "virtio-net-pci-base",
                "virtio-net-pci",
                "virtio-net-pci-non-transitional"
            ]
        );
        assert!(names("machine", false).contains(&"pc-q35-10.0-machine".to_owned()));
        assert!(names("user-creatable", false).contains(&"rng-random".to_owned()));
        assert!(names("nope", true).is_empty());
        let everything: Vec<_> = list(None, true).into_iter().map(|t| t.name).collect();
        // What it would promise is not there.
        assert!(!everything.contains(&"tcg-accel".to_owned()));
    }

    #[test]
    fn device_properties_are_those_declared() {
        let net = device_properties("virtio-net-pci").unwrap();
        let find = |name: &str| net.iter().find(|p| p.name == name).cloned().unwrap();
        assert_eq!(find("failover").kind, "bool");
        assert_eq!(find("failover").default_value, Some(false.into()));
        assert_eq!(find("rx_queue_size").default_value, Some(256.into()));
        assert_eq!(find("addr").default_value, Some((-1).into()));
        assert_eq!(find("mac").default_value, None);
        for device in DEVICE_TYPES {
            let listed = device_properties(device.name).unwrap();
            assert_eq!(listed.len(), device.properties().count(), "{}", device.name);
        }
        let error = device_properties("nope").unwrap_err();
        assert_eq!(error.class, ErrorClass::DeviceNotFound);
        let error = device_properties("memory-backend-ram").unwrap_err();
        assert_eq!(
            error.desc,
            "Parameter 'typename' expects a non-abstract device type"
        );
    }

    #[test]
    fn properties_are_inherited() {
        let names = |kind: &str| {
            let all = properties(kind).unwrap();
            all.into_iter().map(|p| p.name).collect::<Vec<_>>()
        };
        let file = names("memory-backend-file");
        assert!(file.contains(&"size".to_owned()) && file.contains(&"mem-path".to_owned()));
        assert!(!names("none-machine").contains(&"acpi".to_owned()));
        assert!(names("pc-q35-10.0-machine").contains(&"acpi".to_owned()));
        assert!(names("max-x86_64-cpu").contains(&"migratable".to_owned()));
        assert!(names("vfio-pci").contains(&"realized".to_owned()));
    }
}
