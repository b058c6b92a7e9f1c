//! The system calls of a tap: `/dev/net/tun` and the interface behind it. Each is one `ioctl(2)` with
//! its argument's type written out here and nowhere else.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The flags word of an `ifreq`: what `IFF_*` of `TUNSETIFF` and of `SIOCGIFFLAGS` fit in.
pub(super) type Flags = i32;

/// What the host's driver can do, of `TUNGETFEATURES`.
pub(super) const VNET_HDR: Flags = libc::IFF_VNET_HDR;
/// Several queues.
pub(super) const MULTI_QUEUE: Flags = libc::IFF_MULTI_QUEUE;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an ifreq is plain data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|c| c.to_ne_bytes()[0])
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn flags_of(request: &libc::ifreq) -> Flags {
    // SAFETY: the kernel filled the flags; any bit pattern is a valid short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Flags::from(u16::from_ne_bytes(flags.to_ne_bytes()))
}

fn set_flags(request: &mut libc::ifreq, flags: Flags) {
    let low = u16::try_from(flags & 0xffff).unwrap_or_default();
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(low.to_ne_bytes());
}

/// `TUNGETFEATURES`: the flags that `TUNSETIFF` takes.
pub(super) fn features(tun: BorrowedFd<'_>) -> io::Result<Flags> {
    let mut features: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int to the address of one.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETFEATURES, &mut features) })?;
    Ok(Flags::try_from(features & 0xffff).unwrap_or_default())
}

/// `TUNSETIFF`: attaches `tun` to the tap `name` (a `%d` in it is replaced); returns its name.
pub(super) fn attach(tun: BorrowedFd<'_>, name: &str, flags: Flags) -> io::Result<String> {
    let mut request = request(name)?;
    set_flags(&mut request, flags | libc::IFF_TAP | libc::IFF_NO_PI);
    // SAFETY: the kernel reads and writes one ifreq at the address of one.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(name_of(&request))
}

/// `TUNGETIFF`: name and flags of the tap that `tap` is attached to.
pub(super) fn attached(tap: BorrowedFd<'_>) -> io::Result<(String, Flags)> {
    let mut request = request("?")?;
    // SAFETY: the kernel writes one ifreq to the address of one.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    Ok((name_of(&request), flags_of(&request)))
}

/// `TUNSETOFFLOAD`: what unfinished frames the other side takes (`TUN_F_*`).
pub(super) fn set_offload(tap: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: the argument is passed by value; no memory is involved.
    check(unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    })
}

/// `TUNSETVNETHDRSZ`: the length of the header before each frame.
pub(super) fn set_header_bytes(tap: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads one int at the address of one.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &bytes) })
}

/// `TUNSETQUEUE`: puts this queue in or out of use.
pub(super) fn set_queue(tap: BorrowedFd<'_>, enabled: bool) -> io::Result<()> {
    let mut request = request("?")?;
    let flag = if enabled {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    set_flags(&mut request, flag);
    // SAFETY: the kernel reads one ifreq at the address of one.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &request) })
}

/// `SIOCGIFMTU` through any socket of the interface's network namespace.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes one ifreq at the address of one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: the kernel filled the MTU; any bit pattern is a valid int.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or_default())
}

/// `SIOCGIFFLAGS`: whether the interface is up.
pub(super) fn is_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes one ifreq at the address of one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) })?;
    Ok(flags_of(&request) & libc::IFF_UP != 0)
}

/// `SIOCGIFINDEX`: the interface's number, if there is such an interface.
pub(super) fn index(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    // SAFETY: the kernel reads and writes one ifreq at the address of one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request) })?;
    // SAFETY: the kernel filled the index; any bit pattern is a valid int.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    Ok(u32::try_from(index).unwrap_or_default())
}
