//! A guest's side by hand: frames as they are on the wire.

use super::*;
use crate::user::{LeaseNames, Subnet};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn gateway(restrict: bool) -> Gateway {
    Gateway::new(Plan {
        subnet: Subnet {
            address: Ipv4Addr::new(10, 0, 2, 0),
            mask: Ipv4Addr::new(255, 255, 255, 0),
        },
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        name_server: Ipv4Addr::new(10, 0, 2, 3),
        first_lease: Ipv4Addr::new(10, 0, 2, 15),
        names: LeaseNames {
            host: Some("guest7".to_owned()),
            domain: None,
        },
        routed: !restrict,
    })
}

/// The ones' complement sum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![
        0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
    ];
    header.extend(from);
    header.extend(to);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header.extend(payload);
    header
}

fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(GUEST);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

const GATEWAY: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut udp = from.to_be_bytes().to_vec();
    udp.extend(to.to_be_bytes());
    udp.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    udp
}

fn dhcp(mac: [u8; 6], kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef];
    message.resize(28, 0);
    message.extend(mac);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
    message.extend(options);
    message.push(255);
    let packet = ipv4(17, [0; 4], [255; 4], &udp(68, 67, &message));
    ethernet([0xff; 6], 0x0800, &packet)
}

/// The address and the options of a DHCP answer.
fn leased(answer: &[u8]) -> ([u8; 4], Vec<(u8, Vec<u8>)>) {
    assert_eq!(&answer[..6], GUEST);
    assert_eq!(answer[12..14], [8, 0]);
    assert_eq!(checksum(&answer[14..34]), 0);
    assert_eq!(answer[34..38], [0, 67, 0, 68]);
    let message = &answer[42..];
    assert_eq!(message[4..8], [0xde, 0xad, 0xbe, 0xef]);
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let end = 2 + usize::from(rest[1]);
        options.push((rest[0], rest[2..end].to_vec()));
        rest = &rest[end..];
    }
    (message[16..20].try_into().unwrap(), options)
}

#[test]
fn arp_finds_the_gateway_and_the_name_server_and_nobody_else() {
    let mut gateway = gateway(false);
    let ask = |last: u8| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(GUEST);
        arp.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, last]);
        ethernet([0xff; 6], 0x0806, &arp)
    };
    let answer = gateway.answer(&ask(2)).unwrap();
    let mut expected = GUEST.to_vec();
    expected.extend(GATEWAY);
    expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    expected.extend(GATEWAY);
    expected.extend([10, 0, 2, 2]);
    expected.extend(GUEST);
    expected.extend([10, 0, 2, 15]);
    assert_eq!(answer[..42], expected);
    assert_eq!(answer.len(), 60);
    assert!(gateway.answer(&ask(3)).is_some());
    for nobody in [1, 4, 15] {
        assert_eq!(gateway.answer(&ask(nobody)), None);
    }
}

#[test]
fn dhcp_leases_the_first_address_and_the_same_one_again() {
    let mut gateway = gateway(false);
    let (offered, options) = leased(&gateway.answer(&dhcp(GUEST, 1, &[])).unwrap());
    assert_eq!(offered, [10, 0, 2, 15]);
    let option = |kind: u8| {
        options
            .iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, v)| v.clone())
    };
    assert_eq!(option(53), Some(vec![2]));
    assert_eq!(option(54), Some(vec![10, 0, 2, 2]));
    assert_eq!(option(1), Some(vec![255, 255, 255, 0]));
    assert_eq!(option(3), Some(vec![10, 0, 2, 2]));
    assert_eq!(option(6), Some(vec![10, 0, 2, 3]));
    assert_eq!(option(12), Some(b"guest7".to_vec()));
    assert_eq!(option(51), Some(86_400u32.to_be_bytes().to_vec()));
    let ask = |last| [50, 4, 10, 0, 2, last, 54, 4, 10, 0, 2, 2];
    let (got, options) = leased(&gateway.answer(&dhcp(GUEST, 3, &ask(15))).unwrap());
    assert_eq!((got, options[0].clone()), (offered, (53, vec![5])));
    let (got, options) = leased(&gateway.answer(&dhcp(GUEST, 3, &ask(99))).unwrap());
    assert_eq!(
        (got, options[0].clone()),
        ([0; 4], (53, vec![6])),
        "refused"
    );
    // Another server was chosen.
    assert_eq!(gateway.answer(&dhcp(GUEST, 3, &[54, 4, 10, 0, 2, 9])), None);
}

#[test]
fn restricted_dhcp_names_no_router_and_no_name_server() {
    let (_, options) = leased(&gateway(true).answer(&dhcp(GUEST, 1, &[])).unwrap());
    assert!(options.iter().all(|(kind, _)| ![3, 6].contains(kind)));
    assert!(options.iter().any(|(kind, _)| *kind == 1));
}

#[test]
fn sixteen_get_an_address_and_the_seventeenth_none() {
    let mut gateway = gateway(false);
    for last in 0..20 {
        let mac = [2, 0, 0, 0, 0, last];
        let answer = gateway.answer(&dhcp(mac, 1, &[]));
        match answer {
            Some(answer) => assert_eq!(answer[42 + 19], 15 + last),
            None => assert!(last >= 16),
        }
        assert_eq!(gateway.leases.len(), usize::from(last + 1).min(LEASES_MAX));
    }
}

fn ping(to: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 1, 2, 3, 4];
    icmp.extend(data);
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    ethernet(GATEWAY, 0x0800, &ipv4(1, [10, 0, 2, 15], to, &icmp))
}

#[test]
fn the_gateway_answers_pings_with_their_data() {
    let mut gateway = gateway(false);
    for data in [vec![], vec![7; 56], vec![9; 1472], vec![1; 9000]] {
        let answer = gateway.answer(&ping([10, 0, 2, 2], &data)).unwrap();
        assert_eq!(answer[..6], GUEST);
        assert_eq!(answer[26..34], [10, 0, 2, 2, 10, 0, 2, 15]);
        let icmp = &answer[34..42 + data.len()];
        assert_eq!((icmp[0], &icmp[4..8]), (0, &[1, 2, 3, 4][..]));
        assert_eq!(icmp[8..], data);
        assert_eq!(checksum(icmp), 0);
        assert_eq!(checksum(&answer[14..34]), 0);
    }
}

#[test]
fn what_goes_beyond_is_told_so_at_once() {
    let mut gateway = gateway(false);
    let tcp = [
        0xc0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ];
    let mut code = |to: [u8; 4], protocol: u8, payload: &[u8]| {
        let packet = ipv4(protocol, [10, 0, 2, 15], to, payload);
        let answer = gateway.answer(&ethernet(GATEWAY, 0x0800, &packet))?;
        assert_eq!(checksum(&answer[34..70]), 0);
        assert_eq!(answer[34], 3);
        // The start of what was sent, by which the guest finds the connection.
        assert_eq!(answer[62..70], payload[..8]);
        assert_eq!(answer[54..62], packet[12..20]);
        Some(answer[35])
    };
    assert_eq!(code([192, 0, 2, 1], 6, &tcp), Some(0));
    assert_eq!(code([10, 0, 2, 77], 6, &tcp), Some(1));
    assert_eq!(code([10, 0, 2, 2], 6, &tcp), Some(3));
    assert_eq!(
        code([10, 0, 2, 3], 17, &udp(5353, 53, b"a question")),
        Some(3)
    );
    assert_eq!(code([10, 0, 2, 2], 132, &tcp), Some(2));
    assert_eq!(code([224, 0, 0, 1], 17, &udp(1, 2, b"")), None);
    assert_eq!(code([255; 4], 17, &udp(1, 2, b"")), None);
}

#[test]
fn no_bytes_make_it_panic() {
    let frames = [
        ping([10, 0, 2, 2], b"some data"),
        dhcp(
            GUEST,
            3,
            &[50, 4, 10, 0, 2, 15, 12, 3, b'a', b'b', b'c', 55, 2, 1, 3],
        ),
        ethernet(
            GATEWAY,
            0x0800,
            &ipv4(17, [10, 0, 2, 15], [10, 0, 2, 3], &udp(1, 53, b"x")),
        ),
    ];
    // Without checksums, so that a changed byte reaches what is behind them.
    let mut gateway = gateway(false);
    gateway.checksums = ChecksumCapabilities::ignored();
    for frame in frames {
        for length in 0..frame.len() {
            gateway.answer(&frame[..length]);
        }
        for at in 0..frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = frame.clone();
                changed[at] = value;
                gateway.answer(&changed);
            }
        }
    }
}
