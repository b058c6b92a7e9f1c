//! What is told, and under which names.

use std::sync::atomic::AtomicU64;

use machine::RunState;
use machine::inspect::{NicView, PairView, Path, Phase};
use migration::{Info, State};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The beginning of every name.
const PREFIX: &str = "standfast";
/// Characters of a label's value.
const MAX_LABEL: usize = 200;

/// What there is to tell, taken at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The machine's name.
    pub name: String,
    /// Why the guest runs or does not.
    pub run_state: RunState,
    /// The pairs.
    pub pairs: Vec<PairView>,
    /// The NICs.
    pub nics: Vec<NicView>,
    /// The migration away from here, or else the one that brought the guest.
    pub migration: Option<Info>,
    /// That migration goes away from here.
    pub outgoing: bool,
    /// How migrations ended so far: direction, outcome, how many.
    pub ended: Vec<(&'static str, &'static str, u64)>,
}

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As OpenMetrics names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A family: its name, what it means, and how its samples are taken.
pub struct FamilySpec {
    /// Without prefix and unit.
    pub name: &'static str,
    /// The unit, which is the end of the name.
    pub unit: Option<&'static str>,
    /// Its type.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it is.
    pub help: &'static str,
    take: fn(&Snapshot, &mut Samples),
}

impl FamilySpec {
    /// Prefix, name and unit; a counter's sample has `_total` besides.
    pub fn full_name(&self) -> String {
        match self.unit {
            Some(unit) => format!("{PREFIX}_{}_{unit}", self.name),
            None => format!("{PREFIX}_{}", self.name),
        }
    }
}

/// A family's samples: the labels' values, and the sample's.
#[derive(Default)]
struct Samples(Vec<(Vec<String>, f64)>);

impl Samples {
    fn add<const N: usize>(&mut self, labels: [&str; N], value: f64) {
        let labels = labels.iter().map(|label| short(label)).collect();
        self.0.push((labels, value));
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_LABEL) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

const PHASES: [(Phase, &str); 6] = [
    (Phase::Hidden, "hidden"),
    (Phase::Plugging, "plugging"),
    (Phase::Active, "active"),
    (Phase::Unplugging, "unplugging"),
    (Phase::Parked, "parked"),
    (Phase::Released, "released"),
];

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn direction(snapshot: &Snapshot) -> &'static str {
    if snapshot.outgoing {
        "outgoing"
    } else {
        "incoming"
    }
}

/// A figure of the migration, if it is known.
fn of_migration(snapshot: &Snapshot, to: &mut Samples, take: fn(&Info) -> Option<f64>) {
    if let Some(value) = snapshot.migration.as_ref().and_then(take) {
        to.add([direction(snapshot)], value);
    }
}

fn seconds(ms: Option<u64>) -> Option<f64> {
    ms.map(|ms| ms as f64 / 1000.0)
}

fn of_pairs(snapshot: &Snapshot, to: &mut Samples, take: fn(&PairView) -> f64) {
    for pair in &snapshot.pairs {
        to.add([&pair.standby], take(pair));
    }
}

fn of_nics(snapshot: &Snapshot, to: &mut Samples, take: fn(&NicView) -> f64) {
    for nic in &snapshot.nics {
        let netdev = nic.netdev.as_ref().map_or("", |netdev| netdev.id.as_str());
        to.add([&nic.key, netdev], take(nic));
    }
}

macro_rules! families {
    ($( $kind:ident $name:literal $(, $unit:literal)? [$($label:literal),*] $help:literal => $take:expr; )*) => {
        /// All families, in the order in which they are documented.
        pub static FAMILIES: &[FamilySpec] = &[$(
            FamilySpec {
                name: $name,
                unit: families!(@unit $($unit)?),
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                take: $take,
            },
        )*];
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

families! {
    Gauge "build_info" ["version", "name"] "always 1; which program this is, and the machine's name"
        => |s, to| to.add([env!("CARGO_PKG_VERSION"), &s.name], 1.0);
    Gauge "guest_running" [] "1 while the guest runs"
        => |s, to| to.add([], truth(s.run_state.is_running()));

    Gauge "pair_state" ["pair", "primary", "state"] "a set of states: where the pair is in its life"
        => |s, to| for pair in &s.pairs {
            let primary = pair.primary.as_deref().unwrap_or_default();
            for (phase, name) in PHASES {
                to.add([&pair.standby, primary, name], truth(pair.phase == Some(phase)));
            }
        };
    Gauge "pair_state_age", "seconds" ["pair"] "for how long it has been there"
        => |s, to| of_pairs(s, to, |p| p.since_ms as f64 / 1000.0);
    Gauge "pair_on_primary" ["pair"] "1 while the guest's traffic takes the primary, 0 on the standby"
        => |s, to| of_pairs(s, to, |p| truth(p.path == Path::Primary));
    Gauge "pair_accepted" ["pair"] "1 once the guest has accepted the standby as one"
        => |s, to| of_pairs(s, to, |p| truth(p.negotiated));
    Gauge "pair_reason_info" ["pair", "reason"]
        "1, while the primary is not in use, with the reason in a word"
        => |s, to| for pair in &s.pairs {
            if let Some(reason) = &pair.reason {
                to.add([&pair.standby, reason.name], 1.0);
            }
        };
    Gauge "pair_migration_blocked" ["pair", "reason"] "1 for each reason for which a migration would be refused now"
        => |s, to| for pair in &s.pairs {
            for note in &pair.blockers {
                to.add([&pair.standby, note.name], 1.0);
            }
        };
    Counter "pair_path_changes" ["pair"] "changes of the path"
        => |s, to| of_pairs(s, to, |p| p.counters.path_changes as f64);
    Counter "pair_plug_attempts" ["pair"] "attempts to plug the primary"
        => |s, to| of_pairs(s, to, |p| p.counters.plugs as f64);
    Counter "pair_plug_failures" ["pair"] "those that failed"
        => |s, to| of_pairs(s, to, |p| p.counters.plug_failures as f64);
    Counter "pair_unplug_requests" ["pair"] "how often the guest was asked to let go, repeats not counted"
        => |s, to| of_pairs(s, to, |p| p.counters.unplugs as f64);
    Counter "pair_unplug_timeouts" ["pair"] "those to which it did nothing until the deadline"
        => |s, to| of_pairs(s, to, |p| p.counters.unplug_timeouts as f64);

    Gauge "migration_state" ["direction", "state"] "a set of states: of the migration that runs, or ran last"
        => |s, to| if let Some(now) = s.migration.as_ref().and_then(|info| info.status) {
            for state in State::ALL {
                to.add([direction(s), state.name()], truth(state == now));
            }
        };
    Counter "migrations" ["direction", "outcome"] "migrations that ended: completed, failed, cancelled"
        => |s, to| for (direction, outcome, count) in &s.ended {
            to.add([direction, outcome], *count as f64);
        };
    Gauge "migration_transferred", "bytes" ["direction"] "memory on the wire so far"
        => |s, to| of_migration(s, to, |i| Some(i.ram?.transferred_bytes as f64));
    Gauge "migration_remaining", "bytes" ["direction"] "memory left to send in this pass"
        => |s, to| of_migration(s, to, |i| Some(i.ram?.remaining_bytes as f64));
    Gauge "migration_memory", "bytes" ["direction"] "all of the guest's memory"
        => |s, to| of_migration(s, to, |i| Some(i.ram?.total_bytes as f64));
    Gauge "migration_speed", "bytes_per_second" ["direction"] "on the wire, now"
        => |s, to| of_migration(s, to, |i| Some(i.ram?.mbps * 1e6 / 8.0));
    Gauge "migration_dirty_rate", "bytes_per_second" ["direction"] "what the guest writes anew, at the last look at its pages"
        => |s, to| of_migration(s, to, |i| {
            let ram = i.ram?;
            Some(ram.dirty_pages_rate.saturating_mul(ram.page_bytes) as f64)
        });
    Gauge "migration_passes" ["direction"] "looks at the dirty pages so far"
        => |s, to| of_migration(s, to, |i| Some(i.ram?.dirty_sync_count as f64));
    Gauge "migration_elapsed", "seconds" ["direction"] "since it began; all of it once it ended"
        => |s, to| of_migration(s, to, |i| seconds(i.total_time_ms));
    Gauge "migration_expected_downtime", "seconds" ["direction"] "how long the guest would stand still if it were stopped now"
        => |s, to| of_migration(s, to, |i| seconds(i.expected_downtime_ms));
    Gauge "migration_downtime", "seconds" ["direction"] "how long it stood still"
        => |s, to| of_migration(s, to, |i| seconds(i.downtime_ms));
    Gauge "migration_reason_info" ["direction", "reason"] "1, with the reason in a word, after a migration that the pairs did not allow"
        => |s, to| if let Some(reason) = s.migration.as_ref().and_then(|info| info.failover_reason) {
            to.add([direction(s), reason], 1.0);
        };
    Gauge "migration_unplug", "seconds" ["direction"] "how long the guest took to let its primaries go"
        => |s, to| of_migration(s, to, |i| seconds(i.unplug_time_ms));

    Gauge "nic_link_up" ["nic", "netdev"] "1 while the virtio NIC's cable is in"
        => |s, to| of_nics(s, to, |n| truth(n.link_up));
    Counter "nic_receive", "bytes" ["nic", "netdev"] "what the guest was given, without virtio's headers; with vhost-net this process sees none"
        => |s, to| of_nics(s, to, |n| n.counters.rx_bytes as f64);
    Counter "nic_receive_frames" ["nic", "netdev"] "the same in frames"
        => |s, to| of_nics(s, to, |n| n.counters.rx_frames as f64);
    Counter "nic_receive_dropped_frames" ["nic", "netdev"] "frames lost: they did not fit, the link was down"
        => |s, to| of_nics(s, to, |n| n.counters.rx_dropped as f64);
    Counter "nic_receive_filtered_frames" ["nic", "netdev"] "frames that the driver's filter did not want"
        => |s, to| of_nics(s, to, |n| n.counters.rx_filtered as f64);
    Counter "nic_receive_starved" ["nic", "netdev"] "times a frame waited for the driver to give buffers"
        => |s, to| of_nics(s, to, |n| n.counters.rx_starved as f64);
    Counter "nic_transmit", "bytes" ["nic", "netdev"] "what the guest sent, without virtio's headers"
        => |s, to| of_nics(s, to, |n| n.counters.tx_bytes as f64);
    Counter "nic_transmit_frames" ["nic", "netdev"] "the same in frames"
        => |s, to| of_nics(s, to, |n| n.counters.tx_frames as f64);
    Counter "nic_transmit_dropped_frames" ["nic", "netdev"] "frames lost: the back end refused them, the link was down"
        => |s, to| of_nics(s, to, |n| n.counters.tx_dropped as f64);
}

type Labels = Vec<(&'static str, String)>;

/// All families as OpenMetrics text.
pub fn text(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    for spec in FAMILIES {
        let mut samples = Samples::default();
        (spec.take)(snapshot, &mut samples);
        let named = samples.0.into_iter().map(|(values, value)| {
            let labels: Labels = spec.labels.iter().copied().zip(values).collect();
            (labels, value)
        });
        match spec.kind {
            Kind::Gauge => {
                let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
                for (labels, value) in named {
                    family.get_or_create(&labels).set(value);
                }
                register(&mut registry, spec, family);
            }
            Kind::Counter => {
                let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
                for (labels, value) in named {
                    family.get_or_create(&labels).inc_by(value);
                }
                register(&mut registry, spec, family);
            }
        }
    }
    let mut text = String::new();
    // Writing into a text cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn register(
    registry: &mut Registry,
    spec: &FamilySpec,
    metric: impl prometheus_client::registry::Metric,
) {
    match spec.unit {
        Some(unit) => {
            let unit = Unit::Other(unit.to_owned());
            registry.register_with_unit(spec.name, spec.help, unit, metric);
        }
        None => registry.register(spec.name, spec.help, metric),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use machine::inspect::{NoteView, PairCounters};
    use migration::RamInfo;
    use openmetrics_parser::openmetrics::parse_openmetrics;

    pub(super) fn snapshot() -> Snapshot {
        Snapshot {
            name: "a \"guest\"\n\\".into(),
            run_state: RunState::Running,
            pairs: vec![PairView {
                standby: "net1".into(),
                primary: Some("hostdev0".into()),
                phase: Some(Phase::Plugging),
                since_ms: 1500,
                path: Path::Standby,
                negotiated: true,
                reason: Some(NoteView {
                    name: "guest-has-no-driver",
                    text: "no driver of the guest took it within 30000 ms".into(),
                }),
                attempts: Some(2),
                retry_ms: None,
                warnings: Vec::new(),
                counters: PairCounters {
                    plugs: 3,
                    path_changes: 2,
                    ..PairCounters::default()
                },
                blockers: vec![NoteView {
                    name: "guest-paused",
                    text: "it is paused".into(),
                }],
            }],
            nics: Vec::new(),
            migration: Some(Info {
                status: Some(State::Active),
                expected_downtime_ms: Some(300),
                ram: Some(RamInfo {
                    transferred_bytes: 4096,
                    dirty_pages_rate: 2,
                    page_bytes: 4096,
                    mbps: 8.0,
                    ..RamInfo::default()
                }),
                ..Info::default()
            }),
            outgoing: true,
            ended: vec![("outgoing", "failed", 2)],
        }
    }

    #[test]
    fn the_text_is_openmetrics() {
        let text = text(&snapshot());
        let parsed = parse_openmetrics(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        // A family without samples is left out: there is no NIC here, and not every figure is known.
        let told = FAMILIES
            .iter()
            .filter_map(|spec| Some((spec, parsed.families.get(&spec.full_name())?)));
        assert_eq!(told.clone().count(), parsed.families.len());
        assert!(parsed.families.len() > 20);
        for (spec, family) in told {
            assert_eq!(family.help.trim_end_matches('.'), spec.help);
            assert_eq!(family.unit, spec.unit.unwrap_or_default());
        }
        for line in [
            r#"standfast_pair_state{pair="net1",primary="hostdev0",state="plugging"} 1"#,
            r#"standfast_pair_state{pair="net1",primary="hostdev0",state="active"} 0"#,
            r#"standfast_pair_state_age_seconds{pair="net1"} 1.5"#,
            r#"standfast_pair_reason_info{pair="net1",reason="guest-has-no-driver"} 1"#,
            r#"standfast_pair_plug_attempts_total{pair="net1"} 3"#,
            r#"standfast_migration_state{direction="outgoing",state="active"} 1"#,
            r#"standfast_migrations_total{direction="outgoing",outcome="failed"} 2"#,
            r#"standfast_migration_speed_bytes_per_second{direction="outgoing"} 1000000"#,
            r#"standfast_migration_dirty_rate_bytes_per_second{direction="outgoing"} 8192"#,
            r#"standfast_migration_expected_downtime_seconds{direction="outgoing"} 0.3"#,
            "standfast_guest_running 1",
        ] {
            let found = text.lines().any(|l| l == line || l == format!("{line}.0"));
            assert!(found, "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn names_do_not_repeat_and_counters_are_not_named_twice() {
        let mut names: Vec<String> = FAMILIES.iter().map(FamilySpec::full_name).collect();
        assert!(names.iter().all(|name| !name.ends_with("_total")));
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
