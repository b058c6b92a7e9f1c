//! The entropy device (virtio 1.2, section 5.4).

use crate::chain::{Buffers, RingError};
use crate::device::{DeviceKind, Run, VirtioDevice};
use crate::features::ring;
use crate::io_buffer::{readv, total_len};
use crate::lock::lock;
use crate::queue::Virtqueue;
use crate::signals::Signals;
use crate::single::{Requests, Served, SingleQueue};
use crate::transport::{PciConfig, VirtioError, VirtioPci};
use memory::GuestRam;
use pci::Platform;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const QUEUE_SIZE: u16 = 8;
/// Bytes given for one request at most: a driver asks for less, and one that does not shall not keep the worker.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// How much entropy the guest may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngLimit {
    /// Bytes per period.
    pub max_bytes: u64,
    /// The period in milliseconds, not zero.
    pub period_ms: u64,
}

/// What an entropy device is asked to be.
#[derive(Debug)]
pub struct RngConfig {
    /// For logs and errors: `virtio-rng-pci 'rng0'`.
    pub label: String,
    /// Where random bytes come from: `/dev/urandom`, opened.
    pub source: File,
    /// A limit, or none.
    pub limit: Option<RngLimit>,
    /// It sits on the root complex's own bus, not behind a port.
    pub on_root_bus: bool,
}

/// `virtio-rng-pci`.
pub struct VirtioRng {
    function: Arc<VirtioPci>,
}

impl VirtioRng {
    /// Makes the device.
    ///
    /// # Errors
    /// The limit's period is zero, or the host has no resources left.
    pub fn new(
        config: RngConfig,
        ram: Arc<GuestRam>,
        platform: Arc<dyn Platform>,
    ) -> Result<Arc<Self>, VirtioError> {
        let label = config.label;
        if config.limit.is_some_and(|limit| limit.period_ms == 0) {
            return Err(VirtioError::Property {
                device: label,
                reason: "'period' parameter expects a positive integer".to_owned(),
            });
        }
        let queue = SingleQueue::new("rng").map_err(|source| VirtioError::Host {
            device: label.clone(),
            source,
        })?;
        let device = Arc::new(RngDevice {
            queue,
            source: Arc::new(Source {
                file: config.source,
                limit: config.limit,
                drawn: Mutex::new((None, 0)),
            }),
        });
        let config = PciConfig {
            label,
            vectors: None,
            on_root_bus: config.on_root_bus,
        };
        let function = VirtioPci::new(config, device, ram, platform)?;
        Ok(Arc::new(Self { function }))
    }

    /// The function on the bus; also [`pause`](VirtioPci::pause) and [`resume`](VirtioPci::resume).
    pub fn function(&self) -> &Arc<VirtioPci> {
        &self.function
    }
}

struct Source {
    file: File,
    limit: Option<RngLimit>,
    /// When the period began, and the bytes drawn in it.
    drawn: Mutex<(Option<Instant>, u64)>,
}

impl Source {
    /// How many bytes may be drawn now, or how long to wait for some.
    fn allowance(&self, now: Instant) -> Result<usize, Duration> {
        let Some(limit) = self.limit else {
            return Ok(usize::MAX);
        };
        let period = Duration::from_millis(limit.period_ms);
        let mut drawn = lock(&self.drawn);
        let (began, count) = &mut *drawn;
        let since = began.map(|began| now.saturating_duration_since(began));
        match since {
            Some(since) if since < period => {
                if *count >= limit.max_bytes {
                    return Err(period - since);
                }
            }
            _ => (*began, *count) = (Some(now), 0),
        }
        Ok(usize::try_from(limit.max_bytes - *count).unwrap_or(usize::MAX))
    }

    fn account(&self, bytes: usize) {
        lock(&self.drawn).1 += bytes as u64;
    }
}

impl Requests for Source {
    fn serve<'m>(&self, ram: &'m GuestRam, buffers: &mut Buffers<'m>) -> Result<Served, RingError> {
        if !buffers.readable.is_empty() || buffers.writable.is_empty() {
            return Err(RingError::Request(
                "a request for entropy that cannot be written",
            ));
        }
        let allowed = match self.allowance(Instant::now()) {
            Ok(0) => return Ok(Served::Later(Duration::from_secs(1))),
            Ok(bytes) => bytes.min(REQUEST_BYTES_MAX),
            Err(time) => return Ok(Served::Later(time)),
        };
        let mut left = allowed;
        for buffer in &mut buffers.writable {
            buffer.truncate(left);
            left -= buffer.len();
        }
        let used = buffers
            .writable
            .iter()
            .take_while(|buffer| !buffer.is_empty())
            .count();
        let target = buffers.writable.get(..used).unwrap_or(&[]);
        let bytes = match readv(self.file.as_fd(), target) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Served::Later(Duration::from_millis(10)));
            }
            Err(error) => {
                tracing::warn!(%error, "no entropy from the host");
                0
            }
        };
        debug_assert!(bytes <= total_len(target));
        buffers.mark_written(ram, bytes);
        self.account(bytes);
        Ok(Served::Done(u32::try_from(bytes).unwrap_or(0)))
    }
}

struct RngDevice {
    queue: SingleQueue,
    source: Arc<Source>,
}

impl VirtioDevice for RngDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind {
            id: 4,
            class: 0x00_ff_00,
        }
    }

    fn features(&self) -> u64 {
        ring::INDIRECT_DESC | ring::EVENT_IDX
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn attach(&self, signals: Arc<Signals>) {
        self.queue.attach(signals);
    }

    fn config_read(&self, _offset: usize, _data: &mut [u8]) {}

    fn negotiated(&self, _features: u64) {}

    fn start(&self, run: Run) -> io::Result<()> {
        self.queue.start(run, Arc::clone(&self.source))
    }

    fn stop(&self) -> Vec<Option<Virtqueue>> {
        self.queue.stop()
    }

    fn reset(&self) {}

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&self, _features: u64, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_holds_back_until_the_period_ends() {
        let source = Source {
            file: File::open("/dev/null").unwrap(),
            limit: Some(RngLimit {
                max_bytes: 100,
                period_ms: 1000,
            }),
            drawn: Mutex::new((None, 0)),
        };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(source.allowance(at(0)), Ok(100));
        source.account(60);
        assert_eq!(source.allowance(at(10)), Ok(40));
        source.account(40);
        assert_eq!(source.allowance(at(400)), Err(Duration::from_millis(600)));
        assert_eq!(source.allowance(at(1000)), Ok(100));
    }
}
