//! Taps of a real kernel, in a network namespace of each test's own.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

mod netns;

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use net::Offload;
use net::announce::rarp;
use net::tap::{Script, Tap, TapConfig, TapError, TapSource, VNET_HEADER_BYTES, mtu_of};
use netns::{eventually, in_namespace, program, sh};
use virtio::{IoBuffer, NetBackend, Offloads};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];

fn plain(name: &str) -> TapConfig {
    TapConfig {
        script: Script::No,
        downscript: Script::No,
        ..TapConfig::named(name)
    }
}

fn with_queues(name: &str, queues: u16) -> TapConfig {
    TapConfig {
        queues,
        ..plain(name)
    }
}

fn links() -> String {
    sh("ip -br link")
}

/// The next frame that begins with `start`, other traffic of the kernel passed over.
fn frame_from(fd: BorrowedFd<'_>, header: usize, start: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0u8; 2048];
    eventually("a frame", || {
        let n = rustix::io::read(fd, &mut buffer).ok()?;
        let frame = buffer.get(header..n)?;
        frame.starts_with(start).then(|| frame.to_vec())
    })
}

#[test]
fn a_tap_that_does_not_exist_is_one_clear_error_and_leaves_nothing() {
    in_namespace(|| {
        let before = links();

        let error = Tap::open(with_queues("vmtap7", 4)).unwrap_err();

        assert!(matches!(error, TapError::Missing { .. }));
        assert_eq!(
            error.to_string(),
            "ifname=vmtap7: no such interface; create it with \
             'ip tuntap add dev vmtap7 mode tap multi_queue', connect it and set it up"
        );
        assert_eq!(links(), before);
        for bad in ["", "a-name-far-too-long", "a/b", "a b"] {
            assert!(
                matches!(Tap::open(plain(bad)).unwrap_err(), TapError::BadName(_)),
                "{bad}"
            );
        }
    });
}

#[test]
fn frames_pass_both_ways_with_and_without_a_header() {
    in_namespace(|| {
        sh("ip link add br0 type bridge");
        sh("ip link set br0 up");
        for name in ["ta", "tb"] {
            sh(&format!("ip tuntap add dev {name} mode tap"));
            sh(&format!("ip link set {name} master br0 up"));
        }
        let with = Tap::open(plain("ta")).unwrap();
        let without = Tap::open(TapConfig {
            vnet_header: false,
            ..plain("tb")
        })
        .unwrap();
        assert_eq!((with.vnet_header(), without.vnet_header()), (true, false));
        assert_eq!((with.is_up(), with.mtu()), (Some(true), Some(1500)));
        eventually("the bridge forwards", || {
            let ports = sh("bridge link");
            (ports.matches("state forwarding").count() == 2).then_some(())
        });

        let frame = rarp(MAC, None);
        with.send_frame(&frame).unwrap();
        assert_eq!(frame_from(without.queue(0).unwrap(), 0, &frame), frame);
        let other = rarp([2, 0, 0, 0, 0, 9], None);
        without.send_frame(&other).unwrap();
        assert_eq!(
            frame_from(with.queue(0).unwrap(), VNET_HEADER_BYTES as usize, &other),
            other
        );
        // The announcement did its work: the bridge knows where the address is.
        assert!(sh("bridge fdb show br br0").contains("52:54:00:6f:55:cc dev ta master br0"));
        assert_eq!(with.describe(), "ifname=ta,vnet_hdr=on");
        let told = sh("ip -o link show ta");
        assert_eq!(
            told.split(':').next(),
            Some(with.index().unwrap().to_string().as_str())
        );
    });
}

/// As the virtio-net device uses it: frames scattered over spans of memory, nothing blocks.
#[test]
fn it_serves_the_virtio_device() {
    in_namespace(|| {
        sh("ip link add br0 type bridge");
        sh("ip link set br0 up");
        let mut taps = ["ta", "tb"].map(|name| {
            sh(&format!("ip tuntap add dev {name} mode tap"));
            sh(&format!("ip link set {name} master br0 up mtu 1400"));
            Tap::open(plain(name)).unwrap()
        });
        eventually("the bridge forwards", || {
            (sh("bridge link").matches("state forwarding").count() == 2).then_some(())
        });
        let [from, to] = taps.each_mut().map(|t| &*t as &dyn NetBackend);
        assert_eq!(
            (from.mtu(), from.queue_pairs(), from.vnet_header()),
            (Some(1400), 1, true)
        );
        assert!(
            from.offloads()
                .contains(Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6)
        );
        to.set_offloads(Offloads::CSUM | Offloads::TSO4).unwrap();
        to.set_pair_enabled(0, true).unwrap();

        let frame = rarp(MAC, None);
        let mut header = [0u8; VNET_HEADER_BYTES as usize];
        let (mut start, mut end) = (frame[..20].to_vec(), frame[20..].to_vec());
        let sent = from
            .send(
                0,
                &[
                    IoBuffer::of_bytes(&mut header),
                    IoBuffer::of_bytes(&mut start),
                    IoBuffer::of_bytes(&mut end),
                ],
            )
            .unwrap();
        assert_eq!(sent, Some(72));

        let got = eventually("the frame", || {
            let (mut header, mut body) = ([0xffu8; 12], [0u8; 1500]);
            let spans = [
                IoBuffer::of_bytes(&mut header),
                IoBuffer::of_bytes(&mut body),
            ];
            let n = to.recv(0, &spans).unwrap()?;
            // One buffer, in the header that the mergeable form has.
            assert_eq!(header[10..], [0, 0]);
            body[..n - 12]
                .starts_with(&frame[..14])
                .then(|| body[..n - 12].to_vec())
        });
        assert_eq!(got, frame);
        assert!(to.poll_fd(0).is_some() && to.poll_fd(1).is_none());
        assert!(to.recv(1, &[]).is_err());

        sh("ip link set ta down");
        let mut again = [vec![0u8; 12], frame].concat();
        assert!(from.send(0, &[IoBuffer::of_bytes(&mut again)]).is_err());
    });
}

#[test]
fn offloads_are_probed_and_settable() {
    in_namespace(|| {
        sh("ip tuntap add dev ta mode tap");
        let tap = Tap::open(plain("ta")).unwrap();

        assert!(
            tap.supported_offloads()
                .contains(Offload::CSUM | Offload::TSO4 | Offload::TSO6)
        );
        tap.set_offloads(Offload::all()).unwrap();
        tap.set_offloads(Offload::TSO4).unwrap(); // without checksums: nothing
        tap.set_offloads(Offload::empty()).unwrap();

        sh("ip tuntap add dev tb mode tap");
        let bare = Tap::open(TapConfig {
            vnet_header: false,
            ..plain("tb")
        })
        .unwrap();
        assert_eq!(bare.supported_offloads(), Offload::empty());
    });
}

#[test]
fn queues_must_agree_with_the_tap() {
    in_namespace(|| {
        sh("ip tuntap add dev many mode tap multi_queue");
        sh("ip tuntap add dev one mode tap");

        let tap = Tap::open(with_queues("many", 4)).unwrap();
        assert_eq!(tap.queue_pairs(), 4);
        assert!(tap.queue(3).is_some() && tap.queue(4).is_none());
        for _ in 0..2 {
            tap.set_pair_enabled(3, false).unwrap();
        }
        tap.set_pair_enabled(3, true).unwrap();
        assert!(tap.set_pair_enabled(4, true).is_err());
        assert_eq!(tap.describe(), "ifname=many,queues=4,vnet_hdr=on");
        drop(tap);

        // One queue of a tap that was made for several is fine; the reverse is not.
        assert_eq!(Tap::open(plain("many")).unwrap().queue_pairs(), 1);
        let error = Tap::open(with_queues("one", 2)).unwrap_err();
        assert!(matches!(error, TapError::Mismatch { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("'ip tuntap add dev one mode tap multi_queue'")
        );

        let held = Tap::open(plain("one")).unwrap();
        assert!(matches!(
            Tap::open(plain("one")).unwrap_err(),
            TapError::Busy(_)
        ));
        drop(held);
        // What another test starts in this moment has it for a moment more.
        eventually("it is free", || Tap::open(plain("one")).ok());
        assert!(matches!(
            Tap::open(plain("lo")).unwrap_err(),
            TapError::Mismatch { .. }
        ));
        assert!(matches!(
            Tap::open(with_queues("one", 0)).unwrap_err(),
            TapError::BadQueues(0)
        ));
    });
}

#[test]
fn inherited_descriptors_tell_what_they_are() {
    in_namespace(|| {
        for name in ["many multi_queue", "other multi_queue"] {
            let (name, mode) = name.split_once(' ').unwrap();
            sh(&format!("ip tuntap add dev {name} mode tap {mode}"));
        }
        let opened = Tap::open(with_queues("many", 2)).unwrap();
        let other = Tap::open(plain("other")).unwrap();
        let dup = |tap: &Tap, n| tap.queue(n).unwrap().try_clone_to_owned().unwrap();
        let from = |fds| {
            Tap::open(TapConfig {
                source: TapSource::Fds(fds),
                ..plain("-")
            })
        };

        let tap = from(vec![dup(&opened, 0), dup(&opened, 1)]).unwrap();
        assert_eq!(
            (tap.name(), tap.queue_pairs(), tap.vnet_header()),
            ("many", 2, true)
        );

        let mixed = from(vec![dup(&opened, 0), dup(&other, 0)]).unwrap_err();
        assert!(matches!(mixed, TapError::MixedFds(..)), "{mixed}");
        let null = fs::File::open("/dev/null").unwrap();
        let wrong = from(vec![null.as_fd().try_clone_to_owned().unwrap()]).unwrap_err();
        assert!(matches!(wrong, TapError::NotATap { .. }), "{wrong}");
        assert!(matches!(from(vec![]).unwrap_err(), TapError::BadQueues(0)));
    });
}

#[test]
fn scripts_run_at_both_ends_and_a_failing_one_leaves_nothing() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let line = |word| format!("echo {word} $1 >> {}", log.display());
        let up = program(
            dir.path(),
            "up",
            &format!("ip link set $1 up && {}", line("up")),
        );
        let down = program(dir.path(), "down", &line("down"));
        let config = |up: &PathBuf| TapConfig {
            script: Script::Program(up.clone()),
            downscript: Script::Program(down.clone()),
            ..plain("fresh")
        };

        // With a script to connect it, a tap may be new; it goes when we go.
        let tap = Tap::open(config(&up)).unwrap();
        assert_eq!(tap.is_up(), Some(true));
        drop(tap);
        assert_eq!(fs::read_to_string(&log).unwrap(), "up fresh\ndown fresh\n");
        let gone = || (!links().contains("fresh")).then_some(());
        // What another test starts in this moment has it for a moment more.
        eventually("it goes", gone);

        let bad = program(dir.path(), "bad", "exit 3");
        let error = Tap::open(config(&bad)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("failed: exit status: 3; use script=no"),
            "{error}"
        );
        eventually("it goes", gone);
        let absent = dir.path().join("absent");
        assert!(matches!(
            Tap::open(config(&absent)).unwrap_err(),
            TapError::Script { .. }
        ));
        assert_eq!(fs::read_to_string(&log).unwrap(), "up fresh\ndown fresh\n");

        let new = TapConfig {
            source: TapSource::New,
            ..config(&up)
        };
        assert!(Tap::open(new).unwrap().name().starts_with("tap"));
    });
}

#[test]
fn an_interfaces_mtu_is_that_of_this_namespace() {
    in_namespace(|| {
        sh("ip link add large0 mtu 9000 type veth peer name large1");
        assert_eq!(mtu_of("large0").unwrap(), 9000);
        assert!(mtu_of("nosuch0").is_err());
        assert!(mtu_of("no such interface at all").is_err());
    });
}
