//! Opens a function of this host without any virtual machine, and tells what it finds: for a look at real hardware.
//!
//! The hypervisor's part is played by plain eventfds and by the addresses of the mappings. Functions must be bound to
//! vfio-pci; nothing of theirs is changed that a reset does not undo. Exit status 0 only if all of it worked.
//!
//!     probe --memory-mib 256 0000:01:10.0 0000:01:10.2
//!     probe --poke 0:0x1524=0x7 --poke 0:0x1520=0x1 --expect-vector 0 0000:01:10.0   # an igb virtual function

use clap::Parser;
use memory::{GuestRange, RamConfig, allocate};
use pci::{
    BarMapping, DoorbellWidth, IntxLine, MsiMessage, MsiVector, PciDevice, Platform, ROM_BAR, regs,
};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vfio::{
    Access, Container, HostDevice, HostSpec, Iommufd, VfioConfig, VfioError, VfioListener, VfioPci,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Parser)]
#[command(about = "Open functions of this host by VFIO and tell what they are")]
struct Options {
    /// Memory to map for DMA, in MiB; above 2048 a part of it is at 4 GiB.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// Populate that memory first, as a migration target does while the stream comes in.
    #[arg(long)]
    populate: bool,
    /// Cancel after so many mapped MiB, and expect to be refused.
    #[arg(long)]
    cancel_at_mib: Option<u64>,
    /// Write 32 bits to a register, once interrupts are on: BAR:OFFSET=VALUE.
    #[arg(long, value_parser = parse_poke)]
    poke: Vec<(usize, u64, u32)>,
    /// After the pokes, wait up to 5 s for an interrupt on this vector.
    #[arg(long)]
    expect_vector: Option<usize>,
    /// Leave MSI-X off; after the pokes, wait up to 5 s for an interrupt on the pin.
    #[arg(long)]
    expect_pin: bool,
    /// Keep the functions open for so many seconds, and tell if the host asks for one back.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Have them by /dev/iommu and their character devices, not by their groups.
    #[arg(long)]
    iommufd: bool,
    /// The functions: [DDDD:]BB:DD.F.
    #[arg(required = true)]
    functions: Vec<String>,
}

fn parse_poke(text: &str) -> Result<(usize, u64, u32), String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let parse = || {
        let (place, value) = text.split_once('=')?;
        let (bar, offset) = place.split_once(':')?;
        let bar = usize::try_from(number(bar)?).ok()?;
        let value = u32::try_from(number(value)?).ok()?;
        Some((bar, number(offset)?, value))
    };
    parse().ok_or_else(|| format!("'{text}' is not BAR:OFFSET=VALUE"))
}

struct Vector {
    fd: EventFd,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        &self.fd
    }

    fn pending(&self) -> bool {
        false
    }
}

/// Where the pin's interrupt arrives: the eventfds the kernel would drive a guest's line by.
#[derive(Default)]
struct Pin(Mutex<Option<(EventFd, EventFd)>>);

impl IntxLine for Pin {
    fn set(&self, _: bool) {}

    fn drive_by(&self, fds: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        let fds = match fds {
            Some((trigger, resample)) => Some((trigger.try_clone()?, resample.try_clone()?)),
            None => None,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fds;
        Ok(())
    }
}

/// Where a guest would see host memory: guest address, host address, size.
type Places = Arc<Mutex<Vec<(u64, usize, u64)>>>;

/// A mapping a guest would see: here only its place.
struct Shown(Places, u64);

impl BarMapping for Shown {}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|(address, _, _)| *address != self.1);
    }
}

#[derive(Default)]
struct Bench {
    vectors: Mutex<Vec<Arc<Vector>>>,
    shown: Places,
}

impl Platform for Bench {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(Arc::new(Vector {
                fd: EventFd::new(EFD_NONBLOCK)?,
                message: Mutex::default(),
            }));
        }
        *self.vectors.lock().unwrap_or_else(PoisonError::into_inner) = made.clone();
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

    fn map_bar(&self, address: u64, host: *mut u8, size: u64) -> io::Result<Box<dyn BarMapping>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.push((address, host as usize, size));
        Ok(Box::new(Shown(Arc::clone(&self.shown), address)))
    }

    fn vfio_file(&self, _: BorrowedFd<'_>, register: bool) -> io::Result<()> {
        println!(
            "  the hypervisor {} its file",
            if register { "gets" } else { "loses" }
        );
        Ok(())
    }
}

struct Loud;

impl VfioListener for Loud {
    fn device_error(&self, id: &str) {
        println!("  {id}: uncorrectable error");
    }

    fn device_requested(&self, id: &str) {
        println!("  {id}: the host asks for it back");
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = options.memory_mib << 20;
    let low = bytes.min(2 << 30);
    let mut layout = vec![GuestRange::new(0, low)];
    if bytes > low {
        layout.push(GuestRange::new(4 << 30, bytes - low));
    }
    let ram = allocate(&RamConfig::anonymous(bytes), &layout)?;
    let bench = Arc::new(Bench::default());
    let container = Container::new(ram, Arc::clone(&bench) as Arc<dyn Platform>);
    if options.populate {
        let begun = Instant::now();
        container.populate(&mut |_| ControlFlow::Continue(()))?;
        println!("populated in {} ms", begun.elapsed().as_millis());
    }
    let object = options.iommufd.then(|| Arc::new(Iommufd::new("probe")));
    let mut opened = Vec::new();
    for (index, name) in options.functions.iter().enumerate() {
        let spec = HostSpec::Address(name.parse()?);
        describe(&HostDevice::find(&spec, "/sys".as_ref())?);
        let mut config = VfioConfig::new(format!("probe{index}"), spec);
        config.listener = Some(Arc::new(Loud));
        if let Some(object) = &object {
            config.access = Access::Iommufd(Arc::clone(object));
        }
        let begun = Instant::now();
        let (mut steps, mut longest, mut last) = (0, Duration::ZERO, begun);
        let result = VfioPci::open(config, &container, &mut |progress| {
            let now = Instant::now();
            if progress.mapped_bytes > 0 {
                steps += 1;
                longest = longest.max(now - last);
            }
            last = now;
            match options.cancel_at_mib {
                Some(limit) if progress.mapped_bytes >= limit << 20 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        println!(
            "  open: {} ms, DMA mapped in {steps} steps, the longest {} ms",
            begun.elapsed().as_millis(),
            longest.as_millis()
        );
        let device = match result {
            Err(error @ VfioError::Cancelled { .. }) if options.cancel_at_mib.is_some() => {
                println!("  as ordered: {error}");
                return Ok(());
            }
            result => result?,
        };
        examine(&device, &bench, options)?;
        opened.push(device);
    }
    if options.hold > 0 {
        println!("holding them for {} s", options.hold);
        std::thread::sleep(Duration::from_secs(options.hold));
    }
    for device in opened {
        let label = device.label();
        let begun = Instant::now();
        drop(device);
        println!("{label}: closed in {} ms", begun.elapsed().as_millis());
    }
    Ok(())
}

fn describe(host: &HostDevice) {
    println!(
        "{}: {:04x}:{:04x}, class {:06x}, driver {}, IOMMU group {}{}",
        host.name,
        host.vendor,
        host.device,
        host.class,
        host.driver.as_deref().unwrap_or("none"),
        host.group
            .map_or("none".to_owned(), |group| group.to_string()),
        match &host.physical_function {
            Some(physical) => format!(", a virtual function of {physical}"),
            None => String::new(),
        }
    );
}

fn read_u32(device: &VfioPci, offset: u16) -> u32 {
    let mut data = [0; 4];
    device.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn examine(
    device: &VfioPci,
    bench: &Bench,
    options: &Options,
) -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "  vendor and device {:08x}, class {:06x}",
        read_u32(device, 0),
        device.class_code()
    );
    print!("  capabilities:");
    let mut at = (read_u32(device, regs::CAPABILITIES) & 0xff) as u16;
    let mut msix = None;
    while at != 0 {
        let [id, next, ..] = read_u32(device, at).to_le_bytes();
        print!(" {id:02x}@{at:02x}");
        if id == regs::CAP_MSIX {
            msix = Some(at);
        }
        at = next.into();
    }
    let mut at = 0x100;
    while at != 0 {
        let header = read_u32(device, at);
        print!(" {:04x}@{at:03x}", header & 0xffff);
        at = (header >> 20) as u16;
    }
    println!();
    place(device, bench)?;
    let pin = Arc::new(Pin::default());
    device.connect_intx(Arc::clone(&pin) as Arc<dyn IntxLine>);
    println!("  interrupts in the slot: {:?}", device.interrupt_mode());
    if let (Some(at), false) = (msix, options.expect_pin) {
        enable_msix(device, at);
    }
    for &(bar, offset, value) in &options.poke {
        device.bar_write(bar, offset, &value.to_le_bytes());
        println!("  poked {value:#x} to BAR {bar} at {offset:#x}");
    }
    if let Some(index) = options.expect_vector {
        let vectors = bench.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let vector = vectors.get(index).ok_or("no such vector")?;
        let message = *vector
            .message
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        println!("  vector {index} is programmed with {message:x?}");
        let waited = wait(&vector.fd).ok_or("no interrupt came")?;
        println!("  vector {index}: an interrupt after {waited:?}");
    }
    if options.expect_pin {
        let fds = pin.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (trigger, resample) = fds.as_ref().ok_or("the function has no pin in use")?;
        let waited = wait(trigger).ok_or("no interrupt came")?;
        println!("  pin: an interrupt after {waited:?}");
        // The cause is still there: unmasked, it fires again.
        resample.write(1)?;
        let waited = wait(trigger).ok_or("no second interrupt came after the unmask")?;
        println!("  pin: unmasked, and again after {waited:?}");
    }
    device.detached();
    println!("  taken out of the slot: {:?}", device.interrupt_mode());
    let begun = Instant::now();
    device.prepare_replug()?;
    println!(
        "  made ready to come back in {} ms (function reset: {})",
        begun.elapsed().as_millis(),
        device.can_reset()
    );
    Ok(())
}

/// Sizes and places the BARs as firmware would, and compares what is read through both ways.
fn place(device: &VfioPci, bench: &Bench) -> Result<(), Box<dyn std::error::Error>> {
    for register in (regs::BAR0..regs::BAR0 + 24).step_by(4) {
        device.config_write(register, &[0xff; 4]);
    }
    let decode = device.decode();
    let mut base = 0xc000_0000u32;
    for (index, region) in decode.bars.iter().enumerate().take(ROM_BAR) {
        let register = regs::BAR0 + 4 * index as u16;
        let Some(region) = region else { continue };
        device.config_write(register, &base.to_le_bytes());
        if region.kind == pci::BarKind::Memory64 {
            device.config_write(register + 4, &[0; 4]);
        }
        base += 1 << 24;
    }
    device.config_write(regs::COMMAND, &[7, 0]);
    for (index, region) in device.decode().bars.iter().enumerate().take(ROM_BAR) {
        let Some(region) = region else { continue };
        device.bar_placed(index, Some(region.base));
        println!(
            "  BAR {index}: {:?}, {:#x} bytes at {:#x}, direct {:x?}",
            region.kind,
            region.size,
            region.base,
            device.direct_ranges(index)
        );
    }
    let shown = bench
        .shown
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let Some(&(address, host, _)) = shown.iter().find(|(address, _, _)| *address == 0xc000_0000)
    else {
        return Err("BAR 0 is not mapped".into());
    };
    // Offset 8 is the status register of every Intel NIC this is tried on: reading it has no effect.
    let mut trapped = [0; 4];
    device.bar_read(0, 8, &mut trapped);
    // SAFETY: the mapping is one page at least, and stays until the BAR is placed elsewhere.
    #[allow(unsafe_code)]
    let direct = unsafe { std::ptr::read_volatile((host + 8) as *const u32) };
    println!(
        "  at {address:#x}+8: {:#x} by region read, {direct:#x} by mapping",
        u32::from_le_bytes(trapped)
    );
    if direct != u32::from_le_bytes(trapped) {
        return Err("the mapping reads something else".into());
    }
    Ok(())
}

/// As a Linux guest does: enabled with the function masked, the table filled, then unmasked.
fn enable_msix(device: &VfioPci, at: u16) {
    let (control, table) = (read_u32(device, at) >> 16, read_u32(device, at + 4));
    let bar = (table & 7) as usize;
    let begun = Instant::now();
    device.config_write(at + 2, &0xc000u16.to_le_bytes());
    let enabled = begun.elapsed();
    for index in 0..u64::from(control & 0x7ff) + 1 {
        let entry = u64::from(table & !7) + index * 16;
        device.bar_write(bar, entry, &0xfee0_0000u64.to_le_bytes());
        device.bar_write(bar, entry + 8, &(0x4041 + index as u32).to_le_bytes());
        device.bar_write(bar, entry + 12, &[0; 4]);
    }
    device.config_write(at + 2, &0x8000u16.to_le_bytes());
    println!("  {:?} enabled in {enabled:?}", device.interrupt_mode());
}

/// Waits up to 5 s for a signal; how long it took.
fn wait(event: &EventFd) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        if event.read().is_ok() {
            return Some(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}
