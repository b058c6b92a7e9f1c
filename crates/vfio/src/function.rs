//! An opened function: its regions described, accesses to them with failures dealt with.

use crate::hardware::{Hardware, RegionInfo};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;

/// A function and where its registers are.
pub(crate) struct Function {
    hardware: Arc<dyn Hardware>,
    label: String,
    config: RegionInfo,
    bars: [RegionInfo; 6],
    /// An access failed: told once.
    failed: AtomicBool,
}

impl Function {
    pub(crate) fn new(hardware: Arc<dyn Hardware>, label: &str) -> io::Result<Self> {
        let config = hardware.region(VFIO_PCI_CONFIG_REGION_INDEX)?;
        let mut bars: [RegionInfo; 6] = Default::default();
        for (index, bar) in (0..).zip(&mut bars) {
            *bar = hardware.region(index)?;
        }
        Ok(Self {
            hardware,
            label: label.to_owned(),
            config,
            bars,
            failed: AtomicBool::new(false),
        })
    }

    pub(crate) fn hardware(&self) -> &Arc<dyn Hardware> {
        &self.hardware
    }

    pub(crate) fn bars(&self) -> &[RegionInfo; 6] {
        &self.bars
    }

    /// The whole of its configuration space, 256 or 4096 bytes.
    pub(crate) fn picture(&self) -> io::Result<Vec<u8>> {
        let size = match self.config.size {
            4096.. => 4096,
            256.. => 256,
            size => {
                return Err(io::Error::other(format!(
                    "it has {size} bytes of configuration space"
                )));
            }
        };
        let mut picture = vec![0; size];
        self.hardware.read(&self.config, 0, &mut picture)?;
        Ok(picture)
    }

    /// All ones where the hardware does not answer.
    pub(crate) fn config_read(&self, offset: u16, data: &mut [u8]) {
        let result = self.hardware.read(&self.config, offset.into(), data);
        self.answer(result, data);
    }

    pub(crate) fn config_write(&self, offset: u16, data: &[u8]) {
        self.told(self.hardware.write(&self.config, offset.into(), data));
    }

    /// All ones where the hardware does not answer.
    pub(crate) fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        let result = match self.bars.get(bar) {
            Some(region) => self.hardware.read(region, offset, data),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        self.answer(result, data);
    }

    pub(crate) fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(region) = self.bars.get(bar) {
            self.told(self.hardware.write(region, offset, data));
        }
    }

    fn answer(&self, result: io::Result<()>, data: &mut [u8]) {
        if result.is_err() {
            data.fill(0xff);
        }
        self.told(result);
    }

    /// A guest can provoke failures (an access while memory is disabled), so only the first is worth a line.
    fn told(&self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if self.failed.swap(true, Ordering::Relaxed) {
            tracing::debug!(device = %self.label, %error, "an access to the function failed");
        } else {
            tracing::warn!(device = %self.label, %error, "an access to the function failed; further ones are not logged");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hardware::{IrqInfo, IrqKind};
    use crate::window::HostWindow;
    use std::collections::BTreeMap;
    use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
    use std::sync::Mutex;
    use vfio_bindings::bindings::vfio as sys;

    /// Where the MSI-X capability of [`virtual_function`] is.
    pub(crate) const MSIX_AT: usize = 0x70;

    /// The regions of [`virtual_function`].
    pub(crate) const VF_BARS: [u64; 6] = [0x4000, 0, 0, 0x4000, 0, 0];

    /// A picture like that of an 82576 virtual function: two regions of 16 KiB, MSI-X with three vectors, PCI
    /// Express, error reporting, serial number, ARI; and one capability nobody knows.
    pub(crate) fn virtual_function() -> Vec<u8> {
        let mut space = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &[0x86, 0x80, 0xca, 0x10, 0x02, 0x00, 0x10, 0x00]);
        put(0x08, &[0x01, 0x00, 0x00, 0x02, 0x00, 0x00, 0x80, 0x00]);
        put(0x10, &[0x0c, 0, 0, 0, 0, 0, 0, 0]);
        put(0x1c, &[0x0c, 0, 0, 0, 0, 0, 0, 0]);
        put(0x34, &[0x50]);
        put(0x3d, &[0x01]);
        put(0x50, &[0x44, 0x70, 0xaa, 0xbb]);
        put(
            0x70,
            &[0x11, 0xa0, 0x02, 0x00, 0x03, 0, 0, 0, 0x03, 0x20, 0, 0],
        );
        put(0xa0, &[0x10, 0x00, 0x02, 0x00, 0xc2, 0x8c, 0x00, 0x10]);
        put(0x100, &0x1502_0001u32.to_le_bytes());
        put(0x150, &0x1601_000eu32.to_le_bytes());
        put(0x160, &0x0001_0003u32.to_le_bytes());
        space
    }

    /// What was asked of a [`FakeHardware`], in order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Asked {
        /// Configuration write.
        Config(u64, Vec<u8>),
        /// BAR write: file offset.
        Bar(u64, Vec<u8>),
        /// Triggers set: how many.
        Triggers(IrqKind, usize),
        Unmask,
        Reset,
    }

    /// A function made of arrays.
    pub(crate) struct FakeHardware {
        pub(crate) config: Mutex<Vec<u8>>,
        pub(crate) asked: Mutex<Vec<Asked>>,
        pub(crate) irqs: BTreeMap<u32, IrqInfo>,
        /// The eventfds a real function would signal.
        pub(crate) triggers: Mutex<BTreeMap<u32, Vec<OwnedFd>>>,
        /// How many vectors the host gives at most.
        pub(crate) available: usize,
        pub(crate) memory: std::fs::File,
    }

    impl FakeHardware {
        pub(crate) fn new(picture: Vec<u8>, irqs: &[(IrqKind, u32)]) -> Arc<Self> {
            let memory = tempfile::tempfile().unwrap();
            memory.set_len(0x10_0000).unwrap();
            Arc::new(Self {
                config: Mutex::new(picture),
                asked: Mutex::default(),
                irqs: irqs
                    .iter()
                    .map(|(kind, count)| {
                        (
                            *kind as u32,
                            IrqInfo {
                                flags: 0,
                                count: *count,
                            },
                        )
                    })
                    .collect(),
                triggers: Mutex::default(),
                available: usize::MAX,
                memory,
            })
        }

        /// What was asked since the last call.
        pub(crate) fn asked(&self) -> Vec<Asked> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }

        fn note(&self, asked: Asked) {
            self.asked.lock().unwrap().push(asked);
        }

        /// As the hardware would: signals the eventfd it was given.
        pub(crate) fn fire(&self, kind: IrqKind, index: usize) {
            let triggers = self.triggers.lock().unwrap();
            rustix::io::write(&triggers[&(kind as u32)][index], &1u64.to_ne_bytes()).unwrap();
        }
    }

    impl Hardware for FakeHardware {
        fn region(&self, index: u32) -> io::Result<RegionInfo> {
            let size = match index {
                0..=5 => VF_BARS[index as usize],
                7 => self.config.lock().unwrap().len() as u64,
                _ => 0,
            };
            Ok(RegionInfo {
                flags: sys::VFIO_REGION_INFO_FLAG_READ
                    | sys::VFIO_REGION_INFO_FLAG_WRITE
                    | if index < 6 {
                        sys::VFIO_REGION_INFO_FLAG_MMAP
                    } else {
                        0
                    },
                size,
                file_offset: u64::from(index) * 0x1_0000,
                ..RegionInfo::default()
            })
        }

        fn irq(&self, kind: IrqKind) -> io::Result<IrqInfo> {
            Ok(self.irqs.get(&(kind as u32)).copied().unwrap_or_default())
        }

        fn can_reset(&self) -> bool {
            true
        }

        fn read(&self, region: &RegionInfo, offset: u64, data: &mut [u8]) -> io::Result<()> {
            use std::os::unix::fs::FileExt;
            if region.file_offset == 0x7_0000 {
                let start = usize::try_from(offset).unwrap();
                data.copy_from_slice(&self.config.lock().unwrap()[start..start + data.len()]);
                return Ok(());
            }
            self.memory.read_exact_at(data, region.file_offset + offset)
        }

        fn write(&self, region: &RegionInfo, offset: u64, data: &[u8]) -> io::Result<()> {
            use std::os::unix::fs::FileExt;
            if region.file_offset == 0x7_0000 {
                self.note(Asked::Config(offset, data.to_vec()));
                return Ok(());
            }
            self.note(Asked::Bar(region.file_offset + offset, data.to_vec()));
            self.memory.write_all_at(data, region.file_offset + offset)
        }

        fn set_triggers(&self, kind: IrqKind, fds: &[BorrowedFd<'_>]) -> io::Result<Option<usize>> {
            self.note(Asked::Triggers(kind, fds.len()));
            if fds.len() > self.available {
                return Ok(Some(self.available));
            }
            assert!(fds.iter().all(|fd| fd.as_raw_fd() >= 0));
            let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap());
            self.triggers
                .lock()
                .unwrap()
                .insert(kind as u32, fds.collect());
            Ok(None)
        }

        fn set_unmask(&self, _: Option<BorrowedFd<'_>>) -> io::Result<()> {
            Ok(())
        }

        fn unmask(&self) -> io::Result<()> {
            self.note(Asked::Unmask);
            Ok(())
        }

        fn reset(&self) -> io::Result<()> {
            self.note(Asked::Reset);
            Ok(())
        }

        fn map(&self, region: &RegionInfo, offset: u64, size: u64) -> io::Result<HostWindow> {
            HostWindow::of_file(&self.memory, region.file_offset + offset, size, true)
        }
    }

    #[test]
    fn an_access_the_hardware_refuses_reads_as_ones() {
        let hardware = FakeHardware::new(virtual_function(), &[]);
        hardware.memory.set_len(0).unwrap();
        let function = Function::new(hardware, "vf").unwrap();
        let mut data = [0; 4];
        function.bar_read(0, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        function.bar_read(9, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        function.config_read(0, &mut data);
        assert_eq!(data, [0x86, 0x80, 0xca, 0x10]);
    }
}
