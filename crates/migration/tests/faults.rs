//! Everything that can go wrong between two machines, and who has the VM after.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use migration::channel::Listener;
use migration::{
    DevicePayload, DeviceShape, Incoming, Info, Kept, Outcome, Outgoing, ParametersUpdate, Reason,
    State, UnplugPolicy, VmIs,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::*;

/// A source and a target on a pair of sockets, and dups of both ends to meddle with.
struct Pair {
    source: Arc<Guest>,
    target: Arc<Guest>,
    events: Events,
    target_events: Events,
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Pair {
    fn start(
        size: u64,
        ends: (UnixStream, UnixStream),
        change: impl FnOnce(&mut TestSource, &mut TestTarget, &mut migration::OutgoingOptions),
    ) -> Self {
        let (source, target) = (Guest::new(size, 64), Guest::new(size, 64));
        source.set_running(true);
        for _ in 0..300 {
            source.step();
        }
        let (record, events) = support::record();
        let (target_record, target_events) = support::record();
        let mut from = TestSource::new(&source, &record);
        let mut to = TestTarget::new(&target, &target_record);
        let mut options = options("fd:out".parse().unwrap(), &record);
        change(&mut from, &mut to, &mut options);
        let (mut here, mut there) = (Some(ends.0.into()), Some(ends.1.into()));
        let listener = Listener::open(&"fd:in".parse().unwrap(), &mut |_| there.take()).unwrap();
        let incoming = receive(listener, to);
        let outgoing = Outgoing::start(Box::new(from), options, &mut |_| here.take()).unwrap();
        Self {
            source,
            target,
            events,
            target_events,
            outgoing,
            incoming,
        }
    }

    /// Waits for both to end; answers with how it ended on the source, and the target's state.
    fn end(self) -> (Outcome, State, Vec<Event>, Vec<Event>) {
        let ended = |event: &Event| {
            matches!(
                event,
                Event::State(State::Completed | State::Failed | State::Cancelled)
            )
        };
        let seen = self.events.until(ended);
        let seen_there = self.target_events.until(ended);
        self.outgoing.join();
        let state = self.incoming.join();
        let outcome = seen
            .iter()
            .find_map(|event| match event {
                Event::Ended(outcome) => Some(outcome.clone()),
                _ => None,
            })
            .unwrap();
        let (here, there) = (self.source.is_running(), self.target.is_running());
        assert!(
            !(here && there),
            "running on both sides: {seen:?} {seen_there:?}"
        );
        assert_eq!(there, state == State::Completed);
        match &outcome {
            Outcome::Completed => assert!(there && !here),
            Outcome::Cancelled | Outcome::Failed { vm: VmIs::Here, .. } => {
                assert!(here && !there, "{outcome:?}");
            }
            Outcome::Failed {
                vm: VmIs::PerhapsThere,
                ..
            } => assert!(!here),
        }
        (outcome, state, seen, seen_there)
    }
}

fn failed_here(why: &str) -> Outcome {
    Outcome::Failed {
        why: why.to_owned(),
        vm: VmIs::Here,
    }
}

#[test]
fn another_machine_is_refused_before_the_guest_is_asked_for_anything() {
    type Change = fn(&mut migration::Configuration);
    let cases: [(Change, &str); 7] = [
        (
            |own| own.machine = "pc-q35-9.2".to_owned(),
            "Machine type received is 'pc-q35-10.0' and local is 'pc-q35-9.2'",
        ),
        (
            |own| own.blocks[0].size_bytes = 0x200000,
            "Size mismatch: pc.ram: 0x100000 != 0x200000: start the target with the source's -m",
        ),
        (
            |own| own.blocks[0].name = "mem0".to_owned(),
            "Unknown ramblock \"pc.ram\", cannot accept migration",
        ),
        (
            |own| own.devices.clear(),
            "device 'counter' (counter) of the source does not exist here: start the target with the source's devices",
        ),
        (
            |own| own.devices[0].model = "clock".to_owned(),
            "device 'counter' is a counter on the source and a clock here: start the target with the source's devices",
        ),
        (
            |own| {
                own.devices.push(DeviceShape {
                    name: "net1".to_owned(),
                    model: "virtio-net-pci".to_owned(),
                    option: None,
                });
            },
            "device 'net1' (virtio-net-pci) does not exist on the source: start the target with the source's devices",
        ),
        (
            |own| {
                own.devices.push(DeviceShape {
                    name: "cpu/1".to_owned(),
                    model: "cpu".to_owned(),
                    option: Some("-smp".to_owned()),
                });
            },
            "device 'cpu/1' (cpu) does not exist on the source: start the target with the source's -smp",
        ),
    ];
    for (change, why) in cases {
        let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |_, target, _| {
            change(&mut target.configuration);
        });
        let (outcome, state, seen, seen_there) = pair.end();
        assert_eq!(outcome, failed_here(&format!("the target refused: {why}")));
        assert_eq!(state, State::Failed);
        assert!(!seen.contains(&Event::Asked));
        assert!(seen_there.contains(&Event::TargetFailed(why.to_owned())));
    }
}

#[test]
fn state_nobody_takes_is_refused_by_name_and_the_source_resumes() {
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |source, _, _| {
        source.extra_devices = vec![DevicePayload {
            name: "0000:00:05.0/net9".to_owned(),
            version: 1,
            bytes: vec![],
        }];
    });
    let (outcome, _, seen, _) = pair.end();
    let Outcome::Failed {
        why,
        vm: VmIs::Here,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!(why.contains("'0000:00:05.0/net9'"), "{why}");
    assert!(seen.contains(&Event::Resume));
}

#[test]
fn a_device_state_that_is_newer_or_comes_twice_is_refused() {
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |source, _, _| {
        source.counter_version = 2;
    });
    let (outcome, _, seen, _) = pair.end();
    assert_eq!(
        outcome,
        failed_here(
            "the target refused: the state of device 'counter' has version 2, this program reads up to version 1: \
             update it before migrating here"
        )
    );
    assert!(seen.contains(&Event::Resume));
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |source, _, _| {
        source.extra_devices = vec![DevicePayload {
            name: "counter".to_owned(),
            version: 1,
            bytes: vec![],
        }];
    });
    let (outcome, ..) = pair.end();
    assert_eq!(
        outcome,
        failed_here("the target refused: the state of device 'counter' comes twice")
    );
}

#[test]
fn a_target_that_cannot_resume_says_so_and_the_source_does() {
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |_, target, _| {
        target.on_resume = Box::new(|| Err(Reason::from("no more vCPUs")));
    });
    let (outcome, state, seen, _) = pair.end();
    assert_eq!(outcome, failed_here("the target refused: no more vCPUs"));
    assert_eq!(state, State::Failed);
    assert!(seen.contains(&Event::Resume));
}

#[test]
fn a_connection_lost_after_go_leaves_the_source_stopped_and_says_why() {
    let ends = UnixStream::pair().unwrap();
    let meddle = ends.1.try_clone().unwrap();
    let pair = Pair::start(MIB, ends, |_, target, _| {
        target.on_resume = Box::new(move || {
            meddle.shutdown(Shutdown::Both).unwrap();
            Ok(())
        });
    });
    let (outcome, state, seen, _) = pair.end();
    let Outcome::Failed {
        why,
        vm: VmIs::PerhapsThere,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert!(why.contains("`cont`"), "{why}");
    assert_eq!(state, State::Completed);
    assert!(!seen.contains(&Event::Resume));
}

#[test]
fn a_stalled_target_is_given_up_at_the_deadline() {
    let (here, there) = UnixStream::pair().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let pair = Pair::start(MIB, (here, there), |_, target, options| {
        target.on_prepare = Box::new(move || {
            let _ = released.lock().unwrap().recv();
        });
        options
            .parameters
            .update(&ParametersUpdate {
                handover_timeout_ms: Some(100),
                ..Default::default()
            })
            .unwrap();
    });
    pair.events.until(|event| matches!(event, Event::Ended(_)));
    assert_eq!(
        error_of(&{
            pair.events.until_state(State::Failed);
            pair.outgoing.info()
        }),
        "no answer from the other side within 100ms"
    );
    assert!(pair.source.is_running());
    drop(release);
    assert_eq!(pair.incoming.join(), State::Failed);
    assert!(!pair.target.is_running());
}

/// The VM stands still meanwhile: it must not do so for as long as whoever is to take its state takes nothing.
#[test]
fn a_peer_that_stops_reading_once_the_vm_has_stopped_is_given_up_at_the_deadline() {
    let (mut there, here) = std::io::pipe().unwrap();
    let source = Guest::new(MIB, 64);
    source.set_running(true);
    let (record, events) = record();
    let mut from = TestSource::new(&source, &record);
    // More than the pipe holds.
    from.extra_devices = vec![DevicePayload {
        name: "large".to_owned(),
        version: 1,
        bytes: vec![7; 4 << 20],
    }];
    let mut options = options("fd:out".parse().unwrap(), &record);
    options.pause_before_switchover = true;
    let update = ParametersUpdate {
        handover_timeout_ms: Some(100),
        ..Default::default()
    };
    options.parameters.update(&update).unwrap();
    let mut here = Some(here.into());
    let outgoing = Outgoing::start(Box::new(from), options, &mut |_| here.take()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::SeqCst) {
                let mut fds = [PollFd::new(&there, PollFlags::IN)];
                let soon = Timespec {
                    tv_sec: 0,
                    tv_nsec: 1_000_000,
                };
                if poll(&mut fds, Some(&soon)).unwrap() > 0 {
                    assert_ne!(there.read(&mut buffer).unwrap(), 0);
                }
            }
            there
        })
    };
    events.until_state(State::PreSwitchover);
    assert!(!source.is_running());
    stop.store(true, Ordering::SeqCst);
    let there = reader.join().unwrap();
    outgoing.proceed().unwrap();
    events.until_state(State::Failed);
    assert_eq!(
        error_of(&outgoing.info()),
        "the other side has taken nothing for 100ms"
    );
    assert!(source.is_running());
    drop(there);
}

#[test]
fn cancelling_in_wait_unplug_gives_the_vm_back() {
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |source, _, _| {
        source.unplug = Some(mpsc::channel());
    });
    let seen = pair.events.until_state(State::WaitUnplug);
    assert_eq!(
        seen,
        [
            Event::State(State::Setup),
            Event::Asked,
            Event::Pass(1),
            Event::State(State::WaitUnplug)
        ]
    );
    let info = pair.outgoing.info();
    assert!(info.ram.is_none() && info.total_time_ms.is_none());
    assert!(pair.outgoing.cancel());
    let (outcome, state, seen, seen_there) = pair.end();
    assert_eq!((outcome, state), (Outcome::Cancelled, State::Failed));
    assert_eq!(
        seen,
        [
            Event::State(State::Cancelling),
            Event::Ended(Outcome::Cancelled),
            Event::State(State::Cancelled)
        ]
    );
    assert!(
        seen_there.contains(&Event::TargetFailed(
            "the source gave up: cancelled".to_owned()
        )),
        "{seen_there:?}"
    );
}

/// A migration whose guest answers the wait for it like this, and what is told and shown afterwards.
fn after_the_wait(answer: Answer, policy: UnplugPolicy) -> (Outcome, State, Info) {
    let (sender, receiver) = mpsc::channel();
    let guest = sender.clone();
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |source, _, options| {
        source.unplug = Some((sender, receiver));
        let update = ParametersUpdate {
            failover_unplug_policy: Some(policy),
            ..ParametersUpdate::default()
        };
        options.parameters.update(&update).unwrap();
    });
    pair.events.until_state(State::WaitUnplug);
    guest.send(answer).unwrap();
    let ended = pair.events.until(|event| matches!(event, Event::Ended(_)));
    let Some(Event::Ended(outcome)) = ended.last().cloned() else {
        panic!("{ended:?}")
    };
    // The final state follows at once.
    let end = match &outcome {
        Outcome::Completed => State::Completed,
        Outcome::Cancelled => State::Cancelled,
        Outcome::Failed { .. } => State::Failed,
    };
    pair.events.until_state(end);
    let info = pair.outgoing.info();
    (outcome, pair.outgoing.join(), info)
}

#[test]
fn a_guest_that_lets_go_is_migrated_and_one_that_does_not_is_kept() {
    let why = "the guest did not let go of 'primary0' in 30 s";
    let kept = || {
        Err(Kept {
            name: Some("guest-ignored"),
            why: why.to_owned(),
        })
    };
    let (outcome, _, info) = after_the_wait(Ok(None), UnplugPolicy::Abort);
    assert_eq!((outcome, info.failover_reason), (Outcome::Completed, None));

    let (outcome, _, info) = after_the_wait(Ok(Some("guest-rebooted")), UnplugPolicy::Abort);
    assert_eq!(
        (outcome, info.failover_reason),
        (Outcome::Completed, Some("guest-rebooted"))
    );

    let (outcome, _, info) = after_the_wait(kept(), UnplugPolicy::Abort);
    assert_eq!(outcome, failed_here(why));
    assert_eq!(info.error_desc.as_deref(), Some(why));
    assert_eq!(info.failover_reason, Some("guest-ignored"));

    let (outcome, state, info) = after_the_wait(kept(), UnplugPolicy::Cancel);
    assert_eq!((outcome, state), (Outcome::Cancelled, State::Cancelled));
    assert_eq!(info.error_desc, None);
    assert_eq!(info.failover_reason, Some("guest-ignored"));
}

#[test]
fn a_target_that_dies_in_wait_unplug_is_noticed_at_once() {
    let ends = UnixStream::pair().unwrap();
    let meddle = ends.1.try_clone().unwrap();
    let pair = Pair::start(MIB, ends, |source, _, _| {
        source.unplug = Some(mpsc::channel());
    });
    pair.events.until_state(State::WaitUnplug);
    meddle.shutdown(Shutdown::Both).unwrap();
    let (outcome, ..) = pair.end();
    assert_eq!(
        outcome,
        failed_here("the connection was closed by the other side")
    );
}

#[test]
fn cancelling_a_write_that_is_stuck_gives_the_vm_back() {
    // A target that never reads more than the configuration.
    let (here, mut there) = UnixStream::pair().unwrap();
    let source = Guest::new(64 * MIB, 16384);
    source.set_running(true);
    for _ in 0..4000 {
        source.step();
    }
    let (record, events) = support::record();
    let mut here = Some(here.into());
    let outgoing = Outgoing::start(
        Box::new(TestSource::new(&source, &record)),
        options("fd:out".parse().unwrap(), &record),
        &mut |_| here.take(),
    )
    .unwrap();
    let mut prolog = [0; 16];
    there.read_exact(&mut prolog).unwrap();
    there.write_all(&READY).unwrap();
    events.until_state(State::Active);
    assert!(outgoing.cancel());
    events.until_state(State::Cancelled);
    assert!(source.is_running());
    assert!(!outgoing.cancel() || outgoing.state() == State::Cancelled);
    assert_eq!(outgoing.join(), State::Cancelled);
}

/// `Ready` on the wire.
const READY: [u8; 12] = {
    let mut bytes = [0; 12];
    bytes[0] = 1;
    bytes[1] = 1;
    let crc = 0x0fff_d443_u32.to_le_bytes();
    bytes[8] = crc[0];
    bytes[9] = crc[1];
    bytes[10] = crc[2];
    bytes[11] = crc[3];
    bytes
};

#[test]
fn cancelling_before_the_switchover_resumes_the_vm_here() {
    let pair = Pair::start(MIB, UnixStream::pair().unwrap(), |_, _, options| {
        options.pause_before_switchover = true;
    });
    pair.events.until_state(State::PreSwitchover);
    assert!(!pair.source.is_running());
    assert!(pair.outgoing.cancel());
    let (outcome, _, seen, _) = pair.end();
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(seen.contains(&Event::Resume));
}

#[test]
fn a_target_that_dies_before_the_switchover_is_noticed_at_once() {
    let ends = UnixStream::pair().unwrap();
    let meddle = ends.1.try_clone().unwrap();
    let pair = Pair::start(MIB, ends, |_, _, options| {
        options.pause_before_switchover = true;
    });
    pair.events.until_state(State::PreSwitchover);
    meddle.shutdown(Shutdown::Both).unwrap();
    let (outcome, _, seen, _) = pair.end();
    assert_eq!(
        outcome,
        failed_here("the connection was closed by the other side")
    );
    assert!(seen.contains(&Event::Resume));
}

/// Passes bytes on until `budget` is spent, then cuts both directions.
fn forward(
    mut from: UnixStream,
    mut to: UnixStream,
    mut budget: usize,
) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut passed = 0;
        let mut buffer = vec![0; 4096];
        while budget > 0 {
            let want = budget.min(buffer.len());
            match from.read(&mut buffer[..want]) {
                Ok(count) if count > 0 && to.write_all(&buffer[..count]).is_ok() => {
                    passed += count;
                    budget -= count;
                }
                _ => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        passed
    })
}

/// Cuts the connection after so many bytes each way. Answers with the outcome, and how much passed each way.
fn cut_after(forth: usize, back: usize) -> (Outcome, State, usize, usize) {
    let (source_end, near) = UnixStream::pair().unwrap();
    let (target_end, far) = UnixStream::pair().unwrap();
    let there = forward(near.try_clone().unwrap(), far.try_clone().unwrap(), forth);
    let here = forward(far, near, back);
    let pair = Pair::start(MIB, (source_end, target_end), |_, _, _| ());
    let (outcome, state, ..) = pair.end();
    (outcome, state, there.join().unwrap(), here.join().unwrap())
}

#[test]
fn wherever_the_connection_is_cut_the_vm_runs_on_one_side() {
    let (outcome, _, forth, back) = cut_after(usize::MAX, usize::MAX);
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(back, 3 * 12, "Ready, Loaded, Resumed");

    // Every byte around the hand-over, and a few places before.
    let go = forth - 12;
    let cuts = (0..go - 300).step_by(go / 40).chain(go - 30..=forth);
    for cut in cuts {
        let (outcome, state, ..) = cut_after(cut, usize::MAX);
        if cut < go {
            assert!(
                matches!(outcome, Outcome::Failed { vm: VmIs::Here, .. }),
                "cut after {cut} of {forth}: {outcome:?}"
            );
        } else if cut < forth {
            // Part of Go is no Go. The source cannot know how much of it arrived: it must not resume unless the target
            // says Failed, which this cut keeps from it.
            assert_eq!(state, State::Failed);
            assert!(
                matches!(outcome, Outcome::Failed { .. }),
                "cut after {cut} of {forth}: {outcome:?}"
            );
        }
    }
    for cut in 0..36 {
        let (outcome, state, ..) = cut_after(usize::MAX, cut);
        match cut {
            0..24 => assert!(matches!(outcome, Outcome::Failed { vm: VmIs::Here, .. })),
            24 => {
                // `Loaded` is through and the way is cut at once: Go may or may not have been.
                assert_ne!(outcome, Outcome::Completed);
            }
            _ => {
                assert_eq!(state, State::Completed, "cut after {cut}");
                assert!(matches!(
                    outcome,
                    Outcome::Failed {
                        vm: VmIs::PerhapsThere,
                        ..
                    }
                ));
            }
        }
    }
}
