//! Devices and back ends: what options make of them, and the exact words when they are wrong.
#![allow(clippy::unwrap_used)]

use config::device_types::{self, DEVICE_TYPES};
use config::property::{PropertyKind, Support};
use config::vm::{
    ChardevBackend, ChardevConfig, DeviceConfig, DeviceKind, FdRef, GlobalProperty,
    MemoryBackendSource, NetdevBackend, NetdevConfig, ObjectConfig, ObjectKind, Shorthand,
    SocketAddress, SteeredInterface, SteeringConfig, TapConfig, TapScript, TapSource, VfioSource,
    VirtioNetConfig,
};
use config::{Options, Source, Value};
use proptest::prelude::*;

fn device(text: &str) -> Result<DeviceConfig, String> {
    let options = Options::parse(text, Some("driver")).map_err(|e| e.to_string())?;
    DeviceConfig::from_options(options, Source::CommandLine).map_err(|e| e.to_string())
}

fn by_monitor(json: &str) -> Result<DeviceConfig, String> {
    let options = Options::parse_json(json).map_err(|e| e.to_string())?;
    DeviceConfig::from_options(options, Source::Monitor).map_err(|e| e.to_string())
}

fn net(device: &DeviceConfig) -> &VirtioNetConfig {
    match &device.kind {
        DeviceKind::VirtioNet(net) => net,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pair_of_the_seed_document() {
    let standby = device(
        "virtio-net-pci,netdev=hostnet1,id=net1,mac=52:54:00:6f:55:cc,bus=root2,failover=on",
    )
    .unwrap();
    assert_eq!(standby.id.as_deref(), Some("net1"));
    assert_eq!(standby.bus.as_deref(), Some("root2"));
    assert!(net(&standby).failover && net(&standby).status && net(&standby).ctrl_vq);
    assert_eq!(
        net(&standby).mac,
        Some([0x52, 0x54, 0x00, 0x6f, 0x55, 0xcc])
    );
    assert_eq!(net(&standby).netdev.as_deref(), Some("hostnet1"));
    assert_eq!(
        (net(&standby).rx_queue_size, net(&standby).speed_mbps),
        (256, None)
    );

    let primary =
        device("vfio-pci,host=5e:00.2,id=hostdev0,bus=root1,failover_pair_id=net1").unwrap();
    assert_eq!(primary.failover_pair_id.as_deref(), Some("net1"));
    match primary.kind {
        DeviceKind::VfioPci(vfio) => assert_eq!(
            vfio.source,
            VfioSource::Host("0000:5e:00.2".parse().unwrap())
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_function_is_had_by_its_group_or_by_an_iommufd() {
    let vfio = |options: Options, source: Source| {
        let device = DeviceConfig::from_options(options, source).unwrap();
        match device.kind {
            DeviceKind::VfioPci(vfio) => (vfio.source, vfio.iommufd, vfio.fd),
            other => panic!("{other:?}"),
        }
    };
    let line = |text: &str| Options::parse(text, Some("driver")).unwrap();
    let host = VfioSource::Host("0000:5e:00.2".parse().unwrap());
    let by_group = line("vfio-pci,host=5e:00.2");
    assert_eq!(
        vfio(by_group, Source::CommandLine),
        (host.clone(), None, None)
    );
    let opened = line("vfio-pci,host=5e:00.2,iommufd=iommufd0");
    let object = Some("iommufd0".to_owned());
    assert_eq!(
        vfio(opened, Source::CommandLine),
        (host.clone(), object.clone(), None)
    );
    // A descriptor says which function it is.
    let given = line("vfio-pci,iommufd=iommufd0,fd=24");
    assert_eq!(
        vfio(given, Source::CommandLine),
        (VfioSource::Fd, object.clone(), Some(FdRef::Number(24)))
    );
    // As libvirt writes it: both, and a descriptor's number as text; and by a name, as a monitor's client may.
    for (fd, wanted) in [
        ("24", FdRef::Number(24)),
        ("vf0", FdRef::Name("vf0".to_owned())),
    ] {
        let json = format!(
            r#"{{"driver":"vfio-pci","host":"0000:5e:00.2","iommufd":"iommufd0","fd":"{fd}"}}"#
        );
        assert_eq!(
            vfio(line(&json), Source::Monitor),
            (host.clone(), object.clone(), Some(wanted))
        );
    }
}

#[test]
fn how_a_pair_is_steered_is_chosen_at_its_standby() {
    let steering = |text: &str| device(text).map(|d| net(&d).steering.clone());
    let standby = "virtio-net-pci,id=net1,failover=on";
    assert_eq!(steering(standby), Ok(SteeringConfig::default()));
    let chosen = "failover-steer=auto,failover-pf=eth0,failover-vf=3,failover-vf-vlan=42,failover-standby-port=off,failover-primary-port=bond0.7,failover-hook=/usr/local/sbin/steer,failover-hook-timeout=100";
    let named = |name: &str| SteeredInterface::Named(name.into());
    assert_eq!(
        steering(&format!("{standby},{chosen}")),
        Ok(SteeringConfig {
            steer: true,
            pf: named("eth0"),
            vf: Some(3),
            vf_vlan: Some(42),
            standby_port: SteeredInterface::Off,
            primary_port: named("bond0.7"),
            hook: Some("/usr/local/sbin/steer".into()),
            hook_timeout_ms: 100,
        })
    );
    assert!(
        !steering(&format!("{standby},failover-steer=off"))
            .unwrap()
            .steer
    );
    for wrong in [
        "failover-steer=on",
        "failover-pf=",
        "failover-pf=../eth0",
        "failover-pf=a-name-of-16-bytes",
        "failover-primary-port=a b",
        "failover-vf=65536",
        "failover-vf-vlan=4095",
        "failover-hook=",
        "failover-hook-timeout=0",
    ] {
        let (name, _) = wrong.split_once('=').unwrap();
        let error = steering(&format!("{standby},{wrong}")).unwrap_err();
        assert!(error.contains(name), "{error}");
        assert!(!error.contains('\n'));
    }
    assert_eq!(
        steering("virtio-net-pci,id=net1,failover-vf=0"),
        Err("the properties failover-... are for the standby of a pair: add failover=on".into())
    );
}

#[test]
fn json_makes_the_same_device() {
    let text = device(
        "virtio-net-pci,failover=on,netdev=n,id=i,mac=52:54:00:00:00:01,bus=pci.1,addr=0x0,mq=on,vectors=6",
    );
    let json = device(
        r#"{"driver":"virtio-net-pci","failover":true,"netdev":"n","id":"i","mac":"52:54:00:00:00:01","bus":"pci.1","addr":"0x0","mq":true,"vectors":6}"#,
    );
    let (mut text, mut json) = (text.unwrap(), json.unwrap());
    text.text.clear();
    json.text.clear();
    assert_eq!(text, json);
}

#[test]
fn exact_messages_of_the_command_line() {
    for (text, message) in [
        ("id=x", "Parameter 'driver' is missing"),
        ("x", "'x' is not a valid device model name"),
        (
            "virtio-net-pco",
            "'virtio-net-pco' is not a valid device model name (did you mean 'virtio-net-pci'?)",
        ),
        (
            "virtio-net-pci,failover=maybe",
            "Parameter 'failover' expects 'on' or 'off'",
        ),
        (
            "virtio-net-pci,foo=1",
            "Property 'virtio-net-pci.foo' not found",
        ),
        (
            "virtio-net-pci,failver=on",
            "Property 'virtio-net-pci.failver' not found (did you mean 'failover'?)",
        ),
        (
            "virtio-net,foo=1",
            "Property 'virtio-net-pci.foo' not found",
        ),
        (
            "vfio-pci,host=1:2.3,failover_pair_id=a",
            "Device with failover_pair_id needs to have id",
        ),
        (
            "vfio-pci,host=1:2.3,failover_pair_id=a,id=b,multifunction=on",
            "failover: primary device must be in its own PCI slot",
        ),
        (
            "vfio-pci,host=1:2.3,failover_pair_id=a,id=b,addr=0.1",
            "failover: primary device must be in its own PCI slot",
        ),
        (
            "virtio-rng-pci,failover_pair_id=a,id=b",
            "failover primary device is not an Ethernet device",
        ),
        (
            "vfio-pci,host=1:2.3,failover_pair_id=a,id=a",
            "Device 'a' cannot be its own standby: failover_pair_id= names the virtio-net device with failover=on",
        ),
        (
            "virtio-net-pci,failover=on,failover_pair_id=a,id=b",
            "Device 'b' cannot be standby (failover=on) and primary (failover_pair_id=a) at once",
        ),
        (
            "vfio-pci,id=a",
            "No provided host device: use -device vfio-pci,host=DDDD:BB:DD.F or sysfsdev=PATH",
        ),
        (
            "vfio-pci,host=1:2.3,fd=9",
            "Use FD passing only with iommufd backend: give iommufd=, the id of an -object iommufd",
        ),
        (
            "vfio-pci,iommufd=i,fd=vf",
            "Parameter 'fd' expects the number of an inherited file descriptor, not 'vf'",
        ),
        (
            "vfio-pci,iommufd=i",
            "No provided host device: use -device vfio-pci,host=DDDD:BB:DD.F or sysfsdev=PATH",
        ),
        (
            "vfio-pci,host=1:2.3,sysfsdev=/x",
            "give either host= or sysfsdev=, not both",
        ),
        (
            "vfio-pci,host=zz",
            "Property 'vfio-pci.host' doesn't take value 'zz': expected a host device such as 0000:5e:00.2",
        ),
        (
            "virtio-net-pci,mac=1",
            "Property 'virtio-net-device.mac' doesn't take value '1': expected a MAC address such as 52:54:00:12:34:56",
        ),
        (
            "virtio-net-pci,mac=01:00:5e:00:00:01",
            "Property 'virtio-net-device.mac' doesn't take value '01:00:5e:00:00:01': a NIC's address cannot be a multicast one",
        ),
        (
            "virtio-net-pci,rx_queue_size=300",
            "Invalid rx_queue_size (= 300), must be a power of 2 between 256 and 1024.",
        ),
        (
            "virtio-net-pci,vectors=70000",
            "Parameter 'vectors' expects a number from 0 to 65535",
        ),
        (
            "virtio-net-pci,packed=on",
            "Property 'virtio-net-pci.packed' doesn't take value 'on': packed virtqueues are not supported",
        ),
        (
            "virtio-net-pci,id=1",
            "Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a letter), not '1'",
        ),
        ("virtio-blk-pci", "drive property not set"),
        (
            "isa-serial",
            "Can't create serial device, empty char device",
        ),
        (
            "isa-serial,chardev=c,index=4",
            "Max. supported number of ISA serial ports is 4.",
        ),
    ] {
        assert_eq!(device(text).unwrap_err(), message, "{text}");
    }
}

#[test]
fn exact_messages_of_the_monitor() {
    for (json, message) in [
        (r#"{"id":"x"}"#, "Parameter 'driver' is missing"),
        (
            r#"{"driver":"virtio-net-pco"}"#,
            "'virtio-net-pco' is not a valid device model name",
        ),
        (
            r#"{"driver":"virtio-net-pci","failover":"maybe"}"#,
            "Invalid parameter type for 'failover', expected: boolean",
        ),
        (
            r#"{"driver":"virtio-net-pci","failover":1}"#,
            "Invalid parameter type for 'failover', expected: boolean",
        ),
        (
            r#"{"driver":"virtio-net-pci","failver":true}"#,
            "Property 'virtio-net-pci.failver' not found",
        ),
        (
            r#"{"driver":"virtio-net-pci","vectors":true}"#,
            "Invalid parameter type for 'vectors', expected: integer",
        ),
        (
            r#"{"driver":"virtio-net-pci","netdev":true}"#,
            "Invalid parameter type for 'netdev', expected: string",
        ),
        (
            r#"{"driver":7}"#,
            "Invalid parameter type for 'driver', expected: string",
        ),
        (
            r#"{"driver":"isa-serial","chardev":"c"}"#,
            "Device 'isa-serial' does not support hotplugging",
        ),
    ] {
        assert_eq!(by_monitor(json).unwrap_err(), message, "{json}");
    }
    // QEMU before 9 took these strings, and its clients may send them yet.
    let device = by_monitor(r#"{"driver":"virtio-net-pci","failover":"on","id":"a"}"#).unwrap();
    assert!(net(&device).failover);
}

#[test]
fn a_global_changes_the_default_and_gives_way_to_the_option() {
    let globals = [GlobalProperty {
        driver: "virtio-net-pci".to_owned(),
        property: "mrg_rxbuf".to_owned(),
        value: "off".to_owned(),
    }];
    let make = |text: &str| {
        DeviceConfig::with_globals(
            Options::parse(text, Some("driver")).unwrap(),
            Source::CommandLine,
            &globals,
        )
    };
    assert!(!net(&make("virtio-net-pci").unwrap()).mrg_rxbuf);
    assert!(net(&make("virtio-net-pci,mrg_rxbuf=on").unwrap()).mrg_rxbuf);
    assert!(net(&make("virtio-net-pci-non-transitional").unwrap()).mrg_rxbuf);
}

/// A value of the right type for a property, for tables that try all.
fn example(kind: PropertyKind) -> &'static str {
    match kind {
        PropertyKind::Bool | PropertyKind::OnOffAuto => "off",
        PropertyKind::U8
        | PropertyKind::U16
        | PropertyKind::U32
        | PropertyKind::U64
        | PropertyKind::I32
        | PropertyKind::Fd => "1",
        PropertyKind::Size => "4096",
        PropertyKind::Choice(words) => words.first().unwrap(),
        PropertyKind::Mac => "52:54:00:00:00:01",
        PropertyKind::PciAddr => "1",
        PropertyKind::HostPciAddr => "1:2.3",
        _ => "x1",
    }
}

/// What a device of this type cannot be made without.
fn needed(name: &str) -> &'static str {
    match name {
        "vfio-pci" => ",host=1:2.3",
        "isa-serial" => ",chardev=c",
        name if name.starts_with("virtio-blk") => ",drive=d",
        _ => "",
    }
}

#[test]
fn every_declared_property_is_taken() {
    for kind in DEVICE_TYPES {
        let mut seen = std::collections::HashSet::new();
        for property in kind.properties() {
            assert!(
                seen.insert(property.name),
                "{}.{} is declared twice",
                kind.name,
                property.name
            );
            assert!(
                !property.description.is_empty() && !property.description.ends_with('.'),
                "{}",
                property.name
            );
            let value = match property.support {
                Support::Only(allowed, _) => allowed.first().unwrap(),
                _ => property.default.unwrap_or(example(property.kind)),
            };
            let needed = match property.name {
                "host" | "sysfsdev" => "",
                "fd" => ",iommufd=i",
                _ => needed(kind.name),
            };
            let pair = property.name == "failover_pair_id";
            let id = if pair { ",id=p" } else { "" };
            let standby = property.name.starts_with("failover-");
            let id = if standby { ",failover=on" } else { id };
            let result = device(&format!(
                "{}{needed}{id},{}={value}",
                kind.name, property.name
            ));
            // Only a NIC can be a primary.
            let no_nic = pair && !kind.name.starts_with("virtio-net") && kind.name != "vfio-pci";
            assert_eq!(
                result.is_err(),
                no_nic,
                "{}.{}={value}: {result:?}",
                kind.name,
                property.name
            );
        }
        assert_eq!(device_types::find(kind.name), Some(kind));
        device(&format!("{}{}", kind.name, needed(kind.name))).unwrap();
    }
}

fn tap(text: &str, source: Source) -> Result<TapConfig, String> {
    let options = Options::parse(text, Some("type")).map_err(|e| e.to_string())?;
    match NetdevConfig::from_options(options, source)
        .map_err(|e| e.to_string())?
        .backend
    {
        NetdevBackend::Tap(tap) => Ok(tap),
        other => panic!("{other:?}"),
    }
}

#[test]
fn taps() {
    let plain = tap(
        "tap,id=n,ifname=tap0,script=no,downscript=/x",
        Source::CommandLine,
    )
    .unwrap();
    assert_eq!(
        plain.source,
        TapSource::Open {
            ifname: Some("tap0".to_owned()),
            script: TapScript::No,
            downscript: TapScript::Path("/x".into()),
        }
    );
    assert!(!plain.vhost && plain.vnet_hdr && plain.queues == 1);
    let json = r#"{"type":"tap","fds":"22:23","vhost":true,"vhostfds":"24:25","id":"n"}"#;
    let multi = tap(json, Source::CommandLine).unwrap();
    assert_eq!(
        multi.source,
        TapSource::Fds(vec![FdRef::Number(22), FdRef::Number(23)])
    );
    assert_eq!(
        (multi.queues, multi.vhost, multi.vhost_fds.len()),
        (2, true, 2)
    );
    let named = tap(r#"{"type":"tap","fd":"fd-net1","id":"n"}"#, Source::Monitor).unwrap();
    assert_eq!(
        named.source,
        TapSource::Fds(vec![FdRef::Name("fd-net1".to_owned())])
    );
    for (text, message) in [
        (
            "vde,id=n",
            "netdev type 'vde' is not supported; use type 'tap'",
        ),
        ("tp,id=n", "Parameter 'type' does not accept value 'tp'"),
        ("tap", "Parameter 'id' is missing"),
        (
            "tap,id=n,ifnam=x",
            "Invalid parameter 'ifnam' (did you mean 'ifname'?)",
        ),
        (
            "tap,id=n,fd=3,ifname=x",
            "ifname=, script=, downscript= and queues= are invalid with fd= and fds=",
        ),
        (
            "tap,id=n,fd=x",
            "Parameter 'fd' expects the number of an inherited file descriptor, not 'x'",
        ),
        (
            "tap,id=n,fds=3:4,vhostfds=5",
            "The number of fds passed does not match the number of vhostfds passed",
        ),
        (
            "tap,id=n,ifname=a/b",
            "Parameter 'ifname' expects an interface name of at most 15 characters, not 'a/b'",
        ),
        (
            "tap,id=n,queues=0",
            "Parameter 'queues' expects a number from 1 to 256",
        ),
        (
            "tap,id=n,vhost=maybe",
            "Parameter 'vhost' expects 'on' or 'off'",
        ),
    ] {
        assert_eq!(
            tap(text, Source::CommandLine).unwrap_err(),
            message,
            "{text}"
        );
    }
}

fn chardev(text: &str) -> Result<ChardevConfig, String> {
    let options = Options::parse(text, Some("backend")).map_err(|e| e.to_string())?;
    ChardevConfig::from_options(options, Source::CommandLine).map_err(|e| e.to_string())
}

#[test]
fn chardevs() {
    match chardev("socket,id=c,fd=18,server=on,wait=off")
        .unwrap()
        .backend
    {
        ChardevBackend::Socket(socket) => {
            assert_eq!(socket.address, SocketAddress::Fd(FdRef::Number(18)));
            assert!(socket.server && !socket.wait);
        }
        other => panic!("{other:?}"),
    }
    match chardev("socket,id=c,host=::1,port=4444,server,nowait,nodelay")
        .unwrap()
        .backend
    {
        ChardevBackend::Socket(socket) => {
            assert!(socket.server && !socket.wait && socket.nodelay);
            assert!(matches!(
                socket.address,
                SocketAddress::Tcp { port: 4444, .. }
            ));
        }
        other => panic!("{other:?}"),
    }
    let nested = r#"{"id":"c","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"/s"}},"server":true,"wait":false}}}"#;
    match ChardevConfig::from_options(Options::parse_json(nested).unwrap(), Source::Monitor)
        .unwrap()
        .backend
    {
        ChardevBackend::Socket(socket) => {
            assert_eq!(
                socket.address,
                SocketAddress::Unix {
                    path: "/s".into(),
                    abstract_name: false,
                    tight: true
                }
            );
        }
        other => panic!("{other:?}"),
    }
    let long = format!("socket,id=c,path=/{}", "x".repeat(107));
    for (text, message) in [
        (
            "sokcet,id=c",
            "'sokcet' is not a valid char driver name (did you mean 'socket'?)",
        ),
        (
            "udp,id=c",
            "chardev backend 'udp' is not supported; there are file, null, pipe, pty, ringbuf, socket, stdio",
        ),
        (
            "socket,id=c",
            "chardev: socket: no address given; give path=, host= and port=, or fd=",
        ),
        (
            "socket,id=c,path=/x,fd=3",
            "None or one of 'path', 'fd' or 'host' option required.",
        ),
        (
            "socket,id=c,path=/x,wait=off",
            "'wait' option is incompatible with socket in client connect mode",
        ),
        (
            "socket,id=c,path=/x,server,reconnect=1",
            "'reconnect' option is incompatible with 'server' mode",
        ),
        ("file,id=c", "Parameter 'path' is missing"),
        (
            "ringbuf,id=c,size=3",
            "size of ringbuf chardev must be a power of two, at most 1G",
        ),
        ("null", "Parameter 'id' is missing"),
    ] {
        assert_eq!(chardev(text).unwrap_err(), message, "{text}");
    }
    assert!(
        chardev(&long)
            .unwrap_err()
            .contains("is too long: path must be less than 108 bytes")
    );
}

#[test]
fn short_forms_of_chardevs() {
    let own = |text: &str| match ChardevConfig::from_shorthand("s", text).unwrap() {
        Shorthand::Own {
            chardev,
            with_monitor,
        } => (chardev, with_monitor),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        ChardevConfig::from_shorthand("s", "none"),
        Ok(Shorthand::None)
    );
    assert_eq!(
        ChardevConfig::from_shorthand("s", "chardev:c0"),
        Ok(Shorthand::Existing("c0".to_owned()))
    );
    let (chardev, with_monitor) = own("mon:stdio");
    assert!(chardev.mux && with_monitor);
    assert!(matches!(
        chardev.backend,
        ChardevBackend::Stdio { signal: false }
    ));
    let (chardev, _) = own("unix:/tmp/a,,b,server=on,wait=off");
    match chardev.backend {
        ChardevBackend::Socket(socket) => {
            let path = "/tmp/a,b".into();
            assert_eq!(
                socket.address,
                SocketAddress::Unix {
                    path,
                    abstract_name: false,
                    tight: true
                }
            );
            assert!(socket.server && !socket.wait);
        }
        other => panic!("{other:?}"),
    }
    match own("tcp:[::1]:4444,server").0.backend {
        ChardevBackend::Socket(socket) => {
            assert!(
                matches!(socket.address, SocketAddress::Tcp { host, port: 4444, .. } if host == "::1")
            );
            assert!(socket.server && socket.wait);
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(own("file:/tmp/a,b").0.backend, ChardevBackend::File { path, .. } if path.as_os_str() == "/tmp/a,b")
    );
    for bad in [
        "",
        "bogus",
        "unix",
        "tcp:4444",
        "tcp:a:b",
        "tcp:[::1:4",
        "unix:",
        "file",
        "stdio:x",
        "mon:mon:stdio",
    ] {
        assert!(ChardevConfig::from_shorthand("s", bad).is_err(), "{bad}");
    }
}

fn object(text: &str) -> Result<ObjectConfig, String> {
    let options = Options::parse(text, Some("qom-type")).map_err(|e| e.to_string())?;
    ObjectConfig::from_options(options, Source::CommandLine).map_err(|e| e.to_string())
}

#[test]
fn objects() {
    let huge = object(
        "memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=2M,prealloc=on,host-nodes=0-1,policy=bind",
    );
    match huge.unwrap().kind {
        ObjectKind::Memory(memory) => {
            assert_eq!(
                (memory.size_bytes, memory.hugetlb_size_bytes),
                (1 << 30, Some(2 << 20))
            );
            assert!(memory.share && memory.prealloc && memory.hugetlb);
            assert_eq!(memory.host_nodes, [0, 1]);
        }
        other => panic!("{other:?}"),
    }
    match object(r#"{"qom-type":"memory-backend-file","id":"m","size":268435456,"mem-path":"/x","share":true}"#).unwrap().kind {
        ObjectKind::Memory(memory) => {
            assert!(memory.share);
            assert!(matches!(memory.source, MemoryBackendSource::File { path, .. } if path.as_os_str() == "/x"));
        }
        other => panic!("{other:?}"),
    }
    let secret = r#"{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/x"}"#;
    assert_eq!(object(secret).unwrap().kind, ObjectKind::Secret);
    let iommufd = object("iommufd,id=iommufd0").unwrap();
    assert_eq!(iommufd.kind, ObjectKind::IommuFd { fd: None });
    assert_eq!(
        object("iommufd,id=iommufd0,fd=23").unwrap().kind,
        ObjectKind::IommuFd {
            fd: Some(FdRef::Number(23))
        }
    );
    assert_eq!(
        ObjectConfig::check_iommufd("iommufd0", Some(&iommufd)),
        Ok(())
    );
    let wrong = |found: Option<&ObjectConfig>| {
        let error = ObjectConfig::check_iommufd("i", found).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        wrong(None),
        "Device 'i' not found: define it by -object iommufd,id=i"
    );
    let other = object("iothread,id=i").unwrap();
    assert_eq!(
        wrong(Some(&other)),
        "Invalid parameter type for 'iommufd', expected: iommufd"
    );
    for (text, message) in [
        (
            "iommufd,id=i,fd=x",
            "Parameter 'fd' expects the number of an inherited file descriptor, not 'x'",
        ),
        ("iommufd,id=i,path=/x", "Invalid parameter 'path'"),
        (
            "memory-backend-rma,id=m",
            "Parameter 'qom-type' does not accept value 'memory-backend-rma' (did you mean 'memory-backend-ram'?)",
        ),
        (
            "memory-backend-ram,id=m",
            "can't create backend with size 0: give size=, such as size=512M",
        ),
        (
            "memory-backend-ram,id=m,size=1000",
            "Parameter 'size' expects a multiple of 4k",
        ),
        (
            "memory-backend-ram,id=m,size=zz",
            "Parameter 'size' expects a size below 2^64, such as 512M or 4G",
        ),
        (
            "memory-backend-ram,id=m,size=1M,hugetlb=on",
            "Invalid parameter 'hugetlb'",
        ),
        (
            "memory-backend-memfd,id=m,size=1M,hugetlbsize=2M",
            "hugetlbsize= needs hugetlb=on",
        ),
        (
            "memory-backend-file,id=m,size=1M",
            "Parameter 'mem-path' is missing",
        ),
    ] {
        assert_eq!(object(text).unwrap_err(), message, "{text}");
    }
}

/// Any option whose key may be a real one and whose value may be anything.
fn some_options() -> impl Strategy<Value = Options> {
    let keys: Vec<&'static str> = DEVICE_TYPES
        .iter()
        .flat_map(|d| d.properties().map(|p| p.name))
        .chain([
            "driver",
            "id",
            "bus",
            "type",
            "backend",
            "qom-type",
            "fd",
            "fds",
            "size",
            "path",
            "port",
            "addr.0",
            "hugetlbsize",
        ])
        .collect();
    let words = DEVICE_TYPES.iter().map(|d| d.name).chain([
        "tap",
        "socket",
        "memory-backend-memfd",
        "on",
        "1",
        "1G",
        "a",
    ]);
    let words: Vec<String> = words.map(str::to_owned).collect();
    let value = prop_oneof![
        proptest::sample::select(words).prop_map(Value::Text),
        any::<String>().prop_map(Value::Text),
        any::<bool>().prop_map(|b| Value::Json(b.into())),
        any::<i64>().prop_map(|n| Value::Json(n.into())),
        any::<f64>().prop_map(|n| Value::Json(n.into())),
    ];
    proptest::collection::vec((proptest::sample::select(keys), value), 0..8).prop_map(|entries| {
        let mut options = Options::new();
        for (key, value) in entries {
            options.set(key, value);
        }
        options
    })
}

proptest! {
    #[test]
    fn no_options_make_a_reader_panic(options in some_options(), kind in 0..DEVICE_TYPES.len()) {
        for source in [Source::CommandLine, Source::Monitor] {
            let mut with_driver = options.clone();
            with_driver.set("driver", Value::from(DEVICE_TYPES[kind].name));
            for result in [
                DeviceConfig::from_options(with_driver, source).map(drop),
                DeviceConfig::from_options(options.clone(), source).map(drop),
                NetdevConfig::from_options(options.clone(), source).map(drop),
                ChardevConfig::from_options(options.clone(), source).map(drop),
                ObjectConfig::from_options(options.clone(), source).map(drop),
            ] {
                if let Err(error) = result {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn no_short_form_makes_it_panic(text in "(mon:)?(unix|tcp|file|pty|stdio|chardev|telnet)?:?.{0,40}") {
        let _ = ChardevConfig::from_shorthand("s", &text);
    }
}
