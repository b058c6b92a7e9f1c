//! What a host's network shows of a guest, asked of the kernel as an operator would.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::packages;
use crate::site::{MACS, Site};

/// Where a host's network has one pair's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The bridge's ports behind which its table has the address; each once, in order.
    pub ports: Vec<String>,
    /// The physical function's own filter has it.
    pub on_pf: bool,
    /// The administrative address of the pair's VF.
    pub vf_mac: String,
    /// The VF's administrative VLAN; 0 is none.
    pub vf_vlan: u16,
}

#[derive(Deserialize)]
struct Entry {
    mac: String,
    ifname: String,
    master: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Interface {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    vfinfo_list: Vec<Function>,
}

#[derive(Deserialize)]
struct Function {
    vf: u32,
    address: String,
    #[serde(default)]
    vlan_list: Vec<Vlan>,
}

#[derive(Deserialize)]
struct Vlan {
    #[serde(default)]
    vlan: u16,
}

fn ask<T: serde::de::DeserializeOwned>(
    program: &str,
    netns: Option<&str>,
    words: &[&str],
) -> Result<T> {
    let mut command = Command::new(program);
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    let what = format!("{program} {}", words.join(" "));
    let text = packages::output(command.args(words), &what)?;
    serde_json::from_str(&text).with_context(|| format!("{what} said {text}"))
}

impl Site {
    /// What a host's network shows of a pair now.
    pub fn seen(&self, host: usize, pair: usize) -> Result<Seen> {
        let host = self.hosts.get(host).context("there is no such host")?;
        let mac = MACS.get(pair).context("there is no such pair")?;
        let number = host.function_numbers.get(pair).context("no such VF")?;
        let netns = host.netns.as_deref();
        let entries: Vec<Entry> = ask("bridge", netns, &["-j", "fdb", "show"])?;
        let mut ports = Vec::new();
        let mut on_pf = false;
        for entry in entries.into_iter().filter(|entry| entry.mac == *mac) {
            if entry.master.is_some() {
                ports.push(entry.ifname);
            } else if entry.ifname == host.uplink && entry.flags.iter().any(|flag| flag == "self") {
                on_pf = true;
            }
        }
        ports.sort();
        ports.dedup();
        let links: Vec<Interface> = ask("ip", netns, &["-j", "link", "show", "dev", &host.uplink])?;
        let function = links
            .into_iter()
            .flat_map(|link| link.vfinfo_list)
            .find(|function| function.vf == *number)
            .context("the physical function does not show its VF")?;
        Ok(Seen {
            ports,
            on_pf,
            vf_mac: function.address,
            vf_vlan: function.vlan_list.first().map_or(0, |vlan| vlan.vlan),
        })
    }

    /// The taps of a host that a process has open: those that carry.
    pub fn busy_taps(&self, host: usize) -> Result<Vec<String>> {
        let host = self.hosts.get(host).context("there is no such host")?;
        let links: Vec<Interface> = ask("ip", host.netns.as_deref(), &["-j", "link", "show"])?;
        let taps = links
            .into_iter()
            .filter(|link| host.taps.contains(&link.ifname));
        Ok(taps
            .filter(|tap| tap.flags.iter().any(|flag| flag == "LOWER_UP"))
            .map(|tap| tap.ifname)
            .collect())
    }
}
