//! The receiver on bytes in memory: for fuzzing, and for tests of bad streams.

use std::sync::Arc;

use memory::{GuestRange, PAGE_SIZE_BYTES, Ram, RamConfig, allocate};

use crate::channel::ChannelError;
use crate::incoming::Target;
use crate::payloads::DevicePayloads;
use crate::reason::Reason;
use crate::receive::{IncomingError, Peer, receive};
use crate::stream::{BlockShape, Configuration, Kind};

/// A machine that takes everything.
struct Anything(Arc<Ram>, Configuration);

impl Target for Anything {
    fn ram(&self) -> Arc<Ram> {
        self.0.clone()
    }

    fn configuration(&mut self) -> Result<Configuration, Reason> {
        Ok(self.1.clone())
    }

    fn prepare(&mut self, _source: &Configuration) -> Result<(), Reason> {
        Ok(())
    }

    fn load_devices(&mut self, payloads: &mut DevicePayloads) -> Result<(), Reason> {
        let names: Vec<String> = payloads.left().map(str::to_owned).collect();
        for name in names {
            payloads.require(&name, 1)?;
        }
        Ok(())
    }

    fn resume(&mut self, _run: bool) -> Result<(), Reason> {
        Ok(())
    }

    fn resumed(&mut self) {}

    fn failed(&mut self, _why: &str) {}
}

impl Peer for &[u8] {
    fn expect_answers(&mut self) -> Result<(), IncomingError> {
        Ok(())
    }

    fn answer(&mut self, _kind: Kind) -> Result<(), ChannelError> {
        Ok(())
    }

    fn seal(&mut self) -> bool {
        true
    }
}

/// Receives `data` as a stream into `ram`, as the receiver's thread does, for a machine of `configuration` that takes any
/// device. It must return, whatever the bytes.
///
/// # Errors
/// What the receiver would say.
pub fn receive_bytes(
    data: &[u8],
    ram: &Arc<Ram>,
    configuration: &Configuration,
) -> Result<(), String> {
    let mut input = data;
    let mut target = Anything(ram.clone(), configuration.clone());
    receive(&mut input, &mut target, true).map_err(|error| error.to_string())
}

/// The machine [`fuzz_stream`] receives into: 64 pages in two ranges, and its configuration.
///
/// # Errors
/// When the host has no memory for it.
pub fn fuzz_machine() -> Result<(Arc<Ram>, Configuration), memory::MemoryError> {
    let size_bytes = 64 * PAGE_SIZE_BYTES;
    let ram = allocate(
        &RamConfig::anonymous(size_bytes),
        &[
            GuestRange::new(0, size_bytes / 2),
            GuestRange::new(1 << 32, size_bytes / 2),
        ],
    )?;
    let configuration = Configuration {
        machine: "pc-q35-10.0".to_owned(),
        blocks: vec![BlockShape {
            name: "pc.ram".to_owned(),
            size_bytes,
        }],
        devices: Vec::new(),
        uuid: None,
        program: String::new(),
        page_bytes: 4096,
        answers: false,
    };
    Ok((ram, configuration))
}

/// The fuzz target's entry: `data` as a stream, into a machine made for it.
pub fn fuzz_stream(data: &[u8]) {
    thread_local! {
        static MACHINE: Option<(Arc<Ram>, Configuration)> = fuzz_machine().ok();
    }
    MACHINE.with(|machine| {
        if let Some((ram, configuration)) = machine {
            // Either answer is fine; panicking, hanging or growing is not.
            let _ = receive_bytes(data, ram, configuration);
        }
    });
}
