//! Interrupts of a machine without processors: messages that are written to memory, lines whose level is known.

use super::watch::{Watch, Watched};
use memory::GuestRam;
use pci::{IntxLine, MsiMessage, MsiVector};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Lines of the IOAPIC.
pub const LINES: u32 = 24;

/// Hears of interrupts. Called in the thread of whoever caused them; must not block.
pub trait InterruptListener: Send + Sync {
    /// The IOAPIC's line `gsi` changed its level.
    fn line(&self, gsi: u32, high: bool);

    /// A message was delivered. Where its address is in RAM, its data is there by now.
    fn message(&self, message: MsiMessage) {
        let _ = message;
    }
}

pub(super) struct Interrupts {
    ram: Arc<GuestRam>,
    /// How many devices hold each line high.
    shares: Mutex<[u32; LINES as usize]>,
    listeners: Mutex<Vec<Weak<dyn InterruptListener>>>,
    watch: Watch,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interrupts {
    pub(super) fn new(ram: Arc<GuestRam>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            ram,
            shares: Mutex::new([0; LINES as usize]),
            listeners: Mutex::default(),
            watch: Watch::new()?,
        }))
    }

    pub(super) fn watch(&self, listener: &Arc<dyn InterruptListener>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    fn tell(&self, what: impl Fn(&dyn InterruptListener)) {
        let listeners: Vec<_> = lock(&self.listeners)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        listeners.iter().for_each(|listener| what(&**listener));
    }

    /// One bit a line that is high.
    pub(super) fn levels(&self) -> u32 {
        lock(&self.shares)
            .iter()
            .rev()
            .fold(0, |bits, shares| bits << 1 | u32::from(*shares > 0))
    }

    /// Raises or lowers one share of a line; the line is high while any share is.
    fn share(&self, gsi: u32, raise: bool) {
        let changed = {
            let mut shares = lock(&self.shares);
            let Some(line) = shares.get_mut(gsi as usize) else {
                return;
            };
            let was = *line > 0;
            *line = if raise {
                line.saturating_add(1)
            } else {
                line.saturating_sub(1)
            };
            was != (*line > 0)
        };
        if changed {
            self.tell(|listener| listener.line(gsi, raise));
        }
    }

    /// A device's share of the line `gsi`.
    pub(super) fn line(self: &Arc<Self>, gsi: u32) -> Arc<dyn IntxLine> {
        Arc::new(Line {
            interrupts: Arc::clone(self),
            gsi,
            asserted: Mutex::new(false),
        })
    }

    /// `count` masked vectors.
    pub(super) fn vectors(self: &Arc<Self>, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        (0..count)
            .map(|_| {
                let trigger = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
                Ok(Arc::new_cyclic(|this| Vector {
                    interrupts: Arc::clone(self),
                    message: Mutex::new(None),
                    trigger,
                    handed_out: Once::new(),
                    this: this.clone(),
                }) as Arc<dyn MsiVector>)
            })
            .collect()
    }

    fn deliver(&self, message: MsiMessage) {
        // What is not in RAM (the local APICs' place) goes to processors that there are not.
        let to_ram = self
            .ram
            .write_slice(&message.data.to_le_bytes(), GuestAddress(message.address));
        tracing::trace!(?message, in_ram = to_ram.is_ok(), "interrupt message");
        self.tell(|listener| listener.message(message));
    }
}

struct Vector {
    interrupts: Arc<Interrupts>,
    message: Mutex<Option<MsiMessage>>,
    /// Counts the signals of a masked vector, and those that come by the descriptor.
    trigger: EventFd,
    handed_out: Once,
    this: Weak<Vector>,
}

impl Vector {
    /// Delivers once what was counted.
    fn settle(&self, message: &Option<MsiMessage>) {
        if let Some(message) = message
            && self.trigger.read().is_ok()
        {
            self.interrupts.deliver(*message);
        }
    }
}

impl Watched for Vector {
    fn ready(&self) {
        self.settle(&lock(&self.message));
    }
}

impl MsiVector for Vector {
    fn program(&self, message: Option<MsiMessage>) -> io::Result<()> {
        let mut current = lock(&self.message);
        *current = message;
        self.settle(&current);
        Ok(())
    }

    fn trigger(&self) -> &EventFd {
        self.handed_out.call_once(|| {
            let this: Weak<dyn Watched> = self.this.clone();
            if let Err(error) = self.interrupts.watch.add(&self.trigger, this) {
                tracing::error!(%error, "an interrupt vector cannot be watched");
            }
        });
        &self.trigger
    }

    fn signal(&self) {
        match *lock(&self.message) {
            Some(message) => self.interrupts.deliver(message),
            // A full count says no more than one signal does.
            None => drop(self.trigger.write(1)),
        }
    }

    #[allow(unsafe_code)]
    fn pending(&self) -> bool {
        use std::os::fd::AsRawFd;
        if lock(&self.message).is_some() {
            return false;
        }
        let mut poll = libc::pollfd {
            fd: self.trigger.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, no time-out.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready == 1
    }
}

struct Line {
    interrupts: Arc<Interrupts>,
    gsi: u32,
    asserted: Mutex<bool>,
}

impl IntxLine for Line {
    fn set(&self, asserted: bool) {
        let mut current = lock(&self.asserted);
        if *current != asserted {
            *current = asserted;
            self.interrupts.share(self.gsi, asserted);
        }
    }

    fn drive_by(&self, fds: Option<(&EventFd, &EventFd)>) -> io::Result<()> {
        match fds {
            // No processor would acknowledge, so nothing would ever ask for the line to be looked at again.
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
            None => Ok(()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    struct Ear(Mutex<Sender<String>>);

    impl InterruptListener for Ear {
        fn line(&self, gsi: u32, high: bool) {
            lock(&self.0).send(format!("{gsi} {high}")).unwrap();
        }

        fn message(&self, message: MsiMessage) {
            lock(&self.0)
                .send(format!("{:#x}", message.address))
                .unwrap();
        }
    }

    type Fixture = (
        Arc<Interrupts>,
        Arc<GuestRam>,
        Arc<dyn InterruptListener>,
        Receiver<String>,
    );

    fn interrupts() -> Fixture {
        let config = memory::RamConfig::anonymous(1 << 20);
        let ram = memory::allocate(&config, &[memory::GuestRange::new(0, 1 << 20)]).unwrap();
        let interrupts = Interrupts::new(Arc::clone(ram.guest())).unwrap();
        let (sender, receiver) = channel();
        let ear: Arc<dyn InterruptListener> = Arc::new(Ear(Mutex::new(sender)));
        interrupts.watch(&ear);
        (interrupts, Arc::clone(ram.guest()), ear, receiver)
    }

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0x4000,
        data: 0x1234_5678,
    };

    #[test]
    fn a_message_is_in_memory_when_the_signal_returns() {
        let (interrupts, ram, _ear, heard) = interrupts();
        let vectors = interrupts.vectors(2).unwrap();
        vectors[1].program(Some(MESSAGE)).unwrap();
        vectors[1].signal();
        let word: u32 = ram.read_obj(GuestAddress(0x4000)).unwrap();
        assert_eq!(word, 0x1234_5678);
        assert_eq!(heard.try_recv().unwrap(), "0x4000");
        vectors[0].signal();
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_masked_vector_delivers_once_when_it_is_unmasked() {
        let (interrupts, _ram, _ear, heard) = interrupts();
        let vectors = interrupts.vectors(1).unwrap();
        assert!(!vectors[0].pending());
        vectors[0].signal();
        vectors[0].signal();
        assert!(vectors[0].pending());
        vectors[0].program(Some(MESSAGE)).unwrap();
        assert!(!vectors[0].pending());
        assert_eq!(heard.try_recv().unwrap(), "0x4000");
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn a_descriptor_signalled_by_others_delivers_too() {
        let (interrupts, _ram, _ear, heard) = interrupts();
        let vectors = interrupts.vectors(1).unwrap();
        let theirs = vectors[0].trigger().try_clone().unwrap();
        vectors[0].program(Some(MESSAGE)).unwrap();
        theirs.write(1).unwrap();
        assert_eq!(
            heard.recv_timeout(Duration::from_secs(60)).unwrap(),
            "0x4000"
        );
    }

    #[test]
    fn a_message_elsewhere_than_ram_is_told_and_harms_nothing() {
        let (interrupts, _ram, _ear, heard) = interrupts();
        let vectors = interrupts.vectors(1).unwrap();
        let address = 0xfee0_0000;
        vectors[0]
            .program(Some(MsiMessage { address, data: 1 }))
            .unwrap();
        vectors[0].signal();
        assert_eq!(heard.try_recv().unwrap(), "0xfee00000");
    }

    #[test]
    fn a_line_is_high_while_any_share_is() {
        let (interrupts, _ram, _ear, heard) = interrupts();
        let (a, b) = (interrupts.line(16), interrupts.line(16));
        a.set(true);
        b.set(true);
        a.set(false);
        assert_eq!(interrupts.levels(), 1 << 16);
        drop(b);
        assert_eq!(interrupts.levels(), 0);
        assert_eq!(
            heard.try_iter().collect::<Vec<_>>(),
            ["16 true", "16 false"]
        );
    }
}
