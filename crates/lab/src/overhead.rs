//! What a VMM's process keeps in memory beyond the guest's RAM.

use std::fs;

use anyhow::{Context, Result};

/// The resident memory of a process in MiB, the mappings that are the guest's RAM left out.
///
/// Taken from `/proc/PID/smaps`, the same for every VMM: a mapping is the guest's RAM if it is
/// exactly as large as the RAM, or if it maps a memfd of at least a quarter of it (a VMM may map
/// the RAM below and above a hole, or twice, from one memfd).
pub fn resident_mib(pid: u32, ram_mib: u32) -> Result<f64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))
        .context("cannot read the VMM's mappings")?;
    Ok(beyond_ram_kib(&smaps, u64::from(ram_mib) * 1024) as f64 / 1024.0)
}

fn beyond_ram_kib(smaps: &str, ram_kib: u64) -> u64 {
    let mut total = 0;
    let (mut size, mut memfd) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let value = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0)
        };
        match first {
            "Size:" => size = value(),
            "Rss:" => {
                let is_ram = size == ram_kib || (memfd && size >= ram_kib / 4);
                total += if is_ram { 0 } else { value() };
            }
            _ if !first.ends_with(':') => memfd = line.contains("/memfd:"),
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_left_out_whether_anonymous_or_memfd() {
        let smaps = "\
7f00-7f10 rw-p 00000000 00:00 0 
Size:             262144 kB
Rss:              100000 kB
7f20-7f30 rw-s 00000000 00:01 9  /memfd:ram (deleted)
Size:             131072 kB
Rss:               90000 kB
7f40-7f50 r-xp 00000000 08:01 9  /usr/bin/vmm
Size:               9000 kB
Rss:                5000 kB
7f60-7f70 rw-s 00000000 00:01 9  /memfd:small (deleted)
Size:                 64 kB
Rss:                  60 kB
";
        assert_eq!(beyond_ram_kib(smaps, 262_144), 5060);
    }
}
