//! A built machine, inspected.

use super::{ChardevView, CpuModel, DeviceView, Inspect, NetdevView, NicView, PairView, RomView};
use crate::RunState;
use crate::address_map::ACPI_TABLES;
use crate::board::Board;
use crate::devices::{Body, Device, device_path};
use crate::event::MachineEvent;
use crate::pairs::Primary;
use config::vm::VmConfig;
use failover::State;
use migration::{Capabilities, Info, Parameters};
use pci::{BusSnapshot, Function, PciDevice};
use std::path::Path;

impl Board {
    /// The id by which the root complex knows a device: for a port without an id it is another one than the tree's.
    fn function_id(&self, device: &Device) -> String {
        let anonymous_port = |d: &&Device| matches!(d.body, Body::Port) && d.config.id.is_none();
        let mut ports = self.devices.iter().filter(anonymous_port);
        match ports.position(|port| port.key == device.key) {
            Some(index) => format!("root-port[{index}]"),
            None => device.key.clone(),
        }
    }

    fn device_view(&self, device: &Device) -> DeviceView {
        let id = self.function_id(device);
        let function = self.root.function(&id);
        DeviceView {
            key: device.key.clone(),
            path: device.path(),
            config: device.config.clone(),
            place: self.root.slot_of(&id),
            // A primary comes when its guest has accepted it: hotplugged, wherever it was listed.
            hotplugged: !self.config.devices.contains(&device.config)
                || self.pairs.pairs().by_primary(&device.key).is_some(),
            msix_vectors: function.map_or(0, |f| msix_vectors(&*f.device)),
            mac: match &device.body {
                Body::Net(net) => Some(net.configured_mac()),
                _ => None,
            },
        }
    }

    /// Primaries that the guest let go of and that the host keeps: they stay in the tree, as clients expect it.
    fn kept_primaries(&self) -> impl Iterator<Item = (&String, &Primary)> {
        let kept = |id: &str| {
            let pair = self.pairs.pairs().by_primary(id);
            pair.is_some_and(|p| matches!(p.state(), State::Parked(_) | State::Released(_)))
        };
        self.pairs
            .primaries()
            .filter(move |(id, _)| self.devices.get(id).is_none() && kept(id))
    }

    fn kept_view((id, primary): (&String, &Primary)) -> DeviceView {
        DeviceView {
            key: id.clone(),
            path: device_path(&primary.config, id),
            config: primary.config.clone(),
            place: Some((primary.place().bus.clone(), primary.place().devfn)),
            hotplugged: true,
            msix_vectors: 0,
            mac: None,
        }
    }

    /// The guest changed what its NIC receives.
    pub(crate) fn rx_filter_changed(&mut self, key: &str) {
        let Some(device) = self.devices.get(key) else {
            return;
        };
        if self.filter_news.changed(key) {
            let id = device.config.id.clone();
            let path = format!("{}/virtio-backend", device.path());
            self.emit(MachineEvent::RxFilterChanged { id, path });
        }
    }

    /// How the host's network follows a standby.
    fn steering_of(&self, key: &str) -> Option<String> {
        let parts = [self.pairs.steering_of(key), self.announced_of(key)];
        let text: Vec<String> = parts.into_iter().flatten().collect();
        (!text.is_empty()).then(|| text.join("; "))
    }
}

/// Offset of the pointer to the first capability (PCI Express Base 6.0, 7.5.1.1.11).
const CAPABILITIES: u16 = 0x34;
/// The id of the MSI-X capability (7.7.2).
const MSIX: u8 = 0x11;

/// The size of a function's MSI-X table.
fn msix_vectors(device: &dyn PciDevice) -> u16 {
    let read = |offset: u16| {
        let mut byte = [0];
        device.config_read(offset, &mut byte);
        let [byte] = byte;
        byte
    };
    let mut at = u16::from(read(CAPABILITIES) & 0xfc);
    // Each takes at least four bytes of 192: a chain that is longer goes round in circles.
    for _ in 0..48 {
        if at < 0x40 {
            return 0;
        }
        if read(at) == MSIX {
            return (u16::from_le_bytes([read(at + 2), read(at + 3)]) & 0x7ff) + 1;
        }
        at = u16::from(read(at + 1) & 0xfc);
    }
    0
}

fn file_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

impl Inspect for Board {
    fn config(&self) -> &VmConfig {
        &self.config
    }

    fn run_state(&self) -> RunState {
        self.run_state
    }

    fn cpu_threads(&self) -> Vec<i32> {
        self.cpu_threads.clone()
    }

    fn control_thread(&self) -> i32 {
        // Queries are answered on it.
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    fn chardevs(&self) -> Vec<ChardevView> {
        let view = |c: &crate::chardev::Chardev| ChardevView {
            id: c.id().to_owned(),
            filename: c.filename().to_owned(),
        };
        self.chardevs.iter().map(view).collect()
    }

    fn pci(&self) -> Option<BusSnapshot> {
        let mut root = self.root.snapshot();
        for (id, primary) in self.kept_primaries() {
            let Some(device) = primary.function() else {
                continue;
            };
            let function = Function {
                id: id.clone(),
                model: primary.config.driver.to_owned(),
                acpi_index: 0,
                device,
            };
            let place = primary.place();
            root.add_kept(&place.bus, place.devfn, &function);
        }
        Some(root)
    }

    fn devices(&self) -> Vec<DeviceView> {
        let mut views: Vec<_> = self.devices.iter().map(|d| self.device_view(d)).collect();
        views.extend(self.kept_primaries().map(Self::kept_view));
        views
    }

    fn nics(&self) -> Vec<NicView> {
        let view = |device: &Device| {
            let nic = self.devices.net(&device.key)?;
            let netdev = self.netdevs.describe_of(&device.key);
            Some(NicView {
                key: device.key.clone(),
                driver: device.config.driver,
                mac: nic.configured_mac(),
                link_up: nic.link_up(),
                queue_pairs: nic.queue_pairs(),
                filter: nic.rx_filter(),
                counters: nic.counters(),
                netdev,
                steering: self.steering_of(&device.key),
            })
        };
        self.devices.iter().filter_map(view).collect()
    }

    fn filter_looked_at(&self, key: &str) {
        self.filter_news.looked_at(key);
    }

    fn spare_netdevs(&self) -> Vec<NetdevView> {
        self.netdevs.unused()
    }

    fn pairs(&self) -> Vec<PairView> {
        self.pair_views()
    }

    fn roms(&self) -> Vec<RomView> {
        let boot = &self.config.boot;
        let Some(kernel) = &boot.kernel else {
            return Vec::new();
        };
        let file = |path: &Path| RomView {
            name: path.display().to_string(),
            address: None,
            size_bytes: file_size(path),
        };
        let mut roms = vec![
            RomView {
                name: "acpi tables".to_owned(),
                address: Some(ACPI_TABLES.start),
                size_bytes: self.tables.len() as u64,
            },
            RomView {
                name: "command line".to_owned(),
                address: Some(crate::boot::COMMAND_LINE),
                size_bytes: boot.append.len() as u64 + 1,
            },
            file(kernel),
        ];
        roms.extend(boot.initrd.as_deref().map(file));
        roms
    }

    fn cpu_model(&self) -> Result<CpuModel, String> {
        if self.qtest.is_some() {
            return Err("no processor runs the guest: the accelerator is qtest".into());
        }
        super::host_cpu_model()
    }

    fn kvm_enabled(&self) -> bool {
        self.qtest.is_none()
    }

    fn migrate_info(&self) -> Option<Info> {
        Board::migrate_info(self)
    }

    fn migrate_capabilities(&self) -> Capabilities {
        Board::migrate_capabilities(self).clone()
    }

    fn migrate_parameters(&self) -> Parameters {
        Board::migrate_parameters(self)
    }
}
