//! QEMU at the other end of each kind of socket: behind it, on a hub of its own, QEMU's user network, which answers. What
//! our user network answers to the same frames is compared.
//!
//! Needs `qemu-system-x86_64` (or what `STANDFAST_QEMU` names) with user networking; without one it is SKIPPED, loudly, and
//! with `STANDFAST_NO_SKIP=1` it fails.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

use net::dgram::Datagrams;
use net::stream::{Stream, StreamAddress, StreamSource};
use net::user::{LeaseNames, Plan, Subnet, UserNet};
use net::{FRAME_BYTES_MAX, Netdev};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use virtio::IoBuffer;

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn qemu() -> String {
    std::env::var("STANDFAST_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned())
}

fn there_is_a_qemu() -> bool {
    let help = Command::new(qemu()).args(["-netdev", "help"]).output();
    let there = help.is_ok_and(|help| {
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        ["user", "dgram", "stream"]
            .iter()
            .all(|kind| text.lines().any(|line| line == *kind))
    });
    if !there {
        assert!(
            std::env::var_os("STANDFAST_NO_SKIP").is_none(),
            "no QEMU with user networking"
        );
        // Past the test harness, which hides what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no QEMU with user networking; nothing was exchanged with it"
        );
    }
    there
}

struct Qemu(Child);

impl Qemu {
    /// A QEMU with nothing but a user network and the socket that `netdev` describes, on one hub.
    fn with(netdev: &str) -> Self {
        let arguments = [
            "-M none -nodefaults -display none -netdev user,id=u -netdev",
            &format!("{netdev},id=s"),
            "-netdev hubport,id=a,hubid=0,netdev=u -netdev hubport,id=b,hubid=0,netdev=s",
        ];
        let child = Command::new(qemu())
            .args(arguments.join(" ").split_whitespace())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn frame(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(GUEST);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![
        0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
    ];
    packet.extend(from);
    packet.extend(to);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn arp_for_the_gateway() -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(GUEST);
    arp.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame([0xff; 6], 0x0806, &arp)
}

/// A message of this kind. Each kind is a transaction of its own, so that a late answer to one is none to the next.
fn dhcp(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, kind];
    message.resize(28, 0);
    message.extend(GUEST);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
    message.extend(options);
    message.push(255);
    let length = u16::try_from(8 + message.len()).unwrap().to_be_bytes();
    let mut udp = vec![0, 68, 0, 67, length[0], length[1], 0, 0];
    udp.extend(message);
    frame([0xff; 6], 0x0800, &ipv4(17, [0; 4], [255; 4], &udp))
}

fn ping_the_gateway() -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 1, 2, 3, 4];
    icmp.extend(0..56);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let packet = ipv4(1, [10, 0, 2, 15], [10, 0, 2, 2], &icmp);
    frame([0x52, 0x55, 10, 0, 2, 2], 0x0800, &packet)
}

/// Whether a frame answers a question: it is of the same protocol, and of the same transaction where there is one.
fn answers(frame: &[u8], question: &[u8]) -> bool {
    const ARP: [u8; 2] = [8, 6];
    const UDP: u8 = 17;
    let transaction = 14 + 20 + 8 + 4..14 + 20 + 8 + 8;
    frame[12..14] == question[12..14]
        && (frame[12..14] == ARP
            || frame[23] == question[23]
                && (frame[23] != UDP
                    || frame.get(transaction.clone()) == question.get(transaction)))
}

/// Asks until there is an answer: a peer takes a while to be there, and is not to be asked in vain.
fn ask(netdev: &dyn Netdev, question: &[u8]) -> Vec<u8> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut copy = question.to_vec();
        netdev.send(0, &[IoBuffer::of_bytes(&mut copy)]).unwrap();
        if let Some(answer) = answer(netdev, question) {
            return answer;
        }
    }
    panic!("no answer within {PATIENCE:?}: {}", netdev.describe());
}

fn answer(netdev: &dyn Netdev, question: &[u8]) -> Option<Vec<u8>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let again = Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    let mut room = vec![0; FRAME_BYTES_MAX];
    loop {
        while let Ok(Some(bytes)) = netdev.recv(0, &[IoBuffer::of_bytes(&mut room)]) {
            let frame = &room[..bytes];
            if answers(frame, question) {
                return Some(frame.to_vec());
            }
        }
        let fd = netdev.poll_fd(0).unwrap();
        let mut set = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        if poll(&mut set, Some(&again)).unwrap() == 0 {
            return None;
        }
    }
}

/// What counts of an answer; the rest (ids, order of options, padding) may differ.
fn meaning(answer: &[u8]) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut meaning = vec![format!("from {}", hex(&answer[6..12]))];
    if answer[12..14] == [8, 6] {
        meaning.push(hex(&answer[14..42]));
        return meaning;
    }
    assert_eq!(checksum(&answer[14..34]), [0, 0]);
    meaning.push(format!("ip {} {}", answer[23], hex(&answer[26..34])));
    if answer[23] == 1 {
        let end = 14 + usize::from(u16::from_be_bytes([answer[16], answer[17]]));
        meaning.push(hex(&answer[34..end]));
        return meaning;
    }
    let message = &answer[42..];
    meaning.push(format!("yiaddr {}", hex(&message[16..20])));
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let end = 2 + usize::from(rest[1]);
        options.push(format!("option {} {}", rest[0], hex(&rest[2..end])));
        rest = &rest[end..];
    }
    options.sort();
    meaning.extend(options);
    meaning
}

/// Plays a guest's beginning on a network: the meanings of the answers.
fn play(netdev: &dyn Netdev) -> Vec<Vec<String>> {
    let request = [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2];
    [
        dhcp(1, &[]),
        dhcp(3, &request),
        arp_for_the_gateway(),
        ping_the_gateway(),
    ]
    .iter()
    .map(|question| meaning(&ask(netdev, question)))
    .collect()
}

fn ours() -> Vec<Vec<String>> {
    let plan = Plan {
        subnet: Subnet {
            address: [10, 0, 2, 0].into(),
            mask: [255, 255, 255, 0].into(),
        },
        gateway: [10, 0, 2, 2].into(),
        name_server: [10, 0, 2, 3].into(),
        first_lease: [10, 0, 2, 15].into(),
        names: LeaseNames::default(),
        routed: true,
    };
    play(&UserNet::new(plan).unwrap())
}

/// An address of this host that no other process takes: ports that are free a moment later too.
fn own_address() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // A process's number has 22 bits; 127.0.x.x is everybody's.
    Ipv4Addr::new(127, 0x80 | high, middle, low).into()
}

#[test]
fn over_udp() {
    if !there_is_a_qemu() {
        return;
    }
    let (ours_is, address) = (ours(), own_address());
    let netdev = |older: bool, here: u16, there: u16| {
        if older {
            return format!("socket,udp={address}:{here},localaddr={address}:{there}");
        }
        format!(
            "dgram,local.type=inet,local.host={address},local.port={there},remote.type=inet,remote.host={address},remote.port={here}"
        )
    };
    // Other ports for each: what another test starts in this moment may still have the first socket.
    for (older, here, there) in [(false, 4440, 4441), (true, 4442, 4443)] {
        let at = |port: u16| SocketAddr::from((address, port));
        let socket = Datagrams::udp(at(here), at(there), "dgram").unwrap();
        let _qemu = Qemu::with(&netdev(older, here, there));
        assert_eq!(play(&socket), ours_is);
    }
}

#[test]
fn over_unix_datagrams() {
    if !there_is_a_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [here, there] = ["here", "there"].map(|name| folder.path().join(name));
    let socket = Datagrams::unix(&here, &there).unwrap();
    let _qemu = Qemu::with(&format!(
        "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}",
        there.display(),
        here.display()
    ));
    assert_eq!(play(&socket), ours());
}

#[test]
fn over_streams_whoever_listens() {
    if !there_is_a_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let address = StreamAddress::Unix(path.clone());
    let ours_is = ours();
    for server in [true, false] {
        let source = if server {
            StreamSource::Listen(address.clone())
        } else {
            StreamSource::Connect {
                address: address.clone(),
                reconnect: Some(Duration::from_millis(50)),
            }
        };
        let netdev = Stream::open("s", "stream", source).unwrap();
        let theirs = if server { "off" } else { "on" };
        let _qemu = Qemu::with(&format!(
            "stream,server={theirs},addr.type=unix,addr.path={}",
            path.display()
        ));
        assert_eq!(play(&netdev), ours_is);
    }
}
