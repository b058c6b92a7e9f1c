//! Descriptors that whoever started this process passed to it, by their numbers.
//!
//! A number on the command line, and from a monitor's client (`netdev_add fd=18`, `migrate-incoming fd:18`), means one of
//! those. Any other number is a descriptor that this process opened for itself, the machine's own perhaps: who took that
//! over would close it under its owner. So the program notes at its very start which there are ([`remember`]), and gives
//! each out once ([`take`]).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// The numbers, and whether each is still to be had. It belongs to the process as its descriptors do.
static PASSED: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());

/// Standard input, output and error: they are lent, and stay open.
const STANDARD: i32 = 2;

/// Why a descriptor is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassedError {
    /// Nobody passed it.
    #[error("fd={0}: that descriptor is not open; pass it to this process")]
    NotOpen(i32),
    /// It has an owner.
    #[error("fd={0}: that descriptor is in use already; pass one for each use")]
    Taken(i32),
    /// The host has no descriptors left.
    #[error("fd={0}: {1}")]
    Host(i32, rustix::io::Errno),
}

#[allow(unsafe_code)]
fn is_open(number: i32) -> bool {
    // SAFETY: only asks for the descriptor's flags.
    number >= 0 && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
}

/// Notes the descriptors that are open. To be called first of all, before this process opens any of its own.
///
/// # Errors
/// They cannot be listed.
pub fn remember() -> io::Result<()> {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // The folder's own is among them, and closed by now.
    let open = listed.into_iter().filter(|number| is_open(*number));
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    passed.extend(open.map(|number| (number, true)));
    Ok(())
}

/// Takes over a descriptor that was passed to this process; of a standard one, a duplicate.
///
/// # Errors
/// It was not passed, or was taken before.
#[allow(unsafe_code)]
pub fn take(number: i32) -> Result<OwnedFd, PassedError> {
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let free = passed
        .get_mut(&number)
        .filter(|_| is_open(number))
        .ok_or(PassedError::NotOpen(number))?;
    // SAFETY: it is open, and the lock keeps others from taking it over meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    if number <= STANDARD {
        return rustix::io::fcntl_dupfd_cloexec(fd, STANDARD + 1)
            .map_err(|error| PassedError::Host(number, error));
    }
    if !*free {
        return Err(PassedError::Taken(number));
    }
    // It is this program's alone: a script or a hook that is run later must not hold it open.
    if let Err(error) = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
        tracing::debug!(number, %error, "a descriptor stays open in programs that are run");
    }
    *free = false;
    // SAFETY: it was open before this process opened anything, so nothing here owns it; it is given out this once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_descriptor_of_our_own_is_not_given_out() {
        let ours = std::fs::File::open("/dev/null").unwrap();
        let number = ours.as_raw_fd();
        assert_eq!(take(number).err(), Some(PassedError::NotOpen(number)));
        assert_eq!(take(-1).err(), Some(PassedError::NotOpen(-1)));
        assert!(is_open(number));
    }
}
