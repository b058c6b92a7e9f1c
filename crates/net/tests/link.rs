//! The wire of a real interface, in a network namespace of each test's own.

#![allow(clippy::unwrap_used)]

mod netns;

use net::steer::{LinkOf, LinkWatch};
use netns::{PATIENCE, in_namespace, sh};
use std::sync::mpsc::{RecvTimeoutError, channel};

#[test]
fn each_change_of_the_carrier_is_told() {
    in_namespace(|| {
        sh("ip link add wire0 type veth peer name wire1");
        sh("ip link set wire0 up");
        let shown = sh("ip -o link show wire0");
        let index = shown.split(':').next().unwrap().trim().parse().unwrap();
        let link = LinkOf {
            interface: index,
            vf: None,
        };
        let (sender, told) = channel();
        let watch = LinkWatch::start(link, move |up| {
            // The test may have ended.
            let _ = sender.send(up);
        })
        .unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok(false), "nothing at its end");
        sh("ip link set wire1 up");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
        // What happens to others is no news.
        sh("ip link add other0 type veth peer name other1");
        sh("ip link set wire1 down");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
        sh("ip link set wire1 up");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
        sh("ip link set wire0 down");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
        sh("ip link del wire0");
        assert_eq!(
            told.recv_timeout(PATIENCE),
            Ok(true),
            "nothing is known of it"
        );
        drop(watch);
        assert!(told.recv().is_err(), "it has ended");
        // Of one that was never there neither.
        let (sender, told) = channel();
        let nowhere = LinkOf {
            interface: 9999,
            vf: None,
        };
        let _watch = LinkWatch::start(nowhere, move |up| sender.send(up).unwrap()).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
        assert_eq!(
            told.recv_timeout(PATIENCE),
            Err(RecvTimeoutError::Disconnected),
            "told last"
        );
    });
}
