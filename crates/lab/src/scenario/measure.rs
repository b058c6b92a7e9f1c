//! iperf3 between the client and a guest's standby.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, address};
use crate::packages;

const SECONDS: &str = "8";

/// Mbit/s from the client to the guest, and from the guest to the client, with the standby alone.
pub fn standby_throughput(bench: &Bench) -> Result<(f64, f64)> {
    bench.site.reset(bench.primary)?;
    bench.site.steer(0, 0, true)?;
    let mut config = bench.config("iperf", 0)?;
    config.initrd = bench.images.join("guest-iperf.img");
    config.append.push("lab.iperf".to_owned());
    for pair in &mut config.pairs {
        pair.primary = None;
    }
    let _guest = bench.boot(config)?;
    bench.reachable(0)?;
    Ok((iperf(bench, false)?, iperf(bench, true)?))
}

fn iperf(bench: &Bench, reverse: bool) -> Result<f64> {
    let guest = address(0).to_string();
    let mut command = match &bench.site.client {
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
