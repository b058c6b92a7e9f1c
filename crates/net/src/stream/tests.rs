//! Real sockets at the other end, well-behaved and not.

use super::*;
use crate::testing::{frame, left_over_socket, receive, receive_soon, transmit, try_transmit};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

fn put(peer: &mut impl Write, frame: &[u8]) {
    let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
    peer.write_all(&length).unwrap();
    peer.write_all(frame).unwrap();
}

fn take(peer: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

/// Frames pass both ways; the guest's first may be lost while the connection is still being made.
fn both_ways(ours: &Stream, peer: &mut (impl Read + Write)) {
    put(peer, &frame(1, 1514));
    assert_eq!(receive_soon(ours), Some(frame(1, 1514)));
    transmit(ours, &frame(2, 60));
    assert_eq!(take(peer), frame(2, 60));
}

fn inet(port: u16) -> StreamAddress {
    StreamAddress::Inet(vec![SocketAddr::from(([127, 0, 0, 1], port))])
}

#[test]
fn a_server_serves_one_peer_after_the_other_and_takes_its_file_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let listen = || StreamSource::Listen(StreamAddress::Unix(path.clone()));
    let ours = Stream::open("s", "stream", listen()).unwrap();
    assert_eq!(ours.describe(), "listening");
    for _ in 0..3 {
        let mut peer = UnixStream::connect(&path).unwrap();
        both_ways(&ours, &mut peer);
        assert_eq!(ours.describe(), format!("unix:{}", path.display()));
    }
    assert!(Stream::open("t", "stream", listen()).is_err(), "in use");
    drop(ours);
    assert!(!path.exists());
    left_over_socket(&path);
    assert!(Stream::open("s", "stream", listen()).is_ok(), "left over");
}

#[test]
fn a_client_connects_and_says_where() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    for (kind, words) in [
        ("stream", format!("tcp:{at}")),
        ("socket", format!("socket: connect to {at}")),
    ] {
        let source = StreamSource::Connect {
            address: inet(at.port()),
            reconnect: None,
        };
        let ours = Stream::open("c", kind, source).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        both_ways(&ours, &mut peer);
        assert_eq!(ours.describe(), words);
    }
}

#[test]
fn a_client_connects_again_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peer");
    let source = StreamSource::Connect {
        address: StreamAddress::Unix(path.clone()),
        reconnect: Some(Duration::from_millis(5)),
    };
    // Nobody is there yet.
    let ours = Stream::open("c", "stream", source).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..3 {
        let (mut peer, _) = listener.accept().unwrap();
        both_ways(&ours, &mut peer);
    }
}

#[test]
fn a_client_that_finds_nobody_says_so_and_the_guest_does_not_block() {
    // A socket that does not listen: nobody else gets its port as long as it is there.
    let holder = new_socket(AddressFamily::INET).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&holder, &any).unwrap();
    let closed = rustix::net::getsockname(&holder).unwrap();
    let closed = SocketAddr::try_from(closed).unwrap();
    let source = StreamSource::Connect {
        address: inet(closed.port()),
        reconnect: None,
    };
    let ours = Stream::open("c", "stream", source).unwrap();
    let mut sent = 0;
    while sent < 20_000 {
        sent += usize::from(try_transmit(&ours, &frame(1, 1514)).is_some());
    }
    assert_eq!(
        ours.describe(),
        format!("error: Failed to connect to '{closed}': Connection refused")
    );
    assert_eq!(receive(&ours), None);
}

#[test]
fn a_peer_that_sends_byte_by_byte_is_understood() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let ours = Stream::open("p", "stream", StreamSource::Connected(ours.into())).unwrap();
    let mut bytes = Vec::new();
    put(&mut bytes, &frame(1, 60));
    put(&mut bytes, &[]);
    put(&mut bytes, &frame(2, 70_000.min(FRAME_MAX)));
    for byte in &bytes[..200] {
        peer.write_all(std::slice::from_ref(byte)).unwrap();
    }
    peer.write_all(&bytes[200..]).unwrap();
    assert_eq!(receive_soon(&ours), Some(frame(1, 60)));
    assert_eq!(receive_soon(&ours), Some(frame(2, 70_000.min(FRAME_MAX))));
}

const FRAME_MAX: usize = crate::FRAME_BYTES_MAX;

#[test]
fn a_peer_that_announces_too_long_a_frame_is_cut_off_and_the_next_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let source = StreamSource::Listen(StreamAddress::Unix(path.clone()));
    let ours = Stream::open("s", "stream", source).unwrap();
    for length in [u32::MAX, u32::try_from(FRAME_MAX).unwrap() + 1] {
        let mut hostile = UnixStream::connect(&path).unwrap();
        hostile.write_all(&length.to_be_bytes()).unwrap();
        assert_eq!(hostile.read(&mut [0; 10]).unwrap(), 0);
    }
    let mut peer = UnixStream::connect(&path).unwrap();
    both_ways(&ours, &mut peer);
}

#[test]
fn a_peer_that_floods_is_not_read_and_one_that_does_not_read_blocks_the_guest() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let ours = Stream::open("p", "stream", StreamSource::Connected(ours.into())).unwrap();
    peer.set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut bytes = Vec::new();
    put(&mut bytes, &frame(3, 1514));
    let sent = (0..100_000)
        .take_while(|_| peer.write_all(&bytes).is_ok())
        .count();
    assert!(
        sent < 20_000,
        "the guest reads nothing, and {sent} frames went in"
    );
    // Towards a peer that reads nothing the guest is held back, and nothing is lost.
    let mut taken = 0;
    while try_transmit(&ours, &frame(4, 1514)).is_some() {
        taken += 1;
        assert!(taken < 100_000);
    }
    for _ in 0..taken {
        assert_eq!(take(&mut peer), frame(4, 1514));
    }
    // Every frame that went in whole comes out.
    for _ in 0..sent {
        assert_eq!(receive_soon(&ours), Some(frame(3, 1514)));
    }
}

#[test]
fn a_descriptor_must_be_a_stream() {
    let (a, _b) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(Stream::open("p", "stream", StreamSource::Connected(a.into())).is_err());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let ours = Stream::open("l", "socket", StreamSource::Listening(listener.into())).unwrap();
    let mut peer = TcpStream::connect(at).unwrap();
    both_ways(&ours, &mut peer);
    let from = peer.local_addr().unwrap();
    assert_eq!(ours.describe(), format!("socket: connection from {from}"));
}
