//! The main job, measured: a guest on its primary moves to the other host and is on that host's
//! primary afterwards, while a client pings it and holds a connection with it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::operator::Operator;
use super::{Bench, address, mac, measure, migrate};
use crate::clock::now_us;
use crate::guest::links;
use crate::overhead;
use crate::progress::say;
use crate::qmp::Event;
use crate::report::{GapReport, PingReport, Progress, Run, TimelineEvent};
use crate::traffic::ping::{Ping, PingResult};
use crate::traffic::tcp::Connection;
use crate::vm::Vm;

const PING_INTERVAL_MS: u64 = 10;
/// How long the client pings before the migration, and after all is over.
const CALM: Duration = Duration::from_secs(3);

/// How often the pairs beyond the first are pinged.
const OTHER_INTERVAL: Duration = Duration::from_millis(50);

/// What is done besides the main job.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Measure the standby's throughput, too.
    #[arg(long)]
    pub throughput: bool,
    /// An operator steers the hosts' network by hand, at the events of the migration.
    #[arg(long)]
    pub by_hand: bool,
    /// The guest's pairs.
    #[arg(long, default_value_t = 1)]
    pub pairs: usize,
    /// The guest's memory in MiB.
    #[arg(long, default_value_t = 256)]
    pub memory: u32,
    /// How much of it the guest has written to, in MiB: what it never wrote hardly has to travel.
    #[arg(long, default_value_t = 0)]
    pub fill: u32,
}

/// Does the main job once. What it finds wrong with the guest is in the run's `faults`; an error
/// is returned where there is nothing to report on.
pub fn run(bench: &Bench, options: &DemoOptions) -> Result<Run> {
    bench.site.reset(bench.primary)?;
    let name = bench.vmm.name.as_str();
    say(format!("{name}: booting the guest on host A"));
    let mut source = bench.start(bench.config_pairs("source", 0, options.pairs)?)?;
    let init_us = source.wait_console("GUEST-INIT", super::BOOT_LIMIT)?;
    let boot_to_init_ms = millis(init_us - source.started_us()?);
    source.wait_console("GUEST-READY", super::BOOT_LIMIT)?;
    let before = bench.settled(&mut source)?;
    let kernel = source.agent.shell("uname -r")?.trim().to_owned();
    let addresses = held_addresses(&source)?;
    say(format!(
        "{name}: guest is up on its primary ({boot_to_init_ms:.0} ms to init, kernel {kernel})"
    ));
    fill(&source, options.fill)?;
    let vmm_overhead_mib = overhead::resident_mib(source.pid(), source.config.memory_mib)?;

    let mut config = bench.config_pairs("target", 1, options.pairs)?;
    config.incoming = Some(bench.uri(1)?);
    let mut target = bench.start(config)?;
    migrate::announce_states(&source, Some(&target))?;

    let connection = Connection::open(bench.site.client.as_deref(), address(0))?;
    let client = bench.site.client.as_deref();
    let ping = Ping::start(client, address(0), Duration::from_millis(PING_INTERVAL_MS))?;
    let others = (1..options.pairs)
        .map(|pair| Ping::start(client, address(pair), OTHER_INTERVAL))
        .collect::<Result<Vec<_>>>()?;
    if options.by_hand {
        bench.site.prepare_by_hand()?;
    }
    thread::sleep(CALM);
    say(format!("{name}: migrating"));
    let (from, onto) = (source.qmp.events().len(), target.qmp.events().len());
    let operator = options
        .by_hand
        .then(|| Operator::at_work(bench, options.pairs, &source, &target));
    let begun_us = now_us();
    source
        .qmp
        .execute("migrate", json!({"uri": bench.uri(1)?}))?;
    let mut progress = Vec::new();
    let status = follow(
        &mut source,
        &mut target,
        from,
        onto,
        begun_us,
        &mut progress,
    )?;
    let mut faults = Vec::new();
    let resumed_us = event_time(&target.qmp.events(), onto, "RESUME");
    let mut back_us = None;
    if status == "completed" && resumed_us.is_some() {
        say(format!(
            "{name}: resumed on host B, waiting for its primary"
        ));
        let macs: Vec<String> = (0..options.pairs).map(mac).collect();
        let back = target.agent.wait(begun_us, super::PRIMARY_LIMIT, |reply| {
            macs.iter()
                .all(|mac| links::primary(&reply.links, mac).is_some_and(|(_, link)| link.carrying))
        });
        back_us = back.map(|(time, _)| time);
    }
    thread::sleep(CALM);
    let other_gaps_ms = others
        .into_iter()
        .map(|ping| ping.finish().longest_gap_ms)
        .collect();
    let seen = ping.finish();
    let survived = connection.finish(Duration::from_secs(20));

    if let Some(Err(error)) = operator.map(Operator::finish) {
        faults.push(format!("steering by hand: {error:#}"));
    }
    if let Err(error) = &survived {
        faults.push(format!("{error:#}"));
    }
    let mut guest_driver = String::new();
    if status != "completed" {
        faults.push(format!(
            "the migration ended as {status}: {}",
            target.said().trim()
        ));
    } else if back_us.is_none() {
        faults.push("the primary did not come back in the guest on host B".to_owned());
    } else {
        match arrival(&mut target, &before, &addresses) {
            Ok(driver) => guest_driver = driver,
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    let sources: Vec<Event> = source.qmp.events().into_iter().skip(from).collect();
    let targets: Vec<Event> = target.qmp.events().into_iter().skip(onto).collect();
    let span = |first: Option<i64>, last: Option<i64>| match (first, last) {
        (Some(first), Some(last)) => millis(last - first),
        // A figure of something that did not happen; `faults` or `status` says so.
        _ => -1.0,
    };
    let of = |events: &[Event], label: &str| event_time(events, 0, label);
    let asked = of(&sources, "UNPLUG_PRIMARY");
    let run = Run {
        status,
        ping: PingReport {
            interval_ms: PING_INTERVAL_MS,
            sent: seen.sent,
            lost: seen.lost,
            longest_gap_ms: seen.longest_gap_ms,
            lost_at_ms: seen
                .lost_at_us
                .iter()
                .map(|time| millis(time - begun_us))
                .collect(),
            gaps: gaps(&seen, begun_us),
        },
        tcp_survived: survived.is_ok(),
        unplug_ms: span(asked, of(&sources, "MIGRATION:active")),
        downtime_ms: span(of(&sources, "STOP"), resumed_us),
        total_ms: span(Some(begun_us), of(&sources, "MIGRATION:completed")),
        resume_to_primary_back_ms: span(resumed_us, back_us),
        boot_to_init_ms,
        vmm_overhead_mib,
        events: timeline(begun_us, &sources, &targets, &source, &target),
        progress,
        other_gaps_ms,
        primary_back_ms: back_us.map(|time| millis(time - begun_us)),
        guest_driver,
        guest_kernel: kernel,
        faults,
        standby_mbit_s: None,
        vhost_mbit_s: None,
    };
    for (time, gap) in seen.gaps.iter().filter(|gap| gap.1 > 100.0) {
        say(format!(
            "{name}: no answer for {gap:.0} ms from {:.0} ms on",
            millis(time - begun_us)
        ));
    }
    drop(source);
    drop(target);
    if options.throughput {
        return Ok(Run {
            standby_mbit_s: Some(measure::standby_throughput(bench, false)?),
            vhost_mbit_s: Some(measure::standby_throughput(bench, true)?),
            ..run
        });
    }
    Ok(run)
}

/// Has the guest write to `mib` MiB of its memory. In pieces: the agent's commands have a limit.
fn fill(source: &Vm, mib: u32) -> Result<()> {
    const PIECE_MIB: u32 = 64;
    let mut left = mib;
    while left > 0 {
        let piece = left.min(PIECE_MIB);
        say(format!("the guest writes memory, {left} MiB to go"));
        let words =
            format!("dd if=/dev/zero bs=1048576 count={piece} 2>/dev/null | tr '\\0' x >> /fill");
        source.agent.shell(&words)?;
        left -= piece;
    }
    Ok(())
}

fn millis(us: i64) -> f64 {
    us as f64 / 1000.0
}

/// The gaps in the order in which they came.
fn gaps(seen: &PingResult, begun_us: i64) -> Vec<GapReport> {
    let mut gaps: Vec<GapReport> = seen
        .gaps
        .iter()
        .map(|(time, length_ms)| GapReport {
            from_ms: millis(time - begun_us),
            length_ms: *length_ms,
        })
        .collect();
    gaps.sort_by(|a, b| a.from_ms.total_cmp(&b.from_ms));
    gaps
}

fn event_time(events: &[Event], from: usize, label: &str) -> Option<i64> {
    events
        .iter()
        .skip(from)
        .find(|event| event.label() == label)
        .map(|event| event.time_us)
}

/// How often the source is asked how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Asks the source how far it is; nothing while no memory travels. Both VMMs are asked alike.
fn look(source: &Vm, begun_us: i64) -> Option<Progress> {
    let info = source.qmp.execute("query-migrate", json!({})).ok()?;
    let ram = info.get("ram")?;
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64);
    let page_bytes = number(ram, "page-size").unwrap_or(4096);
    let dirty_pages = number(ram, "dirty-pages-rate").unwrap_or(0);
    Some(Progress {
        t_ms: millis(now_us() - begun_us),
        transferred_bytes: number(ram, "transferred")?,
        remaining_bytes: number(ram, "remaining")?,
        total_bytes: number(ram, "total")?,
        dirty_bytes_per_s: dirty_pages.saturating_mul(page_bytes) as f64,
        expected_downtime_ms: number(&info, "expected-downtime").map(|ms| ms as f64),
    })
}

/// What a person is shown while memory travels.
fn show(before: Option<&Progress>, now: &Progress) {
    let seconds = before.map_or(0.0, |before| now.t_ms - before.t_ms) / 1000.0;
    let sent = before.map_or(0, |b| {
        now.transferred_bytes.saturating_sub(b.transferred_bytes)
    });
    let line = report::progress_line(&report::Progress {
        remaining_bytes: now.remaining_bytes,
        total_bytes: now.total_bytes,
        bytes_per_s: (seconds > 0.0).then(|| sent as f64 / seconds),
        expected_downtime_ms: now.expected_downtime_ms,
    });
    crate::progress::status(line);
}

/// Waits until the migration has ended; returns the source's word for how. What it said on the way goes to `progress`.
fn follow(
    source: &mut Vm,
    target: &mut Vm,
    from: usize,
    onto: usize,
    begun_us: i64,
    progress: &mut Vec<Progress>,
) -> Result<String> {
    let ended = [
        "MIGRATION:completed",
        "MIGRATION:failed",
        "MIGRATION:cancelled",
    ];
    // From the stop on nothing more is asked: the monitor has to do with the hand-over.
    let over = ["STOP", "MIGRATION:failed", "MIGRATION:cancelled"];
    while source.qmp.wait_any(from, &over, LOOK_AGAIN).is_none() {
        // Before memory travels there is nothing to ask, and the guest is about to let go of its primary.
        let travels = source
            .qmp
            .wait_any(from, &["MIGRATION:active"], Duration::ZERO)
            .is_some();
        if travels && let Some(now) = look(source, begun_us) {
            show(progress.last(), &now);
            progress.push(now);
        }
        source.check_alive()?;
        if source.qmp.closed() {
            bail!("the source's monitor hung up");
        }
        if millis(now_us() - begun_us) > migrate::MIGRATION_LIMIT.as_secs_f64() * 1000.0 {
            break;
        }
    }
    let deadline = Instant::now() + migrate::MIGRATION_LIMIT;
    let end = loop {
        if let Some(end) = source.qmp.wait_any(from, &ended, Duration::from_secs(1)) {
            break end;
        }
        source.check_alive()?;
        target.check_alive()?;
        if Instant::now() > deadline {
            let status = source
                .qmp
                .execute("query-migrate", json!({}))
                .unwrap_or(Value::Null);
            bail!(
                "the migration did not end within {} s: {status}",
                migrate::MIGRATION_LIMIT.as_secs()
            );
        }
    };
    let status = end
        .data
        .get("status")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned();
    // The last of it is known only now.
    progress.extend(look(source, begun_us).filter(|_| status == "completed"));
    if status == "completed"
        && target
            .qmp
            .wait_event(onto, "RESUME", Duration::from_secs(60))
            .is_none()
    {
        target.check_alive()?;
        bail!("no RESUME on the target");
    }
    Ok(status)
}

fn held_addresses(vm: &Vm) -> Result<String> {
    // The order of the lines, and the lifetimes, may differ; what is held may not.
    let text = vm
        .agent
        .shell("ip -o addr | awk '$3 ~ /inet/ {print $2, $4}'")?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Checks that the guest on the target is the one that left; returns its primary's driver.
fn arrival(
    target: &mut Vm,
    before: &crate::guest::agent::Reply,
    addresses: &str,
) -> Result<String> {
    target.check_alive()?;
    let after = target.state()?;
    if after.boot != before.boot {
        bail!("the guest booted anew");
    }
    if after.up < before.up {
        bail!(
            "the guest's uptime went back from {} to {} s",
            before.up,
            after.up
        );
    }
    let now = held_addresses(target)?;
    if now != addresses {
        bail!("the guest's addresses changed from {addresses:?} to {now:?}");
    }
    let guest_mac = mac(0);
    let (_, primary) =
        links::primary(&after.links, &guest_mac).context("the primary has gone again")?;
    Ok(primary.driver.clone().unwrap_or_default())
}

fn timeline(
    begun_us: i64,
    sources: &[Event],
    targets: &[Event],
    source: &Vm,
    target: &Vm,
) -> Vec<TimelineEvent> {
    let mut events: Vec<TimelineEvent> = Vec::new();
    for (side, list, vm) in [("source", sources, source), ("target", targets, target)] {
        events.extend(list.iter().map(|event| TimelineEvent {
            t_ms: millis(event.time_us - begun_us),
            side: side.to_owned(),
            event: event.name.clone(),
            data: event.data.clone(),
        }));
        let told = vm.console.lines().into_iter().filter(|(time, line)| {
            *time >= begun_us
                && (line.contains("failover ")
                    || line.contains("ink is Up")
                    || line.contains("ink is Down"))
        });
        events.extend(told.map(|(time, line)| TimelineEvent {
            t_ms: millis(time - begun_us),
            side: side.to_owned(),
            event: "GUEST".to_owned(),
            data: json!({"message": line}),
        }));
    }
    events.sort_by(|a, b| a.t_ms.total_cmp(&b.t_ms));
    events
}
