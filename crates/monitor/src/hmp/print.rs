//! Responses for a person.

use crate::error::QmpError;
use crate::qapi::QapiType;
use crate::types::*;
use serde_json::Value;
use std::fmt::Write;

/// `Error: …`.
pub(crate) fn error(error: &QmpError) -> String {
    format!("Error: {}\n", error.desc)
}

/// `info status`.
pub(crate) fn status(info: StatusInfo) -> String {
    let state = if info.running { "running" } else { "paused" };
    let why = match info.status {
        RunState::Running | RunState::Paused => String::new(),
        status => format!(" ({status})"),
    };
    format!("VM status: {state}{why}\n")
}

/// `info kvm`.
pub(crate) fn kvm(info: KvmInfo) -> String {
    let state = match (info.present, info.enabled) {
        (false, _) => "not compiled",
        (true, true) => "enabled",
        (true, false) => "disabled",
    };
    format!("kvm support: {state}\n")
}

/// `info cpus`.
pub(crate) fn cpus(cpus: Vec<CpuInfoFast>) -> String {
    let mark = |index: i64| if index == 0 { '*' } else { ' ' };
    cpus.iter()
        .map(|cpu| {
            format!(
                "{} CPU #{}: thread_id={}\n",
                mark(cpu.cpu_index),
                cpu.cpu_index,
                cpu.thread_id
            )
        })
        .collect()
}

/// `info memory_size_summary`.
pub(crate) fn memory(info: MemoryInfo) -> String {
    let mut text = format!("base memory: {}\n", info.base_memory_bytes);
    if let Some(plugged) = info.plugged_memory_bytes {
        text += &format!("plugged memory: {plugged}\n");
    }
    text
}

/// `info network`.
pub(crate) fn network(clients: Vec<NetworkClientInfo>) -> String {
    fn line(client: &NetworkClientInfo) -> String {
        let comma = if client.info.is_empty() { "" } else { "," };
        let down = if client.link_down { ",link-down" } else { "" };
        format!(
            "{}: index={},type={}{comma}{}{down}\n",
            client.name, client.index, client.kind, client.info
        )
    }
    let mut text = String::new();
    for client in clients {
        text += &line(&client);
        if let Some(peer) = &client.peer {
            text += &format!(" \\ {}", line(peer));
        }
    }
    text
}

/// `info failover`.
pub(crate) fn failover(pairs: Vec<FailoverInfo>) -> String {
    if pairs.is_empty() {
        return "No pairs\n".to_owned();
    }
    let mut text = String::new();
    for pair in pairs {
        let primary = pair.primary_id.as_deref().unwrap_or("none");
        let seconds = pair.since_ms / 1000;
        let accepted = if pair.negotiated {
            "accepted"
        } else {
            "not accepted"
        };
        let counters = &pair.counters;
        text += &format!(
            "{}: primary={primary} state={} path={}\n",
            pair.device_id, pair.state, pair.path
        );
        text += &format!(
            "    for {seconds}.{:03} s, STANDBY {accepted} by the guest\n",
            pair.since_ms % 1000
        );
        if let (Some(reason), Some(message)) = (&pair.reason, &pair.message) {
            text += &format!("    because: {message} ({reason})\n");
        }
        if let Some(retry_ms) = pair.retry_ms {
            let attempts = pair.attempts.unwrap_or(0);
            text += &format!(
                "    {attempts} attempts failed, the next one in {}.{:03} s\n",
                retry_ms / 1000,
                retry_ms % 1000
            );
        }
        text += &format!(
            "    plugs {} (failed {}), unplugs {} (timed out {}), path changes {}, failures: device {}, link {}\n",
            counters.plugs,
            counters.plug_failures,
            counters.unplugs,
            counters.unplug_timeouts,
            counters.path_changes,
            counters.device_failures,
            counters.link_failures
        );
        for blocker in &pair.blockers {
            text += &format!(
                "    would stop a migration: {} ({})\n",
                blocker.message, blocker.reason
            );
        }
        for warning in &pair.warnings {
            text += &format!("    warning: {} ({})\n", warning.message, warning.reason);
        }
    }
    text
}

/// How far a migration is whose memory travels.
fn progress(info: &MigrationInfo) -> Option<String> {
    let under_way = matches!(
        info.status?,
        MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device
    );
    let ram = info.ram.as_ref().filter(|_| under_way)?;
    let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
    Some(report::progress_line(&report::Progress {
        remaining_bytes: bytes(ram.remaining_bytes),
        total_bytes: bytes(ram.total_bytes),
        bytes_per_s: (ram.mbps > 0.0).then_some(ram.mbps * 1e6 / 8.0),
        expected_downtime_ms: info.expected_downtime_ms.map(|ms| ms as f64),
    }))
}

/// `info migrate`.
pub(crate) fn migration(info: MigrationInfo) -> String {
    let mut text = String::new();
    let Some(status) = info.status else {
        return text;
    };
    let bar = progress(&info);
    let mut line = |name: &str, value: String| text += &format!("{name}: {value}\n");
    line("Migration status", status.to_string());
    if let Some(why) = info.error_desc {
        line("error description", why);
    }
    if let Some(reason) = info.failover_reason {
        line("failover reason", reason);
    }
    let times = [
        ("total time", info.total_time_ms),
        ("expected downtime", info.expected_downtime_ms),
        ("downtime", info.downtime_ms),
        ("setup", info.setup_time_ms),
        ("unplug of primaries", info.failover_unplug_time_ms),
    ];
    for (name, ms) in times {
        if let Some(ms) = ms {
            line(name, format!("{ms} ms"));
        }
    }
    if let Some(ram) = info.ram {
        line("throughput", format!("{:.2} mbps", ram.mbps));
        line(
            "transferred ram",
            format!("{} kbytes", ram.transferred_bytes >> 10),
        );
        line(
            "remaining ram",
            format!("{} kbytes", ram.remaining_bytes >> 10),
        );
        line("total ram", format!("{} kbytes", ram.total_bytes >> 10));
        line("duplicate", format!("{} pages", ram.duplicate_pages));
        line("normal", format!("{} pages", ram.normal_pages));
        line("normal bytes", format!("{} kbytes", ram.normal_bytes >> 10));
        line("dirty sync count", ram.dirty_sync_count.to_string());
        line("page size", format!("{} kbytes", ram.page_size_bytes >> 10));
        line("pages-per-second", ram.pages_per_second.to_string());
        line(
            "dirty pages rate",
            format!("{} pages", ram.dirty_pages_rate),
        );
    }
    for reason in info.blocked_reasons.unwrap_or_default() {
        line("blocked", reason);
    }
    // At the end: a script reads the lines above, a person the one above the prompt.
    text.extend(bar.map(|bar| bar + "\n"));
    text
}

/// `info migrate_capabilities`.
pub(crate) fn capabilities(list: Vec<MigrationCapabilityStatus>) -> String {
    let word = |on: bool| if on { "on" } else { "off" };
    list.iter()
        .map(|status| format!("{}: {}\n", status.capability, word(status.state)))
        .collect()
}

/// `info migrate_parameters`.
pub(crate) fn parameters(parameters: CurrentMigrationParameters) -> String {
    let Value::Object(members) = parameters.encode() else {
        return String::new();
    };
    let plain = |value: &Value| match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    members
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", plain(value)))
        .collect()
}

/// `info chardev`.
pub(crate) fn chardevs(list: Vec<ChardevInfo>) -> String {
    list.iter()
        .map(|chardev| format!("{}: filename={}\n", chardev.label, chardev.filename))
        .collect()
}

/// `info block`: all, or the one of this id or at this place in the object tree.
pub(crate) fn blocks(list: Vec<BlockInfo>, wanted: Option<&str>, verbose: bool) -> String {
    let mut text = String::new();
    for block in list {
        let name = if block.device.is_empty() {
            block.qdev.as_deref().unwrap_or("unnamed")
        } else {
            &block.device
        };
        let called = [Some(name), block.qdev.as_deref()];
        if wanted.is_some() && !called.contains(&wanted) {
            continue;
        }
        match &block.inserted {
            Some(medium) => {
                let access = if medium.ro { ", read-only" } else { "" };
                text += &format!("{name}: {} ({}{access})\n", medium.file, medium.drv);
            }
            None => text += &format!("{name}: [not inserted]\n"),
        }
        if let Some(qdev) = block.qdev.as_deref().filter(|qdev| *qdev != name) {
            text += &format!("    Attached to:      {qdev}\n");
        }
        if let Some(medium) = block.inserted.filter(|_| verbose) {
            text += &image(&medium.image);
        }
    }
    text
}

/// `info block -n`.
pub(crate) fn nodes(list: Vec<BlockNodeInfo>, wanted: Option<&str>) -> String {
    let mut text = String::new();
    let called = |node: &BlockNodeInfo| wanted.is_none() || node.node_name.as_deref() == wanted;
    for node in list.iter().filter(|node| called(node)) {
        let access = if node.ro { ", read-only" } else { "" };
        let name = node.node_name.as_deref().unwrap_or("unnamed");
        text += &format!("{name}: {} ({}{access})\n", node.file, node.drv);
    }
    text
}

fn image(image: &BlockImageInfo) -> String {
    format!(
        "\nImages:\nimage: {}\nfile format: {}\nvirtual size: {} bytes\n",
        image.filename, image.format, image.virtual_size_bytes
    )
}

/// `info iothreads`.
pub(crate) fn iothreads(list: Vec<IoThreadInfo>) -> String {
    list.iter()
        .map(|thread| format!("{}:\n  thread_id={}\n", thread.id, thread.thread_id))
        .collect()
}

/// `qom-list`.
pub(crate) fn properties(list: Vec<ObjectPropertyInfo>) -> String {
    list.iter()
        .map(|property| format!("{} ({})\n", property.name, property.kind))
        .collect()
}

/// `info qtree`: a line a bus, a device and, unless it is to be brief, a property, each level indented by two.
pub(crate) fn qtree(buses: Vec<QtreeBus>, brief: bool) -> String {
    // The tree is the machine's own, a few levels deep.
    fn bus(text: &mut String, bus: &QtreeBus, depth: usize, brief: bool) {
        let _ = writeln!(
            text,
            "{:depth$}bus: {}\n{:depth$}  type {}",
            "", bus.name, "", bus.kind
        );
        for each in &bus.devices {
            device(text, each, depth + 2, brief);
        }
    }
    fn device(text: &mut String, device: &QtreeDevice, depth: usize, brief: bool) {
        let _ = writeln!(
            text,
            "{:depth$}dev: {}, id \"{}\"",
            "", device.driver, device.id
        );
        for property in device.properties.iter().filter(|_| !brief) {
            let _ = writeln!(
                text,
                "{:depth$}  {} = {}",
                "", property.name, property.value
            );
        }
        for each in &device.buses {
            bus(text, each, depth + 2, brief);
        }
    }
    let mut text = String::new();
    for each in &buses {
        bus(&mut text, each, 0, brief);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_shown_while_memory_travels() {
        let mut info = MigrationInfo {
            status: Some(MigrationStatus::Active),
            expected_downtime_ms: Some(300),
            ram: Some(MigrationRamStats {
                remaining_bytes: 64 << 20,
                total_bytes: 256 << 20,
                mbps: 268.435_456,
                ..MigrationRamStats::default()
            }),
            ..MigrationInfo::default()
        };
        let text = migration(info.clone());
        assert!(text.starts_with("Migration status: active\n"));
        let last = text.lines().last().unwrap_or_default();
        assert!(
            last.ends_with("75 %  32 MiB/s,  64 MiB left, expected downtime 300 ms"),
            "{last}"
        );
        info.status = Some(MigrationStatus::Completed);
        assert!(!migration(info).contains('%'));
        assert_eq!(migration(MigrationInfo::default()), "");
    }
}
