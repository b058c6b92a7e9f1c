//! QEMU's line protocol: a command in, an answer out.
//!
//! Words are separated by single spaces; numbers are those of C. Where QEMU ends with a failed assertion (a word is missing
//! or is no number), the answer is a `FAIL` line that says what is wrong.

use super::client::{Client, GuestClock};
use super::intercept::{Intercept, Sink};
use super::interrupts::{InterruptListener, LINES};
use super::values::{base64, hex, number, signed, unbase64, unhex};
use crate::Bus;
use pci::IntxLine;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes of guest memory one command reads or writes. A `memset` within RAM is not limited.
pub const MAX_TRANSFER_BYTES: u64 = 16 << 20;

/// The longest command: a `write` of [`MAX_TRANSFER_BYTES`].
pub const MAX_LINE_BYTES: usize = 2 * MAX_TRANSFER_BYTES as usize + 128;

/// Bytes of a `memset` written at a time.
const FILL_BYTES: usize = 64 << 10;

/// The answer to a command: one line with its end.
pub type Reply = String;

/// What a device path of a client's leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pins {
    /// Nothing.
    Unknown,
    /// A device without interrupt pins.
    Without,
    /// The IOAPIC: 24 pins in, none out.
    Ioapic,
}

/// One client's session.
pub struct Protocol {
    client: Arc<Client>,
    clock: Arc<dyn GuestClock>,
    find: Box<dyn Fn(&str) -> Pins + Send>,
    /// Until something is intercepted.
    sink: Option<Sink>,
    intercept: Option<Arc<dyn InterruptListener>>,
    lines: BTreeMap<u32, Arc<dyn IntxLine>>,
}

/// Why a command was not carried out: what comes after `FAIL`.
type Refusal = String;

fn word<'a>(words: &[&'a str], at: usize) -> Result<&'a str, Refusal> {
    words
        .get(at)
        .copied()
        .ok_or_else(|| format!("Command '{}' needs more arguments", command(words)))
}

fn command<'a>(words: &[&'a str]) -> &'a str {
    words.first().copied().unwrap_or("")
}

fn value(words: &[&str], at: usize) -> Result<u64, Refusal> {
    let word = word(words, at)?;
    number(word).ok_or_else(|| format!("'{}' is not a number", shown(word)))
}

/// A word as a message shows it.
fn shown(word: &str) -> String {
    word.chars().take(64).collect()
}

fn length(words: &[&str], at: usize) -> Result<usize, Refusal> {
    let len = value(words, at)?;
    if len > MAX_TRANSFER_BYTES {
        return Err(format!(
            "{len} bytes are too many at once: at most {MAX_TRANSFER_BYTES}"
        ));
    }
    usize::try_from(len).map_err(|_| "too many bytes".to_owned())
}

/// Bytes of an access by the last letter of its command.
fn width(words: &[&str]) -> usize {
    match command(words).chars().last() {
        Some('b') => 1,
        Some('w') => 2,
        Some('l') => 4,
        _ => 8,
    }
}

impl Protocol {
    /// A session of `client`. `find` resolves device paths. `sink` takes the lines that tell of intercepted interrupts:
    /// it is called by any thread, before the answer to the command that caused one, and must not block.
    pub fn new(
        client: Arc<Client>,
        clock: Arc<dyn GuestClock>,
        find: Box<dyn Fn(&str) -> Pins + Send>,
        sink: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        Self {
            client,
            clock,
            find,
            sink: Some(sink),
            intercept: None,
            lines: BTreeMap::new(),
        }
    }

    /// Carries out a command, given without its line end.
    pub fn execute(&mut self, line: &str) -> Reply {
        let words: Vec<&str> = line.split(' ').collect();
        match self.run(&words) {
            Ok(reply) => reply,
            Err(refusal) => format!("FAIL {refusal}\n"),
        }
    }

    fn run(&mut self, words: &[&str]) -> Result<Reply, Refusal> {
        match command(words) {
            "outb" | "outw" | "outl" => self.port_write(words),
            "inb" | "inw" | "inl" => self.port_read(words),
            "writeb" | "writew" | "writel" | "writeq" => {
                let (address, value) = (value(words, 1)?, value(words, 2)?);
                let bytes = value.to_le_bytes();
                let data = bytes.get(..width(words)).unwrap_or_default();
                self.client.memory_write(address, data);
                ok()
            }
            "readb" | "readw" | "readl" | "readq" => {
                let address = value(words, 1)?;
                let mut bytes = [0; 8];
                if let Some(data) = bytes.get_mut(..width(words)) {
                    self.client.memory_read(address, data);
                }
                Ok(format!("OK {:#018x}\n", u64::from_le_bytes(bytes)))
            }
            "read" => {
                let data = self.read(words)?;
                if data.is_empty() {
                    return Err("'read' of no bytes".to_owned());
                }
                let mut reply = String::with_capacity(2 * data.len() + 8);
                reply.push_str("OK 0x");
                hex(&data, &mut reply);
                reply.push('\n');
                Ok(reply)
            }
            "b64read" => Ok(format!("OK {}\n", base64(&self.read(words)?))),
            "write" | "b64write" => self.write(words),
            "memset" => self.fill(words),
            "endianness" => Ok("OK little\n".to_owned()),
            "clock_step" => self.clock_step(words),
            "clock_set" => self.clock_set(words),
            "irq_intercept_in" => self.intercept_in(words),
            "irq_intercept_out" => self.intercept_out(words),
            "set_irq_in" => self.set_irq_in(words),
            // There are no loadable modules.
            "module_load" => {
                word(words, 2)?;
                Ok("FAIL\n".to_owned())
            }
            other => Err(format!("Unknown command '{other}'")),
        }
    }

    fn port(words: &[&str]) -> Result<u16, Refusal> {
        let port = value(words, 1)?;
        u16::try_from(port).map_err(|_| format!("{port:#x} is not an I/O port"))
    }

    fn port_write(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let (port, value) = (Self::port(words)?, value(words, 2)?);
        let bytes = value.to_le_bytes();
        let data = bytes.get(..width(words)).unwrap_or_default();
        self.client.port_write(port, data);
        ok()
    }

    fn port_read(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let port = Self::port(words)?;
        let mut bytes = [0; 4];
        if let Some(data) = bytes.get_mut(..width(words)) {
            self.client.port_read(port, data);
        }
        Ok(format!("OK {:#06x}\n", u32::from_le_bytes(bytes)))
    }

    fn read(&self, words: &[&str]) -> Result<Vec<u8>, Refusal> {
        let (address, len) = (value(words, 1)?, length(words, 2)?);
        let mut data = vec![0; len];
        self.client.memory_read(address, &mut data);
        Ok(data)
    }

    fn write(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let (address, len, data) = (value(words, 1)?, length(words, 2)?, word(words, 3)?);
        if data.len() < 3 {
            return Ok("ERR invalid argument size\n".to_owned());
        }
        let data = if command(words) == "write" {
            unhex(data, len)
        } else {
            let mut data = unbase64(data);
            data.resize(len, 0);
            data
        };
        self.client.memory_write(address, &data);
        ok()
    }

    fn fill(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let (mut address, mut left, pattern) =
            (value(words, 1)?, value(words, 2)?, value(words, 3)?);
        if !self.client.is_ram(address, left) {
            length(words, 2)?;
        }
        let [byte, ..] = pattern.to_le_bytes();
        let chunk = vec![byte; FILL_BYTES];
        while left > 0 {
            let len = left.min(FILL_BYTES as u64);
            let data = usize::try_from(len).ok().and_then(|len| chunk.get(..len));
            self.client.memory_write(address, data.unwrap_or_default());
            left -= len;
            let Some(next) = address.checked_add(len) else {
                break;
            };
            address = next;
        }
        ok()
    }

    fn clock_step(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let old = self.clock.now_ns();
        let Some(step) = words.get(1) else {
            return Err(
                "cannot advance clock to the next deadline because there is no pending deadline"
                    .to_owned(),
            );
        };
        let step = signed(step).ok_or_else(|| format!("'{}' is not a number", shown(step)))?;
        let to = old
            .checked_add_signed(step)
            .filter(|to| i64::try_from(*to).is_ok())
            .unwrap_or(old);
        self.clock.advance_to_ns(to);
        let new = self.clock.now_ns();
        if new > old {
            Ok(format!("OK {new}\n"))
        } else {
            Err("could not advance time".to_owned())
        }
    }

    fn clock_set(&self, words: &[&str]) -> Result<Reply, Refusal> {
        let wanted = word(words, 1)?;
        let wanted =
            signed(wanted).ok_or_else(|| format!("'{}' is not a number", shown(wanted)))?;
        let to = u64::try_from(wanted).unwrap_or(0);
        self.clock.advance_to_ns(to);
        let new = self.clock.now_ns();
        let met = i64::try_from(new).is_ok_and(|new| new == wanted);
        Ok(format!("{} {new}\n", if met { "OK" } else { "FAIL" }))
    }

    fn intercept_in(&mut self, words: &[&str]) -> Result<Reply, Refusal> {
        let path = word(words, 1)?;
        match ((self.find)(path), words.get(2)) {
            (Pins::Unknown, _) => Err("Unknown device".to_owned()),
            (_, Some(_)) => Err("Interception of named in-GPIOs not yet supported".to_owned()),
            (Pins::Without, _) if self.intercept.is_some() => {
                Err("IRQ intercept already enabled".to_owned())
            }
            (Pins::Without, _) => Err("No intercepts installed".to_owned()),
            (Pins::Ioapic, _) => {
                if let Some(sink) = self.sink.take() {
                    let intercept: Arc<dyn InterruptListener> = Arc::new(Intercept::new(sink));
                    self.client.watch_interrupts(&intercept);
                    self.intercept = Some(intercept);
                }
                ok()
            }
        }
    }

    fn intercept_out(&mut self, words: &[&str]) -> Result<Reply, Refusal> {
        match (self.find)(word(words, 1)?) {
            Pins::Unknown => Err("Unknown device".to_owned()),
            Pins::Ioapic if self.intercept.is_some() => ok(),
            _ if self.intercept.is_some() => Err("IRQ intercept already enabled".to_owned()),
            // The only device with pins has none that lead out.
            _ => Err("No intercepts installed".to_owned()),
        }
    }

    fn set_irq_in(&mut self, words: &[&str]) -> Result<Reply, Refusal> {
        let (path, name) = (word(words, 1)?, word(words, 2)?);
        let (pin, level) = (value(words, 3)?, value(words, 4)?);
        match (self.find)(path) {
            Pins::Unknown => return Err("Unknown device".to_owned()),
            Pins::Without => return Err(format!("No pins '{}'", shown(name))),
            Pins::Ioapic => {}
        }
        let pin = u32::try_from(pin)
            .ok()
            .filter(|pin| *pin < LINES && name == "unnamed-gpio-in");
        let Some(pin) = pin else {
            return Err(format!(
                "No such pin: there is 'unnamed-gpio-in' 0 to {}",
                LINES - 1
            ));
        };
        self.lines
            .entry(pin)
            .or_insert_with(|| self.client.irq_line(pin))
            .set(level != 0);
        ok()
    }
}

fn ok() -> Result<Reply, Refusal> {
    Ok("OK\n".to_owned())
}

#[cfg(test)]
#[path = "protocol_test.rs"]
mod tests;
