//! A small real machine: guest RAM, a "vCPU" thread that writes to it behind a dirty log of its own and through the device
//! model's path, one device with state, and a record of everything it was asked for.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use memory::{DirtyPages, GuestRange, PageRun, Ram, RamConfig, allocate};
use migration::channel::{Address, Listener};
use migration::{
    BlockShape, CancelToken, Configuration, DevicePayload, DevicePayloads, DeviceShape, Incoming,
    IncomingOptions, Info, Kept, MonotonicClock, Outcome, Outgoing, OutgoingOptions, Reason,
    SharedParameters, Source, State, StoppedVm, Target, Unplug,
};
use vm_memory::{Bytes, GuestAddress};

pub const MIB: u64 = 1 << 20;
/// No test waits longer than this for anything; none needs nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something a machine did, or a state its migration came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    State(State),
    Pass(u64),
    Asked,
    Stop,
    Resume,
    Prepared,
    Loaded,
    Ended(Outcome),
    TargetFailed(String),
}

/// The guest: counts its writes; the counter is the state of its one device.
pub struct Guest {
    pub ram: Arc<Ram>,
    pub writes: AtomicU64,
    running: AtomicBool,
    log: Mutex<Option<DirtyPages>>,
    quit: AtomicBool,
    /// Pages the guest keeps writing to.
    working_set: u64,
}

impl Guest {
    pub fn new(size: u64, working_set: u64) -> Arc<Self> {
        let layout = [
            GuestRange::new(0, size / 2),
            GuestRange::new(1 << 32, size / 2),
        ];
        Arc::new(Self {
            ram: allocate(&RamConfig::anonymous(size), &layout).unwrap(),
            writes: AtomicU64::new(0),
            running: AtomicBool::new(false),
            log: Mutex::new(None),
            quit: AtomicBool::new(false),
            working_set,
        })
    }

    /// One write, to a page chosen by the counter: by the vCPU (seen by the log only), or by a device (seen by the
    /// bitmap only). Now and then a page becomes zero.
    pub fn step(&self) {
        // The lock is the vCPU being in the guest: stop_vm takes it, too.
        let mut log = self.log.lock().unwrap();
        if !self.running.load(Ordering::SeqCst) {
            return;
        }
        let n = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let half = self.ram.size_bytes() / 2;
        let page = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % self.working_set;
        // The working set straddles the hole.
        let page = (self.ram.pages() / 2 - self.working_set / 2) + page;
        let mut bytes = [0u8; 4096];
        if !n.is_multiple_of(7) {
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            bytes[4088..].copy_from_slice(&n.to_be_bytes());
        }
        if n.is_multiple_of(2) {
            let offset = page * 4096;
            let address = if offset < half {
                offset
            } else {
                (1 << 32) + offset - half
            };
            self.ram
                .guest()
                .write_slice(&bytes, GuestAddress(address))
                .unwrap();
        } else {
            let run = PageRun {
                block: 0,
                first: page,
                count: 1,
            };
            let span = self.ram.spans(run).unwrap().next().unwrap();
            assert!(span.copy_from(&bytes));
            if let Some(log) = log.as_mut() {
                log.mark(run);
            }
        }
    }

    pub fn set_running(&self, run: bool) {
        let _vcpu_is_out = self.log.lock().unwrap();
        self.running.store(run, Ordering::SeqCst);
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// All of RAM, and the device.
    pub fn contents(&self) -> (Vec<u8>, u64) {
        let all = PageRun {
            block: 0,
            first: 0,
            count: self.ram.pages(),
        };
        let mut bytes = Vec::new();
        for span in self.ram.spans(all).unwrap() {
            let mut part = vec![0; span.len_bytes()];
            assert!(span.copy_to(&mut part));
            bytes.append(&mut part);
        }
        (bytes, self.writes.load(Ordering::SeqCst))
    }

    /// Runs the guest on a thread of its own.
    pub fn boot(self: &Arc<Self>) -> Vcpu {
        self.set_running(true);
        let guest = self.clone();
        let thread = std::thread::spawn(move || {
            while !guest.quit.load(Ordering::SeqCst) {
                guest.step();
                std::thread::yield_now();
            }
        });
        Vcpu(self.clone(), Some(thread))
    }

    pub fn configuration(&self) -> Configuration {
        Configuration {
            machine: "pc-q35-10.0".to_owned(),
            blocks: vec![BlockShape {
                name: "pc.ram".to_owned(),
                size_bytes: self.ram.size_bytes(),
            }],
            devices: vec![DeviceShape {
                name: "counter".to_owned(),
                model: "counter".to_owned(),
                option: None,
            }],
            uuid: None,
            program: "test".to_owned(),
            page_bytes: 0,
            answers: false,
        }
    }
}

pub struct Vcpu(Arc<Guest>, Option<JoinHandle<()>>);

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.0.quit.store(true, Ordering::SeqCst);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

/// Where a machine's events go.
#[derive(Clone)]
pub struct Record(Sender<Event>);

impl Record {
    pub fn put(&self, event: Event) {
        let _ = self.0.send(event);
    }
}

pub struct Events(Receiver<Event>);

impl Events {
    /// The events up to and including the first that `is` the one.
    pub fn until(&self, is: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(event) => {
                    seen.push(event);
                    if is(seen.last().unwrap()) {
                        return seen;
                    }
                }
                Err(error) => panic!("{error}; so far: {seen:?}"),
            }
        }
    }

    pub fn until_state(&self, state: State) -> Vec<Event> {
        self.until(|event| *event == Event::State(state))
    }
}

pub fn record() -> (Record, Events) {
    let (sender, receiver) = channel();
    (Record(sender), Events(receiver))
}

/// How the wait for the guest ends.
pub type Answer = Result<Option<&'static str>, Kept>;

/// The source machine. `unplug`: whether the guest has a primary, and how it lets go.
pub struct TestSource {
    pub guest: Arc<Guest>,
    pub record: Record,
    pub unplug: Option<(Sender<Answer>, Receiver<Answer>)>,
    pub extra_devices: Vec<DevicePayload>,
    /// Writes the guest makes before each look at the dirty pages, while it runs.
    pub writes_before_sync: u32,
    /// Version of the counter's saved state.
    pub counter_version: u32,
}

impl TestSource {
    pub fn new(guest: &Arc<Guest>, record: &Record) -> Self {
        Self {
            guest: guest.clone(),
            record: record.clone(),
            unplug: None,
            extra_devices: Vec::new(),
            writes_before_sync: 0,
            counter_version: 1,
        }
    }
}

impl Source for TestSource {
    fn ram(&self) -> Arc<Ram> {
        self.guest.ram.clone()
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        Ok(self.guest.configuration())
    }

    fn connected(&mut self) -> Result<Unplug, Reason> {
        self.record.put(Event::Asked);
        Ok(if self.unplug.is_some() {
            Unplug::Asked
        } else {
            Unplug::NotNeeded
        })
    }

    fn wait_unplugged(&mut self, interrupt: &CancelToken) -> Answer {
        let (sender, receiver) = self.unplug.as_ref().unwrap();
        let sender = sender.clone();
        interrupt.on_cancel(move || drop(sender.send(Err(Kept::interrupted()))));
        receiver.recv_timeout(PATIENCE).unwrap()
    }

    fn start_dirty_log(&mut self) -> Result<(), Reason> {
        *self.guest.log.lock().unwrap() = Some(DirtyPages::clean(&self.guest.ram));
        Ok(())
    }

    fn sync_dirty(&mut self, into: &mut DirtyPages) -> Result<(), Reason> {
        for _ in 0..self.writes_before_sync {
            self.guest.step();
        }
        let mut log = self.guest.log.lock().unwrap();
        into.merge(&log.as_mut().ok_or("no log")?.take());
        Ok(())
    }

    fn pass(&mut self, count: u64) {
        self.record.put(Event::Pass(count));
    }

    fn stop_vm(&mut self) -> Result<StoppedVm, Reason> {
        let was_running = self.guest.is_running();
        self.guest.set_running(false);
        self.record.put(Event::Stop);
        Ok(StoppedVm { was_running })
    }

    fn save_devices(&mut self) -> Result<Vec<DevicePayload>, Reason> {
        // A device may write to guest memory while it is saved.
        self.guest
            .ram
            .guest()
            .write_obj(0x5a5a_u64, GuestAddress(0x3000))
            .map_err(Reason::new)?;
        let mut all = vec![DevicePayload {
            name: "counter".to_owned(),
            version: self.counter_version,
            bytes: self
                .guest
                .writes
                .load(Ordering::SeqCst)
                .to_le_bytes()
                .to_vec(),
        }];
        all.append(&mut self.extra_devices);
        Ok(all)
    }

    fn resume_vm(&mut self, stopped: StoppedVm) {
        self.guest.set_running(stopped.was_running);
        self.record.put(Event::Resume);
    }

    fn stop_dirty_log(&mut self) {
        assert!(self.guest.log.lock().unwrap().take().is_some());
    }

    fn ended(&mut self, outcome: &Outcome) {
        self.record.put(Event::Ended(outcome.clone()));
    }
}

/// What a target does at its steps.
type Hook<T> = Box<dyn FnMut() -> T + Send>;

/// The target machine. It does not run its guest by itself, so that a test can compare.
pub struct TestTarget {
    pub guest: Arc<Guest>,
    pub record: Record,
    pub configuration: Configuration,
    pub on_prepare: Hook<()>,
    pub on_resume: Hook<Result<(), Reason>>,
}

impl TestTarget {
    pub fn new(guest: &Arc<Guest>, record: &Record) -> Self {
        Self {
            guest: guest.clone(),
            record: record.clone(),
            configuration: guest.configuration(),
            on_prepare: Box::new(|| ()),
            on_resume: Box::new(|| Ok(())),
        }
    }
}

impl Target for TestTarget {
    fn ram(&self) -> Arc<Ram> {
        self.guest.ram.clone()
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        Ok(self.configuration.clone())
    }

    fn prepare(&mut self, _source: &Configuration) -> Result<(), Reason> {
        (self.on_prepare)();
        self.record.put(Event::Prepared);
        Ok(())
    }

    fn load_devices(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason> {
        let state = payloads.require("counter", 1)?;
        let bytes = state.bytes.try_into().map_err(|_| "counter: wrong size")?;
        self.guest
            .writes
            .store(u64::from_le_bytes(bytes), Ordering::SeqCst);
        self.record.put(Event::Loaded);
        Ok(())
    }

    fn resume(&mut self, run: bool) -> Result<(), Reason> {
        (self.on_resume)()?;
        self.guest.set_running(run);
        Ok(())
    }

    fn resumed(&mut self) {
        self.record.put(Event::Resume);
    }

    fn failed(&mut self, why: &str) {
        self.record.put(Event::TargetFailed(why.to_owned()));
    }
}

pub fn states(record: &Record) -> migration::OnChange {
    let record = record.clone();
    Box::new(move |_, to| record.put(Event::State(to)))
}

pub fn receive(listener: Listener, target: TestTarget) -> Incoming {
    let options = IncomingOptions {
        on_change: states(&target.record),
        validate_uuid: false,
    };
    Incoming::start(listener, Box::new(target), options).unwrap()
}

pub fn listen(uri: &str) -> Listener {
    Listener::open(&uri.parse().unwrap(), &mut |_| None).unwrap()
}

/// A migration to `address` with unlimited bandwidth.
pub fn options(address: Address, record: &Record) -> OutgoingOptions {
    let parameters = SharedParameters::default();
    parameters
        .update(&migration::ParametersUpdate {
            max_bandwidth_bytes: Some(0),
            ..Default::default()
        })
        .unwrap();
    OutgoingOptions {
        address,
        parameters,
        pause_before_switchover: false,
        clock: Arc::new(MonotonicClock::new()),
        least_active: Duration::ZERO,
        on_change: states(record),
    }
}

pub fn send(source: TestSource, uri: &str) -> Outgoing {
    let options = options(uri.parse().unwrap(), &source.record);
    Outgoing::start(Box::new(source), options, &mut |_| None).unwrap()
}

pub fn error_of(info: &Info) -> String {
    info.error_desc.clone().unwrap_or_default()
}
