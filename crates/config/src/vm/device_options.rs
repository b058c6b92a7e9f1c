//! From options to a device: the one path of `-device` and `device_add`.

use super::device::{
    BlkConfig, DeviceConfig, DeviceKind, IsaSerialConfig, RngConfig, RootPortConfig,
    SteeredInterface, SteeringConfig, VfioPciConfig, VfioSource, VirtioCommon, VirtioNetConfig,
};
use super::{FdRef, GlobalProperty};
use crate::device_types::{self, DEVICE_TYPES};
use crate::error::{Error, Result};
use crate::property::{BusKind, Model, PropertyValues};
use crate::syntax::{Options, Source, Value, check_id, nearest};

impl DeviceConfig {
    /// Reads the options of `-device` or the arguments of `device_add`.
    ///
    /// # Errors
    /// An unknown driver or property, a bad value, one that asks for what cannot be had, a malformed id, a primary that
    /// breaks a rule of its own (see [`Error`]).
    pub fn from_options(options: Options, source: Source) -> Result<Self> {
        Self::with_globals(options, source, &[])
    }

    /// The same, with the defaults that `-global` changed.
    ///
    /// # Errors
    /// As [`Self::from_options`].
    pub fn with_globals(
        mut options: Options,
        source: Source,
        globals: &[GlobalProperty],
    ) -> Result<Self> {
        let text = options.to_string();
        let name = match options.remove("driver") {
            None => return Err(Error::Missing("driver".to_owned())),
            Some(value) => string("driver", &value)?,
        };
        let Some(device) = device_types::find(&name) else {
            let known = DEVICE_TYPES
                .iter()
                .flat_map(|device| [Some(device.name), device.alias])
                .flatten();
            let near = nearest(&name, known).filter(|_| source == Source::CommandLine);
            let suggestion = near.map(str::to_owned);
            return Err(Error::UnknownDevice { name, suggestion });
        };
        // QEMU looks at the bus before it looks at anything else of the device. On the command line any other bus is looked up
        // later.
        if device.bus == BusKind::Isa
            && let Some(Value::Text(bus) | Value::Json(serde_json::Value::String(bus))) =
                options.get("bus")
            && (bus == "pcie.0" || (source == Source::Monitor && bus != "isa.0"))
        {
            return Err(Error::WrongBus {
                device: device.name.to_owned(),
                bus: "PCIE",
            });
        }
        if source == Source::Monitor && !device.hotpluggable {
            return Err(Error::Other(format!(
                "Device '{}' does not support hotplugging",
                device.name
            )));
        }
        let id = options
            .remove("id")
            .map(|value| string("id", &value))
            .transpose()?;
        if let Some(id) = &id {
            check_id(id)?;
        }
        let bus = options
            .remove("bus")
            .map(|value| string("bus", &value))
            .transpose()?;

        let mut values = PropertyValues::new(device);
        for global in globals
            .iter()
            .filter(|g| g.driver == device.name || Some(g.driver.as_str()) == device.alias)
        {
            values.set(&global.property, &Value::from(global.value.as_str()))?;
        }
        for (key, value) in options.iter() {
            values.set(key, value).map_err(|error| {
                if source == Source::Monitor {
                    error.without_suggestion()
                } else {
                    error
                }
            })?;
        }

        let is_pci = device.bus == BusKind::Pcie;
        let config = Self {
            id,
            driver: device.name,
            bus,
            addr: if is_pci { values.slot("addr") } else { None },
            multifunction: is_pci && values.flag("multifunction"),
            failover_pair_id: if is_pci {
                values.text("failover_pair_id")
            } else {
                None
            },
            acpi_index: if is_pci {
                values.number("acpi-index").unwrap_or(0)
            } else {
                0
            },
            kind: kind(device.model, &values, source)?,
            text,
        };
        config.check_primary()?;
        Ok(config)
    }

    /// The rules for a primary that it alone can break; those of the pair need the whole configuration.
    fn check_primary(&self) -> Result<()> {
        let Some(pair) = &self.failover_pair_id else {
            return Ok(());
        };
        let Some(id) = &self.id else {
            return Err(Error::PrimaryWithoutId);
        };
        if pair == id {
            return Err(Error::Other(format!(
                "Device '{id}' cannot be its own standby: failover_pair_id= names the virtio-net device with failover=on"
            )));
        }
        match &self.kind {
            DeviceKind::VirtioNet(net) if net.failover => {
                return Err(Error::Other(format!(
                    "Device '{id}' cannot be standby (failover=on) and primary (failover_pair_id={pair}) at once"
                )));
            }
            DeviceKind::VirtioNet(_) | DeviceKind::VfioPci(_) => {}
            _ => return Err(Error::PrimaryNotEthernet),
        }
        if self.multifunction || self.addr.is_some_and(|addr| addr.function != 0) {
            return Err(Error::PrimarySharesSlot);
        }
        Ok(())
    }
}

fn string(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::Text(text) | Value::Json(serde_json::Value::String(text)) => Ok(text.clone()),
        Value::Json(_) => Err(Error::BadType {
            name: key.to_owned(),
            expected: "string",
        }),
    }
}

fn kind(model: Model, values: &PropertyValues, source: Source) -> Result<DeviceKind> {
    Ok(match model {
        Model::RootPort => DeviceKind::RootPort(root_port(values)),
        Model::VirtioNet => DeviceKind::VirtioNet(virtio_net(values)?),
        Model::VfioPci => DeviceKind::VfioPci(vfio(values, source)?),
        Model::VirtioRng => DeviceKind::VirtioRng(rng(values)?),
        Model::VirtioBlk => DeviceKind::VirtioBlk(blk(values)?),
        Model::IsaSerial => DeviceKind::IsaSerial(isa_serial(values)?),
    })
}

fn root_port(values: &PropertyValues) -> RootPortConfig {
    RootPortConfig {
        port: values.number("port").unwrap_or(0),
        chassis: values.number("chassis").unwrap_or(0),
        slot: values.number("slot").unwrap_or(0),
        hotplug: values.flag("hotplug"),
        bus_reserve: values.number("bus-reserve"),
        io_reserve_bytes: values.number("io-reserve"),
        mem_reserve_bytes: values.number("mem-reserve"),
        pref64_reserve_bytes: values.number("pref64-reserve"),
    }
}

fn virtio_common(values: &PropertyValues) -> VirtioCommon {
    VirtioCommon {
        vectors: values.number("vectors"),
        event_idx: values.flag("event_idx"),
        indirect_desc: values.flag("indirect_desc"),
        ioeventfd: values.flag("ioeventfd"),
    }
}

fn queue_size(values: &PropertyValues, name: &str, min: u16, max: u16) -> Result<u16> {
    let size = values.number(name).unwrap_or(0);
    if u16::is_power_of_two(size) && (min..=max).contains(&size) {
        Ok(size)
    } else {
        Err(values.refuse(
            name,
            &format!("expected a power of two from {min} to {max}"),
        ))
    }
}

fn net_queue_size(values: &PropertyValues, name: &str) -> Result<u16> {
    queue_size(values, name, 256, 1024).map_err(|_| {
        let size: u64 = values.number(name).unwrap_or(0);
        Error::Other(format!(
            "Invalid {name} (= {size}), must be a power of 2 between 256 and 1024."
        ))
    })
}

/// The longest name of an interface (IFNAMSIZ, less its end).
const INTERFACE_BYTES_MAX: usize = 15;
/// The highest VLAN id that a frame can have.
const VLAN_MAX: u16 = 4094;

fn steered(values: &PropertyValues, name: &str) -> Result<SteeredInterface> {
    let text = values.text(name).unwrap_or_default();
    let named = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
    match text.as_str() {
        "auto" => Ok(SteeredInterface::Auto),
        "off" => Ok(SteeredInterface::Off),
        "" | "." | ".." => Err(values.refuse(name, "expected auto, off or an interface")),
        text if text.len() <= INTERFACE_BYTES_MAX && text.chars().all(named) => {
            Ok(SteeredInterface::Named(text.to_owned()))
        }
        _ => Err(values.refuse(name, "expected auto, off or an interface")),
    }
}

/// The `failover-…` properties.
fn steering(values: &PropertyValues) -> Result<SteeringConfig> {
    let vf_vlan = values.number("failover-vf-vlan");
    if vf_vlan.is_some_and(|vlan| vlan > VLAN_MAX) {
        return Err(values.refuse("failover-vf-vlan", "expected a VLAN from 1 to 4094, or 0"));
    }
    let hook = values.text("failover-hook");
    if hook.as_deref() == Some("") {
        return Err(values.refuse("failover-hook", "expected a program"));
    }
    let hook_timeout_ms = values.number("failover-hook-timeout").unwrap_or(0);
    if !(1..=600_000).contains(&hook_timeout_ms) {
        return Err(values.refuse("failover-hook-timeout", "expected 1 to 600000 ms"));
    }
    let config = SteeringConfig {
        steer: values.text("failover-steer").as_deref() != Some("off"),
        pf: steered(values, "failover-pf")?,
        vf: values.number("failover-vf"),
        vf_vlan,
        standby_port: steered(values, "failover-standby-port")?,
        primary_port: steered(values, "failover-primary-port")?,
        hook: hook.map(Into::into),
        hook_timeout_ms,
    };
    if config != SteeringConfig::default() && !values.flag("failover") {
        return Err(Error::other(
            "the properties failover-... are for the standby of a pair: add failover=on",
        ));
    }
    Ok(config)
}

fn virtio_net(values: &PropertyValues) -> Result<VirtioNetConfig> {
    let mac = values.mac("mac");
    if mac.is_some_and(|[first, ..]| first & 1 != 0) {
        return Err(values.refuse("mac", "a NIC's address cannot be a multicast one"));
    }
    let host_mtu: Option<u16> = values.number("host_mtu").filter(|mtu| *mtu != 0);
    if host_mtu.is_some_and(|mtu| mtu < 68) {
        return Err(values.refuse("host_mtu", "expected 0 or at least 68"));
    }
    let speed = values.signed("speed").unwrap_or(-1);
    if speed < -1 {
        return Err(values.refuse("speed", "expected -1 or more"));
    }
    Ok(VirtioNetConfig {
        common: virtio_common(values),
        netdev: values.text("netdev"),
        mac,
        failover: values.flag("failover"),
        steering: steering(values)?,
        failover_link_timeout_ms: values.number("failover-link-timeout").unwrap_or(0),
        mq: values.flag("mq"),
        host_mtu,
        status: values.flag("status"),
        ctrl_vq: values.flag("ctrl_vq"),
        ctrl_rx: values.flag("ctrl_rx"),
        ctrl_rx_extra: values.flag("ctrl_rx_extra"),
        ctrl_vlan: values.flag("ctrl_vlan"),
        ctrl_mac_addr: values.flag("ctrl_mac_addr"),
        ctrl_guest_offloads: values.flag("ctrl_guest_offloads"),
        guest_announce: values.flag("guest_announce"),
        mrg_rxbuf: values.flag("mrg_rxbuf"),
        csum: values.flag("csum"),
        guest_csum: values.flag("guest_csum"),
        guest_tso4: values.flag("guest_tso4"),
        guest_tso6: values.flag("guest_tso6"),
        guest_ecn: values.flag("guest_ecn"),
        guest_ufo: values.flag("guest_ufo"),
        host_tso4: values.flag("host_tso4"),
        host_tso6: values.flag("host_tso6"),
        host_ecn: values.flag("host_ecn"),
        host_ufo: values.flag("host_ufo"),
        rx_queue_size: net_queue_size(values, "rx_queue_size")?,
        tx_queue_size: net_queue_size(values, "tx_queue_size")?,
        speed_mbps: u32::try_from(speed).ok(),
        full_duplex: values.text("duplex").map(|duplex| duplex == "full"),
    })
}

fn vfio(values: &PropertyValues, from: Source) -> Result<VfioPciConfig> {
    let iommufd = values.text("iommufd");
    let fd = values.text("fd");
    if fd.is_some() && iommufd.is_none() {
        return Err(Error::other(
            "Use FD passing only with iommufd backend: give iommufd=, the id of an -object iommufd",
        ));
    }
    let fd = fd.map(|fd| FdRef::parse("fd", &fd, from)).transpose()?;
    let source = match (values.host("host"), values.text("sysfsdev")) {
        (Some(host), None) => VfioSource::Host(host),
        (None, Some(path)) => VfioSource::SysfsDev(path.into()),
        (None, None) if fd.is_some() => VfioSource::Fd,
        (None, None) => {
            return Err(Error::other(
                "No provided host device: use -device vfio-pci,host=DDDD:BB:DD.F or sysfsdev=PATH",
            ));
        }
        (Some(_), Some(_)) => return Err(Error::other("give either host= or sysfsdev=, not both")),
    };
    Ok(VfioPciConfig {
        source,
        iommufd,
        fd,
        rombar: values.number::<u32>("rombar").unwrap_or(1) != 0,
        no_mmap: values.flag("x-no-mmap"),
        no_kvm_msi: values.flag("x-no-kvm-msi"),
        no_kvm_msix: values.flag("x-no-kvm-msix"),
    })
}

fn rng(values: &PropertyValues) -> Result<RngConfig> {
    let period_ms = values.number("period").unwrap_or(0);
    if period_ms == 0 {
        return Err(values.refuse("period", "expected a positive number"));
    }
    Ok(RngConfig {
        common: virtio_common(values),
        rng: values.text("rng"),
        max_bytes: values.number("max-bytes"),
        period_ms,
    })
}

fn blk(values: &PropertyValues) -> Result<BlkConfig> {
    let Some(drive) = values.text("drive") else {
        return Err(Error::other("drive property not set"));
    };
    let serial = values.text("serial");
    if serial.as_ref().is_some_and(|serial| serial.len() > 20) {
        return Err(values.refuse("serial", "expected at most 20 characters"));
    }
    let block_size: u32 = values.number("logical_block_size").unwrap_or(0);
    if !block_size.is_power_of_two() || !(512..=4096).contains(&block_size) {
        return Err(values.refuse(
            "logical_block_size",
            "expected a power of two from 512 to 4096",
        ));
    }
    Ok(BlkConfig {
        common: virtio_common(values),
        drive,
        serial,
        queue_size: queue_size(values, "queue-size", 2, 1024)?,
        logical_block_size_bytes: block_size,
        bootindex: values
            .signed("bootindex")
            .and_then(|index| i32::try_from(index).ok()),
    })
}

fn isa_serial(values: &PropertyValues) -> Result<IsaSerialConfig> {
    let Some(chardev) = values.text("chardev") else {
        return Err(Error::other(
            "Can't create serial device, empty char device",
        ));
    };
    let index: Option<u8> = values.number("index");
    if index.is_some_and(|index| index > 3) {
        return Err(Error::other(
            "Max. supported number of ISA serial ports is 4.",
        ));
    }
    let irq: Option<u8> = values.number("irq");
    if irq.is_some_and(|irq| irq > 15) {
        return Err(values.refuse("irq", "expected at most 15"));
    }
    Ok(IsaSerialConfig {
        chardev,
        index,
        iobase: values.number("iobase"),
        irq,
    })
}
