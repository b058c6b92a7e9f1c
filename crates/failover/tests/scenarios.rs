//! The sequences that SPEC names, action by action.

#![allow(clippy::unwrap_used)] // helpers of tests: a panic is a failed test

mod support;

use failover::*;
use support::*;

#[test]
fn the_primary_is_hidden_until_the_guest_accepts_whatever_the_order() {
    for primary_first in [false, true] {
        let mut pairs = Pairs::new(Timing::default());
        if primary_first {
            let added = pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
            assert_eq!((added.placing, added.actions), (Placing::Hide, vec![]));
            pairs.add_standby(NOW, standby(0)).unwrap();
        } else {
            pairs.add_standby(NOW, standby(0)).unwrap();
            pairs.add_primary(NOW, primary(0), When::Hotplug).unwrap();
        }
        assert!(pairs.is_hidden("primary0"));
        assert_eq!(
            pairs.handle(NOW, "standby0", &Event::StandbyRefused),
            Ok(vec![])
        );
        assert!(pairs.is_hidden("primary0"));

        let actions = pairs
            .handle(NOW, "standby0", &Event::StandbyNegotiated)
            .unwrap();

        let told = Action::Emit(Notice::FailoverNegotiated {
            standby: "standby0".into(),
        });
        assert_eq!(actions, [told, plug(0)]);
        assert!(!pairs.is_hidden("primary0"));
        // Told twice by the transport: no second event, no second plug.
        assert_eq!(
            pairs.handle(NOW, "standby0", &Event::StandbyNegotiated),
            Ok(vec![])
        );
    }
}

#[test]
fn a_primary_hotplugged_before_its_standby_is_visible_and_still_leaves_for_a_migration() {
    let mut pairs = Pairs::new(Timing::default());

    let added = pairs.add_primary(NOW, primary(0), When::Hotplug).unwrap();
    assert_eq!(added.placing, Placing::PlugNow);
    assert!(!pairs.is_hidden("primary0"));
    let refused = pairs.begin_migration(NOW).unwrap();
    assert!(matches!(
        refused.as_slice(),
        [
            Action::Emit(Notice::UnplugFailed { .. }),
            Action::RefuseMigration(Refusal {
                reason: Reason::NoStandby { .. },
                ..
            })
        ]
    ));

    pairs.add_standby(NOW, standby(0)).unwrap();
    assert_eq!(phase(&pairs, 0), Phase::Active);
    assert_eq!(
        pairs.begin_migration(NOW).unwrap(),
        [ask(0, 1), unplug_told(0)]
    );
}

#[test]
fn migration_asks_last_created_first_and_proceeds_when_the_last_guest_let_go() {
    let mut pairs = active(2);

    let asked = pairs.begin_migration(NOW).unwrap();
    assert_eq!(
        asked,
        [ask(1, 1), unplug_told(1), ask(0, 1), unplug_told(0)]
    );
    assert_eq!(pairs.gate(), Gate::Waiting);

    let first = pairs.handle(NOW, "primary0", &Event::GuestLetGo).unwrap();
    assert_eq!(first, to_standby(0, FOR_MIGRATION));
    assert!(pairs.may_switch_over().is_err());
    let last = pairs.handle(NOW, "primary1", &Event::GuestLetGo).unwrap();
    assert_eq!(last.last(), Some(&Action::LetMigrationProceed));
    assert_eq!(
        (pairs.gate(), pairs.may_switch_over()),
        (Gate::Open, Ok(()))
    );

    let done = pairs.migration_completed(NOW).unwrap();
    let left = |n| {
        let (standby, primary) = ids(n);
        [Action::SteerAway { standby }, Action::Release { primary }]
    };
    assert_eq!(done, [left(0), left(1)].concat());
    // `cont` on the source brings them back.
    let back = pairs.source_continued(NOW).unwrap();
    assert!(back.ends_with(&[plug(0), plug(1)]));
}

#[test]
fn hidden_primaries_need_no_unplug() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();

    assert_eq!(
        pairs.begin_migration(NOW).unwrap(),
        [Action::LetMigrationProceed]
    );

    // Accepted during the migration: told, and plugged only after it.
    let told = pairs
        .handle(NOW, "standby0", &Event::StandbyNegotiated)
        .unwrap();
    assert!(matches!(
        told.as_slice(),
        [Action::Emit(Notice::FailoverNegotiated { .. })]
    ));
    assert_eq!(pairs.migration_ended(NOW).unwrap(), [plug(0)]);
}

#[test]
fn a_cancel_takes_the_request_back_and_a_late_eject_leads_to_a_new_plug() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();

    let back = pairs.migration_ended(NOW).unwrap();
    assert_eq!(
        back,
        [Action::CancelUnplugAsk {
            primary: "primary0".into()
        }]
    );
    assert_eq!(phase(&pairs, 0), Phase::Active);

    let late = pairs.handle(NOW, "primary0", &Event::GuestLetGo).unwrap();
    assert_eq!(late[..3], to_standby(0, FOR_MIGRATION));
    assert_eq!(late[3..], [plug(0)]);
}

#[test]
fn a_guest_that_ignores_the_request_is_asked_again_and_then_the_migration_refused() {
    let mut pairs = active(2);
    pairs.begin_migration(NOW).unwrap();
    pairs.handle(NOW, "primary1", &Event::GuestLetGo).unwrap();

    let mut repeats = 0;
    let (refusal, rolled_back) = loop {
        let at = pairs.next_deadline().unwrap();
        let actions = pairs.tick(at).unwrap();
        match actions.as_slice() {
            [Action::AskUnplug { attempt, .. }] => {
                repeats += 1;
                assert_eq!(*attempt, repeats + 1);
            }
            [
                Action::Emit(Notice::UnplugFailed {
                    reason,
                    for_migration: true,
                    ..
                }),
                Action::RefuseMigration(refusal),
                rest @ ..,
            ] => {
                assert_eq!(*reason, refusal.reason);
                break (refusal.clone(), rest.to_vec());
            }
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(repeats, 5);
    assert_eq!(
        refusal.reason,
        Reason::GuestIgnored {
            waited_ms: 30_000,
            attempts: 6
        }
    );
    assert_eq!(
        rolled_back,
        [
            Action::CancelUnplugAsk {
                primary: "primary0".into()
            },
            plug(1)
        ]
    );
    assert_eq!(pairs.gate(), Gate::Idle);
    assert_eq!(pairs.migration_ended(NOW), Ok(vec![]));
}

#[test]
fn a_refusal_of_the_guest_fails_the_migration_at_once() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();

    let actions = pairs
        .handle(NOW, "primary0", &Event::UnplugRefused("device busy".into()))
        .unwrap();

    let reason = Reason::GuestRefused("device busy".into());
    let refusal = Refusal {
        primary: "primary0".into(),
        reason,
    };
    assert_eq!(refusal.reason.name(), "guest-refused");
    assert_eq!(actions[1], Action::RefuseMigration(refusal));
    assert_eq!(phase(&pairs, 0), Phase::Active);
}

#[test]
fn a_paused_guest_is_refused_before_anything_is_asked() {
    let mut pairs = active(1);
    pairs.set_guest_running(NOW, false);

    let actions = pairs.begin_migration(NOW).unwrap();

    assert!(matches!(
        actions.as_slice(),
        [
            Action::Emit(Notice::UnplugFailed { .. }),
            Action::RefuseMigration(Refusal {
                reason: Reason::GuestPaused,
                ..
            })
        ]
    ));
    assert_eq!(
        (pairs.gate(), phase(&pairs, 0)),
        (Gate::Idle, Phase::Active)
    );
}

#[test]
fn a_guest_that_reboots_while_it_is_waited_for_lets_go_by_that() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();

    let actions = pairs.machine_reset(NOW).unwrap();

    assert_eq!(
        actions[0],
        Action::Withdraw {
            primary: "primary0".into()
        }
    );
    let moot = Action::UnplugMoot {
        primary: "primary0".into(),
        reason: Reason::GuestRebooted,
    };
    assert!(actions.contains(&moot));
    assert_eq!(actions.last(), Some(&Action::LetMigrationProceed));
    // It comes back without the feature: alone on its standby, here and there.
    assert_eq!(pairs.migration_ended(NOW), Ok(vec![]));
    assert_eq!(phase(&pairs, 0), Phase::Hidden);
}

#[test]
fn the_target_tells_on_load_and_plugs_only_once_it_runs() {
    let mut pairs = Pairs::incoming(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();

    let loaded = pairs
        .handle(NOW, "standby0", &Event::StandbyNegotiated)
        .unwrap();
    assert_eq!(
        loaded,
        [Action::Emit(Notice::FailoverNegotiated {
            standby: "standby0".into()
        })]
    );
    assert_eq!(pairs.begin_migration(NOW), Err(Illegal::GuestIsIncoming));

    let resumed = pairs.target_resumed(NOW).unwrap();
    assert_eq!(
        resumed,
        [
            Action::SteerToStandby {
                standby: "standby0".into()
            },
            Action::Announce {
                standby: "standby0".into()
            },
            plug(0)
        ]
    );
}

#[test]
fn a_target_without_its_primary_warns_and_a_later_one_is_plugged_at_once() {
    let mut pairs = Pairs::incoming(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    let loaded = pairs
        .handle(NOW, "standby0", &Event::StandbyNegotiated)
        .unwrap();
    let Action::Emit(warning) = &loaded[1] else {
        panic!("{loaded:?}")
    };
    assert_eq!(
        warning.warning_lines().unwrap(),
        [
            "Primary device not found",
            "Virtio-net failover will not work. Make sure primary device has parameter \
             failover_pair_id=standby0"
        ]
    );
    pairs.target_resumed(NOW).unwrap();

    let added = pairs.add_primary(NOW, primary(0), When::Hotplug).unwrap();

    assert_eq!(
        (added.placing, added.actions),
        (Placing::Hide, vec![plug(0)])
    );
}

#[test]
fn a_failed_plug_is_told_and_retried_until_it_works() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    pairs.add_primary(NOW, primary(0), When::AtStart).unwrap();
    pairs
        .handle(NOW, "standby0", &Event::StandbyNegotiated)
        .unwrap();

    let failed = pairs.handle(NOW, "primary0", &failed_plug()).unwrap();
    let reason = Reason::PlugFailed {
        attempt: 1,
        retry_ms: 500,
        error: busy(),
    };
    assert_eq!(
        (reason.name(), reason.retry_ms()),
        ("host-device-busy", Some(500))
    );
    assert_eq!(
        failed,
        [
            Action::SteerToStandby {
                standby: "standby0".into()
            },
            Action::Emit(Notice::PrimaryMissing {
                standby: "standby0".into(),
                primary: Some("primary0".into()),
                reason
            })
        ]
    );
    let at = pairs.next_deadline().unwrap();
    assert_eq!(at, NOW.after_ms(500));
    assert_eq!(
        pairs.tick(at).unwrap(),
        [Action::Plug {
            primary: "primary0".into(),
            attempt: 2
        }]
    );
}

#[test]
fn device_del_asks_the_guest_and_deletes_when_it_let_go_even_late() {
    let mut pairs = active(1);
    assert_eq!(
        pairs
            .handle(NOW, "primary0", &Event::DeletionAsked)
            .unwrap(),
        [ask(0, 1)]
    );

    let late = NOW.after_ms(40_000);
    let told = pairs.tick(late).unwrap();
    assert!(matches!(
        told.as_slice(),
        [Action::Emit(Notice::UnplugFailed { .. })]
    ));
    let actions = pairs.handle(late, "primary0", &Event::GuestLetGo).unwrap();

    assert_eq!(
        actions.last(),
        Some(&Action::Delete {
            primary: "primary0".into()
        })
    );
    // The standby is free for another one.
    let mut other = primary(0);
    other.id = Some("other".into());
    assert_eq!(
        pairs
            .add_primary(late, other, When::Hotplug)
            .unwrap()
            .actions,
        [Action::Plug {
            primary: "other".into(),
            attempt: 1
        }]
    );
}

#[test]
fn the_driver_leaving_before_the_eject_flips_the_path_at_that_moment() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();

    let out = pairs.handle(NOW, "primary0", &Event::DriverOut).unwrap();

    assert_eq!(out, to_standby(0, FOR_MIGRATION));
    assert_eq!(phase(&pairs, 0), Phase::Unplugging);
}

#[test]
fn refused_pairings_say_what_qemu_says_and_change_nothing() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_standby(NOW, standby(0)).unwrap();
    let mut refused = |change: &dyn Fn(&mut PrimarySpec)| {
        let mut spec = primary(0);
        change(&mut spec);
        pairs
            .add_primary(NOW, spec, When::Hotplug)
            .unwrap_err()
            .to_string()
    };

    assert_eq!(
        refused(&|s| s.id = None),
        "Device with failover_pair_id needs to have id"
    );
    assert_eq!(
        refused(&|s| s.on_pcie = false),
        "failover primary device must be on PCIExpress bus"
    );
    assert_eq!(
        refused(&|s| s.class = 0x0106),
        "failover primary device is not an Ethernet device"
    );
    let own_slot = "failover: primary device must be in its own PCI slot";
    assert_eq!(refused(&|s| s.multifunction = true), own_slot);
    assert_eq!(refused(&|s| s.function = 1), own_slot);
    assert_eq!(
        refused(&|s| s.slot = Some(Slot {
            bus: "root0".into(),
            device: 0
        })),
        own_slot
    );
    assert!(refused(&|s| s.standby = "primary0".into()).contains("names the device itself"));

    // None of them claimed the standby.
    pairs.add_primary(NOW, primary(0), When::Hotplug).unwrap();
    let mut second = primary(0);
    second.id = Some("primary1".into());
    assert_eq!(
        pairs
            .add_primary(NOW, second, When::Hotplug)
            .unwrap_err()
            .to_string(),
        "Cannot attach more than one primary device to 'standby0': 'primary0' and 'primary1'"
    );
    assert_eq!(
        pairs
            .add_primary(NOW, primary(0), When::Hotplug)
            .unwrap_err()
            .to_string(),
        "Duplicate device ID 'primary0'"
    );
}

#[test]
fn a_mac_mismatch_and_a_dangling_pair_id_are_warned_about() {
    let mut pairs = Pairs::new(Timing::default());
    pairs.add_primary(NOW, primary(1), When::AtStart).unwrap();
    assert_eq!(pairs.unpaired().len(), 1);
    pairs.add_standby(NOW, standby(0)).unwrap();
    let mut spec = primary(0);
    spec.mac = Some([2, 0, 0, 0, 0, 9]);

    let added = pairs.add_primary(NOW, spec, When::AtStart).unwrap();

    assert!(matches!(
        added.warnings.as_slice(),
        [PairingWarning::MacMismatch { .. }]
    ));
    assert!(added.warnings[0].to_string().contains("02:00:00:00:00:09"));
}

#[test]
fn devices_are_neither_added_nor_deleted_while_migrating() {
    let mut pairs = active(1);
    pairs.begin_migration(NOW).unwrap();

    let added = pairs
        .add_primary(NOW, primary(1), When::Hotplug)
        .unwrap_err();
    let deleted = pairs
        .handle(NOW, "primary0", &Event::DeletionAsked)
        .unwrap_err();
    let removed = pairs.remove_standby("standby0").unwrap_err();

    assert_eq!(added.to_string(), "device_add not allowed while migrating");
    assert_eq!(
        deleted.to_string(),
        "device_del not allowed while migrating"
    );
    assert_eq!(removed, PairingError::DeleteWhileMigrating);
}

#[test]
fn an_operator_parks_and_brings_back_and_a_migration_between_leaves_the_order_standing() {
    let mut pairs = active(1);
    let order = |pairs: &mut Pairs, path| {
        pairs
            .handle(NOW, "primary0", &Event::OperatorSwitch(path))
            .unwrap()
    };
    assert_eq!(order(&mut pairs, Path::Standby), [ask(0, 1)]);
    pairs.handle(NOW, "primary0", &Event::GuestLetGo).unwrap();

    assert_eq!(
        pairs.begin_migration(NOW).unwrap(),
        [Action::LetMigrationProceed]
    );
    assert_eq!(pairs.migration_ended(NOW), Ok(vec![]));
    assert_eq!(phase(&pairs, 0), Phase::Parked);

    assert_eq!(order(&mut pairs, Path::Primary), [plug(0)]);
}

#[test]
fn a_guest_that_removes_its_primary_unasked_is_told_of_and_gets_it_back_by_order() {
    let mut pairs = active(1);

    let actions = pairs.handle(NOW, "primary0", &Event::GuestLetGo).unwrap();

    let reason = Reason::GuestRemovedIt;
    assert_eq!(actions[..3], to_standby(0, PathWhy::GuestRemovedIt));
    let missing = Notice::PrimaryMissing {
        standby: "standby0".into(),
        primary: Some("primary0".into()),
        reason,
    };
    assert_eq!(actions[3..], [Action::Emit(missing)]);
    let back = pairs
        .handle(NOW, "primary0", &Event::OperatorSwitch(Path::Primary))
        .unwrap();
    assert_eq!(back, [plug(0)]);
}
