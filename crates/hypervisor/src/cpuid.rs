//! What CPUID tells the guest.

use crate::HypervisorError;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// How the guest's vCPUs are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Number of vCPUs.
    pub cpus: u32,
    /// Threads a core.
    pub threads: u32,
    /// Cores a socket.
    pub cores: u32,
}

/// A feature to switch: a bit of what CPUID tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuSwitch {
    /// Its name, for messages.
    pub name: String,
    /// The leaf's function.
    pub function: u32,
    /// Its index.
    pub index: u32,
    /// 0 to 3 for EAX, EBX, ECX, EDX.
    pub register: usize,
    /// The bit.
    pub bit: u8,
    /// On or off; on as far as the host has it.
    pub on: bool,
}

/// What is asked for of `-cpu` beside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuChoices {
    /// Features by name, in order.
    pub switches: Vec<CpuSwitch>,
    /// Bits of a physical address; `None` is the host's.
    pub physical_bits: Option<u8>,
    /// KVM tells the guest that it is there.
    pub kvm: bool,
    /// Performance counters.
    pub pmu: bool,
}

impl Default for CpuChoices {
    fn default() -> Self {
        Self {
            switches: Vec::new(),
            physical_bits: None,
            kvm: true,
            pmu: true,
        }
    }
}

/// The CPU the guest sees: this host's, with what cannot migrate left out.
#[derive(Clone)]
pub struct CpuModel {
    entries: Vec<kvm_cpuid_entry2>,
    topology: Topology,
}

/// Bits needed to number `n` things.
fn width(n: u32) -> u32 {
    n.max(1).next_power_of_two().trailing_zeros()
}

fn set(word: &mut u32, bit: u32, on: bool) {
    if on {
        *word |= 1 << bit;
    } else {
        *word &= !(1 << bit);
    }
}

impl CpuModel {
    /// `-cpu host`: what KVM supports here. Left out: nested virtualization and the invariant time stamp
    /// counter, whose state or promise would not survive a migration.
    ///
    /// # Errors
    /// KVM did not answer.
    pub fn host(kvm: &Kvm, topology: Topology) -> Result<Self, HypervisorError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(HypervisorError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        let mut entries = supported.as_slice().to_vec();
        // Rewritten per vCPU.
        entries.retain(|e| !matches!(e.function, 0xb | 0x1f));
        for entry in &mut entries {
            match entry.function {
                1 => {
                    set(&mut entry.ecx, 5, false); // VMX
                    set(
                        &mut entry.ecx,
                        24,
                        kvm.check_extension(Cap::TscDeadlineTimer),
                    );
                    set(&mut entry.ecx, 31, true); // a hypervisor is there
                }
                0x8000_0001 => set(&mut entry.ecx, 2, false), // SVM
                0x8000_0007 => set(&mut entry.edx, 8, false), // invariant TSC
                0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
                _ => {}
            }
        }
        name_processor(&mut entries);
        Ok(Self { entries, topology })
    }

    /// The same with what was chosen. What the host has not cannot be switched on: that is warned of.
    #[must_use]
    pub fn with(mut self, choices: &CpuChoices) -> Self {
        for switch in &choices.switches {
            let mut entries = self.entries.iter_mut();
            let entry = entries.find(|e| (e.function, e.index) == (switch.function, switch.index));
            let word = entry.and_then(|entry| match switch.register {
                0 => Some(&mut entry.eax),
                1 => Some(&mut entry.ebx),
                2 => Some(&mut entry.ecx),
                3 => Some(&mut entry.edx),
                _ => None,
            });
            let bit = u32::from(switch.bit);
            match word {
                Some(word) if !switch.on => set(word, bit, false),
                Some(word) if *word >> bit & 1 != 0 => {}
                _ if switch.on => tracing::warn!(
                    "-cpu: the host doesn't support the feature '{}': it stays off",
                    switch.name
                ),
                _ => {}
            }
        }
        if let Some(bits) = choices.physical_bits {
            for entry in self
                .entries
                .iter_mut()
                .filter(|e| e.function == 0x8000_0008)
            {
                entry.eax = entry.eax & !0xff | u32::from(bits);
            }
        }
        if !choices.kvm {
            self.entries.retain(|e| e.function >> 8 != 0x40_0000);
        }
        if !choices.pmu {
            // Intel's architectural counters, and AMD's of version 2.
            for entry in &mut self.entries {
                if matches!(entry.function, 0xa | 0x8000_0022) {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
                }
            }
        }
        self
    }

    /// What a leaf says: EAX, EBX, ECX, EDX; `None` for a leaf there is not.
    pub fn leaf(&self, function: u32, index: u32) -> Option<[u32; 4]> {
        let mut entries = self.entries.iter();
        let found = entries.find(|e| e.function == function && e.index == index)?;
        Some([found.eax, found.ebx, found.ecx, found.edx])
    }

    /// The table for one vCPU; its APIC id is its index.
    pub(crate) fn for_vcpu(&self, apic_id: u32) -> Result<CpuId, HypervisorError> {
        let threads = self.topology.threads.max(1);
        let package = threads.saturating_mul(self.topology.cores.max(1));
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.function {
                1 => {
                    entry.ebx =
                        entry.ebx & 0x0000_ffff | package.min(255) << 16 | (apic_id & 0xff) << 24;
                    set(&mut entry.edx, 28, package > 1); // more than one logical processor a package
                }
                4 => {
                    // Threads that share the cache, and cores a package, each less one.
                    let level = entry.eax >> 5 & 7;
                    let sharing = if level >= 3 { package } else { threads };
                    entry.eax = entry.eax & 0x0000_3fff
                        | ((sharing.next_power_of_two() - 1) & 0xfff) << 14
                        | (((package / threads).next_power_of_two() - 1) & 0x3f) << 26;
                }
                0x8000_0001 => set(&mut entry.ecx, 1, package > 1), // AMD: legacy core grouping
                0x8000_0008 => {
                    entry.ecx = entry.ecx & !0xf0ff | (package.min(256) - 1) | width(package) << 12
                }
                0x8000_001d => {
                    let level = entry.eax >> 5 & 7;
                    let sharing = if level >= 3 { package } else { threads };
                    entry.eax = entry.eax & !(0xfff << 14) | ((sharing - 1) & 0xfff) << 14;
                }
                0x8000_001e => {
                    entry.eax = apic_id;
                    entry.ebx = (apic_id / threads) & 0xff | ((threads - 1) & 0xff) << 8;
                    entry.ecx = (apic_id / package) & 0xff;
                }
                _ => {}
            }
        }
        // Extended topology: threads, then cores.
        let levels = [
            (1, width(threads), threads),
            (2, width(threads) + width(package / threads), package),
        ];
        for (index, (kind, shift, count)) in (0..).zip(levels) {
            entries.push(topology_leaf(index, shift, count, kind, apic_id));
        }
        entries.push(topology_leaf(2, 0, 0, 0, apic_id));
        CpuId::from_entries(&entries).map_err(|_| HypervisorError::State {
            what: "CPUID",
            reason: "too many leaves".into(),
        })
    }
}

/// Gives the guest the name of this host's processor, which KVM leaves blank (leaves 0x8000_0002 to 0x8000_0004).
fn name_processor(entries: &mut Vec<kvm_cpuid_entry2>) {
    const NAME: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
    if std::arch::x86_64::__cpuid(0x8000_0000).eax < *NAME.end() {
        return;
    }
    entries.retain(|entry| !NAME.contains(&entry.function));
    entries.extend(NAME.map(|function| {
        let leaf = std::arch::x86_64::__cpuid(function);
        kvm_cpuid_entry2 {
            function,
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
            ..Default::default()
        }
    }));
}

fn topology_leaf(index: u32, shift: u32, count: u32, kind: u32, apic_id: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count & 0xffff,
        ecx: index | kind << 8,
        edx: apic_id,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_leaves_number_threads_then_cores() {
        let topology = Topology {
            cpus: 8,
            threads: 2,
            cores: 4,
        };
        let model = CpuModel {
            entries: Vec::new(),
            topology,
        };
        let table = model.for_vcpu(5).unwrap();
        let leaves = table.as_slice();
        assert_eq!(
            leaves.iter().map(|e| (e.eax, e.ebx)).collect::<Vec<_>>(),
            [(1, 2), (3, 8), (0, 0)]
        );
        assert!(leaves.iter().all(|e| e.edx == 5));
    }

    #[test]
    fn what_was_chosen_is_what_the_guest_sees() {
        let leaf = |function, index, ecx| kvm_cpuid_entry2 {
            function,
            index,
            eax: 48,
            ecx,
            ..Default::default()
        };
        let model = CpuModel {
            entries: vec![
                leaf(1, 0, 1 << 28),
                leaf(7, 0, 0),
                leaf(0xa, 0, 1),
                leaf(0x4000_0000, 0, 1),
                leaf(0x8000_0008, 0, 0),
            ],
            topology: Topology {
                cpus: 1,
                threads: 1,
                cores: 1,
            },
        };
        let switch = |function, bit, on| CpuSwitch {
            name: "some".into(),
            function,
            index: 0,
            register: 2,
            bit,
            on,
        };
        let chosen = model.clone().with(&CpuChoices {
            switches: vec![switch(1, 28, false), switch(7, 2, true), switch(9, 0, true)],
            physical_bits: Some(40),
            kvm: false,
            pmu: false,
        });
        assert_eq!(chosen.leaf(1, 0).map(|l| l[2]), Some(0));
        // The host has it not.
        assert_eq!(chosen.leaf(7, 0).map(|l| l[2]), Some(0));
        assert_eq!(chosen.leaf(0xa, 0), Some([0; 4]));
        assert_eq!(chosen.leaf(0x4000_0000, 0), None);
        assert_eq!(chosen.leaf(0x8000_0008, 0).map(|l| l[0]), Some(40));
        let as_it_is = model.clone().with(&CpuChoices::default());
        assert_eq!(as_it_is.leaf(1, 0), model.leaf(1, 0));
        assert_eq!(as_it_is.leaf(0x4000_0000, 0), model.leaf(0x4000_0000, 0));
    }

    #[test]
    fn the_processor_is_named_once() {
        let blank = kvm_cpuid_entry2 {
            function: 0x8000_0003,
            ..Default::default()
        };
        let mut entries = vec![blank];
        name_processor(&mut entries);
        let functions: Vec<_> = entries.iter().map(|entry| entry.function).collect();
        assert_eq!(functions, [0x8000_0002, 0x8000_0003, 0x8000_0004]);
        assert!(entries.iter().any(|entry| entry.eax != 0));
    }

    #[test]
    fn width_is_that_of_the_highest_number() {
        assert_eq!([1, 2, 3, 4, 5].map(width), [0, 1, 2, 2, 3]);
    }
}
