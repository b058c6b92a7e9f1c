//! The frames between the machine and L1's agent, over a virtio-serial port.
//!
//! A frame is a kind byte, a 32-bit little-endian length and that many bytes. Kind 0 is one byte
//! alone and means nothing: a client that finds the other end in the middle of a frame of its
//! predecessor sends more of these than a frame can hold, and both are in step again.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The largest payload of a frame, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// What a client asks to be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables added to the environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Give it a terminal of its own: its rows and columns.
    #[serde(default)]
    pub tty: Option<(u16, u16)>,
}

/// One message; which end sends it is said with each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Client: starts a session, ending whatever ran; agent: the answer, with the same bytes.
    Hello(Vec<u8>),
    /// Client: an [`Open`] as JSON.
    Open(Vec<u8>),
    /// Client: bytes for the program's stdin; none of them means end of file.
    Input(Vec<u8>),
    /// Agent: bytes of the program's stdout.
    Output(Vec<u8>),
    /// Agent: bytes of the program's stderr.
    Error(Vec<u8>),
    /// Agent: the program ended with this status (128 + signal if a signal ended it).
    Exit(i32),
}

impl Frame {
    /// Writes the frame in one call.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let status;
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Hello(bytes) => (1, bytes),
            Self::Open(bytes) => (2, bytes),
            Self::Input(bytes) => (3, bytes),
            Self::Output(bytes) => (4, bytes),
            Self::Error(bytes) => (5, bytes),
            Self::Exit(code) => {
                status = code.to_le_bytes();
                (6, &status)
            }
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(io::Error::other("a frame is too large"));
        }
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(payload.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        out.write_all(&bytes)?;
        out.flush()
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other end is gone, `InvalidData` if what came is no frame.
    pub fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        while kind[0] == 0 {
            input.read_exact(&mut kind)?;
        }
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        Ok(match kind[0] {
            1 => Self::Hello(payload),
            2 => Self::Open(payload),
            3 => Self::Input(payload),
            4 => Self::Output(payload),
            5 => Self::Error(payload),
            6 => Self::Exit(i32::from_le_bytes(
                payload.try_into().map_err(|_| io::ErrorKind::InvalidData)?,
            )),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// What brings a reader that waits in the middle of a frame back in step.
pub fn resync() -> Vec<u8> {
    vec![0; MAX_PAYLOAD_BYTES + 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_and_padding() {
        let frames = [
            Frame::Hello(vec![7; 16]),
            Frame::Open(b"{}".to_vec()),
            Frame::Input(Vec::new()),
            Frame::Output(vec![1; MAX_PAYLOAD_BYTES]),
            Frame::Exit(-3),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
            bytes.extend([0; 9]);
        }
        let mut input = bytes.as_slice();
        for frame in &frames {
            assert_eq!(&Frame::read(&mut input).unwrap(), frame);
        }
        assert_eq!(
            Frame::read(&mut input).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_half_frame_is_overcome() {
        let mut bytes = Vec::new();
        Frame::Input(vec![1; 1000]).write(&mut bytes).unwrap();
        bytes.truncate(100);
        bytes.extend(resync());
        Frame::Hello(vec![9]).write(&mut bytes).unwrap();
        let mut input = bytes.as_slice();
        assert!(matches!(Frame::read(&mut input).unwrap(), Frame::Input(_)));
        assert_eq!(Frame::read(&mut input).unwrap(), Frame::Hello(vec![9]));
    }

    #[test]
    fn an_oversized_length_is_refused() {
        let mut input: &[u8] = &[4, 0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(
            Frame::read(&mut input).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
