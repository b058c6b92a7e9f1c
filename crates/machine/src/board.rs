//! The board in the hands of the control thread: its life from power-on to power-off.
//!
//! What it is made of is in `build.rs`; devices that come and go in `devices.rs`, failover pairs in `pairs`,
//! migration in `outgoing.rs` and `incoming.rs`.

use crate::MachineError;
use crate::address_map::AddressMap;
use crate::announcing::Announcing;
use crate::boot::{self, BootSource};
use crate::build::Chipset;
use crate::chardev::Chardev;
use crate::chipset::PowerRequest;
use crate::control::Control;
use crate::devices::Devices;
use crate::event::{MachineEvent, MachineListener};
use crate::incoming::IncomingSide;
use crate::network::Netdevs;
use crate::outgoing::OutgoingSide;
use crate::pairs::PairKeeper;
use crate::passthrough::Iommufds;
use crate::run_state::RunState;
use config::vm::VmConfig;
use failover::Moment;
use hypervisor::{Accelerator, CpuEvent, Processors, Qtest};
use memory::Ram;
use pci::{Hotplug, RootComplex};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The IOAPIC's line of PIRQA; PIRQH is the last of eight.
pub(crate) const FIRST_PCI_LINE: u8 = 16;

/// The IOAPIC's line of a pin (0 for INTA) of a device on bus 0.
pub const fn intx_gsi(device: u8, pin: u8) -> u8 {
    FIRST_PCI_LINE + pci::pirq(device, pin)
}

/// The whole machine. Made by [`crate::build::build`]; from then on only the control thread touches it.
pub struct Board {
    pub(crate) config: VmConfig,
    pub(crate) control: Control,
    pub(crate) listener: Box<dyn MachineListener>,
    pub(crate) map: AddressMap,
    pub(crate) ram: Arc<Ram>,
    pub(crate) vm: Arc<dyn Accelerator>,
    /// The same, when it is this one.
    pub(crate) qtest: Option<Arc<Qtest>>,
    // Before `chipset` and `devices`: vCPU threads end before what they touch is gone.
    pub(crate) cpus: Box<dyn Processors>,
    pub(crate) cpu_threads: Vec<i32>,
    /// What the interrupt controllers were like when power came.
    pub(crate) power_on_irqchip: Vec<u8>,
    pub(crate) root: Arc<RootComplex>,
    pub(crate) hotplug: Hotplug,
    pub(crate) chipset: Chipset,
    pub(crate) chardevs: Vec<Chardev>,
    pub(crate) devices: Devices,
    pub(crate) netdevs: Netdevs,
    pub(crate) announcing: Announcing,
    pub(crate) pairs: PairKeeper,
    pub(crate) iommufds: Iommufds,
    pub(crate) outgoing: OutgoingSide,
    pub(crate) incoming: IncomingSide,
    pub(crate) tables: Vec<u8>,
    pub(crate) run_state: RunState,
    /// What the guest asked for in the moment a migration stopped it; carried out where it runs next.
    pub(crate) pending_power: Option<PowerRequest>,
    pub(crate) filter_news: crate::inspect::FilterNews,
    pub(crate) exit: Option<u8>,
}

impl Board {
    /// The configuration it was built from.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Why the guest runs or does not.
    pub fn run_state(&self) -> RunState {
        self.run_state
    }

    /// Host thread ids of the vCPUs, in order.
    pub fn cpu_threads(&self) -> &[i32] {
        &self.cpu_threads
    }

    /// The character devices.
    pub fn chardevs(&self) -> &[Chardev] {
        &self.chardevs
    }

    /// The tree of PCI functions.
    pub fn root(&self) -> &Arc<RootComplex> {
        &self.root
    }

    /// The accelerator without processors, if it is the machine's: what a test in this process drives the machine by.
    pub fn qtest(&self) -> Option<&Arc<Qtest>> {
        self.qtest.as_ref()
    }

    /// Set when the program is to end, with this status.
    pub fn exit_status(&self) -> Option<u8> {
        self.exit
    }

    pub(crate) fn emit(&self, event: MachineEvent) {
        tracing::debug!(?event, "event");
        self.listener.event(event);
    }

    /// Power-on: a machine that awaits no migration gets its kernel, and runs unless `-S` was given.
    ///
    /// # Errors
    /// Nothing can be booted.
    pub fn power_up(&mut self) -> Result<(), MachineError> {
        if self.config.incoming.is_some() {
            self.run_state.go(RunState::InMigrate)?;
            return Ok(());
        }
        // The primary's DMA will want all of it before long; until then a page that is there costs the guest less.
        self.prepare_memory();
        self.load_kernel()?;
        if !self.config.start_paused {
            // Without the event: QEMU's monitors listen only after that, and a client that is early is not to take it for
            // the end of a migration.
            self.run_state.go(RunState::Running)?;
            self.go();
        }
        Ok(())
    }

    /// What the firmware and the boot loader do between reset and the kernel's first instruction.
    fn load_kernel(&mut self) -> Result<(), MachineError> {
        let boot = &self.config.boot;
        let registers = match &boot.kernel {
            Some(kernel) => {
                crate::build::assign_resources(&self.root, &self.map);
                let source = BootSource {
                    kernel: kernel.clone(),
                    initrd: boot.initrd.clone(),
                    append: boot.append.clone(),
                };
                Some(boot::load(
                    &source,
                    self.ram.guest(),
                    &self.map,
                    &self.tables,
                )?)
            }
            None => None,
        };
        self.cpus.reset(registers)?;
        Ok(())
    }

    /// Takes the vCPUs out of the guest and brings the devices' workers to rest; no event.
    pub(crate) fn halt(&mut self) {
        self.cpus.pause();
        self.devices.pause();
        self.pairs.set_guest_running(self.control.now(), false);
    }

    /// Lets devices and vCPUs run; no event.
    pub(crate) fn go(&mut self) {
        self.devices.resume();
        self.pairs.set_guest_running(self.control.now(), true);
        self.cpus.resume();
    }

    /// `stop`. Does nothing when the guest does not run; a machine that awaits a migration will stay stopped after
    /// it.
    ///
    /// # Errors
    /// The run state does not allow it.
    pub fn stop(&mut self) -> Result<(), MachineError> {
        if self.run_state == RunState::InMigrate {
            self.config.start_paused = true;
            return Ok(());
        }
        if !self.run_state.is_running() {
            return Ok(());
        }
        self.halt();
        self.run_state.go(RunState::Paused)?;
        self.emit(MachineEvent::Stop);
        Ok(())
    }

    /// `cont`.
    ///
    /// # Errors
    /// The guest cannot run: it has shut down, a vCPU failed, or it has not arrived yet.
    pub fn cont(&mut self) -> Result<(), MachineError> {
        match self.run_state {
            RunState::Running => return Ok(()),
            RunState::InMigrate => {
                // As QEMU has it: run as soon as the guest is there.
                self.config.start_paused = false;
                return Ok(());
            }
            RunState::Shutdown | RunState::InternalError => {
                return Err(MachineError::refused(
                    "Resetting the Virtual Machine is required",
                ));
            }
            RunState::FinishMigrate => {
                return Err(MachineError::refused(
                    "Guest is being handed over by a migration: cancel it first",
                ));
            }
            RunState::Prelaunch | RunState::Paused | RunState::PostMigrate => {}
        }
        let returning = self.run_state == RunState::PostMigrate;
        self.run_state.go(RunState::Running)?;
        self.go();
        self.emit(MachineEvent::Resume);
        if returning {
            self.source_continued();
        }
        Ok(())
    }

    /// Resets the machine; a guest that ran runs on, from its kernel's start.
    ///
    /// # Errors
    /// The kernel cannot be loaded again; the guest is stopped then.
    pub fn reset(&mut self, by_guest: bool) -> Result<(), MachineError> {
        if self.run_state == RunState::InMigrate {
            return Ok(());
        }
        if self.config.no_reboot {
            self.emit(MachineEvent::Shutdown {
                guest: by_guest,
                reason: if by_guest {
                    "guest-reset"
                } else {
                    "host-qmp-system-reset"
                },
            });
            return self.end_guest();
        }
        let was_running = self.run_state.is_running();
        self.halt();
        let rest = self.withdraw_for_reset();
        if let Err(error) = self.reset_devices().and_then(|()| self.load_kernel()) {
            self.after_reset(rest);
            return Err(error);
        }
        match self.run_state {
            RunState::Shutdown | RunState::InternalError => self.run_state.go(RunState::Paused)?,
            _ => {}
        }
        self.emit(MachineEvent::Reset(by_guest));
        self.after_reset(rest);
        if was_running {
            self.go();
        }
        Ok(())
    }

    fn reset_devices(&mut self) -> Result<(), MachineError> {
        self.vm.restore_irqchip(&self.power_on_irqchip)?;
        self.chipset.reset();
        self.hotplug.reset();
        self.root.reset();
        Ok(())
    }

    /// Presses the power button.
    pub fn powerdown(&mut self) {
        self.emit(MachineEvent::Powerdown);
        if !self.chipset.power.press_button() {
            tracing::info!("the guest does not listen to the power button");
        }
    }

    pub(crate) fn rtc_changed(&self) {
        self.emit(MachineEvent::RtcChange {
            offset_s: self.chipset.rtc.set_ahead_s(),
        });
    }

    /// Ends the program: `quit`, or a signal.
    pub fn quit(&mut self, reason: &'static str) {
        if self.exit.is_none() {
            self.emit(MachineEvent::Shutdown {
                guest: false,
                reason,
            });
            self.exit = Some(0);
        }
    }

    fn end_guest(&mut self) -> Result<(), MachineError> {
        if self.config.no_shutdown {
            let was_running = self.run_state.is_running();
            self.halt();
            self.run_state.go(RunState::Shutdown)?;
            if was_running {
                self.emit(MachineEvent::Stop);
            }
        } else {
            self.halt();
            self.exit = Some(0);
        }
        Ok(())
    }

    /// The guest asked for a reset or for its end.
    pub(crate) fn power_request(&mut self, request: PowerRequest) {
        if self.run_state == RunState::FinishMigrate {
            self.pending_power = Some(request);
            return;
        }
        // A request from before a stop is asked again by a guest that is resumed.
        if !self.run_state.is_running() {
            return;
        }
        tracing::info!(?request, "by the guest");
        let done = match request {
            PowerRequest::Reset => self.reset(true),
            PowerRequest::PowerOff => {
                self.emit(MachineEvent::Shutdown {
                    guest: true,
                    reason: "guest-shutdown",
                });
                self.end_guest()
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "the guest's power request failed");
            self.fail();
        }
    }

    pub(crate) fn cpu_event(&mut self, event: CpuEvent) {
        match event {
            CpuEvent::TripleFault { vcpu, at } => {
                tracing::warn!(
                    vcpu,
                    rip = format_args!("{at:#x}"),
                    "triple fault: the guest is reset"
                );
                self.power_request(PowerRequest::Reset);
            }
            CpuEvent::Failed { vcpu, reason } => {
                tracing::error!(vcpu, reason, "a vCPU cannot go on");
                self.fail();
            }
        }
    }

    fn fail(&mut self) {
        if !self.run_state.is_running() {
            return;
        }
        self.halt();
        if self.run_state.go(RunState::InternalError).is_ok() {
            self.emit(MachineEvent::Stop);
        }
    }

    /// When [`tick`](Self::tick) is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.pairs.next_deadline(), self.announcing.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets the waits end that are due.
    pub fn tick(&mut self, now: Moment) {
        self.pairs_tick(now);
        self.announce_due(now);
    }

    /// What a monitor is to read and write that shares character device `id` (`mux=on`). `for_people`: lines are edited.
    ///
    /// # Errors
    /// There is no such device, it is not shared, or too many share it.
    pub fn monitor_end(&self, id: &str, for_people: bool) -> Result<OwnedFd, MachineError> {
        let chardev = self.chardevs.iter().find(|c| c.id() == id);
        let chardev =
            chardev.ok_or_else(|| MachineError::refused(format!("chardev \"{id}\" not found")))?;
        chardev
            .monitor_end(for_people)
            .map_err(|e| MachineError::refused(format!("chardev '{id}': {e}")))
    }

    /// Waits for what the guest wrote to its consoles to leave.
    pub fn flush(&self) {
        for chardev in &self.chardevs {
            chardev.flush();
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.cpus.pause();
        // Whoever may still hold the bus (a client of qtest) finds it empty: what a device has open closes with the board.
        for function in self.root.functions() {
            self.root.remove(&function.id);
        }
    }
}
