//! What the host has: memory, swap, huge pages.

use std::fs;

/// The host's memory as `/proc/meminfo` tells it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// All memory.
    pub total_bytes: u64,
    /// What can be had without swapping.
    pub available_bytes: u64,
    /// All swap.
    pub swap_bytes: u64,
    /// The default huge page size; 0 where there are none.
    pub huge_page_bytes: u64,
}

impl HostMemory {
    /// Reads `/proc/meminfo`; `None` where it cannot be read or lacks a figure.
    #[must_use]
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            meminfo.lines().find_map(|line| {
                let rest = line.strip_prefix(name)?.strip_prefix(':')?;
                let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
                kib.checked_mul(1024)
            })
        };
        Some(Self {
            total_bytes: field("MemTotal")?,
            available_bytes: field("MemAvailable")?,
            swap_bytes: field("SwapTotal").unwrap_or(0),
            huge_page_bytes: field("Hugepagesize").unwrap_or(0),
        })
    }
}

/// Free huge pages of `page_bytes` on this host; `None` when it has none of that size.
pub(crate) fn free_huge_pages(page_bytes: u64) -> Option<u64> {
    let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes / 1024);
    let read = |file: &str| -> Option<u64> {
        fs::read_to_string(format!("{dir}/{file}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let free = read("free_hugepages")?;
    let reserved = read("resv_hugepages").unwrap_or(0);
    // Pages above nr_hugepages that the kernel may make on demand count too.
    let surplus = read("nr_overcommit_hugepages")
        .unwrap_or(0)
        .saturating_sub(read("surplus_hugepages").unwrap_or(0));
    Some(free.saturating_sub(reserved).saturating_add(surplus))
}

/// A size for people: the largest binary unit that leaves at least 1, one decimal where it does not come out even.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        let one = 1u64 << shift;
        if bytes >= one {
            if bytes.is_multiple_of(one) {
                return format!("{} {unit}", bytes >> shift);
            }
            #[allow(clippy::cast_precision_loss)]
            return format!("{:.1} {unit}", bytes as f64 / one as f64);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_parsed_and_garbage_is_no_panic() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\nMemAvailable:   24362116 kB\nSwapTotal: 8 kB\n\
                    Hugepagesize:       2048 kB\n";
        let memory = HostMemory::parse(text).unwrap();
        assert_eq!(memory.total_bytes, 24_684_084 * 1024);
        assert_eq!(memory.available_bytes, 24_362_116 * 1024);
        assert_eq!(memory.swap_bytes, 8192);
        assert_eq!(memory.huge_page_bytes, 2 << 20);
        assert!(HostMemory::parse("MemTotal: many kB").is_none());
        assert!(HostMemory::parse("").is_none());
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(4 << 30), "4 GiB");
        assert_eq!(human((3 << 30) / 2), "1.5 GiB");
        assert_eq!(human(5), "5 bytes");
    }
}
