//! What only the whole configuration can tell.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::placement::place_devices;
use super::{
    Accel, ChardevBackend, DeviceConfig, DeviceKind, MachineKind, ObjectConfig, ObjectKind,
    SerialPort, VmConfig,
};
use crate::error::{Error, OptionError, Result};

/// I/O port and interrupt of COM1 to COM4.
const COM_PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

impl VmConfig {
    /// Checks what only the whole can tell: names used twice or leading nowhere, places taken, files unreadable.
    ///
    /// Nothing is opened but the files named for reading, and nothing of the host is changed.
    ///
    /// # Errors
    /// The first thing wrong, with the option it came from.
    pub fn validate(&self) -> std::result::Result<(), OptionError> {
        self.check_ids()?;
        self.check_boot()?;
        self.check_memory()
            .map_err(|error| OptionError::new("-machine", "memory-backend", error))?;
        let mut users = ChardevUsers::default();
        self.check_front_ends(&mut users)?;
        self.check_devices(&mut users)?;
        self.check_pairs()?;
        place_devices(&self.devices).map_err(|(index, error)| {
            OptionError::new(
                "-device",
                self.devices.get(index).map_or("", |device| &device.text),
                error,
            )
        })?;
        self.serial_ports().map(drop)
    }

    /// What is allowed and yet is probably a mistake: one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for device in &self.devices {
            let id = device.id.as_deref().unwrap_or("");
            if let Some(pair) = &device.failover_pair_id {
                match self.devices.iter().find(|other| other.id.as_ref() == Some(pair)).map(|other| &other.kind) {
                    Some(DeviceKind::VirtioNet(net)) if net.failover => {}
                    Some(_) => warnings.push(format!(
                        "primary '{id}' names '{pair}' in failover_pair_id=, which is no standby: a virtio-net-pci with failover=on is needed"
                    )),
                    None => warnings.push(format!(
                        "primary '{id}' names '{pair}' in failover_pair_id=, which does not exist (yet); until that standby is added it is an ordinary device"
                    )),
                }
            }
        }
        self.warn_of_lonely_netdevs(&mut warnings);
        self.warn_of_lonely_nics(&mut warnings);
        warnings
    }

    /// A primary that waits for its standby to be accepted is not there yet.
    fn begins_hidden(&self, device: &DeviceConfig) -> bool {
        self.devices.iter().any(|other| {
            other.id.is_some()
                && other.id == device.failover_pair_id
                && matches!(&other.kind, DeviceKind::VirtioNet(net) if net.failover)
        })
    }

    /// In QEMU's words.
    fn warn_of_lonely_netdevs(&self, warnings: &mut Vec<String>) {
        let used = |id: &str| {
            self.devices.iter().any(|device| {
                let DeviceKind::VirtioNet(net) = &device.kind else {
                    return false;
                };
                net.netdev.as_deref() == Some(id) && !self.begins_hidden(device)
            })
        };
        let lonely = self.netdevs.iter().filter(|netdev| !used(&netdev.id));
        warnings.extend(lonely.map(|netdev| format!("netdev {} has no peer", netdev.id)));
    }

    /// In QEMU's words, and as QEMU names a NIC without an id.
    fn warn_of_lonely_nics(&self, warnings: &mut Vec<String>) {
        let mut models: Vec<&str> = Vec::new();
        for device in &self.devices {
            let DeviceKind::VirtioNet(net) = &device.kind else {
                continue;
            };
            if self.begins_hidden(device) {
                continue;
            }
            let earlier = models.iter().filter(|model| **model == device.driver);
            let name = device
                .id
                .clone()
                .unwrap_or_else(|| format!("{}.{}", device.driver, earlier.count()));
            models.push(device.driver);
            if net.netdev.is_none() {
                warnings.push(format!("nic {name} has no peer"));
            }
        }
    }

    /// The serial ports, those of `-serial` and the `isa-serial` devices, with their resources.
    ///
    /// # Errors
    /// More than four, or two in one place.
    pub fn serial_ports(&self) -> std::result::Result<Vec<SerialPort>, OptionError> {
        let mut ports: Vec<SerialPort> = Vec::new();
        for serial in &self.serials {
            let error = || {
                OptionError::new(
                    "-serial",
                    "",
                    Error::other("Max. supported number of ISA serial ports is 4."),
                )
            };
            let (iobase, irq) = *COM_PORTS.get(usize::from(serial.index)).ok_or_else(error)?;
            ports.push(SerialPort {
                index: serial.index,
                iobase,
                irq,
                chardev: serial.chardev.clone(),
                id: None,
            });
        }
        for device in &self.devices {
            let DeviceKind::IsaSerial(serial) = &device.kind else {
                continue;
            };
            let fail =
                |message: String| OptionError::new("-device", &device.text, Error::Other(message));
            let free = (0..4u8).find(|index| ports.iter().all(|port| port.index != *index));
            let index = serial.index.or(free).ok_or_else(|| {
                fail("Max. supported number of ISA serial ports is 4.".to_owned())
            })?;
            let (iobase, irq) = COM_PORTS
                .get(usize::from(index))
                .copied()
                .unwrap_or_default();
            let (iobase, irq) = (serial.iobase.unwrap_or(iobase), serial.irq.unwrap_or(irq));
            let end = iobase
                .checked_add(8)
                .ok_or_else(|| fail(format!("iobase={iobase:#x} is beyond the I/O space")))?;
            if ports
                .iter()
                .any(|port| port.index == index || (port.iobase < end && iobase < port.iobase + 8))
            {
                return Err(fail(format!(
                    "serial port {index} at {iobase:#x} is taken already"
                )));
            }
            ports.push(SerialPort {
                index,
                iobase,
                irq,
                chardev: serial.chardev.clone(),
                id: device.id.clone(),
            });
        }
        Ok(ports)
    }

    fn check_ids(&self) -> std::result::Result<(), OptionError> {
        unique(
            "-chardev",
            "chardev",
            self.chardevs.iter().map(|c| (Some(&c.id), &c.text)),
        )?;
        unique(
            "-object",
            "object",
            self.objects.iter().map(|o| (Some(&o.id), &o.text)),
        )?;
        unique(
            "-netdev",
            "netdev",
            self.netdevs.iter().map(|n| (Some(&n.id), &n.text)),
        )?;
        unique(
            "-drive",
            "drive",
            self.drives.iter().map(|d| (Some(&d.id), &d.text)),
        )?;
        unique(
            "-device",
            "device",
            self.devices.iter().map(|d| (d.id.as_ref(), &d.text)),
        )
    }

    fn check_boot(&self) -> std::result::Result<(), OptionError> {
        let shown = |path: &Option<std::path::PathBuf>| {
            path.as_ref()
                .map(|p| p.display().to_string())
                .unwrap_or_default()
        };
        if let Some(kernel) = &self.boot.kernel {
            readable("kernel", kernel)
                .map_err(|error| OptionError::new("-kernel", &shown(&self.boot.kernel), error))?;
        } else {
            if self.boot.initrd.is_some() {
                let error = Error::other("-initrd only allowed with -kernel option");
                return Err(OptionError::new(
                    "-initrd",
                    &shown(&self.boot.initrd),
                    error,
                ));
            }
            if !self.boot.append.is_empty() {
                let error = Error::other("-append only allowed with -kernel option");
                return Err(OptionError::new("-append", &self.boot.append, error));
            }
            if self.machine.kind == MachineKind::Q35
                && !self.start_paused
                && self.incoming.is_none()
                && !self.machine.accelerators().contains(&Accel::Qtest)
            {
                let error = Error::other(
                    "nothing to boot: there is no firmware, give the guest's kernel by -kernel FILE",
                );
                return Err(OptionError::new("-kernel", "", error));
            }
        }
        if let Some(initrd) = &self.boot.initrd {
            readable("initrd", initrd)
                .map_err(|error| OptionError::new("-initrd", &shown(&self.boot.initrd), error))?;
        }
        for drive in &self.drives {
            let option = if drive.text.contains("node-name") {
                "-blockdev"
            } else {
                "-drive"
            };
            readable("image", &drive.path)
                .map_err(|error| OptionError::new(option, &drive.text, error))?;
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<()> {
        let Some(id) = &self.machine.memory_backend else {
            return Ok(());
        };
        let backend = self.objects.iter().find(|object| object.id == *id);
        match backend.map(|object| &object.kind) {
            Some(ObjectKind::Memory(memory)) if memory.size_bytes == self.memory_bytes => Ok(()),
            Some(ObjectKind::Memory(memory)) => Err(Error::Other(format!(
                "Size specified by -m option ({}) must match size of explicitly specified 'memory-backend' property ({})",
                self.memory_bytes, memory.size_bytes
            ))),
            Some(_) => Err(Error::Other(format!("object '{id}' is no memory backend"))),
            None => Err(Error::Other(format!(
                "Memory backend '{id}' not found; define it by -object memory-backend-ram,id={id},size=…"
            ))),
        }
    }

    fn check_front_ends(&self, users: &mut ChardevUsers) -> std::result::Result<(), OptionError> {
        let mut stdio = self
            .chardevs
            .iter()
            .filter(|c| matches!(c.backend, ChardevBackend::Stdio { .. }))
            .skip(1);
        if let Some(second) = stdio.next() {
            let error = Error::other(
                "cannot use stdio by multiple character devices; share one by mux=on (mon:stdio)",
            );
            return Err(OptionError::new(second.option, &second.text, error));
        }
        if !self.machine.accel.is_empty() && !self.machine.machine_accel.is_empty() {
            let error = Error::other("The -accel and \"-machine accel=\" options are incompatible");
            return Err(OptionError::new("-accel", "", error));
        }
        let fronts = self
            .serials
            .iter()
            .map(|serial| ("-serial", &serial.chardev))
            .chain(
                self.monitors
                    .iter()
                    .map(|monitor| ("-mon", &monitor.chardev)),
            )
            .chain(self.qtest.iter().map(|qtest| ("-qtest", &qtest.chardev)));
        for (option, chardev) in fronts {
            let shown = match option {
                "-mon" => format!("chardev={chardev}"),
                _ => format!("chardev:{chardev}"),
            };
            match users.take(self, chardev) {
                Use::Taken => {}
                Use::Unknown => {
                    let error = Error::Other(format!("chardev \"{chardev}\" not found"));
                    return Err(OptionError::new(option, &shown, error));
                }
                Use::Busy => {
                    let error = Error::Other(format!(
                        "chardev '{chardev}' is in use; give it mux=on to share it"
                    ));
                    return Err(OptionError::new(option, &shown, error));
                }
            }
        }
        Ok(())
    }

    fn check_devices(&self, users: &mut ChardevUsers) -> std::result::Result<(), OptionError> {
        let mut netdevs = HashSet::new();
        let mut drives = HashSet::new();
        for device in &self.devices {
            self.check_device(device, users, &mut netdevs, &mut drives)
                .map_err(|error| OptionError::new("-device", &device.text, error))?;
        }
        Ok(())
    }

    fn check_device<'a>(
        &'a self,
        device: &'a DeviceConfig,
        users: &mut ChardevUsers,
        netdevs: &mut HashSet<&'a str>,
        drives: &mut HashSet<&'a str>,
    ) -> Result<()> {
        let owner = |name: &str| {
            crate::device_types::find(device.driver)
                .map_or_else(|| device.driver.to_owned(), |device| device.owner(name))
        };
        let unresolved = |name: &str, value: &str| Error::UnresolvedProperty {
            device: owner(name),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let in_use = |name: &str, value: &str| Error::PropertyInUse {
            device: owner(name),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let object = |id: &str| {
            self.objects
                .iter()
                .find(|object| object.id == id)
                .map(|object| &object.kind)
        };
        match &device.kind {
            DeviceKind::VirtioNet(net) => {
                if let Some(netdev) = &net.netdev {
                    if !self.netdevs.iter().any(|known| known.id == *netdev) {
                        return Err(unresolved("netdev", netdev));
                    }
                    if !netdevs.insert(netdev) {
                        return Err(in_use("netdev", netdev));
                    }
                }
            }
            DeviceKind::VirtioBlk(blk) => {
                if !self.drives.iter().any(|known| known.id == blk.drive) {
                    return Err(unresolved("drive", &blk.drive));
                }
                if !drives.insert(&blk.drive) {
                    return Err(in_use("drive", &blk.drive));
                }
            }
            DeviceKind::VirtioRng(rng) => {
                if let Some(id) = &rng.rng
                    && !matches!(object(id), Some(ObjectKind::Rng { .. }))
                {
                    return Err(unresolved("rng", id));
                }
            }
            DeviceKind::VfioPci(vfio) => {
                if let Some(id) = &vfio.iommufd {
                    let object = self.objects.iter().find(|object| object.id == *id);
                    ObjectConfig::check_iommufd(id, object)?;
                }
            }
            DeviceKind::IsaSerial(serial) => match users.take(self, &serial.chardev) {
                Use::Taken => {}
                Use::Unknown => return Err(unresolved("chardev", &serial.chardev)),
                Use::Busy => return Err(in_use("chardev", &serial.chardev)),
            },
            DeviceKind::RootPort(_) => {}
        }
        Ok(())
    }

    fn check_pairs(&self) -> std::result::Result<(), OptionError> {
        let mut primaries: HashMap<&str, &str> = HashMap::new();
        for device in &self.devices {
            let (Some(standby), Some(id)) = (&device.failover_pair_id, &device.id) else {
                continue;
            };
            if let Some(first) = primaries.insert(standby, id) {
                let error = Error::SecondPrimary {
                    standby: standby.clone(),
                    first: first.to_owned(),
                    second: id.clone(),
                };
                return Err(OptionError::new("-device", &device.text, error));
            }
        }
        Ok(())
    }
}

/// Who uses which character device.
#[derive(Default)]
struct ChardevUsers {
    taken: HashSet<String>,
}

enum Use {
    Taken,
    Unknown,
    Busy,
}

impl ChardevUsers {
    fn take(&mut self, config: &VmConfig, id: &str) -> Use {
        match config.chardevs.iter().find(|chardev| chardev.id == id) {
            None => Use::Unknown,
            Some(chardev) if self.taken.insert(id.to_owned()) || chardev.mux => Use::Taken,
            Some(_) => Use::Busy,
        }
    }
}

fn unique<'a>(
    option: &str,
    what: &'static str,
    ids: impl Iterator<Item = (Option<&'a String>, &'a String)>,
) -> std::result::Result<(), OptionError> {
    let mut seen = HashSet::new();
    for (id, text) in ids {
        if let Some(id) = id
            && !seen.insert(id)
        {
            return Err(OptionError::new(
                option,
                text,
                Error::DuplicateId {
                    id: id.clone(),
                    what,
                },
            ));
        }
    }
    Ok(())
}

/// Whether a file is there and can be read.
fn readable(what: &'static str, path: &Path) -> Result<()> {
    let fail = |reason: String| Error::File {
        what,
        path: path.to_owned(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| fail(plain(&error)))?;
    let metadata = file.metadata().map_err(|error| fail(plain(&error)))?;
    if metadata.is_dir() {
        Err(fail("Is a directory".to_owned()))
    } else {
        Ok(())
    }
}

/// An error of the system in its own words, without the number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}
