//! The 16550 serial port.
//!
//! The registers are vm-superio's; here are its interrupt line and the two directions to a character device.

use super::PortDevice;
use crate::chardev::Receiver;
use minicbor::{Decode, Encode};
use pci::IntxLine;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

/// I/O ports of COM1 to COM4.
pub const COM_PORTS: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
/// Interrupts of COM1 to COM4.
pub const COM_IRQS: [u8; 4] = [4, 3, 4, 3];
/// Ports of one UART.
pub const SERIAL_PORTS: u16 = 8;

/// The register that tells of a break, and how (it is told once).
const LINE_STATUS: u8 = 5;
const BREAK_INTERRUPT: u8 = 0x10;
/// What the receive FIFO of the registers' model holds.
const FIFO_BYTES: usize = 0x40;

/// An edge on the interrupt line.
struct Edge(Arc<dyn IntxLine>);

impl Trigger for Edge {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.set(true);
        self.0.set(false);
        Ok(())
    }
}

/// Where the guest's output goes.
type Sink = Box<dyn Write + Send>;

/// The registers, saved.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UartState {
    #[cbor(n(0), with = "minicbor::bytes")]
    registers: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    received: Vec<u8>,
}

/// A serial port.
pub struct SerialPort {
    uart: Mutex<Serial<Edge, NoEvents, Sink>>,
    /// A break has come that the guest has not seen yet.
    broken: AtomicBool,
    line: Arc<dyn IntxLine>,
    emptied: Condvar,
}

impl SerialPort {
    /// A port that writes what the guest sends to `sink` and interrupts by `line`.
    pub fn new(line: Arc<dyn IntxLine>, sink: Sink) -> Arc<Self> {
        let uart = Mutex::new(Serial::new(Edge(Arc::clone(&line)), sink));
        Arc::new(Self {
            uart,
            broken: AtomicBool::new(false),
            line,
            emptied: Condvar::new(),
        })
    }

    fn uart(&self) -> MutexGuard<'_, Serial<Edge, NoEvents, Sink>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the guest received bytes; how many its FIFO took.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut uart = self.uart();
        let room = uart.fifo_capacity().min(bytes.len());
        uart.enqueue_raw_bytes(bytes.get(..room).unwrap_or_default())
            .unwrap_or(0)
    }

    /// Room in the receive FIFO.
    pub fn room(&self) -> usize {
        self.uart().fifo_capacity()
    }

    /// The registers.
    pub fn save(&self) -> UartState {
        let s = self.uart().state();
        let registers = vec![
            s.baud_divisor_low,
            s.baud_divisor_high,
            s.interrupt_enable,
            s.interrupt_identification,
            s.line_control,
            s.line_status,
            s.modem_control,
            s.modem_status,
            s.scratch,
        ];
        UartState {
            registers,
            received: s.in_buffer,
        }
    }

    /// Takes over saved registers; `false` if they do not fit.
    pub fn restore(&self, saved: &UartState) -> bool {
        let &[
            low,
            high,
            enable,
            identification,
            line,
            status,
            modem,
            modem_status,
            scratch,
        ] = saved.registers.as_slice()
        else {
            return false;
        };
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: line,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: saved.received.clone(),
        };
        let mut uart = self.uart();
        let sink = std::mem::replace(uart.writer_mut(), Box::new(io::sink()));
        match Serial::from_state(&state, Edge(Arc::clone(&self.line)), NoEvents, sink) {
            Ok(restored) => {
                *uart = restored;
                true
            }
            Err(error) => {
                tracing::warn!(?error, "a serial port's saved state does not fit");
                false
            }
        }
    }

    /// Power-on values; what was received and not read is lost.
    pub fn reset(&self) {
        let mut uart = self.uart();
        self.broken.store(false, Ordering::Relaxed);
        let sink = std::mem::replace(uart.writer_mut(), Box::new(io::sink()));
        *uart = Serial::new(Edge(Arc::clone(&self.line)), sink);
        self.emptied.notify_all();
    }
}

impl Receiver for SerialPort {
    /// Fills the receive FIFO, and waits for the guest to empty it when it is full.
    fn receive(&self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut uart = self.uart();
        while !rest.is_empty() {
            let room = uart.fifo_capacity().min(rest.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            if !now.is_empty() && uart.enqueue_raw_bytes(now).is_err() {
                tracing::debug!("serial input lost: the port is in loopback mode");
                return;
            }
            rest = later;
            if !rest.is_empty() {
                uart = self
                    .emptied
                    .wait(uart)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A byte of zeros, and the line status that says what it is. It must be the only one, for the status to belong to it:
    /// waits for the guest to read what came before.
    fn receive_break(&self) {
        let mut uart = self.uart();
        while uart.fifo_capacity() < FIFO_BYTES {
            uart = self
                .emptied
                .wait(uart)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.broken.store(true, Ordering::Relaxed);
        if uart.enqueue_raw_bytes(&[0]).is_err() {
            self.broken.store(false, Ordering::Relaxed);
            tracing::debug!("a break is lost: the port is in loopback mode");
        }
    }
}

impl PortDevice for SerialPort {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut uart = self.uart();
        for (at, byte) in (offset..).zip(data) {
            let register = u8::try_from(at % SERIAL_PORTS).unwrap_or(0);
            *byte = uart.read(register);
            if register == LINE_STATUS && self.broken.swap(false, Ordering::Relaxed) {
                *byte |= BREAK_INTERRUPT;
            }
        }
        if offset == 0 {
            self.emptied.notify_all();
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut uart = self.uart();
        for (at, byte) in (offset..).zip(data) {
            if let Err(error) = uart.write(u8::try_from(at % SERIAL_PORTS).unwrap_or(0), *byte) {
                // Nobody reads the other end, or its buffer is full: a wire without a receiver loses characters.
                tracing::trace!(?error, "serial output lost");
            }
        }
    }
}
