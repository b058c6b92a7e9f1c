//! The machine's state as payloads, one a device, and back.

use crate::announcing::LearnedState;
use crate::board::Board;
use crate::chipset::PowerRequest;
use crate::chipset::fw_cfg::FwCfgState;
use crate::chipset::power::PowerState;
use crate::chipset::rtc::RtcState;
use crate::chipset::serial::UartState;
use migration::{BlockShape, Configuration, DevicePayload, DevicePayloads, DeviceShape, Reason};
use minicbor::{Decode, Encode};

/// What is not a PCI function nor the hypervisor's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ChipsetState {
    #[n(0)]
    pub(crate) power: PowerState,
    #[n(1)]
    pub(crate) rtc: RtcState,
    #[n(2)]
    pub(crate) serials: Vec<UartState>,
    #[n(3)]
    pub(crate) config_address: u32,
    /// A reset (1) or power-off (2) that the guest asked for as it was stopped.
    #[n(4)]
    pub(crate) pending_power: Option<u8>,
    /// Since version 2.
    #[n(5)]
    pub(crate) fw_cfg: Option<FwCfgState>,
}

const CHIPSET: &str = "chipset";
const CHIPSET_VERSION: u32 = 2;
/// What was learned of the guest's addresses; only where something was.
const ADDRESSES: &str = "addresses";
const ADDRESSES_VERSION: u32 = 1;
const HOTPLUG: &str = "acpi-pci-hotplug";
/// What takes its place with `-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off`.
const NATIVE_HOTPLUG: &str = "native-pcie-hotplug";
/// What decides on it.
const HOTPLUG_OPTION: &str = "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support";
/// What makes serial ports.
const SERIAL_OPTIONS: &str = "-serial and -device isa-serial";

fn vcpu_name(index: usize) -> String {
    format!("cpu/{index}")
}

fn payload<T: Encode<()>>(name: &str, version: u32, state: &T) -> Result<DevicePayload, Reason> {
    let bytes = minicbor::to_vec(state)
        .map_err(|e| Reason(format!("the state of '{name}' cannot be encoded: {e}")))?;
    Ok(DevicePayload {
        name: name.to_owned(),
        version,
        bytes,
    })
}

fn decode<'b, T: Decode<'b, ()>>(payload: &'b DevicePayload) -> Result<T, Reason> {
    minicbor::decode(&payload.bytes)
        .map_err(|e| Reason(format!("the state of '{}' is malformed: {e}", payload.name)))
}

impl Board {
    /// Functions with state, by the names of their payloads: the place on the bus and the id.
    fn functions(&self) -> Vec<(String, pci::Function)> {
        let name = |f: &pci::Function| {
            let (bus, devfn) = self.root.slot_of(&f.id)?;
            Some(format!("{bus}/{:02x}.{}/{}", devfn >> 3, devfn & 7, f.id))
        };
        let mut named = Vec::new();
        for function in self.root.functions() {
            // A primary is with no guest that moves; one without a standby is an ordinary device.
            let ordinary = |primary: &crate::pairs::Primary| {
                primary.migrates() && self.pairs.pairs().is_unpaired(&function.id)
            };
            if let Some(primary) = self.pairs.primary(&function.id)
                && !ordinary(primary)
            {
                continue;
            }
            if let Some(name) = name(&function) {
                named.push((name, function));
            }
        }
        named
    }

    /// What both sides of a migration must have alike.
    pub(crate) fn configuration(&self) -> Configuration {
        let shape = |name: String, model: &str| DeviceShape {
            name,
            model: model.to_owned(),
            option: None,
        };
        let by_option = |shape: DeviceShape, option: &str| DeviceShape {
            option: Some(option.to_owned()),
            ..shape
        };
        let mut devices: Vec<DeviceShape> = (0..self.cpus.count())
            .map(|i| shape(vcpu_name(i), self.cpus.kind().model))
            .map(|cpu| by_option(cpu, "-smp and -accel"))
            .collect();
        let irqchip = self.vm.irqchip_kind().model;
        devices.push(shape(irqchip.into(), irqchip));
        devices.push(shape(CHIPSET.into(), CHIPSET));
        // Told apart here, a difference is found before the guest is stopped for it.
        let ports = self.chipset.serials.iter().map(|serial| {
            let place = format!("isa-serial at {:#x}, irq {}", serial.iobase, serial.irq);
            shape(format!("serial/{}", serial.index), &place)
        });
        devices.extend(ports.map(|port| by_option(port, SERIAL_OPTIONS)));
        let hotplug = match self.config.machine.acpi_pci_hotplug {
            true => HOTPLUG,
            false => NATIVE_HOTPLUG,
        };
        devices.push(by_option(shape(HOTPLUG.into(), hotplug), HOTPLUG_OPTION));
        devices.extend(
            self.functions()
                .into_iter()
                .map(|(name, f)| shape(name, &f.model)),
        );
        let block = |b: &memory::RamBlock| BlockShape {
            name: b.name().to_owned(),
            size_bytes: b.size_bytes(),
        };
        Configuration {
            machine: self.config.machine.type_name.clone(),
            blocks: self.ram.blocks().iter().map(block).collect(),
            devices,
            uuid: self.config.uuid.map(|u| u.to_string()),
            program: format!("Standfast {}", env!("CARGO_PKG_VERSION")),
            page_bytes: 0,
            answers: false,
        }
    }

    /// A device that cannot be migrated, if there is one, and why.
    pub(crate) fn migration_blocker(&self) -> Option<String> {
        self.functions().into_iter().find_map(|(_, f)| {
            let device = self.devices.get(&f.id)?;
            matches!(device.body, crate::devices::Body::Vfio(_)).then(|| {
                format!(
                    "{}: VFIO device without failover_pair_id cannot be migrated: pair it with a virtio-net device, or unplug it first",
                    f.device.label()
                )
            })
        })
    }

    /// The state of everything; the machine is stopped.
    pub(crate) fn save_all(&self) -> Result<Vec<DevicePayload>, Reason> {
        let mut all = Vec::new();
        let version = u32::from(self.cpus.kind().version);
        let vcpus = self.cpus.save().map_err(Reason::new)?;
        for (index, bytes) in vcpus.into_iter().enumerate() {
            all.push(DevicePayload {
                name: vcpu_name(index),
                version,
                bytes,
            });
        }
        let irqchip = self.vm.irqchip_kind();
        all.push(DevicePayload {
            name: irqchip.model.into(),
            version: u32::from(irqchip.version),
            bytes: self.vm.save_irqchip().map_err(Reason::new)?,
        });
        let chipset = ChipsetState {
            power: self.chipset.power.save(),
            rtc: self.chipset.rtc.save(),
            serials: self
                .chipset
                .serials
                .iter()
                .map(|serial| serial.port.save())
                .collect(),
            config_address: self.chipset.config_ports.address(),
            pending_power: self.pending_power.map(|request| match request {
                PowerRequest::Reset => 1,
                PowerRequest::PowerOff => 2,
            }),
            fw_cfg: Some(self.chipset.fw_cfg.save()),
        };
        all.push(payload(CHIPSET, CHIPSET_VERSION, &chipset)?);
        let hotplug = self.hotplug.acpi();
        let bytes = hotplug.save().map_err(Reason::new)?;
        all.push(DevicePayload {
            name: HOTPLUG.into(),
            version: u32::from(hotplug.state_version()),
            bytes,
        });
        let learned = self.learned();
        if !learned.is_empty() {
            all.push(payload(ADDRESSES, ADDRESSES_VERSION, &learned)?);
        }
        for (name, function) in self.functions() {
            let bytes = function.device.save().map_err(Reason::new)?;
            all.push(DevicePayload {
                name,
                version: u32::from(function.device.state_version()),
                bytes,
            });
        }
        Ok(all)
    }

    /// Takes over the state of everything; the machine is stopped. The payloads are hostile input.
    pub(crate) fn load_all(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason> {
        for (name, function) in self.functions() {
            let saved = payloads.require(&name, u32::from(function.device.state_version()))?;
            let version = u16::try_from(saved.version).unwrap_or(u16::MAX);
            function
                .device
                .restore(version, &saved.bytes)
                .map_err(Reason::new)?;
        }
        let hotplug = self.hotplug.acpi();
        let saved = payloads.require(HOTPLUG, u32::from(hotplug.state_version()))?;
        let version = u16::try_from(saved.version).unwrap_or(u16::MAX);
        hotplug
            .restore(version, &saved.bytes)
            .map_err(Reason::new)?;
        if let Some(saved) = payloads.take(ADDRESSES, ADDRESSES_VERSION)? {
            let learned: Vec<LearnedState> = decode(&saved)?;
            self.relearn(&learned);
        }
        self.root.redecode_all();
        let saved = payloads.require(CHIPSET, CHIPSET_VERSION)?;
        self.load_chipset(decode(&saved)?)?;
        let version = u32::from(self.cpus.kind().version);
        let mut vcpus = Vec::new();
        for index in 0..self.cpus.count() {
            vcpus.push(payloads.require(&vcpu_name(index), version)?.bytes);
        }
        // The local APICs before the rest, the clock last: it runs from the moment it is set.
        self.cpus.restore(&vcpus).map_err(Reason::new)?;
        let irqchip = self.vm.irqchip_kind();
        let saved = payloads.require(irqchip.model, u32::from(irqchip.version))?;
        self.vm.restore_irqchip(&saved.bytes).map_err(Reason::new)
    }

    fn load_chipset(&mut self, state: ChipsetState) -> Result<(), Reason> {
        if state.serials.len() != self.chipset.serials.len() {
            // The two were compared before; this stream is not as it said.
            return Err(Reason(format!(
                "the state of 'chipset' has {} serial ports, this machine {}",
                state.serials.len(),
                self.chipset.serials.len()
            )));
        }
        let serials = self
            .chipset
            .serials
            .iter()
            .zip(&state.serials)
            .all(|(serial, saved)| serial.port.restore(saved));
        if !serials || !self.chipset.rtc.restore(state.rtc) {
            return Err("the state of 'chipset' does not fit its registers".into());
        }
        self.chipset.power.restore(state.power);
        self.chipset
            .fw_cfg
            .restore(state.fw_cfg.unwrap_or_default());
        self.chipset.config_ports.set_address(state.config_address);
        self.pending_power = match state.pending_power {
            None => None,
            Some(1) => Some(PowerRequest::Reset),
            Some(2) => Some(PowerRequest::PowerOff),
            Some(other) => {
                return Err(Reason(format!(
                    "the state of 'chipset' asks for power request {other}, which does not exist"
                )));
            }
        };
        Ok(())
    }
}
