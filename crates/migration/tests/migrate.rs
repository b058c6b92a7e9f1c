//! Migrations of a small real machine over every kind of channel, while its guest writes to its memory.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use migration::{Outcome, Outgoing, ParametersUpdate, State, VmIs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use support::*;

/// Source and target guests, and a RAM with some content.
fn guests(size: u64) -> (Arc<Guest>, Arc<Guest>) {
    let source = Guest::new(size, 64);
    source.set_running(true);
    for _ in 0..500 {
        source.step();
    }
    // Whatever a target's firmware left in its RAM must not survive.
    let target = Guest::new(size, 64);
    target.set_running(true);
    for _ in 0..100 {
        target.step();
    }
    target.set_running(false);
    (source, target)
}

fn assert_same(source: &Guest, target: &Guest) {
    let (source, target) = (source.contents(), target.contents());
    assert_eq!(source.1, target.1, "the device");
    let differ = source
        .0
        .chunks(4096)
        .zip(target.0.chunks(4096))
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(page, _)| page)
        .collect::<Vec<_>>();
    assert_eq!(differ, Vec::<usize>::new(), "pages that differ");
}

/// Migrates while the guest writes, and compares.
fn round_trip(listen_on: &str, send_to: impl FnOnce(&migration::channel::Listener) -> String) {
    let (source, target) = guests(16 * MIB);
    let (record, events) = record();
    let (target_record, target_events) = support::record();
    let listener = listen(listen_on);
    let uri = send_to(&listener);
    let incoming = receive(listener, TestTarget::new(&target, &target_record));
    let _vcpu = source.boot();
    let outgoing = send(TestSource::new(&source, &record), &uri);

    let seen = events.until_state(State::Completed);
    assert_eq!(outgoing.join(), State::Completed);
    assert_eq!(incoming.join(), State::Completed);
    assert!(!source.is_running() && target.is_running());
    assert_same(&source, &target);

    let passes = seen
        .iter()
        .filter(|event| matches!(event, Event::Pass(_)))
        .count();
    assert!(passes >= 2, "{seen:?}");
    let others: Vec<_> = seen
        .iter()
        .filter(|event| !matches!(event, Event::Pass(2..)))
        .cloned()
        .collect();
    assert_eq!(
        others,
        [
            Event::State(State::Setup),
            Event::Asked,
            Event::Pass(1),
            Event::State(State::Active),
            Event::Stop,
            Event::State(State::Device),
            Event::Ended(Outcome::Completed),
            Event::State(State::Completed),
        ]
    );
    assert_eq!(
        target_events.until_state(State::Completed),
        [
            Event::State(State::Setup),
            Event::State(State::Active),
            Event::Prepared,
            Event::Loaded,
            Event::Resume,
            Event::State(State::Completed),
        ]
    );
}

#[test]
fn over_tcp() {
    round_trip("tcp:127.0.0.1:0", |listener| {
        format!("tcp:127.0.0.1:{}", listener.tcp_port().unwrap())
    });
    round_trip("tcp::0", |listener| {
        format!("tcp:localhost:{}", listener.tcp_port().unwrap())
    });
}

#[test]
fn over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", dir.path().join("m.sock").display());
    // Twice: the socket of the first must not be in the way of the second.
    round_trip(&uri, |_| uri.clone());
    round_trip(&uri, |_| uri.clone());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn over_a_descriptor() {
    let (source, target) = guests(4 * MIB);
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let (record, events) = record();
    let mut there = Some(there.into());
    let listener =
        migration::channel::Listener::open(&"fd:in".parse().unwrap(), &mut |_| there.take())
            .unwrap();
    let incoming = receive(listener, TestTarget::new(&target, &support::record().0));
    let _vcpu = source.boot();
    let mut here = Some(here.into());
    let source_machine = Box::new(TestSource::new(&source, &record));
    let options = options("fd:out".parse().unwrap(), &record);
    let outgoing = Outgoing::start(source_machine, options, &mut |name| {
        assert_eq!(name, "out");
        here.take()
    })
    .unwrap();
    events.until_state(State::Completed);
    assert_eq!(outgoing.join(), State::Completed);
    assert_eq!(incoming.join(), State::Completed);
    assert_same(&source, &target);

    let (record, events) = support::record();
    let outgoing = Outgoing::start(
        Box::new(TestSource::new(&source, &record)),
        support::options("fd:none".parse().unwrap(), &record),
        &mut |_| None,
    )
    .unwrap();
    events.until_state(State::Failed);
    assert_eq!(
        error_of(&outgoing.info()),
        "File descriptor named 'none' has not been found"
    );
}

/// Writes a stream to somewhere and reads it from there after.
fn by_way_of(out: &str, back: &str, break_it: impl FnOnce()) -> (State, String) {
    let (source, target) = guests(4 * MIB);
    let (record, events) = record();
    let vcpu = source.boot();
    let outgoing = send(TestSource::new(&source, &record), out);
    events.until(|event| matches!(event, Event::State(State::Completed | State::Failed)));
    assert_eq!(error_of(&outgoing.info()), "");
    drop(vcpu);
    break_it();
    let (target_record, target_events) = support::record();
    let incoming = receive(listen(back), TestTarget::new(&target, &target_record));
    target_events.until(|event| matches!(event, Event::State(State::Completed | State::Failed)));
    let info = incoming.info();
    let state = incoming.join();
    assert_eq!(target.is_running(), state == State::Completed);
    if state == State::Completed {
        assert_same(&source, &target);
    }
    (state, error_of(&info))
}

#[test]
fn by_way_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm");
    let uri = format!("file:{}", path.display());
    assert_eq!(by_way_of(&uri, &uri, || ()).0, State::Completed);
    // A header of somebody else's stays.
    std::fs::write(&path, [7; 8192]).unwrap();
    let uri = format!("{uri},offset=0x1000");
    assert_eq!(by_way_of(&uri, &uri, || ()).0, State::Completed);
    assert_eq!(std::fs::read(&path).unwrap()[..4096], [7; 4096]);
    // Cut off.
    let cut = || {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 5).unwrap();
    };
    let (state, error) = by_way_of(&uri, &uri, cut);
    assert_eq!(state, State::Failed);
    let left = std::fs::metadata(&path).unwrap().len() - 4096;
    let counted = format!("truncated: it ends after {left} bytes, in a section");
    assert!(error.contains(&counted), "{error}");
}

#[test]
fn by_way_of_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.gz");
    let (out, back) = (
        format!("exec:gzip -1 > {}", path.display()),
        format!("exec:gzip -d < {}", path.display()),
    );
    assert_eq!(by_way_of(&out, &back, || ()).0, State::Completed);
}

#[test]
fn a_command_that_fails_early_leaves_the_vm_here() {
    let (source, _) = guests(16 * MIB);
    let (record, events) = record();
    let outgoing = send(TestSource::new(&source, &record), "exec:exit 3");
    events.until_state(State::Failed);
    let info = outgoing.info();
    assert!(error_of(&info).contains("lost"), "{info:?}");
    assert!(source.is_running());
}

#[test]
fn a_command_that_took_everything_and_failed_may_have_handed_it_on() {
    let (source, _) = guests(4 * MIB);
    let (record, events) = record();
    let outgoing = send(
        TestSource::new(&source, &record),
        "exec:cat > /dev/null; exit 3",
    );
    let seen = events.until_state(State::Failed);
    let error = error_of(&outgoing.info());
    assert!(
        error.contains("exit status: 3") && error.contains("`cont`"),
        "{error}"
    );
    assert!(seen.iter().any(|event| matches!(
        event,
        Event::Ended(Outcome::Failed {
            vm: VmIs::PerhapsThere,
            ..
        })
    )));
    assert!(!source.is_running());
}

/// Not the shell alone, which is all that a kill of its process would reach.
#[test]
fn a_cancel_leaves_nothing_of_what_a_command_started() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    rustix::fs::mkfifoat(rustix::fs::CWD, &started, rustix::fs::Mode::RWXU).unwrap();
    // Both the shell and what it started hold this end; neither reads its input.
    let command = format!("exec 5> {0}; sleep 1000; :", started.display());
    let (source, _) = guests(16 * MIB);
    let (record, events) = record();
    let outgoing = send(
        TestSource::new(&source, &record),
        &format!("exec:{command}"),
    );
    let mut held = std::fs::File::open(&started).unwrap();
    assert!(outgoing.cancel());
    events.until_state(State::Cancelled);
    // The end comes when nobody holds the other one any more.
    let mut fds = [PollFd::new(&held, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs().try_into().unwrap(),
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "something is left");
    assert_eq!(held.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_refused_connection_asks_nothing_of_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    // A socket that does not listen: nobody else gets its port as long as it is there.
    let holder = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&holder, &any).unwrap();
    let closed = SocketAddr::try_from(rustix::net::getsockname(&holder).unwrap()).unwrap();
    let port = closed.port();
    let path = dir.path().join("nobody");
    for (uri, error) in [
        (
            format!("tcp:127.0.0.1:{port}"),
            format!("Failed to connect to '127.0.0.1:{port}': Connection refused"),
        ),
        (
            format!("unix:{}", path.display()),
            format!(
                "Failed to connect to '{}': No such file or directory",
                path.display()
            ),
        ),
        (
            "file:/nonexistent/vm".to_owned(),
            "Could not create '/nonexistent/vm': No such file or directory".to_owned(),
        ),
    ] {
        let (source, _) = guests(MIB);
        let (record, events) = record();
        let outgoing = send(TestSource::new(&source, &record), &uri);
        let seen = events.until_state(State::Failed);
        assert_eq!(
            seen,
            [
                Event::State(State::Setup),
                Event::Ended(Outcome::Failed {
                    why: error.clone(),
                    vm: VmIs::Here
                }),
                Event::State(State::Failed)
            ]
        );
        assert_eq!(error_of(&outgoing.info()), error);
        assert!(source.is_running());
    }
}

#[test]
fn a_stopped_vm_stays_stopped() {
    let (source, target) = guests(4 * MIB);
    source.set_running(false);
    let (record, events) = record();
    let listener = listen("tcp:127.0.0.1:0");
    let uri = format!("tcp:127.0.0.1:{}", listener.tcp_port().unwrap());
    let incoming = receive(listener, TestTarget::new(&target, &support::record().0));
    let _outgoing = send(TestSource::new(&source, &record), &uri);
    events.until_state(State::Completed);
    assert_eq!(incoming.join(), State::Completed);
    assert!(!target.is_running());
    assert_same(&source, &target);
}

#[test]
fn it_waits_before_the_switchover_if_asked_to() {
    let (source, target) = guests(4 * MIB);
    let (record, events) = record();
    let listener = listen("tcp:127.0.0.1:0");
    let address = format!("tcp:127.0.0.1:{}", listener.tcp_port().unwrap())
        .parse()
        .unwrap();
    let incoming = receive(listener, TestTarget::new(&target, &support::record().0));
    let mut options = options(address, &record);
    options.pause_before_switchover = true;
    let outgoing = Outgoing::start(
        Box::new(TestSource::new(&source, &record)),
        options,
        &mut |_| None,
    )
    .unwrap();
    events.until_state(State::PreSwitchover);
    assert!(!source.is_running());
    assert!(outgoing.info().expected_downtime_ms.is_some());
    outgoing.proceed().unwrap();
    assert_eq!(
        events.until_state(State::Completed),
        [
            Event::State(State::Device),
            Event::Ended(Outcome::Completed),
            Event::State(State::Completed)
        ]
    );
    assert_eq!(
        outgoing.proceed().unwrap_err().to_string(),
        "Migration not in expected state: completed"
    );
    assert_eq!(incoming.join(), State::Completed);
    assert_same(&source, &target);
}

#[test]
fn a_guest_that_writes_too_fast_is_migrated_once_the_limit_is_lifted() {
    let (source, target) = guests(4 * MIB);
    let (record, events) = record();
    let listener = listen("tcp:127.0.0.1:0");
    let address = format!("tcp:127.0.0.1:{}", listener.tcp_port().unwrap())
        .parse()
        .unwrap();
    let incoming = receive(listener, TestTarget::new(&target, &support::record().0));
    let options = options(address, &record);
    let parameters = options.parameters.clone();
    let update = |max_bandwidth_bytes, downtime_limit_ms| {
        parameters
            .update(&ParametersUpdate {
                max_bandwidth_bytes: Some(max_bandwidth_bytes),
                downtime_limit_ms: Some(downtime_limit_ms),
                ..Default::default()
            })
            .unwrap();
    };
    // No downtime allowed, and always something dirty.
    update(64 * MIB, 0);
    let mut machine = TestSource::new(&source, &record);
    machine.writes_before_sync = 10;
    let outgoing = Outgoing::start(Box::new(machine), options, &mut |_| None).unwrap();
    events.until(|event| *event == Event::Pass(8));
    let info = outgoing.info();
    assert_eq!(outgoing.state(), State::Active);
    let ram = info.ram.unwrap();
    assert_eq!(ram.total_bytes, 4 * MIB);
    assert!(
        ram.dirty_sync_count >= 8 && ram.dirty_pages_rate > 0,
        "{ram:?}"
    );
    assert!(ram.normal_pages > 0 && ram.zero_pages > 0, "{ram:?}");
    assert!(ram.transferred_bytes > ram.normal_bytes, "{ram:?}");
    assert!(info.total_time_ms.is_some() && info.expected_downtime_ms.is_some());
    update(0, 2000);
    events.until_state(State::Completed);
    let info = outgoing.info();
    assert!(info.downtime_ms.is_some());
    let ram = info.ram.unwrap();
    assert_eq!(ram.remaining_bytes, 0);
    assert!(
        ram.downtime_bytes > 0 && ram.precopy_bytes > ram.downtime_bytes,
        "{ram:?}"
    );
    assert_eq!(
        ram.transferred_bytes,
        ram.precopy_bytes + ram.downtime_bytes
    );
    assert_eq!(incoming.join(), State::Completed);
    assert_same(&source, &target);
}
