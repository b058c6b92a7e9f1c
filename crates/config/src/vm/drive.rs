//! Disk images: `-drive` and `-blockdev`.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::syntax::{Options, Reader, Source};

/// A disk image; only raw ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveConfig {
    /// `id=` of `-drive`, `node-name` of `-blockdev`: what a device's `drive=` names.
    pub id: String,
    /// The image file or block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub readonly: bool,
    /// `cache=none` and its like: O_DIRECT.
    pub direct: bool,
    /// The option's argument as the user wrote it.
    pub text: String,
}

impl DriveConfig {
    /// Reads the options of `-drive`. `index` numbers those without an id. The boolean tells whether a `virtio-blk-pci`
    /// is to be made for it (`if=virtio`).
    ///
    /// # Errors
    /// A format other than raw, an interface that does not exist here, a bad option.
    pub fn from_drive(options: Options, index: usize) -> Result<(Self, bool)> {
        let text = options.to_string();
        let mut reader = Reader::new(options, Source::CommandLine);
        let id = match reader.has("id") {
            true => reader.id()?,
            false => format!("drive{index}"),
        };
        let path = reader.required("file")?;
        check_format(reader.string("format")?.as_deref())?;
        let make_device = match reader.string("if")?.as_deref() {
            Some("none") => false,
            Some("virtio") => true,
            Some(other) => {
                return Err(Error::Other(format!(
                    "if={other} is not supported; use if=virtio, or if=none and -device virtio-blk-pci"
                )));
            }
            None => {
                return Err(Error::other(
                    "if= is missing: there is no IDE; use if=virtio, or if=none and -device virtio-blk-pci",
                ));
            }
        };
        if reader.choice("media", &["disk", "cdrom"])? == Some("cdrom") {
            return Err(Error::other("media=cdrom is not supported"));
        }
        if reader.flag_or("snapshot", false)? {
            return Err(Error::other("snapshot=on is not supported"));
        }
        let readonly = reader.flag("readonly")?;
        let read_only = reader.flag("read-only")?;
        let cache = reader.choice(
            "cache",
            &["none", "writeback", "writethrough", "directsync", "unsafe"],
        )?;
        let direct =
            reader.flag_or("cache.direct", matches!(cache, Some("none" | "directsync")))?;
        reader.ignore(&[
            "aio",
            "discard",
            "detect-zeroes",
            "werror",
            "rerror",
            "cache.writeback",
            "cache.no-flush",
        ]);
        reader.ignore(&[
            "index",
            "unit",
            "bus",
            "auto-read-only",
            "file.locking",
            "locking",
            "copy-on-read",
        ]);
        reader.finish()?;
        let readonly = readonly.or(read_only).unwrap_or(false);
        Ok((
            Self {
                id,
                path: path.into(),
                readonly,
                direct,
                text,
            },
            make_device,
        ))
    }

    /// Reads the options of `-blockdev`: a `file` or `host_device` node, or a `raw` node over one, given inline
    /// (`file.driver=file,file.filename=PATH`) or by the name of an earlier node.
    ///
    /// # Errors
    /// Another driver, an unknown node, a bad option.
    pub fn from_blockdev(options: Options, earlier: &[Self]) -> Result<Self> {
        let text = options.to_string();
        let mut reader = Reader::new(options, Source::CommandLine);
        let driver = reader.required("driver")?;
        let id = reader.required("node-name")?;
        crate::syntax::check_id(&id)?;
        let readonly = reader.flag("read-only")?;
        let mut direct = reader.flag("cache.direct")?;
        let mut inherited_readonly = false;
        let path = match driver.as_str() {
            "file" | "host_device" => {
                reader.ignore(FILE_OPTIONS);
                PathBuf::from(reader.required("filename")?)
            }
            "raw" => match reader.string("file")? {
                Some(name) => {
                    let below = earlier
                        .iter()
                        .find(|drive| drive.id == name)
                        .ok_or_else(|| {
                            Error::Other(format!("Cannot find device='' nor node-name='{name}'"))
                        })?;
                    direct = direct.or(Some(below.direct));
                    inherited_readonly = below.readonly;
                    below.path.clone()
                }
                None => {
                    let below = reader.required("file.driver")?;
                    if below != "file" && below != "host_device" {
                        return Err(Error::Other(format!(
                            "block driver '{below}' is not supported; use file or host_device"
                        )));
                    }
                    let path = reader.required("file.filename")?;
                    inherited_readonly = reader.flag_or("file.read-only", false)?;
                    direct = direct.or(reader.flag("file.cache.direct")?);
                    let below: Vec<String> = FILE_OPTIONS
                        .iter()
                        .map(|key| format!("file.{key}"))
                        .collect();
                    reader.ignore(&below.iter().map(String::as_str).collect::<Vec<_>>());
                    reader.ignore(&["file.node-name"]);
                    PathBuf::from(path)
                }
            },
            other => {
                check_format(Some(other))?;
                return Err(Error::Other(format!(
                    "block driver '{other}' is not supported; use raw over file"
                )));
            }
        };
        reader.ignore(&[
            "discard",
            "detect-zeroes",
            "auto-read-only",
            "cache.no-flush",
            "force-share",
            "size",
            "offset",
        ]);
        reader.finish()?;
        Ok(Self {
            id,
            path,
            readonly: readonly.unwrap_or(inherited_readonly),
            direct: direct.unwrap_or(false),
            text,
        })
    }
}

/// What a file node may have that changes nothing here.
const FILE_OPTIONS: &[&str] = &[
    "aio",
    "locking",
    "discard",
    "auto-read-only",
    "cache.no-flush",
    "aio-max-batch",
    "pr-manager",
    "detect-zeroes",
    "force-share",
];

fn check_format(format: Option<&str>) -> Result<()> {
    match format {
        Some("raw") => Ok(()),
        Some(other) => Err(Error::Other(format!(
            "image format '{other}' is not supported; convert it: qemu-img convert -O raw, and give format=raw"
        ))),
        None => Err(Error::other(
            "format= is missing: give format=raw, the only image format there is",
        )),
    }
}
