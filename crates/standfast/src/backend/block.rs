//! `query-block` and `query-named-block-nodes`: raw images and the devices they are behind.

use config::vm::{DeviceKind, DriveConfig};
use machine::inspect::{DeviceView, Inspect};
use monitor::types::{BlockImageInfo, BlockInfo, BlockInserted, BlockNodeInfo};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

/// How much the guest sees of the image, in bytes. A block device's length is where its end is.
fn size_bytes(path: &Path) -> u64 {
    let file = File::open(path);
    file.and_then(|mut file| file.seek(SeekFrom::End(0)))
        .unwrap_or(0)
}

/// A `-blockdev` is a node with a name; a `-drive` is a device with an id.
fn is_node(drive: &DriveConfig) -> bool {
    drive.text.contains("node-name")
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn inserted(drive: &DriveConfig) -> BlockInserted {
    BlockInserted {
        file: name(&drive.path),
        node_name: is_node(drive).then(|| drive.id.clone()),
        ro: drive.readonly,
        drv: "raw".to_owned(),
        image: BlockImageInfo {
            filename: name(&drive.path),
            format: "raw".to_owned(),
            virtual_size_bytes: size_bytes(&drive.path),
        },
    }
}

/// `query-block`: every drive, and every node that a device uses.
pub(super) fn blocks(machine: &dyn Inspect) -> Vec<BlockInfo> {
    let devices = machine.devices();
    let user = |drive: &DriveConfig| {
        let uses = |device: &&DeviceView| matches!(&device.config.kind, DeviceKind::VirtioBlk(blk) if blk.drive == drive.id);
        let device = devices.iter().find(uses)?;
        Some(format!("{}/virtio-backend", device.path))
    };
    let info = |drive: &DriveConfig| {
        let qdev = user(drive);
        let node = is_node(drive);
        (!node || qdev.is_some()).then(|| BlockInfo {
            device: if node {
                String::new()
            } else {
                drive.id.clone()
            },
            qdev,
            kind: "unknown".to_owned(),
            removable: false,
            locked: false,
            inserted: Some(inserted(drive)),
        })
    };
    machine.config().drives.iter().filter_map(info).collect()
}

/// `query-named-block-nodes`.
pub(super) fn nodes(machine: &dyn Inspect) -> Vec<BlockNodeInfo> {
    let node = |drive: &DriveConfig| BlockNodeInfo {
        node_name: Some(drive.id.clone()),
        file: name(&drive.path),
        ro: drive.readonly,
        drv: "raw".to_owned(),
    };
    machine.config().drives.iter().map(node).collect()
}
