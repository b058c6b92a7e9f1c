//! iperf3 between a host and its guest's standby.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, address};
use crate::packages;

const SECONDS: &str = "8";
/// The address the host takes on its bridge for the measurement.
const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// Mbit/s to the guest and from it, with the standby alone; `vhost`: moved by the host's kernel.
///
/// The other end is in the host, on the bridge of the tap: a client beyond the emulated uplink
/// would measure that uplink and not the VMM.
pub fn standby_throughput(bench: &Bench, vhost: bool) -> Result<(f64, f64)> {
    bench.site.reset(bench.primary)?;
    bench.site.steer(0, 0, true)?;
    let mut config = bench.config("iperf", 0)?;
    config.initrd = bench.images.join("guest-iperf.img");
    config.append.push("lab.iperf".to_owned());
    for pair in &mut config.pairs {
        pair.primary = None;
        pair.vhost = vhost;
    }
    let _guest = bench.boot(config)?;
    let host = bench.host(0)?;
    let Some(netns) = host.netns.as_deref() else {
        // On a machine of its own no address is put on a bridge that others use.
        let client = bench.site.client.as_deref();
        bench.reachable(0)?;
        return Ok((iperf(client, false)?, iperf(client, true)?));
    };
    let change = |what: &str| {
        let cidr = format!("{HOST_ADDRESS}/24");
        let mut command = Command::new("ip");
        command.args(["-n", netns, "addr", what, &cidr, "dev", &host.bridge]);
        packages::run(&mut command, "ip addr")
    };
    change("add")?;
    let rates = crate::traffic::ping::reachable(Some(netns), address(0), super::REACH_LIMIT)
        .and_then(|()| Ok((iperf(Some(netns), false)?, iperf(Some(netns), true)?)));
    change("del")?;
    rates
}

fn iperf(netns: Option<&str>, reverse: bool) -> Result<f64> {
    let guest = address(0).to_string();
    let mut command = match netns {
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns, "iperf3"]);
            command
        }
        None => Command::new("iperf3"),
    };
    command
        .args(["-c", &guest, "-J", "-t", SECONDS, "-O", "1"])
        .stdin(Stdio::null());
    if reverse {
        command.arg("-R");
    }
    let text = packages::output(&mut command, "iperf3")?;
    let result: Value = serde_json::from_str(&text).context("iperf3 said no JSON")?;
    result
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64)
        .map(|rate| rate / 1e6)
        .context("iperf3 said no rate")
}
