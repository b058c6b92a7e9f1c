//! The primary comes back: after each thing that takes it away, with waits between the attempts, until it is there or an
//! operator says stop. And what a guest that stands still, or a link that is down, does to the waits.

#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

mod support;

use failover::*;
use support::*;

fn feed(pairs: &mut Pairs, now: Moment, event: Event) -> Vec<Action> {
    pairs.handle(now, "primary0", &event).unwrap()
}

/// Lets the next wait end; when that was, and what came of it.
fn next(pairs: &mut Pairs) -> (Moment, Vec<Action>) {
    let at = pairs.next_deadline().unwrap();
    (at, pairs.tick(at).unwrap())
}

/// The reason told of a missing primary, if it was told.
fn missing(actions: &[Action]) -> Option<&'static str> {
    actions.iter().find_map(|action| match action {
        Action::Emit(Notice::PrimaryMissing { reason, .. }) => Some(reason.name()),
        _ => None,
    })
}

fn has_plug(actions: &[Action]) -> bool {
    actions.iter().any(|a| matches!(a, Action::Plug { .. }))
}

fn asks(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|a| matches!(a, Action::AskUnplug { attempt: 1, .. }))
}

fn situation(pairs: &Pairs) -> &'static str {
    let pair = pairs.by_primary("primary0").unwrap();
    pair.situation().map_or("", |s| s.name)
}

fn back_in(pairs: &mut Pairs, now: Moment) {
    feed(pairs, now, Event::PlugSucceeded);
    feed(pairs, now, Event::DriverIn);
    assert_eq!(phase(pairs, 0), Phase::Active);
    assert_eq!(pairs.by_primary("primary0").unwrap().path(), Path::Primary);
}

fn fail(fault: PlugFault) -> Event {
    Event::PlugFailed(PlugError {
        fault,
        text: "no".into(),
    })
}

#[test]
fn after_a_cancel_a_failure_and_a_completed_migration_that_the_source_continues() {
    let mut pairs = active(1);
    for completed in [false, true] {
        pairs.begin_migration(NOW).unwrap();
        feed(&mut pairs, NOW, Event::GuestLetGo);
        let back = if completed {
            let released = pairs.migration_completed(NOW).unwrap();
            assert!(released.contains(&Action::Release {
                primary: "primary0".into()
            }));
            pairs.source_continued(NOW).unwrap()
        } else {
            pairs.migration_ended(NOW).unwrap()
        };
        assert!(has_plug(&back), "{back:?}");
        back_in(&mut pairs, NOW);
    }
}

#[test]
fn a_vf_that_another_driver_has_or_that_is_not_there_is_tried_again_and_told_in_a_word() {
    let mut pairs = Pairs::incoming(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    feed(&mut pairs, NOW, Event::StandbyNegotiated);
    assert!(has_plug(&pairs.target_resumed(NOW).unwrap()));

    let mut now = NOW;
    let faults = [
        (PlugFault::DeviceMissing, "host-device-missing", 500),
        (PlugFault::OtherDriver, "host-device-other-driver", 1_000),
        (PlugFault::Busy, "host-device-busy", 2_000),
        (PlugFault::Other, "plug-failed", 4_000),
    ];
    for (fault, name, wait) in faults {
        let told = feed(&mut pairs, now, fail(fault));
        assert_eq!(missing(&told), Some(name));
        assert_eq!(situation(&pairs), name);
        let (at, actions) = next(&mut pairs);
        assert_eq!(at.ms_since(now), wait);
        assert!(has_plug(&actions));
        now = at;
    }
    back_in(&mut pairs, now);
}

#[test]
fn a_target_without_a_primary_says_so_once_its_guest_runs() {
    let mut pairs = Pairs::incoming(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    let loaded = pairs
        .handle(NOW, "standby0", &Event::StandbyNegotiated)
        .unwrap();
    assert_eq!(missing(&loaded), None);
    let resumed = pairs.target_resumed(NOW).unwrap();
    assert_eq!(missing(&resumed), Some("no-primary"));
}

#[test]
fn an_operator_says_stop_and_go_at_any_time() {
    let order = |pairs: &mut Pairs, path| feed(pairs, NOW, Event::OperatorSwitch(path));
    // While attempts fail.
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();
    feed(&mut pairs, NOW, Event::GuestLetGo);
    pairs.migration_ended(NOW).unwrap();
    feed(&mut pairs, NOW, fail(PlugFault::Busy));
    order(&mut pairs, Path::Standby);
    assert_eq!(
        (pairs.next_deadline(), situation(&pairs)),
        (None, "operator")
    );
    assert!(has_plug(&order(&mut pairs, Path::Primary)));
    // While it is being opened.
    let broken_off = order(&mut pairs, Path::Standby);
    assert_eq!(
        broken_off,
        [Action::BreakOffPlug {
            primary: "primary0".into()
        }]
    );
    assert!(!pairs.by_primary("primary0").unwrap().still_wants_plug());
    feed(&mut pairs, NOW, Event::PlugBrokenOff);
    assert_eq!(situation(&pairs), "operator");
    // The order stands through a reboot.
    pairs.machine_reset(NOW).unwrap();
    assert!(!has_plug(&feed(&mut pairs, NOW, Event::StandbyNegotiated)));

    // Before the guest has accepted anything.
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    order(&mut pairs, Path::Standby);
    assert!(!has_plug(&feed(&mut pairs, NOW, Event::StandbyNegotiated)));
    assert_eq!(situation(&pairs), "operator");
    assert!(has_plug(&order(&mut pairs, Path::Primary)));
}

#[test]
fn a_guest_that_reboots_gets_it_back_when_it_accepts_anew() {
    let mut pairs = active(1);
    let reset = pairs.machine_reset(NOW).unwrap();
    assert!(reset.ends_with(&to_standby(0, PathWhy::GuestRebooted)));
    assert_eq!(situation(&pairs), "guest-rebooted");
    let accepted = feed(&mut pairs, NOW, Event::StandbyNegotiated);
    assert!(has_plug(&accepted));
    // Rebooted again while it is opened: no slot is filled under a guest that boots.
    let reset = pairs.machine_reset(NOW).unwrap();
    assert!(matches!(reset.as_slice(), [Action::BreakOffPlug { .. }]));
    assert!(!pairs.by_primary("primary0").unwrap().still_wants_plug());
    feed(&mut pairs, NOW, Event::PlugBrokenOff);
    assert_eq!(phase(&pairs, 0), Phase::Hidden);
    assert!(has_plug(&feed(&mut pairs, NOW, Event::StandbyNegotiated)));
    back_in(&mut pairs, NOW);
}

#[test]
fn a_reloaded_driver_keeps_its_primary_and_one_without_the_feature_is_asked_to_let_go() {
    let mut pairs = active(1);
    assert_eq!(feed(&mut pairs, NOW, Event::StandbyReset), []);
    let told = feed(&mut pairs, NOW, Event::StandbyNegotiated);
    assert!(!has_plug(&told) && !asks(&told));
    assert_eq!(phase(&pairs, 0), Phase::Active);

    feed(&mut pairs, NOW, Event::StandbyReset);
    assert!(asks(&feed(&mut pairs, NOW, Event::StandbyRefused)));
    feed(&mut pairs, NOW, Event::GuestLetGo);
    assert_eq!(situation(&pairs), "not-accepted");
    // Loaded once more, with it.
    assert!(has_plug(&feed(&mut pairs, NOW, Event::StandbyNegotiated)));
}

#[test]
fn a_primary_that_fails_is_given_back_to_the_host_and_tried_again_ever_more_slowly() {
    let mut pairs = active(1);
    let mut now = NOW;
    for wait in [500, 1_000, 2_000] {
        let told = feed(&mut pairs, now, Event::DeviceFailed("fatal error".into()));
        assert_eq!(missing(&told), Some("device-failed"));
        assert!(asks(&told));
        let actions = feed(&mut pairs, now, Event::GuestLetGo);
        // The host may be waiting for it: it is closed before it is opened again.
        assert!(actions.contains(&Action::Release {
            primary: "primary0".into()
        }));
        assert!(!has_plug(&actions));
        let (at, actions) = next(&mut pairs);
        assert_eq!(at.ms_since(now), wait);
        assert!(has_plug(&actions));
        back_in(&mut pairs, at);
        now = at;
    }
    // A minute without a failure: the next one is the first of its row.
    now = now.after_ms(60_000);
    feed(&mut pairs, now, Event::DeviceFailed("fatal error".into()));
    feed(&mut pairs, now, Event::GuestLetGo);
    let (at, _) = next(&mut pairs);
    assert_eq!(at.ms_since(now), 500);
}

#[test]
fn a_host_that_wants_a_primary_back_which_is_out_of_its_guest_gets_it_at_once() {
    let released = [Action::Release {
        primary: "primary0".into(),
    }];
    let wanted = || Event::DeviceFailed("the host wants it back".into());
    // Out by an operator's order: the order stands.
    let mut pairs = active(1);
    let order = |pairs: &mut Pairs, path| feed(pairs, NOW, Event::OperatorSwitch(path));
    order(&mut pairs, Path::Standby);
    feed(&mut pairs, NOW, Event::GuestLetGo);
    assert_eq!(feed(&mut pairs, NOW, wanted()), released);
    assert_eq!(situation(&pairs), "operator");
    // Asked for again, it is opened afresh; while it waits for another attempt nobody holds it either.
    assert!(has_plug(&order(&mut pairs, Path::Primary)));
    feed(&mut pairs, NOW, failed_plug());
    assert_eq!(feed(&mut pairs, NOW, wanted()), released);
    let (at, actions) = next(&mut pairs);
    assert!(has_plug(&actions));
    back_in(&mut pairs, at);
    // And while the guest boots.
    feed(&mut pairs, at, Event::MachineReset);
    assert_eq!(feed(&mut pairs, at, wanted()), released);
    assert!(has_plug(&feed(&mut pairs, at, Event::StandbyNegotiated)));
}

#[test]
fn a_failed_primary_goes_on_being_asked_for() {
    let mut pairs = active(1);
    feed(&mut pairs, NOW, Event::DeviceFailed("fatal error".into()));
    let mut failures = 0;
    for _ in 0..14 {
        let (_, actions) = next(&mut pairs);
        let told = |a: &Action| matches!(a, Action::Emit(Notice::UnplugFailed { reason, .. }) if reason.name() == "guest-ignored");
        failures += usize::from(actions.iter().any(told));
        assert_eq!(phase(&pairs, 0), Phase::Unplugging);
    }
    assert_eq!(failures, 2, "told at each deadline");
}

#[test]
fn a_link_that_stays_down_moves_the_guest_and_one_that_comes_back_returns_it() {
    let mut pairs = active(1);
    feed(&mut pairs, NOW, Event::LinkDown);
    feed(&mut pairs, NOW.after_ms(10), Event::LinkDown);
    // A short gap is nobody's business.
    feed(&mut pairs, NOW.after_ms(2_999), Event::LinkUp);
    assert_eq!(pairs.next_deadline(), None);

    let down = NOW.after_ms(5_000);
    feed(&mut pairs, down, Event::LinkDown);
    feed(&mut pairs, down.after_ms(1_000), Event::LinkDown);
    let (at, actions) = next(&mut pairs);
    assert_eq!(at.ms_since(down), LINK_MS);
    assert_eq!(missing(&actions), Some("link-down"));
    assert!(asks(&actions));
    let gone = feed(&mut pairs, at, Event::GuestLetGo);
    assert_eq!(
        gone,
        to_standby(0, PathWhy::Unplug(UnplugWhy::LinkDown)),
        "told once"
    );
    assert_eq!(
        (pairs.next_deadline(), situation(&pairs)),
        (None, "link-down")
    );
    // Nothing else brings it back, but an operator who knows better.
    feed(&mut pairs, at, Event::StandbyReset);
    assert!(!has_plug(&feed(&mut pairs, at, Event::StandbyNegotiated)));
    let up = at.after_ms(60_000);
    assert_eq!(feed(&mut pairs, up, Event::LinkUp), []);
    let (at, actions) = next(&mut pairs);
    assert_eq!(at.ms_since(up), 500);
    assert!(has_plug(&actions));
    back_in(&mut pairs, at);
}

#[test]
fn a_link_that_comes_back_before_the_guest_let_go_leaves_it_its_primary() {
    let mut pairs = active(1);
    feed(&mut pairs, NOW, Event::LinkDown);
    let (at, _) = next(&mut pairs);
    let back = feed(&mut pairs, at, Event::LinkUp);
    assert!(matches!(back.as_slice(), [Action::CancelUnplugAsk { .. }]));
    assert_eq!(phase(&pairs, 0), Phase::Active);
    // Too late: it gets it again.
    feed(&mut pairs, at, Event::GuestLetGo);
    assert!(has_plug(&next(&mut pairs).1));
}

#[test]
fn traffic_goes_to_a_primary_only_once_its_link_is_up() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    feed(&mut pairs, NOW, Event::StandbyNegotiated);
    feed(&mut pairs, NOW, Event::PlugSucceeded);
    feed(&mut pairs, NOW, Event::LinkDown);
    assert_eq!(feed(&mut pairs, NOW, Event::DriverIn), []);
    assert_eq!(situation(&pairs), "link-down");
    let up = feed(&mut pairs, NOW, Event::LinkUp);
    let told = Notice::PathChanged {
        standby: "standby0".into(),
        path: Path::Primary,
        why: PathWhy::LinkUp,
    };
    assert_eq!(
        up,
        [
            Action::SteerToPrimary {
                standby: "standby0".into()
            },
            Action::Emit(told)
        ]
    );
}

#[test]
fn a_primary_without_its_link_is_not_plugged_but_by_order() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    feed(&mut pairs, NOW, Event::LinkDown);
    let told = feed(&mut pairs, NOW, Event::StandbyNegotiated);
    assert_eq!(missing(&told), Some("link-down"));
    assert!(!has_plug(&told));
    // A migration and its cancel change nothing about that.
    pairs.begin_migration(NOW).unwrap();
    assert!(!has_plug(&pairs.migration_ended(NOW).unwrap()));
    let order = feed(&mut pairs, NOW, Event::OperatorSwitch(Path::Primary));
    assert!(has_plug(&order));
}

#[test]
fn without_a_limit_the_link_does_not_matter() {
    let mut pairs = Pairs::new(Timing::default());
    let spec = StandbySpec {
        link_timeout_ms: 0,
        ..standby(0)
    };
    pairs.add_standby(NOW, spec).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    feed(&mut pairs, NOW, Event::LinkDown);
    assert!(has_plug(&feed(&mut pairs, NOW, Event::StandbyNegotiated)));
    back_in(&mut pairs, NOW);
    assert_eq!(pairs.next_deadline(), None);
}

#[test]
fn a_paused_guests_time_stands_still_where_it_is_waited_for() {
    let mut pairs = active(1);
    pairs.set_when_paused(WhenPaused::Wait);
    pairs.set_guest_running(NOW, false);
    assert_eq!(pairs.obstacles().count(), 0);
    assert!(asks(&pairs.begin_migration(NOW).unwrap()));
    assert_eq!(pairs.next_deadline(), None, "nobody to wait for");
    let hours = NOW.after_ms(10_000_000);
    assert_eq!(pairs.tick(hours), Ok(vec![]));

    pairs.set_guest_running(hours, true);
    let (at, actions) = next(&mut pairs);
    assert_eq!(at, hours.after_ms(5_000));
    assert!(matches!(
        actions.as_slice(),
        [Action::AskUnplug { attempt: 2, .. }]
    ));
    // Paused again, with 25 s to go.
    pairs.set_guest_running(at, false);
    let later = at.after_ms(1_000_000);
    pairs.set_guest_running(later, true);
    let mut last = next(&mut pairs);
    while !last
        .1
        .iter()
        .any(|a| matches!(a, Action::RefuseMigration(_)))
    {
        last = next(&mut pairs);
    }
    assert_eq!(last.0, later.after_ms(25_000));
    assert!(last.1.iter().any(|a| matches!(
        a,
        Action::RefuseMigration(Refusal {
            reason: Reason::GuestIgnored {
                waited_ms: 30_000,
                ..
            },
            ..
        })
    )));
}

#[test]
fn a_guest_that_is_paused_while_it_is_waited_for_has_until_the_deadline() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();
    pairs.set_guest_running(NOW, false);
    let actions = loop {
        let (at, actions) = next(&mut pairs);
        if !matches!(actions.as_slice(), [Action::AskUnplug { .. }]) {
            assert_eq!(at, NOW.after_ms(30_000));
            break actions;
        }
    };
    let refusal = Refusal {
        primary: "primary0".into(),
        reason: Reason::GuestPaused,
    };
    assert!(actions.contains(&Action::RefuseMigration(refusal)));
}

#[test]
fn an_operators_order_waits_for_a_paused_guest() {
    let mut pairs = active(1);
    pairs.set_guest_running(NOW, false);
    feed(&mut pairs, NOW, Event::OperatorSwitch(Path::Standby));
    assert_eq!(pairs.next_deadline(), None);
    pairs.set_guest_running(NOW.after_ms(99_000), true);
    assert_eq!(pairs.next_deadline(), Some(NOW.after_ms(104_000)));
}

#[test]
fn what_stops_a_migration_is_known_before() {
    let mut pairs = active(1);
    pairs.add_primary(NOW, primary(7), When::Hotplug).unwrap();
    pairs.set_guest_running(NOW, false);
    let names: Vec<_> = pairs
        .obstacles()
        .map(|refusal| (refusal.primary, refusal.reason.name()))
        .collect();
    assert_eq!(
        names,
        [
            ("primary7".to_owned(), "no-standby"),
            ("primary0".to_owned(), "guest-paused")
        ]
    );
    let dangling: Vec<_> = pairs.dangling().collect();
    assert_eq!(
        dangling,
        [Dangling {
            primary: "primary7",
            standby: "standby7",
            visible: true,
            blocks_migration: true
        }]
    );
}

#[test]
fn a_plug_under_way_does_not_hold_a_migration_up() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();
    feed(&mut pairs, NOW, Event::GuestLetGo);
    assert!(has_plug(&pairs.migration_ended(NOW).unwrap()));
    // Not the guest's to let go yet, so that a paused one is no obstacle.
    pairs.set_guest_running(NOW, false);
    let begun = pairs.begin_migration(NOW).unwrap();
    assert!(matches!(begun.as_slice(), [Action::BreakOffPlug { .. }]));
    let end = feed(&mut pairs, NOW, Event::PlugBrokenOff);
    assert_eq!(end.last(), Some(&Action::LetMigrationProceed));
}
