//! Interrupt routes: messages through irqfds, and the IOAPIC's lines.

use crate::irqfd::{Irqfd, Remover};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use pci::{IntxLine, MsiMessage, MsiVector};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Pins of the in-kernel IOAPIC; message routes are numbered from here.
pub(crate) const IOAPIC_PINS: u32 = 24;

/// KVM_MAX_IRQ_ROUTES on x86.
const MAX_ROUTES: u32 = 4096;

#[derive(Default)]
struct Table {
    messages: BTreeMap<u32, MsiMessage>,
    used: BTreeSet<u32>,
    levels: BTreeMap<u32, u32>,
}

/// The VM's interrupt routing table; it is always set as a whole.
pub(crate) struct Routes {
    vm: Arc<VmFd>,
    remover: Remover,
    table: Mutex<Table>,
}

fn io_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

fn chip(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn message(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a, b, c, d]),
        address_hi: u32::from_le_bytes([e, f, g, h]),
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

impl Routes {
    /// The PC's wiring: lines 0..16 on both interrupt controllers (the timer on the IOAPIC's pin 2, as the MADT
    /// tells the guest), 16..24 on the IOAPIC alone.
    pub(crate) fn new(vm: Arc<VmFd>) -> io::Result<Arc<Self>> {
        let routes = Arc::new(Self {
            vm,
            remover: Remover::start(),
            table: Mutex::default(),
        });
        routes.commit(&routes.table())?;
        Ok(routes)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, table: &Table) -> io::Result<()> {
        let mut entries = Vec::with_capacity(48 + table.messages.len());
        for gsi in 0..IOAPIC_PINS {
            match gsi {
                0..8 => entries.push(chip(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
                8..16 => entries.push(chip(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
                _ => {}
            }
            match gsi {
                0 => entries.push(chip(0, KVM_IRQCHIP_IOAPIC, 2)),
                2 => {}
                _ => entries.push(chip(gsi, KVM_IRQCHIP_IOAPIC, gsi)),
            }
        }
        entries.extend(table.messages.iter().map(|(gsi, m)| message(*gsi, *m)));
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::other("too many interrupt routes"))?;
        self.vm.set_gsi_routing(&routing).map_err(io_error)
    }

    /// `count` masked vectors, each with a route and an eventfd of its own.
    pub(crate) fn vectors(self: &Arc<Self>, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let mut table = self.table();
        let mut free = (IOAPIC_PINS..MAX_ROUTES).filter(|gsi| !table.used.contains(gsi));
        let mut gsis = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            gsis.push(
                free.next()
                    .ok_or_else(|| io::Error::other("KVM has no interrupt route left"))?,
            );
        }
        let mut vectors: Vec<Arc<dyn MsiVector>> = Vec::with_capacity(gsis.len());
        for gsi in gsis {
            let trigger = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            table.used.insert(gsi);
            let kernel = Arc::<VmFd>::clone(&self.vm);
            vectors.push(Arc::new(Vector {
                irqfd: Irqfd::new(kernel, self.remover.clone(), trigger, gsi),
                routes: Arc::clone(self),
                gsi,
                message: Mutex::new(None),
            }));
        }
        Ok(vectors)
    }

    /// Raises or lowers one share of a line; the line is high while any share is.
    fn share(&self, gsi: u32, raise: bool) {
        let mut table = self.table();
        let level = table.levels.entry(gsi).or_insert(0);
        let was = *level > 0;
        *level = if raise {
            level.saturating_add(1)
        } else {
            level.saturating_sub(1)
        };
        let is = *level > 0;
        if was != is
            && let Err(error) = self.vm.set_irq_line(gsi, is)
        {
            tracing::error!(gsi, %error, "an interrupt line could not be driven");
        }
    }

    /// A device's share of the IOAPIC's line `gsi`.
    pub(crate) fn line(self: &Arc<Self>, gsi: u32) -> Arc<dyn IntxLine> {
        Arc::new(Line {
            routes: Arc::clone(self),
            gsi,
            asserted: Mutex::new(false),
            driver: Mutex::new(None),
        })
    }
}

struct Vector {
    routes: Arc<Routes>,
    gsi: u32,
    irqfd: Irqfd,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        let mut current = self.message.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == message {
            return Ok(());
        }
        if let Some(message) = message {
            let mut table = self.routes.table();
            // A vector that is masked and unmasked again keeps its route: setting the table is costly.
            if table.messages.insert(self.gsi, message) != Some(message) {
                self.routes.commit(&table)?;
            }
        }
        match (current.is_some(), message.is_some()) {
            (false, true) => self.irqfd.attach()?,
            (true, false) => self.irqfd.detach(),
            _ => {}
        }
        *current = message;
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        self.irqfd.trigger()
    }

    #[allow(unsafe_code)]
    fn pending(&self) -> bool {
        if self
            .message
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            return false;
        }
        let mut poll = libc::pollfd {
            fd: self.irqfd.trigger().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, no time-out.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready == 1
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        self.irqfd.close();
        let mut table = self.routes.table();
        table.used.remove(&self.gsi);
        if table.messages.remove(&self.gsi).is_some()
            && let Err(error) = self.routes.commit(&table)
        {
            tracing::debug!(gsi = self.gsi, %error, "an interrupt route could not be removed");
        }
    }
}

struct Line {
    routes: Arc<Routes>,
    gsi: u32,
    asserted: Mutex<bool>,
    driver: Mutex<Option<EventFd>>,
}

impl IntxLine for Line {
    fn set(&self, asserted: bool) {
        let mut current = self.asserted.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != asserted {
            *current = asserted;
            self.routes.share(self.gsi, asserted);
        }
    }

    fn drive_by(&self, fds: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = driver.take() {
            self.routes
                .vm
                .unregister_irqfd(&old, self.gsi)
                .map_err(io_error)?;
        }
        if let Some((trigger, resample)) = fds {
            let trigger = trigger.try_clone()?;
            self.routes
                .vm
                .register_irqfd_with_resample(&trigger, resample, self.gsi)
                .map_err(io_error)?;
            *driver = Some(trigger);
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
        if let Err(error) = self.drive_by(None) {
            tracing::debug!(gsi = self.gsi, %error, "an interrupt line could not be released");
        }
    }
}
