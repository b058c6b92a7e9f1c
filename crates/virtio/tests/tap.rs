//! The network device on a real tap of this host's kernel: that the header, the scattered reads and the offloads are
//! what the kernel understands by them. Needs /dev/net/tun and the right to make an interface.

#![allow(clippy::unwrap_used, unsafe_code)]

#[path = "net/bench.rs"]
mod bench;
mod driver;

use bench::{BUFFER_BYTES, HEADER, MAC, USUAL, bring_up, config, device_on};
use driver::until;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use virtio::{IoBuffer, NetBackend, Offloads, unless_blocked};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// For local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

struct Tap {
    file: File,
    name: [u8; 16],
}

impl Tap {
    fn open() -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        let mut request = [0u8; 40];
        request[..6].copy_from_slice(b"sftst%");
        request[6] = b'd';
        request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_le_bytes());
        let header: libc::c_int = 12;
        // SAFETY: both requests get memory of the size they take.
        unsafe {
            checked(libc::ioctl(
                file.as_raw_fd(),
                TUNSETIFF,
                request.as_mut_ptr(),
            ))?;
            checked(libc::ioctl(
                file.as_raw_fd(),
                TUNSETVNETHDRSZ,
                &raw const header,
            ))?;
        }
        let name = *request.first_chunk().unwrap();
        let tap = Self { file, name };
        tap.up()?;
        Ok(tap)
    }

    fn up(&self) -> io::Result<()> {
        let mut request = [0u8; 40];
        request[..16].copy_from_slice(&self.name);
        request[16] = libc::IFF_UP as u8;
        // SAFETY: a new socket; the request gets memory of the size it takes.
        unsafe {
            let socket = checked(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
            let socket = OwnedFd::from_raw_fd(socket);
            checked(libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS,
                request.as_mut_ptr(),
            ))?;
        }
        Ok(())
    }

    /// A socket that gets and gives whole frames on the host's side of the interface.
    fn host_side(&self) -> io::Result<OwnedFd> {
        let protocol = u16::from_ne_bytes(ETHERTYPE);
        // SAFETY: plain system calls on memory of the sizes given.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let socket = checked(libc::socket(libc::AF_PACKET, kind, i32::from(protocol)))?;
            let socket = OwnedFd::from_raw_fd(socket);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex =
                i32::try_from(libc::if_nametoindex(self.name.as_ptr().cast())).unwrap();
            let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
            checked(libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                length,
            ))?;
            Ok(socket)
        }
    }
}

impl NetBackend for Tap {
    fn vnet_header(&self) -> bool {
        true
    }

    fn offloads(&self) -> Offloads {
        Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6
    }

    fn mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let mut bits = 0;
        for (offload, bit) in [
            (Offloads::CSUM, 1),
            (Offloads::TSO4, 2),
            (Offloads::TSO6, 4),
        ] {
            if offloads.contains(offload) {
                bits |= bit;
            }
        }
        // SAFETY: the request takes a number.
        checked(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, bits) }).map(drop)
    }

    fn recv(&self, _: u16, into: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        unless_blocked(virtio::readv(self.file.as_fd(), into))
    }

    fn send(&self, _: u16, from: &[IoBuffer<'_>]) -> io::Result<Option<usize>> {
        unless_blocked(virtio::writev(self.file.as_fd(), from))
    }

    fn poll_fd(&self, _: u16) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = MAC.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHERTYPE);
    frame.extend((0..len - 14).map(|i| (i as u8).wrapping_mul(seed)));
    frame
}

#[test]
fn frames_pass_through_the_kernel() {
    let tap = match Tap::open() {
        Ok(tap) => Arc::new(tap),
        Err(error) => {
            eprintln!("SKIPPED: no tap can be had here ({error}); run as root with /dev/net/tun");
            return;
        }
    };
    let wire = File::from(tap.host_side().unwrap());
    let features = USUAL;
    let (device, mut driver, _events) = device_on(config(), Arc::clone(&tap) as Arc<_>);
    let mut up = bring_up(&mut driver, features, true);
    up.post(&mut driver, 200, BUFFER_BYTES);
    let next = |up: &mut bench::Up| loop {
        // The kernel says things of its own on a new interface.
        let frame = until("a frame", || up.poll(&driver.ram, BUFFER_BYTES));
        driver.kick(&mut up.rx);
        if frame[HEADER + 12..HEADER + 14] == ETHERTYPE {
            return frame;
        }
    };
    for round in 1..100u8 {
        use std::io::{Read, Write};
        let sent = frame(60 + usize::from(round) * 14, round);
        (&wire).write_all(&sent).unwrap();
        let got = next(&mut up);
        assert_eq!(got[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(got[HEADER..], sent);

        let mut with_header = vec![0; HEADER];
        with_header.extend(&sent);
        let slot = up.tx_buffer + 4096 * u64::from(round);
        vm_memory::Bytes::write_slice(&*driver.ram, &with_header, vm_memory::GuestAddress(slot))
            .unwrap();
        up.tx.add(&[driver::ring::Buffer {
            address: slot,
            len: u32::try_from(with_header.len()).unwrap(),
            writable: false,
        }]);
        driver.kick(&mut up.tx);
        let mut back = vec![0; 4096];
        let count = (&wire).read(&mut back).unwrap();
        assert_eq!(back[..count], sent);
        until("the buffer back", || up.tx.used());
    }
    let counters = device.counters();
    assert_eq!((counters.tx_frames, counters.tx_dropped), (99, 0));
    assert!(counters.rx_frames >= 99);
}
