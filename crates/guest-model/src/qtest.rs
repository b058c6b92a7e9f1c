//! The bus over a VMM's qtest socket: one line there, one line back.

use crate::bus::{BusError, GuestBus};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// A VMM that does not answer for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client's end of a qtest socket.
///
/// Lines that begin with `IRQ` come at any time, once [`intercept`](Self::intercept) asked for them; they are kept for
/// [`interrupts`](Self::interrupts) and never taken for an answer.
#[derive(Debug)]
pub struct QtestBus {
    stream: UnixStream,
    /// Bytes received and not yet a whole line.
    partial: Vec<u8>,
    interrupts: Vec<LineChange>,
    line: String,
}

/// An intercepted interrupt line went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineChange {
    /// Number of the line at the intercepted device.
    pub line: u32,
    /// `true` when it was raised.
    pub raised: bool,
}

impl QtestBus {
    /// Connects to a VMM that was started with `-qtest unix:PATH,server=on,wait=off`; `path` may have the `unix:`
    /// before it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let plain = path
            .to_str()
            .and_then(|text| text.strip_prefix("unix:"))
            .map(Path::new)
            .unwrap_or(path);
        Self::over(UnixStream::connect(plain)?)
    }

    /// Waits for a VMM that was started with `-qtest unix:PATH` to connect to `listener`.
    ///
    /// # Errors
    /// None came within `limit`.
    pub fn accept(listener: &UnixListener, limit: Duration) -> io::Result<Self> {
        let end = Instant::now() + limit;
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Self::over(stream);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    crate::bell::readable(listener, left)?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Speaks over a stream that is connected already.
    ///
    /// # Errors
    /// The time limit for answers cannot be set.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            partial: Vec::new(),
            interrupts: Vec::new(),
            line: String::new(),
        })
    }

    /// Sends one line and returns what comes after `OK`, without the space between.
    ///
    /// # Errors
    /// The answer is `FAIL` or something else than `OK`; the connection broke.
    pub fn command(&mut self, request: &str) -> Result<String, BusError> {
        let answer = self.exchange(request)?;
        match answer.strip_prefix("OK") {
            Some("") => Ok(String::new()),
            Some(rest) if rest.starts_with(' ') => Ok(rest[1..].to_owned()),
            _ => Err(BusError::Refused {
                request: request.chars().take(80).collect(),
                answer: answer.chars().take(200).collect(),
            }),
        }
    }

    /// Sends one line and returns the answer as it is, `OK` or `FAIL` included.
    ///
    /// # Errors
    /// The connection broke.
    pub fn exchange(&mut self, request: &str) -> Result<String, BusError> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.push_str(request);
        line.push('\n');
        let sent = self.stream.write_all(line.as_bytes());
        self.line = line;
        sent?;
        loop {
            let answer = self.read_line()?;
            match LineChange::parse(&answer) {
                Some(change) => self.interrupts.push(change),
                None => return Ok(answer),
            }
        }
    }

    /// Asks for the interrupt lines that go into (`inputs`) or out of the device at the QOM path `device`.
    ///
    /// # Errors
    /// The VMM has no such device.
    pub fn intercept(&mut self, device: &str, inputs: bool) -> Result<(), BusError> {
        let side = if inputs { "in" } else { "out" };
        self.command(&format!("irq_intercept_{side} {device}"))
            .map(drop)
    }

    /// Changes of the intercepted lines since the last call.
    pub fn interrupts(&mut self) -> Vec<LineChange> {
        std::mem::take(&mut self.interrupts)
    }

    /// Moves the VMM's virtual clock on; returns its time, in nanoseconds.
    ///
    /// # Errors
    /// The VMM's clock does not stand still (an accelerator that is not qtest).
    pub fn clock_step(&mut self, nanoseconds: u64) -> Result<u64, BusError> {
        let request = format!("clock_step {nanoseconds}");
        let answer = self.command(&request)?;
        answer.trim().parse().map_err(|_| BusError::Refused {
            request,
            answer: answer.clone(),
        })
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.partial[searched..].iter().position(|&b| b == b'\n') {
                let rest = self.partial.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.partial, rest);
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end().to_owned());
            }
            searched = self.partial.len();
            self.receive()?;
        }
    }

    /// Takes interrupts off the front of what was received; other lines are left for `command` to refuse.
    fn take_interrupts(&mut self) -> bool {
        let before = self.interrupts.len();
        while let Some(end) = self.partial.iter().position(|&b| b == b'\n') {
            let text = String::from_utf8_lossy(&self.partial[..end]);
            let Some(change) = LineChange::parse(text.trim_end()) else {
                break;
            };
            self.interrupts.push(change);
            self.partial.drain(..=end);
        }
        self.interrupts.len() > before
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let count = loop {
            match self.stream.read(&mut chunk) {
                // A socket with a time limit is not read on after the process was stopped and continued.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                other => break other?,
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.partial.extend_from_slice(&chunk[..count]);
        Ok(())
    }

    fn number(&mut self, request: &str) -> Result<u64, BusError> {
        let answer = self.command(request)?;
        let digits = answer.trim().trim_start_matches("0x");
        u64::from_str_radix(digits, 16).map_err(|_| BusError::Refused {
            request: request.to_owned(),
            answer: answer.clone(),
        })
    }
}

impl LineChange {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("IRQ ")?.split_whitespace();
        let raised = match words.next()? {
            "raise" => true,
            "lower" => false,
            _ => return None,
        };
        Some(Self {
            line: words.next()?.parse().ok()?,
            raised,
        })
    }
}

/// The protocol's letter for a width that a CPU has.
fn letter(bytes: usize) -> Option<char> {
    Some(match bytes {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => return None,
    })
}

fn port_letter(bytes: u8) -> Result<char, BusError> {
    letter(bytes.into())
        .filter(|_| bytes <= 4)
        .ok_or(BusError::Width(bytes.into()))
}

fn aligned(address: u64, bytes: usize) -> bool {
    address.is_multiple_of(bytes as u64)
}

impl GuestBus for QtestBus {
    fn port_in(&mut self, port: u16, bytes: u8) -> Result<u32, BusError> {
        let request = format!("in{} {port:#x}", port_letter(bytes)?);
        // A port is four bytes at most, so the cast loses nothing of a sane answer.
        Ok(self.number(&request)? as u32)
    }

    fn port_out(&mut self, port: u16, bytes: u8, value: u32) -> Result<(), BusError> {
        self.command(&format!("out{} {port:#x} {value:#x}", port_letter(bytes)?))
            .map(drop)
    }

    fn memory_read(&mut self, address: u64, data: &mut [u8]) -> Result<(), BusError> {
        let bytes = data.len();
        if bytes == 0 {
            return Ok(());
        }
        if let Some(letter) = letter(bytes).filter(|_| aligned(address, bytes)) {
            let value = self.number(&format!("read{letter} {address:#x}"))?;
            data.copy_from_slice(&value.to_le_bytes()[..bytes]);
            return Ok(());
        }
        let request = format!("read {address:#x} {bytes:#x}");
        let answer = self.command(&request)?;
        let digits = answer.trim().trim_start_matches("0x").as_bytes();
        let decoded = digits.len() == 2 * bytes
            && data.iter_mut().zip(digits.chunks(2)).all(|(byte, pair)| {
                let value = std::str::from_utf8(pair)
                    .ok()
                    .and_then(|pair| u8::from_str_radix(pair, 16).ok());
                *byte = value.unwrap_or(0);
                value.is_some()
            });
        if decoded {
            Ok(())
        } else {
            Err(BusError::Refused { request, answer })
        }
    }

    fn memory_write(&mut self, address: u64, data: &[u8]) -> Result<(), BusError> {
        let bytes = data.len();
        if bytes == 0 {
            return Ok(());
        }
        if let Some(letter) = letter(bytes).filter(|_| aligned(address, bytes)) {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(data);
            let value = u64::from_le_bytes(value);
            return self
                .command(&format!("write{letter} {address:#x} {value:#x}"))
                .map(drop);
        }
        let mut request = format!("write {address:#x} {bytes:#x} 0x");
        for byte in data {
            let _ = write!(request, "{byte:02x}");
        }
        self.command(&request).map(drop)
    }

    fn pause(&mut self, limit: Duration) -> Result<(), BusError> {
        if !self.take_interrupts() && crate::bell::readable(&self.stream, limit)? {
            self.receive()?;
            self.take_interrupts();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::thread;

    /// A machine's end that expects these lines and gives these answers.
    fn with_peer<T>(
        talk: &'static [(&'static str, &'static str)],
        client: impl FnOnce(&mut QtestBus) -> T,
    ) -> T {
        let (near, far) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || {
            let mut lines = io::BufReader::new(far.try_clone().unwrap()).lines();
            for (expected, answer) in talk {
                assert_eq!(lines.next().unwrap().unwrap(), *expected);
                (&far).write_all(answer.as_bytes()).unwrap();
            }
        });
        let result = client(&mut QtestBus::over(near).unwrap());
        peer.join().unwrap();
        result
    }

    #[test]
    fn widths_are_single_accesses_and_other_lengths_are_hex() {
        with_peer(
            &[
                ("inl 0xcfc", "OK 0x8086\n"),
                ("outb 0x70 0xff", "OK\n"),
                ("readw 0x1000", "OK 0x0000000000001234\n"),
                ("read 0x1001 0x2", "OK 0xab01\n"),
                ("writeq 0x8 0x102030405060708", "OK\n"),
                ("write 0x10 0x3 0x0a0b0c", "OK\n"),
            ],
            |bus| {
                assert_eq!(bus.port_in(0xcfc, 4).unwrap(), 0x8086);
                bus.port_out(0x70, 1, 0xff).unwrap();
                let mut two = [0; 2];
                bus.memory_read(0x1000, &mut two).unwrap();
                assert_eq!(two, [0x34, 0x12]);
                bus.memory_read(0x1001, &mut two).unwrap();
                assert_eq!(two, [0xab, 0x01]);
                bus.memory_write(8, &0x0102_0304_0506_0708_u64.to_le_bytes())
                    .unwrap();
                bus.memory_write(0x10, &[10, 11, 12]).unwrap();
            },
        );
    }

    #[test]
    fn a_refusal_is_told_and_the_next_command_goes_on() {
        with_peer(
            &[
                ("nope", "FAIL Unknown command 'nope'\n"),
                ("endianness", "OK little\n"),
            ],
            |bus| {
                let error = bus.command("nope").unwrap_err().to_string();
                assert!(error.contains("Unknown command 'nope'"), "{error}");
                assert_eq!(bus.command("endianness").unwrap(), "little");
            },
        );
    }

    #[test]
    fn interrupts_between_answers_are_kept_apart() {
        with_peer(
            &[("inb 0x60", "IRQ raise 9\nOK 0x0000\nIRQ lower 9\n")],
            |bus| {
                assert_eq!(bus.port_in(0x60, 1).unwrap(), 0);
                bus.pause(PATIENCE).unwrap();
                let seen: Vec<_> = bus
                    .interrupts()
                    .iter()
                    .map(|i| (i.line, i.raised))
                    .collect();
                assert_eq!(seen, [(9, true), (9, false)]);
            },
        );
    }

    #[test]
    fn a_vmm_that_went_away_is_an_error_and_no_wait() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let mut bus = QtestBus::over(near).unwrap();
        assert!(matches!(bus.port_in(0, 1), Err(BusError::Gone(_))));
        assert!(matches!(bus.port_in(0, 3), Err(BusError::Width(3))));
    }
}
