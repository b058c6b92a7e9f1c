//! A whole device over a function made of arrays, on a platform that writes down what it is asked.

use super::*;
use crate::function::tests::{Asked, FakeHardware, MSIX_AT, virtual_function};
use crate::hardware::IrqKind;
use crate::intx::event;
use pci::{DoorbellWidth, MsiMessage, MsiVector};
use std::os::fd::BorrowedFd;
use std::sync::Condvar;
use vmm_sys_util::eventfd::EventFd;

struct FakeVector {
    fd: EventFd,
    message: Mutex<Option<MsiMessage>>,
    pending: AtomicBool,
}

impl MsiVector for FakeVector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        *self.message.lock().unwrap() = message;
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        &self.fd
    }

    fn pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }
}

/// Where the guest sees host memory at the moment: address and size.
type Mapped = Arc<Mutex<Vec<(u64, u64)>>>;

struct Mapping(Mapped, (u64, u64));

impl BarMapping for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.0.lock().unwrap().retain(|entry| *entry != self.1);
    }
}

#[derive(Default)]
struct FakePlatform {
    vectors: Mutex<Vec<Arc<FakeVector>>>,
    mapped: Mapped,
}

impl Platform for FakePlatform {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let made: Vec<_> = (0..count)
            .map(|_| {
                Arc::new(FakeVector {
                    fd: event().unwrap(),
                    message: Mutex::default(),
                    pending: AtomicBool::new(false),
                })
            })
            .collect();
        *self.vectors.lock().unwrap() = made.clone();
        Ok(made
            .into_iter()
            .map(|vector| vector as Arc<dyn MsiVector>)
            .collect())
    }

    fn add_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_doorbell(&self, _: u64, _: DoorbellWidth, _: &EventFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map_bar(&self, address: u64, _: *mut u8, size: u64) -> io::Result<Box<dyn BarMapping>> {
        self.mapped.lock().unwrap().push((address, size));
        Ok(Box::new(Mapping(Arc::clone(&self.mapped), (address, size))))
    }

    fn vfio_file(&self, _: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// A line that the kernel drives or not; what the function raises can be waited for.
#[derive(Default)]
struct FakeLine {
    driven_by_kernel: bool,
    level: Mutex<bool>,
    changed: Condvar,
}

impl FakeLine {
    fn wait_for(&self, wanted: bool) {
        let level = self.level.lock().unwrap();
        drop(
            self.changed
                .wait_while(level, |level| *level != wanted)
                .unwrap(),
        );
    }
}

impl IntxLine for FakeLine {
    fn set(&self, asserted: bool) {
        *self.level.lock().unwrap() = asserted;
        self.changed.notify_all();
    }

    fn drive_by(&self, fds: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        match (fds, self.driven_by_kernel) {
            (Some(_), false) => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(()),
        }
    }
}

struct Rig {
    device: VfioPci,
    hardware: Arc<FakeHardware>,
    platform: Arc<FakePlatform>,
}

impl Rig {
    fn over(hardware: Arc<FakeHardware>) -> Self {
        let platform = Arc::new(FakePlatform::default());
        let config = VfioConfig::new("hostdev0", HostSpec::Address("5e:00.2".parse().unwrap()));
        let device = VfioPci::over(
            Arc::clone(&hardware) as Arc<dyn Hardware>,
            &config,
            "0000:5e:00.2",
            Arc::clone(&platform) as Arc<dyn Platform>,
        )
        .unwrap();
        hardware.asked();
        Self {
            device,
            hardware,
            platform,
        }
    }

    fn new() -> Self {
        let irqs = [
            (IrqKind::Msix, 3),
            (IrqKind::Error, 1),
            (IrqKind::Request, 1),
        ];
        Self::over(FakeHardware::new(virtual_function(), &irqs))
    }

    fn message(&self, index: usize) -> Option<MsiMessage> {
        *self.platform.vectors.lock().unwrap()[index]
            .message
            .lock()
            .unwrap()
    }

    fn mapped(&self) -> Vec<(u64, u64)> {
        let mut mapped = self.platform.mapped.lock().unwrap().clone();
        mapped.sort_unstable();
        mapped
    }

    fn msix_control(&self, value: u16) {
        self.device
            .config_write(MSIX_AT as u16 + 2, &value.to_le_bytes());
    }

    /// As Linux does: address, data, then the mask bit.
    fn program_entry(&self, index: u64, data: u32) {
        self.device
            .bar_write(3, index * 16, &0xfee0_1000u32.to_le_bytes());
        self.device
            .bar_write(3, index * 16 + 8, &data.to_le_bytes());
        self.device
            .bar_write(3, index * 16 + 12, &0u32.to_le_bytes());
    }
}

#[test]
fn msix_goes_from_the_hardware_to_the_vectors() {
    let rig = Rig::new();
    // Linux enables it with the function masked, fills the table, and unmasks.
    rig.msix_control(0xc000);
    assert_eq!(rig.hardware.asked(), [Asked::Triggers(IrqKind::Msix, 3)]);
    rig.program_entry(1, 0x4041);
    assert_eq!(rig.message(1), None, "the function is masked");
    rig.msix_control(0x8000);
    assert_eq!(rig.hardware.asked(), [], "nothing changes for the hardware");
    let message = MsiMessage {
        address: 0xfee0_1000,
        data: 0x4041,
    };
    assert_eq!(rig.message(1), Some(message));
    assert_eq!(rig.message(0), None);
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Msix(3));
    rig.hardware.fire(IrqKind::Msix, 1);
    assert_eq!(
        rig.platform.vectors.lock().unwrap()[1].fd.read().unwrap(),
        1
    );
    // Masked again by its entry: a signal waits, and shows as pending.
    rig.device.bar_write(3, 16 + 12, &[1, 0, 0, 0]);
    assert_eq!(rig.message(1), None);
    rig.platform.vectors.lock().unwrap()[1]
        .pending
        .store(true, Ordering::Relaxed);
    let mut pending = [0; 8];
    rig.device.bar_read(3, 0x2000, &mut pending);
    assert_eq!(u64::from_le_bytes(pending), 2);
    rig.msix_control(0);
    assert_eq!(rig.hardware.asked(), [Asked::Triggers(IrqKind::Msix, 0)]);
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Off);
}

#[test]
fn a_host_short_of_vectors_gives_the_first_ones() {
    let irqs = [(IrqKind::Msix, 3)];
    let mut hardware = FakeHardware::new(virtual_function(), &irqs);
    Arc::get_mut(&mut hardware).unwrap().available = 2;
    let rig = Rig::over(hardware);
    rig.msix_control(0x8000);
    let asked = [
        Asked::Triggers(IrqKind::Msix, 3),
        Asked::Triggers(IrqKind::Msix, 2),
    ];
    assert_eq!(rig.hardware.asked(), asked);
    rig.msix_control(0x8000);
    assert_eq!(rig.hardware.asked(), [], "not asked again and again");
}

#[test]
fn bars_are_shown_but_for_the_msix_pages() {
    let rig = Rig::new();
    rig.device.config_write(4, &[6, 0]);
    rig.device.bar_placed(0, Some(0x38_0000_0000));
    rig.device.bar_placed(3, Some(0xc000_0000));
    let shown = [
        (0xc000_1000, 0x1000),
        (0xc000_3000, 0x1000),
        (0x38_0000_0000, 0x4000),
    ];
    assert_eq!(rig.mapped(), shown);
    rig.device.bar_placed(0, None);
    assert_eq!(rig.mapped(), shown[..2]);
    // Memory is disabled: gone from sight before the hardware hears of it.
    rig.hardware.asked();
    rig.device.config_write(4, &[4, 0]);
    assert_eq!(rig.mapped(), []);
    assert_eq!(rig.hardware.asked(), [Asked::Config(4, vec![4, 0])]);
}

#[test]
fn registers_outside_of_the_table_are_the_hardwares() {
    let rig = Rig::new();
    rig.device.bar_write(0, 8, &[1, 2, 3, 4]);
    rig.device.bar_write(3, 0x2000, &[9; 4]);
    rig.device.bar_write(3, 0x40, &[7; 4]);
    let asked = [
        Asked::Bar(8, vec![1, 2, 3, 4]),
        Asked::Bar(0x3_0040, vec![7; 4]),
    ];
    assert_eq!(rig.hardware.asked(), asked);
    let mut data = [0; 4];
    rig.device.bar_read(0, 8, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
    rig.device.bar_read(3, 12, &mut data);
    assert_eq!(data, [1, 0, 0, 0], "masked, by our own table");
}

#[test]
fn a_detached_function_is_silent_and_comes_back_as_new() {
    let rig = Rig::new();
    rig.device.config_write(4, &[6, 0]);
    rig.msix_control(0x8000);
    rig.program_entry(0, 0x41);
    rig.device.bar_placed(0, Some(0x4000_0000));
    rig.hardware.asked();
    rig.device.bar_placed(0, None);
    rig.device.detached();
    let asked = [
        Asked::Triggers(IrqKind::Msix, 0),
        Asked::Config(4, vec![0, 0]),
    ];
    assert_eq!(rig.hardware.asked(), asked, "no reset: that takes its time");
    assert_eq!((rig.mapped(), rig.message(0)), (vec![], None));
    rig.device.prepare_replug().unwrap();
    assert_eq!(rig.hardware.asked().last(), Some(&Asked::Reset));
    let mut command = [0xff; 2];
    rig.device.config_read(4, &mut command);
    assert_eq!(command, [0, 0]);
    let mut control = [0; 4];
    rig.device.bar_read(3, 12, &mut control);
    assert_eq!(control, [1, 0, 0, 0]);
}

#[test]
fn a_function_nobody_wrote_to_is_not_reset_again() {
    let rig = Rig::new();
    rig.device.reset();
    // Sizing a BAR and setting up MSI-X reach no hardware register.
    rig.device.config_write(0x10, &[0xff; 4]);
    rig.device.reset();
    assert!(!rig.hardware.asked().contains(&Asked::Reset));
    assert_eq!(rig.device.decode().bars[0].unwrap().base, 0);
    rig.device.config_write(4, &[2, 0]);
    rig.device.reset();
    rig.device.reset();
    let resets = rig.hardware.asked();
    let resets = resets.iter().filter(|asked| **asked == Asked::Reset);
    assert_eq!(resets.count(), 1);
}

#[test]
fn a_guests_function_level_reset_is_a_reset_of_ours() {
    let rig = Rig::new();
    rig.device.config_write(4, &[6, 0]);
    rig.device.bar_placed(0, Some(0x4000_0000));
    rig.msix_control(0x8000);
    rig.hardware.asked();
    rig.device.config_write(0xa8, &[0, 0x80]);
    let asked = rig.hardware.asked();
    assert_eq!(asked.first(), Some(&Asked::Triggers(IrqKind::Msix, 0)));
    assert_eq!(asked.last(), Some(&Asked::Reset));
    assert_eq!(rig.mapped(), []);
    assert!(!rig.device.decode().memory_enabled);
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Off);
}

/// A physical function with a pin.
fn function_with_pin() -> Arc<FakeHardware> {
    FakeHardware::new(
        virtual_function(),
        &[(IrqKind::Intx, 1), (IrqKind::Msix, 3)],
    )
}

#[test]
fn the_pin_is_wired_by_the_kernel_and_makes_way_for_msix() {
    let rig = Rig::over(function_with_pin());
    let line = Arc::new(FakeLine {
        driven_by_kernel: true,
        ..FakeLine::default()
    });
    rig.device.connect_intx(line);
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Intx);
    assert_eq!(rig.hardware.asked(), [Asked::Triggers(IrqKind::Intx, 1)]);
    rig.msix_control(0x8000);
    let asked = [
        Asked::Triggers(IrqKind::Intx, 0),
        Asked::Triggers(IrqKind::Msix, 3),
    ];
    assert_eq!(rig.hardware.asked(), asked, "one kind at a time");
    rig.msix_control(0);
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Intx);
    rig.device.detached();
    assert_eq!(rig.device.interrupt_mode(), InterruptMode::Off);
}

#[test]
fn without_the_kernel_an_access_serves_the_pin() {
    let rig = Rig::over(function_with_pin());
    rig.device.config_write(4, &[6, 0]);
    rig.device.bar_placed(0, Some(0x4000_0000));
    assert_eq!(rig.mapped(), [(0x4000_0000, 0x4000)]);
    let line = Arc::new(FakeLine::default());
    rig.device
        .connect_intx(Arc::clone(&line) as Arc<dyn IntxLine>);
    assert_eq!(rig.mapped(), [], "accesses must be seen");
    rig.hardware.asked();
    rig.hardware.fire(IrqKind::Intx, 0);
    line.wait_for(true);
    rig.device.bar_read(0, 0, &mut [0; 4]);
    assert_eq!(rig.hardware.asked(), [Asked::Unmask]);
    line.wait_for(false);
    rig.device.bar_read(0, 0, &mut [0; 4]);
    assert_eq!(rig.hardware.asked(), [], "only once an interrupt");
    // With MSI-X there is nothing to watch for.
    rig.msix_control(0x8000);
    assert_eq!(rig.mapped(), [(0x4000_0000, 0x4000)]);
}

#[test]
fn errors_and_requests_reach_the_listener() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>, Condvar);
    impl Heard {
        fn note(&self, text: String) {
            self.0.lock().unwrap().push(text);
            self.1.notify_all();
        }
    }
    impl VfioListener for Heard {
        fn device_error(&self, id: &str) {
            self.note(format!("error {id}"));
        }
        fn device_requested(&self, id: &str) {
            self.note(format!("request {id}"));
        }
    }
    let hardware = FakeHardware::new(
        virtual_function(),
        &[(IrqKind::Error, 1), (IrqKind::Request, 1)],
    );
    let heard = Arc::new(Heard::default());
    let watched = Arc::clone(&hardware) as Arc<dyn Hardware>;
    let listener = Arc::clone(&heard) as Arc<dyn VfioListener>;
    let watch = EventWatch::start(&watched, "hostdev0", listener).unwrap();
    hardware.fire(IrqKind::Request, 0);
    let wait = |count| {
        let list = heard.0.lock().unwrap();
        heard
            .1
            .wait_while(list, |list| list.len() < count)
            .unwrap()
            .clone()
    };
    assert_eq!(wait(1), ["request hostdev0"]);
    hardware.fire(IrqKind::Error, 0);
    assert_eq!(wait(2), ["request hostdev0", "error hostdev0"]);
    hardware.asked();
    drop(watch);
    let asked = [
        Asked::Triggers(IrqKind::Error, 0),
        Asked::Triggers(IrqKind::Request, 0),
    ];
    assert_eq!(hardware.asked(), asked);
}

#[test]
fn it_does_not_migrate_and_says_what_would() {
    let rig = Rig::new();
    let error = rig.device.save().unwrap_err().to_string();
    assert!(
        error.contains("vfio-pci 'hostdev0' (0000:5e:00.2)"),
        "{error}"
    );
    assert!(error.contains("failover_pair_id="), "{error}");
    assert_eq!(rig.device.class_code(), 0x02_0000);
    assert!(rig.device.is_express());
}
