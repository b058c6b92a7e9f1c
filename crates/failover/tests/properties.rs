//! Any order of events: the guest stays on a working path, nothing is plugged twice or during a
//! migration, and in the end the primary is back or it was told why not.

use failover::*;
use proptest::prelude::*;

const STANDBYS: [&str; 2] = ["standby0", "standby1"];
const PRIMARIES: [&str; 2] = ["primary0", "primary1"];

/// What there is to do to a machine with two pairs; `usize` picks the pair.
#[derive(Debug, Clone)]
enum Op {
    Negotiate(usize),
    Refuse(usize),
    Reset(usize),
    MachineReset,
    PlugOk(usize),
    PlugFail(usize),
    BrokenOff(usize),
    Link(usize, bool),
    DriverIn(usize),
    DriverOut(usize),
    Eject(usize),
    RefuseUnplug(usize),
    DeviceFails(usize),
    Order(usize, Path),
    Delete(usize),
    Add(usize),
    Begin,
    Cancel,
    Complete,
    Continue,
    Running(bool),
    WhenPaused(WhenPaused),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let pair = 0..2usize;
    prop_oneof![
        4 => pair.clone().prop_map(Op::Negotiate),
        1 => pair.clone().prop_map(Op::Refuse),
        1 => pair.clone().prop_map(Op::Reset),
        1 => Just(Op::MachineReset),
        5 => pair.clone().prop_map(Op::PlugOk),
        2 => pair.clone().prop_map(Op::PlugFail),
        1 => pair.clone().prop_map(Op::BrokenOff),
        2 => (pair.clone(), any::<bool>()).prop_map(|(p, up)| Op::Link(p, up)),
        5 => pair.clone().prop_map(Op::DriverIn),
        2 => pair.clone().prop_map(Op::DriverOut),
        3 => pair.clone().prop_map(Op::Eject),
        1 => pair.clone().prop_map(Op::RefuseUnplug),
        1 => pair.clone().prop_map(Op::DeviceFails),
        1 => (pair.clone(), prop_oneof![Just(Path::Standby), Just(Path::Primary)])
            .prop_map(|(p, to)| Op::Order(p, to)),
        1 => pair.clone().prop_map(Op::Delete),
        1 => pair.prop_map(Op::Add),
        3 => Just(Op::Begin),
        2 => Just(Op::Cancel),
        1 => Just(Op::Complete),
        1 => Just(Op::Continue),
        1 => any::<bool>().prop_map(Op::Running),
        1 => prop_oneof![Just(WhenPaused::Refuse), Just(WhenPaused::Wait)].prop_map(Op::WhenPaused),
        3 => prop_oneof![0..1_000u64, 0..40_000u64].prop_map(Op::Wait),
    ]
}

/// The slot of one primary and what the host was told about it: the other side of the actions.
#[derive(Debug, Default, Clone)]
struct Place {
    exists: bool,
    plugging: bool,
    inserted: bool,
    driver: bool,
    asked: bool,
    steered_to_primary: bool,
    reason_told: bool,
    /// The plug under way is to be broken off.
    unwanted: bool,
    link_is_down: bool,
}

struct World {
    pairs: Pairs,
    places: [Place; 2],
    now: Moment,
    refused: usize,
}

fn index(id: &str) -> usize {
    STANDBYS
        .iter()
        .chain(&PRIMARIES)
        .position(|x| *x == id)
        .expect("a known id")
        % 2
}

fn primary(n: usize) -> PrimarySpec {
    PrimarySpec {
        id: Some(PRIMARIES[n].into()),
        standby: STANDBYS[n].into(),
        slot: None,
        mac: None,
        on_pcie: true,
        class: CLASS_ETHERNET,
        multifunction: false,
        migratable: false,
        function: 0,
    }
}

impl World {
    fn new(target: bool) -> Self {
        let timing = Timing::default();
        let pairs = if target {
            Pairs::incoming(timing)
        } else {
            Pairs::new(timing)
        };
        let mut world = World {
            pairs,
            places: Default::default(),
            now: Moment::default(),
            refused: 0,
        };
        for (n, id) in STANDBYS.iter().enumerate() {
            let spec = StandbySpec {
                id: (*id).into(),
                slot: None,
                mac: None,
                link_timeout_ms: 3_000,
            };
            world
                .pairs
                .add_standby(world.now, spec)
                .expect("a new standby");
            world.add(n);
        }
        world
    }

    fn add(&mut self, n: usize) {
        match self.pairs.add_primary(self.now, primary(n), When::Hotplug) {
            Ok(added) => {
                assert_eq!(added.placing, Placing::Hide);
                self.places[n] = Place {
                    exists: true,
                    ..Place::default()
                };
                self.carry_out(added.actions);
            }
            Err(PairingError::Migrating) => {}
            Err(PairingError::DuplicateId(_)) => assert!(self.places[n].exists),
            Err(other) => panic!("add: {other}"),
        }
    }

    /// The control thread's part, with the promises that each action makes checked.
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Plug { primary, .. } => {
                    assert_eq!(
                        self.pairs.gate(),
                        Gate::Idle,
                        "plug while migration holds it"
                    );
                    let p = &mut self.places[index(&primary)];
                    assert!(p.exists && !p.plugging && !p.inserted, "two plugs at once");
                    assert!(!p.link_is_down, "plugged with its link down");
                    p.plugging = true;
                    p.reason_told = false;
                }
                Action::BreakOffPlug { primary } => {
                    let p = &mut self.places[index(&primary)];
                    assert!(p.plugging, "nothing to break off");
                    p.unwanted = true;
                }
                Action::Withdraw { primary } => {
                    let p = &mut self.places[index(&primary)];
                    assert!(p.inserted);
                    (p.inserted, p.driver, p.asked) = (false, false, false);
                }
                Action::AskUnplug { primary, attempt } => {
                    let p = &mut self.places[index(&primary)];
                    assert!(p.inserted && attempt >= 1);
                    p.asked = true;
                }
                // The guest may have seen the request already: `asked` stays.
                Action::CancelUnplugAsk { primary } => {
                    assert!(self.places[index(&primary)].inserted)
                }
                Action::SteerToStandby { standby } => {
                    self.places[index(&standby)].steered_to_primary = false;
                }
                Action::SteerToPrimary { standby } => {
                    let p = &mut self.places[index(&standby)];
                    assert!(
                        p.inserted && p.driver,
                        "steered to a primary without a driver"
                    );
                    assert!(!p.link_is_down, "steered to a primary without a link");
                    p.steered_to_primary = true;
                }
                Action::SteerAway { standby } => {
                    assert_eq!(self.pairs.gate(), Gate::Completed);
                    self.places[index(&standby)].steered_to_primary = false;
                }
                Action::Announce { .. } => {}
                Action::Delete { primary } => {
                    let p = &mut self.places[index(&primary)];
                    assert!(p.exists && !p.inserted && !p.plugging);
                    *p = Place::default();
                }
                Action::Release { primary } => {
                    let p = &self.places[index(&primary)];
                    assert!(!p.inserted && !p.plugging, "released while in use");
                }
                Action::Emit(Notice::PrimaryMissing { standby, .. }) => {
                    self.places[index(&standby)].reason_told = true;
                }
                Action::UnplugMoot { primary, .. } => {
                    assert!(!self.places[index(&primary)].inserted);
                }
                Action::Emit(_) => {}
                Action::LetMigrationProceed => {
                    assert!(
                        self.places.iter().all(|p| !p.inserted && !p.plugging),
                        "a primary in use passed the gate"
                    );
                    assert_eq!(self.pairs.may_switch_over(), Ok(()));
                }
                Action::RefuseMigration(_) => {
                    assert_eq!(self.pairs.gate(), Gate::Idle);
                    self.refused += 1;
                }
            }
        }
        for p in &self.places {
            assert!(
                p.driver || !p.steered_to_primary,
                "frames go where no driver is"
            );
        }
    }

    /// An event that the world made possible: the pair must take it.
    fn must(&mut self, n: usize, event: Event) {
        let actions = self
            .pairs
            .handle(self.now, PRIMARIES[n], &event)
            .unwrap_or_else(|e| panic!("{e} (world: {:?})", self.places[n]));
        self.carry_out(actions);
    }

    /// An event that may have no place; never for want of an entry in the table.
    fn may(&mut self, n: usize, event: Event) {
        self.take(|pairs, now| pairs.handle(now, STANDBYS[n], &event));
    }

    fn take(&mut self, step: impl FnOnce(&mut Pairs, Moment) -> Result<Vec<Action>, Illegal>) {
        match step(&mut self.pairs, self.now) {
            Ok(actions) => self.carry_out(actions),
            Err(Illegal::Transition { standby, from, to }) => {
                panic!("{standby}: no way from {from:?} to {to:?}")
            }
            Err(_) => {}
        }
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        for _ in 0..1_000 {
            match self.pairs.next_deadline() {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.take(|pairs, now| pairs.tick(now));
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the clock does not get on");
    }

    fn guest_runs(&self) -> bool {
        !matches!(self.pairs.gate(), Gate::Completed | Gate::Incoming)
    }

    fn apply(&mut self, op: Op) {
        let runs = self.guest_runs();
        match op {
            // On a target this is the restored state of the standby.
            Op::Negotiate(n) if self.pairs.gate() != Gate::Completed => {
                self.may(n, Event::StandbyNegotiated)
            }
            Op::Refuse(n) if runs => self.may(n, Event::StandbyRefused),
            Op::Reset(n) if runs => self.may(n, Event::StandbyReset),
            Op::MachineReset if runs => self.take(|pairs, now| pairs.machine_reset(now)),
            Op::PlugOk(n) if self.places[n].plugging => {
                let p = &mut self.places[n];
                (p.plugging, p.unwanted, p.inserted) = (false, false, true);
                self.must(n, Event::PlugSucceeded);
            }
            Op::PlugFail(n) if self.places[n].plugging => {
                let p = &mut self.places[n];
                (p.plugging, p.unwanted) = (false, false);
                self.must(n, Event::PlugFailed(PlugError::other("no such device")));
            }
            Op::BrokenOff(n) if self.places[n].plugging && self.places[n].unwanted => {
                let p = &mut self.places[n];
                (p.plugging, p.unwanted) = (false, false);
                self.must(n, Event::PlugBrokenOff);
            }
            Op::Link(n, up) if self.places[n].exists => {
                self.places[n].link_is_down = !up;
                let event = if up { Event::LinkUp } else { Event::LinkDown };
                self.must(n, event);
            }
            Op::DriverIn(n) if runs && self.places[n].inserted => {
                self.places[n].driver = true;
                self.must(n, Event::DriverIn);
            }
            Op::DriverOut(n) if runs && self.places[n].inserted => {
                self.places[n].driver = false;
                self.must(n, Event::DriverOut);
            }
            Op::Eject(n) if runs && self.places[n].inserted => {
                let p = &mut self.places[n];
                (p.inserted, p.driver, p.asked) = (false, false, false);
                self.must(n, Event::GuestLetGo);
            }
            Op::RefuseUnplug(n) if runs => self.may(n, Event::UnplugRefused("busy".into())),
            Op::DeviceFails(n) if self.places[n].inserted => {
                self.must(n, Event::DeviceFailed("fatal error".into()))
            }
            Op::Order(n, path) => {
                // An operator knows better than what is seen of the link, until that changes.
                self.places[n].link_is_down &= path == Path::Standby;
                self.may(n, Event::OperatorSwitch(path));
            }
            Op::Delete(n) => self.may(n, Event::DeletionAsked),
            Op::Add(n) => self.add(n),
            Op::Begin => self.take(|pairs, now| pairs.begin_migration(now)),
            Op::Cancel => self.take(|pairs, now| pairs.migration_ended(now)),
            Op::Complete => self.take(|pairs, now| pairs.migration_completed(now)),
            Op::Continue if self.pairs.gate() == Gate::Incoming => {
                self.take(|pairs, now| pairs.target_resumed(now))
            }
            Op::Continue => self.take(|pairs, now| pairs.source_continued(now)),
            Op::Running(running) => self.pairs.set_guest_running(self.now, running),
            Op::WhenPaused(policy) => self.pairs.set_when_paused(policy),
            Op::Wait(ms) => self.wait(ms),
            _ => {}
        }
    }

    /// Everybody behaves from now on: the migration ends, the host opens, the guest answers.
    fn settle(&mut self) {
        self.pairs.set_guest_running(self.now, true);
        for n in 0..2 {
            self.apply(Op::Link(n, true));
        }
        self.apply(Op::Cancel);
        self.apply(Op::Continue);
        for _ in 0..8 {
            for n in 0..2 {
                self.apply(Op::PlugOk(n));
                if self.places[n].asked {
                    self.apply(Op::Eject(n));
                } else {
                    self.apply(Op::DriverIn(n));
                }
            }
            self.wait(31_000);
        }
    }

    fn check_settled(&self) {
        for (n, place) in self.places.iter().enumerate() {
            let pair = self.pairs.by_standby(STANDBYS[n]).expect("the pair");
            let told = || format!("{pair:?}\n{place:?}");
            assert_eq!(pair.primary().is_some(), place.exists, "{}", told());
            assert_eq!(place.driver, pair.path() == Path::Primary, "{}", told());
            assert_eq!(place.driver, place.steered_to_primary, "{}", told());
            match (pair.primary(), pair.consent()) {
                (None, _) => assert!(matches!(pair.state(), State::Hidden(_)), "{}", told()),
                (_, Consent::None) => assert!(
                    matches!(
                        pair.state(),
                        State::Hidden(_) | State::Parked(ParkedWhy::Operator)
                    ),
                    "{}",
                    told()
                ),
                _ => match pair.state() {
                    State::Active { .. } => assert!(place.inserted && place.driver, "{}", told()),
                    State::Parked(ParkedWhy::Operator) => {}
                    State::Parked(ParkedWhy::GuestRemoved) => {
                        assert!(place.reason_told, "{}", told())
                    }
                    _ => panic!("not settled: {}", told()),
                },
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_well(target: bool, ops in proptest::collection::vec(op(), 0..60)) {
        let mut world = World::new(target);
        for op in ops {
            world.apply(op);
        }
        world.settle();
        world.check_settled();
    }

    /// Events that no world allows, from a hostile guest or a confused machine.
    #[test]
    fn nonsense_is_an_error_and_changes_nothing(
        events in proptest::collection::vec((0..2usize, 0..18usize, any::<bool>()), 0..60)
    ) {
        let mut pairs = World::new(false).pairs;
        let now = Moment::default();
        for (n, which, migrate) in events {
            let event = match which {
                0 => Event::StandbyNegotiated,
                1 => Event::StandbyRefused,
                2 => Event::StandbyReset,
                3 => Event::MachineReset,
                4 => Event::PlugSucceeded,
                5 => Event::PlugFailed(PlugError::other("x")),
                6 => Event::DriverIn,
                7 => Event::DriverOut,
                8 => Event::GuestLetGo,
                9 => Event::UnplugRefused("x".into()),
                10 => Event::DeviceFailed("x".into()),
                11 => Event::OperatorSwitch(Path::Primary),
                12 => Event::OperatorSwitch(Path::Standby),
                13 => Event::LinkDown,
                14 => Event::LinkUp,
                15 => Event::PlugBrokenOff,
                16 => Event::UnplugNotAsked("x".into()),
                _ => Event::DeletionAsked,
            };
            let before = format!("{pairs:?}");
            let outcome = pairs.handle(now, STANDBYS[n], &event);
            match outcome {
                Ok(_) => {}
                Err(Illegal::Transition { from, to, .. }) => prop_assert!(false, "{from:?} {to:?}"),
                Err(_) => prop_assert_eq!(before, format!("{pairs:?}")),
            }
            if migrate {
                let _ = pairs.begin_migration(now);
            } else {
                let _ = pairs.migration_ended(now);
            }
            // An open gate means that no primary is out there, whatever was said before.
            if pairs.gate() == Gate::Open {
                prop_assert_eq!(pairs.may_switch_over(), Ok(()));
            }
        }
    }
}
