//! Steering a NIC with VFs, which no test machine has: a kernel that does what it is asked, or says no.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::route::{Kind, Link, VfState};
use super::*;
use crate::testing::eventually;

const MAC: Mac = [0x52, 0x54, 0, 0x6f, 0x55, 0xcc];
const FOUND: Mac = [0x02, 0, 0, 0, 0, 9];
const TAP: u32 = 1;
const PF: u32 = 2;
const BRIDGE: u32 = 3;
const NUMBER: u32 = 4;

/// What can be set on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    /// Index of the PF's interface.
    pf: u32,
    mac: Mac,
    vlan: VfVlan,
    /// Port of the bridge's entry for the guest.
    bridge: Option<u32>,
    own: BTreeSet<u32>,
    /// Answers to the next changes, `false` for no; afterwards all are made.
    answers: Vec<bool>,
}

impl Host {
    fn new(mac: Mac) -> Self {
        Self {
            pf: PF,
            mac,
            vlan: VfVlan { id: 5, qos: 3 },
            bridge: None,
            own: BTreeSet::new(),
            answers: Vec::new(),
        }
    }
}

struct Fake(Arc<Mutex<Host>>);

impl Fake {
    fn change(&self, change: impl FnOnce(&mut Host) -> io::Result<()>) -> io::Result<()> {
        let mut host = self.0.lock().unwrap();
        if host.answers.pop() == Some(false) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        change(&mut host)
    }
}

impl Kernel for Fake {
    fn links(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        let link = |index, name: &str, master, kind| Link {
            index,
            name: name.into(),
            master,
            kind,
            ..Link::default()
        };
        let pf = self.0.lock().unwrap().pf;
        Ok(BTreeMap::from([
            (TAP, link(TAP, "tap0", Some(BRIDGE), Kind::Other)),
            (pf, link(pf, "eth0", Some(BRIDGE), Kind::Other)),
            (BRIDGE, link(BRIDGE, "br0", None, Kind::Bridge)),
        ]))
    }

    fn vf(&mut self, pf: u32, vf: u32) -> io::Result<VfState> {
        let host = self.0.lock().unwrap();
        assert_eq!((pf, vf), (host.pf, NUMBER));
        let (mac, vlan) = (Some(host.mac), Some(host.vlan));
        Ok(VfState { mac, vlan })
    }

    fn set_vf_mac(&mut self, pf: u32, vf: u32, mac: Mac) -> io::Result<()> {
        self.change(|host| {
            assert_eq!((pf, vf), (host.pf, NUMBER));
            host.mac = mac;
            Ok(())
        })
    }

    fn set_vf_vlan(&mut self, pf: u32, vf: u32, vlan: VfVlan) -> io::Result<()> {
        self.change(|host| {
            assert_eq!((pf, vf), (host.pf, NUMBER));
            host.vlan = vlan;
            Ok(())
        })
    }

    fn add_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()> {
        assert_eq!(mac, MAC);
        self.change(|host| match table {
            Table::Own if !host.own.insert(port) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            Table::Own => Ok(()),
            Table::Bridge => {
                host.bridge = Some(port);
                Ok(())
            }
        })
    }

    fn delete_entry(&mut self, port: u32, mac: Mac, table: Table) -> io::Result<()> {
        assert_eq!(mac, MAC);
        self.change(|host| {
            let there = match table {
                Table::Own => host.own.remove(&port),
                Table::Bridge => host.bridge.take_if(|at| *at == port).is_some(),
            };
            there
                .then_some(())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        })
    }
}

fn steering(host: Host, wanted: Wanted) -> (Steering, Arc<Mutex<Host>>) {
    let host = Arc::new(Mutex::new(host));
    let fake = Box::new(Fake(Arc::clone(&host)));
    let wanted = Wanted {
        pf: Choice::Named("eth0".into()),
        vf: Some(NUMBER),
        ..wanted
    };
    let steering = Steering::with(fake, Path::new("/nowhere"), wanted).unwrap();
    (steering, host)
}

fn pair() -> Wanted {
    Wanted {
        vf_vlan: Some(42),
        ..Wanted::pair("tap0", None, MAC)
    }
}

fn texts(report: &Report) -> Vec<String> {
    assert!(report.is_clean(), "{report:?}");
    report
        .steps
        .iter()
        .map(|(step, _)| step.to_string())
        .collect()
}

#[test]
fn from_the_first_probe_to_the_end() {
    let (mut steering, host) = steering(Host::new(FOUND), pair());
    let text = steering.describe();
    assert_eq!(text, "bridge port tap0 of br0; VF 4 of eth0; uplink eth0");
    let held = "bridge fdb replace 52:54:00:6f:55:cc dev tap0 master dynamic sticky";
    let asked = "bridge fdb add 52:54:00:6f:55:cc dev eth0 self";
    let freed = "ip link set dev eth0 vf 4 mac 00:00:00:00:00:00";
    // Other VFs may be in use: a NIC's switch then knows whom it hands the guest's frames to.
    assert_eq!(
        texts(&steering.to_standby("accepted")),
        [held, asked, freed]
    );
    assert_eq!(
        texts(&steering.arm_primary()),
        [
            held,
            // The VLAN first: from the address on frames come.
            "ip link set dev eth0 vf 4 vlan 42",
            "ip link set dev eth0 vf 4 mac 52:54:00:6f:55:cc",
        ]
    );
    let unasked = "bridge fdb del 52:54:00:6f:55:cc dev eth0 self";
    let uplink = "bridge fdb replace 52:54:00:6f:55:cc dev eth0 master dynamic sticky";
    assert_eq!(texts(&steering.to_primary("it is in")), [unasked, uplink]);
    assert_eq!(texts(&steering.to_both("asked")), [held, asked]);
    assert_eq!(texts(&steering.to_standby("out")), [held, freed]);
    assert_eq!(
        texts(&steering.restore("the end")),
        [
            unasked,
            "bridge fdb del 52:54:00:6f:55:cc dev tap0 master",
            "ip link set dev eth0 vf 4 mac 02:00:00:00:00:09",
            "ip link set dev eth0 vf 4 vlan 5 qos 3",
        ]
    );
    assert_eq!(*host.lock().unwrap(), Host::new(FOUND));
    let text = steering.describe();
    assert!(
        text.ends_with("frames to none; last end (the end): 4 steps done"),
        "{text}"
    );
}

#[test]
fn a_nic_that_refuses_is_made_up_for_and_shown() {
    let mut refusing = Host::new(FOUND);
    // From the last one on: the tap's entry, the PF's, the VF's address.
    refusing.answers = vec![false, true, true];
    let (mut steering, host) = steering(refusing, pair());
    let troubles = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&troubles);
    steering.on_trouble(move |trouble| heard.lock().unwrap().push(trouble));
    let report = steering.to_standby("out");
    assert_eq!(report.failures().count(), 1);
    // The host has asked the NIC for the guest's frames, whatever the VF has.
    assert!(host.lock().unwrap().own.contains(&PF));
    let troubles = troubles.lock().unwrap();
    let [trouble] = troubles.as_slice() else {
        panic!("{troubles:?}");
    };
    assert_eq!(trouble.moment, Moment::ToStandby);
    assert_eq!(
        trouble.step,
        "ip link set dev eth0 vf 4 mac 00:00:00:00:00:00"
    );
    let text = steering.describe();
    assert!(
        text.contains("last to-standby (out): 'ip link set dev eth0 vf 4 mac 00:00:00:00:00:00' failed: Operation not supported"),
        "{text}"
    );
}

#[test]
fn what_goes_on_failing_is_told_once_and_again_after_it_was_done() {
    let (mut steering, host) = steering(Host::new(FOUND), pair());
    let told = Arc::new(Mutex::new(0));
    let count = Arc::clone(&told);
    steering.on_trouble(move |_| *count.lock().unwrap() += 1);
    let mut out = |refused: bool| {
        // From the last one on: the tap's entry, the PF's the first time, the VF's address.
        let steps = if *told.lock().unwrap() == 0 { 3 } else { 2 };
        let mut answers = vec![true; steps];
        answers[0] = !refused;
        host.lock().unwrap().answers = answers;
        steering.to_standby("out");
        host.lock().unwrap().answers.clear();
        *told.lock().unwrap()
    };
    assert_eq!([out(true), out(true), out(true)], [1, 1, 1]);
    assert_eq!([out(false), out(true)], [1, 2]);
}

#[test]
fn a_deleted_primary_gives_its_vf_back_but_not_the_guests_own_address() {
    for found in [FOUND, MAC] {
        let (mut steering, host) = steering(Host::new(found), pair());
        steering.arm_primary();
        steering.to_primary("in");
        steering.to_standby("out");
        steering.primary_deleted();
        let host = host.lock().unwrap();
        assert_eq!(host.mac, if found == MAC { NO_MAC } else { found });
        assert_eq!(host.vlan, Host::new(found).vlan);
        assert_eq!(host.bridge, Some(TAP), "the guest lives on its standby");
        assert!(host.own.is_empty());
        drop(host);
        let text = steering.describe();
        assert!(text.contains("no VF (the primary was deleted)"), "{text}");
        assert!(steering.to_primary("nothing there").is_clean());
    }
}

#[test]
fn a_pf_whose_driver_was_loaded_anew_is_asked_anew() {
    const RELOADED: u32 = 9;
    let (mut steering, host) = steering(Host::new(FOUND), pair());
    steering.to_standby("accepted");
    {
        // The interface is gone, and what was asked of it.
        let mut host = host.lock().unwrap();
        host.pf = RELOADED;
        host.own.clear();
    }
    let primary = steering.wanted().primary.clone();
    steering.look_for(primary, None).unwrap();
    assert!(steering.arm_primary().is_clean());
    assert_eq!(host.lock().unwrap().own, BTreeSet::from([RELOADED]));
    assert!(steering.to_primary("in").is_clean());
    assert!(host.lock().unwrap().own.is_empty());
}

#[test]
fn an_address_that_a_driver_set_anew_on_its_way_out_is_taken_off_again() {
    let (mut steering, host) = steering(Host::new(FOUND), pair());
    steering.arm_primary();
    steering.to_primary("in");
    assert!(steering.stay_at_standby("its driver is out").is_some());
    // The eject comes, and all is as it was left.
    assert!(steering.stay_at_standby("ejected").is_none());
    host.lock().unwrap().mac = MAC;
    assert!(steering.stay_at_standby("ejected").is_some());
    assert_eq!(host.lock().unwrap().mac, NO_MAC);
    // What failed is done again in any case.
    steering.to_primary("in");
    host.lock().unwrap().answers = vec![false];
    steering.to_standby("out");
    assert!(steering.stay_at_standby("ejected").is_some());
}

/// Longer than any step takes here.
const LONG: Duration = Duration::from_secs(60);
/// A kernel that is stuck is not waited for at all.
const SHORT: Duration = Duration::from_millis(1);

type Shared<T> = Arc<Mutex<T>>;

/// Steering on its thread, the host, and what is told of trouble.
fn on_thread() -> (SteeringThread, Shared<Host>, Shared<Vec<Trouble>>) {
    let host = Arc::new(Mutex::new(Host::new(FOUND)));
    let fake = Box::new(Fake(Arc::clone(&host)));
    let wanted = Wanted {
        pf: Choice::Named("eth0".into()),
        vf: Some(NUMBER),
        ..pair()
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let listener = move |trouble| heard.lock().unwrap().push(trouble);
    let discover = |wanted| Steering::with(fake, Path::new("/nowhere"), wanted);
    let thread = SteeringThread::start_with(wanted, LONG, listener, discover);
    (thread.unwrap(), host, told)
}

#[test]
fn what_is_ordered_is_done_when_the_order_returns() {
    let (thread, host, told) = on_thread();
    assert_eq!(thread.view().vf.unwrap().number, NUMBER);
    assert!(thread.order(Order::ArmPrimary));
    assert_eq!(host.lock().unwrap().mac, MAC);
    assert!(!thread.view().at_standby);
    assert!(thread.order(Order::ToStandby("out")));
    assert_eq!(host.lock().unwrap().mac, NO_MAC);
    assert!(thread.view().at_standby);
    assert!(thread.view().description.contains("frames to standby"));
    thread.order(Order::Restore("the end"));
    thread.finish();
    assert_eq!(*host.lock().unwrap(), Host::new(FOUND));
    assert!(told.lock().unwrap().is_empty());
}

#[test]
fn a_kernel_that_does_not_answer_holds_up_nobody_and_ends_where_it_was_ordered() {
    let (mut thread, host, told) = on_thread();
    thread.set_patience(SHORT);
    let stuck = host.lock().unwrap();
    // A guest that opens and closes its primary for as long as it likes.
    for _ in 0..1000 {
        assert!(!thread.order(Order::ArmPrimary));
        assert!(!thread.order(Order::ToPrimary("in")));
        assert!(!thread.order(Order::ToBoth("asked")));
        assert!(!thread.order(Order::ToStandby("out")));
    }
    assert!(thread.pending() <= 2, "{} wait", thread.pending());
    // What is ordered is known, done or not: it need not be ordered again.
    let primary = Some("primary1".to_owned());
    thread.order(Order::LookFor {
        primary: primary.clone(),
        vf_address: None,
    });
    assert_eq!(thread.view().primary, primary);
    eventually("the thread asks the kernel", || {
        let description = thread.view().description;
        let asked = description.ends_with("the kernel is being asked");
        asked.then_some(())
    });
    let troubles = told.lock().unwrap().clone();
    let [trouble] = troubles.as_slice() else {
        panic!("told once: {troubles:?}");
    };
    assert_eq!(trouble.moment, Moment::ArmPrimary);
    assert!(trouble.error.contains("not answered"), "{trouble:?}");
    drop(stuck);
    // Behind all that waited.
    thread.post(Order::GuestLeft("away"));
    thread.finish_within(LONG);
    let host = host.lock().unwrap();
    assert_eq!((host.mac, host.bridge), (NO_MAC, None));
}

#[test]
fn what_is_off_is_not_touched() {
    let wanted = |pf, standby_port, primary_port| Wanted {
        standby_port,
        primary_port,
        pf,
        ..pair()
    };
    let all = |mut steering: Steering| {
        steering.arm_primary();
        steering.to_primary("in");
        steering.to_both("asked");
        steering.to_standby("out");
        steering.guest_left("away");
    };
    let host = Arc::new(Mutex::new(Host::new(FOUND)));
    let of = |wanted| {
        let fake = Box::new(Fake(Arc::clone(&host)));
        Steering::with(fake, Path::new("/nowhere"), wanted).unwrap()
    };
    all(of(wanted(Choice::Off, Choice::Off, Choice::Off)));
    assert_eq!(*host.lock().unwrap(), Host::new(FOUND));
    // The NIC alone.
    let named = Wanted {
        vf: Some(NUMBER),
        ..wanted(Choice::Named("eth0".into()), Choice::Off, Choice::Off)
    };
    let mut steering = of(named);
    steering.arm_primary();
    steering.to_primary("in");
    assert_eq!(host.lock().unwrap().bridge, None);
    assert_eq!(host.lock().unwrap().mac, MAC);
}

proptest! {
    /// Whatever was done, in whatever order, and whatever the kernel refused meanwhile: the end leaves what was found.
    #[test]
    fn the_end_leaves_what_was_found(
        moments in prop::collection::vec(0..6_u8, 0..12),
        answers in prop::collection::vec(any::<bool>(), 0..30),
        found in prop::sample::select(vec![FOUND, NO_MAC, MAC]),
    ) {
        let before = Host::new(found);
        let (mut steering, host) = steering(before.clone(), pair());
        host.lock().unwrap().answers = answers;
        for moment in moments {
            match moment {
                0 => steering.arm_primary(),
                1 => steering.to_both("a"),
                2 => steering.to_primary("b"),
                3 => steering.to_standby("c"),
                4 => steering.guest_left("d"),
                _ => steering.restore("e"),
            };
        }
        host.lock().unwrap().answers.clear();
        steering.restore("the end");
        prop_assert_eq!(&*host.lock().unwrap(), &before);
    }
}
