//! The vCPU threads: run, pause, call, end.
//!
//! ```text
//!            resume            kick                    all threads parked
//!   Paused ─────────▶ Running ─────▶ (leaving KVM_RUN) ─────────────────▶ Paused
//!     │  ▲                                                                  │
//!     └──┘ call: a closure runs in each vCPU's thread                       └─▶ Ended
//! ```

use crate::accelerator::{Processors, StateKind, decode, encode};
use crate::signal::{self, KickTarget};
use crate::vcpu::{BootRegisters, Vcpu};
use crate::{CpuModel, HypervisorError, VcpuState, Vm};
use kvm_ioctls::VcpuExit;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Everything at the end of a vCPU's wires that is not RAM. Called from all vCPU threads at once.
pub trait Bus: Send + Sync {
    /// An `in` instruction; 1, 2 or 4 bytes. What nobody claims reads all ones.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// An `out` instruction; 1, 2 or 4 bytes.
    fn port_write(&self, port: u16, data: &[u8]);
    /// A load outside RAM, 1 to 8 bytes. What nobody claims reads all ones.
    fn memory_read(&self, address: u64, data: &mut [u8]);
    /// A store outside RAM, 1 to 8 bytes.
    fn memory_write(&self, address: u64, data: &[u8]);
}

/// What a vCPU did that concerns the whole machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuEvent {
    /// Triple fault: a PC resets.
    TripleFault {
        /// Which vCPU.
        vcpu: u32,
        /// Its instruction pointer, 0 where unknown.
        at: u64,
    },
    /// The guest cannot go on; the vCPU's thread waits.
    Failed {
        /// Which vCPU.
        vcpu: u32,
        /// KVM's reason.
        reason: String,
    },
}

/// Told by vCPU threads; must not block.
pub trait CpuListener: Send + Sync {
    /// See [`CpuEvent`].
    fn cpu_event(&self, event: CpuEvent);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Pause,
    Run,
    End,
}

type Call = Box<dyn FnOnce(&mut Vcpu) + Send>;

struct State {
    order: Order,
    parked: Vec<bool>,
    calls: Vec<Vec<Call>>,
}

struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn must_leave(&self) -> bool {
        self.state().order != Order::Run
    }

    /// Parks until the order is to run, carrying out calls meanwhile; `false` at the end.
    fn park(&self, vcpu: &mut Vcpu) -> bool {
        let index = vcpu.index() as usize;
        let mut state = self.state();
        loop {
            let call = state
                .calls
                .get_mut(index)
                .and_then(|calls| (!calls.is_empty()).then(|| calls.remove(0)));
            if let Some(call) = call {
                drop(state);
                call(vcpu);
                state = self.state();
                continue;
            }
            let order = state.order;
            if let Some(parked) = state.parked.get_mut(index) {
                *parked = order == Order::Pause;
            }
            self.changed.notify_all();
            match order {
                Order::Run => return true,
                Order::End => return false,
                Order::Pause => state = self.wait(state),
            }
        }
    }
}

/// The machine's vCPUs under KVM. Dropping them ends their threads.
pub(crate) struct Cpus {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
    /// What each was like when power came.
    power_on: Arc<Vec<VcpuState>>,
}

impl Cpus {
    /// Creates `count` vCPUs, paused, with their power-on state, each in a thread of its own.
    ///
    /// # Errors
    /// More than the host allows, or an ioctl failed.
    pub(crate) fn new(
        vm: &Arc<Vm>,
        count: u32,
        model: &CpuModel,
        bus: &Arc<dyn Bus>,
        listener: &Arc<dyn CpuListener>,
    ) -> Result<Self, HypervisorError> {
        if count > vm.max_vcpus() {
            return Err(HypervisorError::TooManyVcpus {
                asked: count,
                limit: vm.max_vcpus(),
            });
        }
        signal::install().map_err(|source| HypervisorError::Ioctl {
            what: "signal handler",
            source,
        })?;
        let gate = Arc::new(Gate {
            state: Mutex::new(State {
                order: Order::Pause,
                parked: vec![false; count as usize],
                calls: (0..count).map(|_| Vec::new()).collect(),
            }),
            changed: Condvar::new(),
        });
        let mut cpus = Self {
            gate: Arc::clone(&gate),
            threads: Vec::new(),
            power_on: Arc::default(),
        };
        for index in 0..count {
            let vcpu = Vcpu::new(Arc::clone(vm), index, model)?;
            let (gate, bus, listener) = (Arc::clone(&gate), Arc::clone(bus), Arc::clone(listener));
            let thread = Builder::new()
                .name(format!("CPU {index}/KVM"))
                .spawn(move || run(vcpu, &gate, bus.as_ref(), listener.as_ref()))
                .map_err(|source| HypervisorError::Ioctl {
                    what: "vCPU thread",
                    source,
                })?;
            cpus.threads.push(thread);
        }
        cpus.power_on = Arc::new(cpus.on_each(|vcpu| vcpu.save())?);
        Ok(cpus)
    }

    /// Runs `work` in each vCPU's thread in turn and returns what it gave.
    ///
    /// Pre: the vCPUs are paused.
    ///
    /// # Errors
    /// The first error of `work`, or [`HypervisorError::Gone`].
    fn on_each<T, F>(&self, work: F) -> Result<Vec<T>, HypervisorError>
    where
        T: Send + 'static,
        F: Fn(&mut Vcpu) -> Result<T, HypervisorError> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let mut answers = Vec::with_capacity(self.threads.len());
        for index in 0..self.threads.len() {
            let (sender, receiver): (Sender<Result<T, HypervisorError>>, _) = channel();
            let work = Arc::clone(&work);
            let call: Call = Box::new(move |vcpu| {
                // The asker may have given up; then nobody wants the answer.
                let _ = sender.send(work(vcpu));
            });
            if let Some(calls) = self.gate.state().calls.get_mut(index) {
                calls.push(call);
            }
            self.gate.changed.notify_all();
            let gone = || HypervisorError::Gone(u32::try_from(index).unwrap_or(u32::MAX));
            answers.push(receiver.recv().map_err(|_| gone())??);
        }
        Ok(answers)
    }
}

impl Processors for Cpus {
    fn count(&self) -> usize {
        self.threads.len()
    }

    fn thread_ids(&self) -> Result<Vec<i32>, HypervisorError> {
        #[allow(unsafe_code)]
        // SAFETY: gettid has no preconditions.
        self.on_each(|_| Ok(unsafe { libc::gettid() }))
    }

    fn resume(&self) {
        let mut state = self.gate.state();
        state.order = Order::Run;
        self.gate.changed.notify_all();
    }

    /// Afterwards each vCPU's registers are settled as well: an access that had left the guest is complete.
    fn pause(&self) {
        let mut state = self.gate.state();
        state.order = Order::Pause;
        drop(state);
        for thread in &self.threads {
            signal::kick(thread);
        }
        self.gate.changed.notify_all();
        state = self.gate.state();
        while !state
            .parked
            .iter()
            .zip(&self.threads)
            .all(|(parked, thread)| *parked || thread.is_finished())
        {
            state = self.gate.wait(state);
        }
    }

    fn reset(&self, boot: Option<BootRegisters>) -> Result<(), HypervisorError> {
        let power_on = Arc::clone(&self.power_on);
        self.on_each(move |vcpu| match power_on.get(vcpu.index() as usize) {
            Some(state) => vcpu.reset(state, boot),
            None => Ok(()),
        })?;
        Ok(())
    }

    fn kind(&self) -> StateKind {
        StateKind {
            model: "vcpu",
            version: VcpuState::VERSION,
        }
    }

    fn save(&self) -> Result<Vec<Vec<u8>>, HypervisorError> {
        let states = self.on_each(|vcpu| vcpu.save())?;
        states.iter().map(|state| encode("vCPU", state)).collect()
    }

    fn restore(&self, states: &[Vec<u8>]) -> Result<(), HypervisorError> {
        let decoded: Result<Vec<VcpuState>, _> =
            states.iter().map(|state| decode("vCPU", state)).collect();
        let decoded = decoded?;
        self.on_each(move |vcpu| match decoded.get(vcpu.index() as usize) {
            Some(state) => vcpu.restore(state),
            None => Ok(()),
        })?;
        Ok(())
    }
}

impl Drop for Cpus {
    fn drop(&mut self) {
        self.gate.state().order = Order::End;
        self.gate.changed.notify_all();
        for thread in &self.threads {
            signal::kick(thread);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
    }
}

/// What the loop does after an exit.
enum Next {
    Enter,
    Look,
    Wait(CpuEvent),
}

fn run(mut vcpu: Vcpu, gate: &Gate, bus: &dyn Bus, listener: &dyn CpuListener) {
    let _target = KickTarget::new(vcpu.fd.get_kvm_run());
    while gate.park(&mut vcpu) {
        loop {
            match enter(&mut vcpu, bus) {
                Next::Enter => {}
                Next::Look => {
                    vcpu.fd.set_kvm_immediate_exit(0);
                    if gate.must_leave() {
                        break;
                    }
                }
                Next::Wait(event) => {
                    listener.cpu_event(event);
                    // Parked as by a pause: whoever was told decides what happens to the machine.
                    wait_for_pause(gate);
                    vcpu.fd.set_kvm_immediate_exit(0);
                    break;
                }
            }
        }
    }
}

fn wait_for_pause(gate: &Gate) {
    let mut state = gate.state();
    while state.order == Order::Run {
        state = gate.wait(state);
    }
}

fn enter(vcpu: &mut Vcpu, bus: &dyn Bus) -> Next {
    let index = vcpu.index();
    let failed = |reason: String| {
        Next::Wait(CpuEvent::Failed {
            vcpu: index,
            reason,
        })
    };
    match vcpu.fd.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            data.fill(0xff);
            bus.port_read(port, data);
            Next::Enter
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            bus.port_write(port, data);
            Next::Enter
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            data.fill(0xff);
            bus.memory_read(address, data);
            Next::Enter
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            bus.memory_write(address, data);
            Next::Enter
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Next::Look,
        Ok(VcpuExit::Shutdown) => {
            let at = vcpu.fd.get_regs().map_or(0, |regs| regs.rip);
            Next::Wait(CpuEvent::TripleFault { vcpu: index, at })
        }
        Ok(VcpuExit::FailEntry(reason, _)) => failed(format!(
            "KVM could not enter the guest (hardware reason {reason:#x})"
        )),
        Ok(VcpuExit::InternalError) => {
            let at = vcpu.fd.get_regs().map_or(0, |regs| regs.rip);
            failed(format!(
                "KVM could not emulate the instruction at {at:#x}: the guest went astray, or this host's /dev/kvm cannot run it"
            ))
        }
        Ok(exit) => failed(format!("unexpected exit {exit:?}")),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Next::Look,
        Err(error) => failed(format!("KVM_RUN: {error}")),
    }
}
