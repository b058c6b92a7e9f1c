//! The names of a processor's features, by where CPUID tells them (Intel SDM volume 2A, AMD APM volume 3; KVM's own leaf in the kernel's
//! Documentation/virt/kvm/x86/cpuid.rst). The names are those of QEMU's `-cpu`.

/// A leaf's function, its index, which of the four registers, and the names of its bits.
pub type Word = (u32, u32, usize, &'static [(u8, &'static str)]);

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// All of them, in the order of CPUID's leaves.
#[rustfmt::skip]
pub const WORDS: &[Word] = &[
    (1, 0, EDX, &[
        (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"), (8, "cx8"), (9, "apic"),
        (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"), (18, "pn"), (19, "clflush"),
        (21, "ds"), (22, "acpi"), (23, "mmx"), (24, "fxsr"), (25, "sse"), (26, "sse2"), (27, "ss"), (28, "ht"), (29, "tm"),
        (30, "ia64"), (31, "pbe"),
    ]),
    (1, 0, ECX, &[
        (0, "pni"), (1, "pclmulqdq"), (2, "dtes64"), (3, "monitor"), (4, "ds-cpl"), (5, "vmx"), (6, "smx"), (7, "est"), (8, "tm2"),
        (9, "ssse3"), (10, "cid"), (12, "fma"), (13, "cx16"), (14, "xtpr"), (15, "pdcm"), (17, "pcid"), (18, "dca"), (19, "sse4.1"),
        (20, "sse4.2"), (21, "x2apic"), (22, "movbe"), (23, "popcnt"), (24, "tsc-deadline"), (25, "aes"), (26, "xsave"), (28, "avx"),
        (29, "f16c"), (30, "rdrand"), (31, "hypervisor"),
    ]),
    (6, 0, EAX, &[(2, "arat")]),
    (7, 0, EBX, &[
        (0, "fsgsbase"), (1, "tsc-adjust"), (2, "sgx"), (3, "bmi1"), (4, "hle"), (5, "avx2"), (6, "fdp-excptn-only"), (7, "smep"),
        (8, "bmi2"), (9, "erms"), (10, "invpcid"), (11, "rtm"), (13, "zero-fcs-fds"), (14, "mpx"), (16, "avx512f"), (17, "avx512dq"),
        (18, "rdseed"), (19, "adx"), (20, "smap"), (21, "avx512ifma"), (22, "pcommit"), (23, "clflushopt"), (24, "clwb"),
        (25, "intel-pt"), (26, "avx512pf"), (27, "avx512er"), (28, "avx512cd"), (29, "sha-ni"), (30, "avx512bw"), (31, "avx512vl"),
    ]),
    (7, 0, ECX, &[
        (1, "avx512vbmi"), (2, "umip"), (3, "pku"), (5, "waitpkg"), (6, "avx512vbmi2"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"),
        (11, "avx512vnni"), (12, "avx512bitalg"), (14, "avx512-vpopcntdq"), (16, "la57"), (22, "rdpid"), (24, "bus-lock-detect"),
        (25, "cldemote"), (27, "movdiri"), (28, "movdir64b"), (30, "sgxlc"), (31, "pks"),
    ]),
    (7, 0, EDX, &[
        (2, "avx512-4vnniw"), (3, "avx512-4fmaps"), (4, "fsrm"), (8, "avx512-vp2intersect"), (10, "md-clear"), (14, "serialize"),
        (16, "tsx-ldtrk"), (22, "amx-bf16"), (23, "avx512-fp16"), (24, "amx-tile"), (25, "amx-int8"), (26, "spec-ctrl"), (27, "stibp"),
        (28, "flush-l1d"), (29, "arch-capabilities"), (30, "core-capability"), (31, "ssbd"),
    ]),
    (7, 1, EAX, &[
        (4, "avx-vnni"), (5, "avx512-bf16"), (7, "cmpccxadd"), (10, "fzrm"), (11, "fsrs"), (12, "fsrc"), (21, "amx-fp16"),
        (23, "avx-ifma"), (26, "lam"),
    ]),
    (0xd, 1, EAX, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves"), (4, "xfd")]),
    (0x4000_0001, 0, EAX, &[
        (3, "kvmclock"), (1, "kvm-nopiodelay"), (2, "kvm-mmu"), (4, "kvm-asyncpf"), (5, "kvm-steal-time"), (6, "kvm-pv-eoi"),
        (7, "kvm-pv-unhalt"), (9, "kvm-pv-tlb-flush"), (10, "kvm-asyncpf-vmexit"), (11, "kvm-pv-ipi"), (12, "kvm-poll-control"),
        (13, "kvm-pv-sched-yield"), (14, "kvm-asyncpf-int"), (15, "kvm-msi-ext-dest-id"), (24, "kvmclock-stable-bit"),
    ]),
    (0x8000_0001, 0, EDX, &[
        (11, "syscall"), (20, "nx"), (22, "mmxext"), (25, "fxsr-opt"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm"), (30, "3dnowext"),
        (31, "3dnow"),
    ]),
    (0x8000_0001, 0, ECX, &[
        (0, "lahf-lm"), (1, "cmp-legacy"), (2, "svm"), (3, "extapic"), (4, "cr8legacy"), (5, "abm"), (6, "sse4a"), (7, "misalignsse"),
        (8, "3dnowprefetch"), (9, "osvw"), (10, "ibs"), (11, "xop"), (12, "skinit"), (13, "wdt"), (15, "lwp"), (16, "fma4"),
        (17, "tce"), (19, "nodeid-msr"), (21, "tbm"), (22, "topoext"), (23, "perfctr-core"), (24, "perfctr-nb"),
    ]),
    (0x8000_0007, 0, EDX, &[(8, "invtsc")]),
    (0x8000_0008, 0, EBX, &[
        (0, "clzero"), (2, "xsaveerptr"), (9, "wbnoinvd"), (12, "ibpb"), (14, "ibrs"), (15, "amd-stibp"), (17, "stibp-always-on"),
        (24, "amd-ssbd"), (25, "virt-ssbd"), (26, "amd-no-ssb"), (28, "amd-psfd"),
    ]),
];

/// Where a feature is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The leaf's function.
    pub function: u32,
    /// Its index.
    pub index: u32,
    /// 0 to 3 for EAX, EBX, ECX, EDX.
    pub register: usize,
    /// The bit.
    pub bit: u8,
}

/// Other names of QEMU's for the same.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("pclmuldq", "pclmulqdq"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("xd", "nx"),
    ("i64", "lm"),
    ("ffxsr", "fxsr-opt"),
];

/// The names of all features, in the order of CPUID's leaves.
pub fn names() -> impl Iterator<Item = &'static str> {
    WORDS
        .iter()
        .flat_map(|(_, _, _, bits)| bits.iter().map(|(_, name)| *name))
}

/// The place of the feature of that name, with dashes.
pub fn find(name: &str) -> Option<Place> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let name = alias.map_or(name, |(_, name)| name);
    WORDS.iter().find_map(|(function, index, register, bits)| {
        let (bit, _) = bits.iter().find(|(_, known)| *known == name)?;
        Some(Place {
            function: *function,
            index: *index,
            register: *register,
            bit: *bit,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_name_and_no_bit_is_given_twice() {
        let mut all = BTreeSet::new();
        assert!(names().all(|name| all.insert(name)));
        for (function, index, register, bits) in WORDS {
            let numbers: BTreeSet<_> = bits.iter().map(|(bit, _)| bit).collect();
            assert_eq!(
                numbers.len(),
                bits.len(),
                "{function:#x}.{index}.{register}"
            );
            assert!(bits.iter().all(|(bit, _)| *bit < 32));
        }
    }

    #[test]
    fn names_have_aliases() {
        assert_eq!(find("sse3"), find("pni"));
        assert_eq!(
            find("avx").map(|place| (place.function, place.bit)),
            Some((1, 28))
        );
        assert_eq!(find("nope"), None);
    }
}
