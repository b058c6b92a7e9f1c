//! One connection's descriptors: bytes, and the descriptors that come with them.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many descriptors one message may bring.
const MAX_FDS_PER_MESSAGE: usize = 16;

/// What to read from and to write to.
#[derive(Debug)]
pub(crate) struct Stream {
    input: OwnedFd,
    /// Where it is not the same as the input (stdio).
    output: Option<OwnedFd>,
    is_socket: bool,
}

/// Why waiting for input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// There is something to read, or the end of it.
    Input,
    /// One of the other descriptors became readable.
    Other,
}

impl Stream {
    /// A descriptor to read and write.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let is_socket = rustix::net::sockopt::socket_type(&fd).is_ok();
        Self {
            input: fd,
            output: None,
            is_socket,
        }
    }

    /// One descriptor to read and one to write.
    pub(crate) fn pair(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            input,
            output: Some(output),
            is_socket: false,
        }
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.is_socket
    }

    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_ref().unwrap_or(&self.input).as_fd()
    }

    /// Waits for input, or for one of `others`.
    pub(crate) fn wait(&self, others: [BorrowedFd<'_>; 2]) -> io::Result<Ready> {
        loop {
            let mut fds = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::new(&others[0], PollFlags::IN),
                PollFd::new(&others[1], PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !fds[1].revents().is_empty() || !fds[2].revents().is_empty() {
                return Ok(Ready::Other);
            }
            if !fds[0].revents().is_empty() {
                return Ok(Ready::Input);
            }
        }
    }

    /// After the end of input: waits until the client is wholly gone, or for one of `others`.
    pub(crate) fn wait_for_hangup(&self, others: [BorrowedFd<'_>; 3]) {
        loop {
            // No event asked for: poll tells of HUP and ERR in any case. A pipe's read end is in HUP for ever: nothing to wait for.
            let mut fds = [
                PollFd::new(&others[0], PollFlags::IN),
                PollFd::new(&others[1], PollFlags::IN),
                PollFd::new(&others[2], PollFlags::IN),
                PollFd::new(&self.input, PollFlags::empty()),
            ];
            let watched = if self.is_socket { fds.len() } else { 3 };
            match poll(fds.get_mut(..watched).unwrap_or_default(), None) {
                Err(rustix::io::Errno::INTR) | Ok(0) => {}
                _ => return,
            }
        }
    }

    /// Reads; descriptors that come with the bytes are put into `fds`, and take the place of those that nobody claimed.
    pub(crate) fn read(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        if !self.is_socket {
            return Ok(rustix::io::read(&self.input, buffer)?);
        }
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = rustix::net::recvmsg(
            &self.input,
            &mut slices,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut came = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
                came.extend(rights);
            }
        }
        if !came.is_empty() {
            *fds = came;
        }
        Ok(message.bytes)
    }

    /// Tells the client that nothing more comes.
    pub(crate) fn shutdown(&self) {
        if self.is_socket {
            // Already gone is as good.
            let _ = rustix::net::shutdown(&self.input, rustix::net::Shutdown::Both);
        }
    }
}
