//! Pairs and actions that the tests of sequences speak of.
#![allow(clippy::unwrap_used, dead_code)] // each test program uses its part

use failover::*;

pub(crate) const NOW: Moment = Moment::from_ms(1_000);
pub(crate) const LINK_MS: u64 = 3_000;
pub(crate) const FOR_MIGRATION: PathWhy = PathWhy::Unplug(UnplugWhy::Migration);

pub(crate) fn standby(n: u32) -> StandbySpec {
    StandbySpec {
        id: format!("standby{n}"),
        slot: Some(Slot {
            bus: format!("root{n}"),
            device: 0,
        }),
        mac: Some([2, 0, 0, 0, 0, 1]),
        link_timeout_ms: LINK_MS,
    }
}

pub(crate) fn primary(n: u32) -> PrimarySpec {
    PrimarySpec {
        id: Some(format!("primary{n}")),
        standby: format!("standby{n}"),
        slot: Some(Slot {
            bus: format!("root1{n}"),
            device: 0,
        }),
        mac: None,
        on_pcie: true,
        class: CLASS_ETHERNET,
        multifunction: false,
        migratable: false,
        function: 0,
    }
}

pub(crate) fn ids(n: u32) -> (String, String) {
    (format!("standby{n}"), format!("primary{n}"))
}

/// Machines with `count` pairs, all of them active.
pub(crate) fn active(count: u32) -> Pairs {
    let mut pairs = Pairs::new(Timing::default());
    for n in 0..count {
        pairs.add_standby(NOW, standby(n)).unwrap();
        pairs.add_primary(NOW, primary(n), When::AtStart).unwrap();
        let (s, p) = ids(n);
        pairs.handle(NOW, &s, &Event::StandbyNegotiated).unwrap();
        pairs.handle(NOW, &p, &Event::PlugSucceeded).unwrap();
        pairs.handle(NOW, &p, &Event::DriverIn).unwrap();
    }
    pairs
}

pub(crate) fn phase(pairs: &Pairs, n: u32) -> Phase {
    pairs
        .by_standby(&format!("standby{n}"))
        .unwrap()
        .state()
        .phase()
}

pub(crate) fn plug(n: u32) -> Action {
    Action::Plug {
        primary: format!("primary{n}"),
        attempt: 1,
    }
}

pub(crate) fn ask(n: u32, attempt: u32) -> Action {
    Action::AskUnplug {
        primary: format!("primary{n}"),
        attempt,
    }
}

pub(crate) fn to_standby(n: u32, why: PathWhy) -> [Action; 3] {
    let standby = format!("standby{n}");
    [
        Action::SteerToStandby {
            standby: standby.clone(),
        },
        Action::Announce {
            standby: standby.clone(),
        },
        Action::Emit(Notice::PathChanged {
            standby,
            path: Path::Standby,
            why,
        }),
    ]
}

pub(crate) fn busy() -> PlugError {
    PlugError {
        fault: PlugFault::Busy,
        text: "group busy".into(),
    }
}

pub(crate) fn failed_plug() -> Event {
    Event::PlugFailed(busy())
}

pub(crate) fn unplug_told(n: u32) -> Action {
    Action::Emit(Notice::UnplugPrimary {
        primary: format!("primary{n}"),
    })
}
