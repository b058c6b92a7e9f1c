//! `-netdev` of the kinds that are not taps: what is read, and QEMU's words for what is not.

use config::syntax::{Options, Source};
use config::vm::{
    DatagramConfig, FdRef, HubPortConfig, NetAddress, NetdevBackend, NetdevConfig, SocketNetdev,
    StreamConfig,
};

fn read(text: &str) -> Result<NetdevBackend, String> {
    let options = Options::parse(text, Some("type")).map_err(|e| e.to_string())?;
    NetdevConfig::from_options(options, Source::CommandLine)
        .map(|netdev| netdev.backend)
        .map_err(|e| e.to_string())
}

fn inet(port: u16) -> NetAddress {
    NetAddress::Inet {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

#[test]
fn each_kind_is_read_from_keys_and_from_json() {
    let dgram = NetdevBackend::Datagram(DatagramConfig {
        local: inet(5001),
        remote: Some(inet(5002)),
    });
    let unix = |path: &str| NetAddress::Unix(path.into());
    let stream = |address, server, reconnect_ms| {
        NetdevBackend::Stream(StreamConfig {
            address,
            server,
            reconnect_ms,
        })
    };
    for (text, backend) in [
        (
            "hubport,id=a,hubid=3",
            NetdevBackend::HubPort(HubPortConfig { hub_id: 3 }),
        ),
        (
            "dgram,id=a,local.type=inet,local.host=127.0.0.1,local.port=5001,\
             remote.type=inet,remote.host=127.0.0.1,remote.port=5002",
            dgram.clone(),
        ),
        (
            r#"{"type":"dgram","id":"a","local":{"type":"inet","host":"127.0.0.1","port":"5001"},
                "remote":{"type":"inet","host":"127.0.0.1","port":"5002"}}"#,
            dgram,
        ),
        (
            "dgram,id=a,local.type=fd,local.str=7",
            NetdevBackend::Datagram(DatagramConfig {
                local: NetAddress::Fd(FdRef::Number(7)),
                remote: None,
            }),
        ),
        (
            "stream,id=a,server=on,addr.type=unix,addr.path=/run/x",
            stream(unix("/run/x"), true, 0),
        ),
        (
            "stream,id=a,addr.type=unix,addr.path=/run/x,reconnect=2",
            stream(unix("/run/x"), false, 2000),
        ),
        (
            "stream,id=a,addr.type=unix,addr.path=/run/x,reconnect-ms=20",
            stream(unix("/run/x"), false, 20),
        ),
        (
            "socket,id=a,udp=127.0.0.1:1,localaddr=127.0.0.1:2",
            NetdevBackend::Socket(SocketNetdev::Datagram(DatagramConfig {
                local: inet(2),
                remote: Some(inet(1)),
            })),
        ),
        (
            "socket,id=a,connect=127.0.0.1:9",
            NetdevBackend::Socket(SocketNetdev::Stream(StreamConfig {
                address: inet(9),
                server: false,
                reconnect_ms: 0,
            })),
        ),
        (
            "socket,id=a,fd=9",
            NetdevBackend::Socket(SocketNetdev::Fd(FdRef::Number(9))),
        ),
    ] {
        assert_eq!(read(text), Ok(backend), "{text}");
    }
}

#[test]
fn a_user_network_lies_where_it_is_told() {
    let addresses = |text: &str| match read(text) {
        Ok(NetdevBackend::User(user)) => [
            user.network,
            user.mask,
            user.host,
            user.dns,
            user.dhcp_start,
        ]
        .map(|address| address.to_string()),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(
        addresses("user,id=u"),
        [
            "10.0.2.0",
            "255.255.255.0",
            "10.0.2.2",
            "10.0.2.3",
            "10.0.2.15"
        ]
    );
    assert_eq!(
        addresses("user,id=u,net=192.168.7.9/24,dhcpstart=192.168.7.100,restrict=on"),
        [
            "192.168.7.0",
            "255.255.255.0",
            "192.168.7.2",
            "192.168.7.3",
            "192.168.7.100"
        ]
    );
    // The older name has no mask, and counts for less.
    assert_eq!(
        addresses("user,id=u,ip=192.168.7.0"),
        [
            "192.168.7.0",
            "255.255.255.0",
            "192.168.7.2",
            "192.168.7.3",
            "192.168.7.15"
        ]
    );
    assert_eq!(
        addresses("user,id=u,ip=192.168.7.0,net=10.0.2.0/24"),
        addresses("user,id=u")
    );
    assert_eq!(
        addresses("user,id=u,net=192.168.0.0,host=192.168.9.1"),
        [
            "192.168.0.0",
            "255.255.0.0",
            "192.168.9.1",
            "192.168.2.3",
            "192.168.2.15"
        ]
    );
}

#[test]
fn what_is_wrong_is_said_in_qemus_words() {
    for (text, message) in [
        ("hubport,id=a", "Parameter 'hubid' is missing"),
        ("dgram,id=a", "dgram requires local= parameter"),
        (
            "dgram,id=a,local.type=inet",
            "Parameter 'local.host' is missing",
        ),
        (
            "dgram,id=a,local.type=unix,local.path=/x",
            "type=inet or type=unix requires remote parameter",
        ),
        (
            "dgram,id=a,local.type=inet,local.host=::1,local.port=1,remote.type=unix,remote.path=/x",
            "remote and local types must be the same",
        ),
        (
            "dgram,id=a,local.type=bog",
            "Parameter 'type' does not accept value 'bog'",
        ),
        ("stream,id=a", "Parameter 'addr' is missing"),
        (
            "stream,id=a,addr.type=inet,addr.host=x",
            "Parameter 'addr.port' is missing",
        ),
        (
            "stream,id=a,server=on,addr.type=unix,addr.path=/x,reconnect=1",
            "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode",
        ),
        (
            "socket,id=a",
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ),
        (
            "socket,id=a,listen=:1,connect=:2",
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ),
        (
            "socket,id=a,udp=127.0.0.1:1",
            "localaddr= is mandatory with udp=",
        ),
        ("socket,id=a,listen=:x", "port number 'x' is invalid"),
        ("user", "Parameter 'id' is missing"),
        ("user,id=a,foo=1", "Invalid parameter 'foo'"),
        ("user,id=a,net=bogus", "Failed to parse netmask"),
        (
            "user,id=a,net=10.0.0.0/40",
            "Invalid netmask provided (must be in range 4-32)",
        ),
        ("user,id=a,host=300.1.1.1", "Failed to parse host"),
        (
            "user,id=a,net=10.1.0.0/24,host=10.2.0.1",
            "Host doesn't belong to network",
        ),
        ("user,id=a,dns=bog", "Failed to parse DNS"),
        (
            "user,id=a,dhcpstart=10.0.2.2",
            "DHCP must be different from host and DNS",
        ),
        (
            "user,id=a,net=10.0.0.0/31",
            "DHCP must be different from host and DNS",
        ),
        (
            "user,id=a,ipv6=maybe",
            "Parameter 'ipv6' expects 'on' or 'off'",
        ),
        (
            "user,id=a,hostfwd=tcp::2222-:22",
            "hostfwd= is not supported: this network ends in this process; use type 'tap' for a way outside",
        ),
        (
            "bogus,id=a",
            "Parameter 'type' does not accept value 'bogus'",
        ),
    ] {
        assert_eq!(read(text), Err(message.to_owned()), "{text}");
    }
}
