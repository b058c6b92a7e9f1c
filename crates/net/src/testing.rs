//! For the tests of this crate: a NIC that is no NIC, programs, and waiting.

mod program;

use std::path::Path;
use std::time::{Duration, Instant};

use virtio::{IoBuffer, NetBackend};

use crate::wire::FRAME_BYTES_MAX;

pub(crate) use program::program;

/// A frame of `bytes` bytes, recognisable by `mark`.
pub(crate) fn frame(mark: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| u8::try_from(at % 251).unwrap_or(0) ^ mark)
        .collect()
}

/// Sends a frame as a NIC does, in two parts; it must be taken.
pub(crate) fn transmit(backend: &dyn NetBackend, frame: &[u8]) {
    assert_eq!(try_transmit(backend, frame), Some(frame.len()));
}

/// Sends a frame as a NIC does; `None`: not now.
pub(crate) fn try_transmit(backend: &dyn NetBackend, frame: &[u8]) -> Option<usize> {
    let mut copy = frame.to_vec();
    let (first, second) = copy.split_at_mut(frame.len().min(14));
    let parts = [IoBuffer::of_bytes(first), IoBuffer::of_bytes(second)];
    backend.send(0, &parts).unwrap()
}

/// The next frame that has come for the NIC; `None`: none now.
pub(crate) fn receive(backend: &dyn NetBackend) -> Option<Vec<u8>> {
    let mut room = vec![0; FRAME_BYTES_MAX];
    let bytes = backend.recv(0, &[IoBuffer::of_bytes(&mut room)]).unwrap()?;
    room.truncate(bytes);
    Some(room)
}

/// The next frame, waited for.
pub(crate) fn receive_soon(backend: &dyn NetBackend) -> Option<Vec<u8>> {
    wait_readable(backend).then(|| receive(backend)).flatten()
}

/// What must happen has happened by then, however busy the host is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again until `probe` gives something.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::yield_now();
    }
}

/// The file of a socket whose process has ended. One that this process had would be open for a moment more in whatever
/// another test starts in that moment.
pub(crate) fn left_over_socket(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Socket, Mode::RWXU, 0).unwrap();
}

/// Whether something came for the NIC.
pub(crate) fn wait_readable(backend: &dyn NetBackend) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = backend.poll_fd(0).unwrap();
    let mut set = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs().try_into().unwrap(),
        tv_nsec: 0,
    };
    poll(&mut set, Some(&limit)).unwrap() == 1
}
