//! `-metrics`: a machine is scraped while its guest is asked to let go.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use openmetrics_parser::openmetrics::parse_openmetrics;

use crate::client::Machine;
use crate::migrate::{EJECT, completed, migrate, tell_states};
use crate::pair::{PORTS, accept, add_primary, add_standby, expect};
use crate::pci::Pci;

/// The text, once it was found to be OpenMetrics.
fn scrape(socket: &Path) -> String {
    let mut client = UnixStream::connect(socket).unwrap();
    client
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: guest\r\n\r\n")
        .unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    let (head, text) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    parse_openmetrics(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    text.to_owned()
}

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[test]
fn what_a_monitoring_system_asks_is_answered_all_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("metrics");
    let mut machine = Machine::start(&format!(
        "{PORTS} -name guest -metrics unix:{}",
        socket.display()
    ));
    let text = scrape(&socket);
    assert_eq!(value(&text, "standfast_guest_running"), Some(1.0));
    assert_eq!(
        value(&text, "standfast_pair_on_primary{"),
        None,
        "no pair yet"
    );

    // Who asks and does not listen is in nobody's way.
    let _silent = UnixStream::connect(&socket).unwrap();

    let mut pci = Pci::set_up(&mut machine, 2);
    add_standby(&mut machine, 0, true);
    accept(&mut machine, &mut pci, 1, "standby0");
    add_primary(&mut machine, 0);
    expect(&mut machine, &["standby0", "primary0"], &[]);
    let text = scrape(&socket);
    let plugs = "standfast_pair_plug_attempts_total{pair=\"standby0\"}";
    assert_eq!(value(&text, plugs), Some(1.0), "{text}");
    assert_eq!(
        value(&text, "standfast_pair_accepted{pair=\"standby0\"}"),
        Some(1.0)
    );
    assert!(text.contains("standfast_nic_link_up{nic=\"standby0\""));

    tell_states(&mut machine);
    migrate(&mut machine, &folder.path().join("stream"));
    machine.event("UNPLUG_PRIMARY");
    machine.until("wait-unplug", &["setup"]);
    let text = scrape(&socket);
    let state = |word: &str| {
        format!("standfast_migration_state{{direction=\"outgoing\",state=\"{word}\"}}")
    };
    assert_eq!(value(&text, &state("wait-unplug")), Some(1.0), "{text}");
    assert_eq!(value(&text, &state("active")), Some(0.0));
    let phase = "standfast_pair_state{pair=\"standby0\",primary=\"primary0\",state=\"unplugging\"}";
    assert_eq!(value(&text, phase), Some(1.0));

    machine.command(EJECT);
    completed(&mut machine);
    let text = scrape(&socket);
    let ended = "standfast_migrations_total{direction=\"outgoing\",outcome=\"completed\"}";
    assert_eq!(value(&text, ended), Some(1.0), "{text}");
    let unplug = value(
        &text,
        "standfast_migration_unplug_seconds{direction=\"outgoing\"}",
    );
    assert!(unplug.is_some_and(|s| s >= 0.0), "{unplug:?}");
    let memory = value(
        &text,
        "standfast_migration_memory_bytes{direction=\"outgoing\"}",
    );
    assert!(memory.is_some_and(|bytes| bytes >= f64::from(1 << 20)));
    machine.stop();
    assert!(!socket.exists(), "nothing is left behind");
}
