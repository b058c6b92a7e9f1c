//! What a processor is and can, as QEMU tells it.

use serde_json::{Map, Value};

/// EAX, EBX, ECX, EDX of a leaf.
pub(super) type Leaf = [u32; 4];

/// A processor: what it is and what it can.
pub(super) struct Features {
    identity: Map<String, Value>,
    bits: Vec<(&'static str, bool)>,
}

/// Asks the processor that this program runs on.
pub(super) fn of_this_processor(function: u32, index: u32) -> Option<Leaf> {
    // A leaf beyond the last answers with what the last basic leaf says.
    let highest = std::arch::x86_64::__cpuid(function & 0xc000_0000).eax;
    if function > highest || function & 0xc000_0000 == 0x4000_0000 {
        return None;
    }
    let leaf = std::arch::x86_64::__cpuid_count(function, index);
    Some([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    String::from_utf8_lossy(bytes).trim().to_owned()
}

impl Features {
    /// Reads what `leaf` tells of a processor.
    pub(super) fn read(leaf: &dyn Fn(u32, u32) -> Option<Leaf>) -> Self {
        let bits =
            config::cpu_features::WORDS
                .iter()
                .flat_map(|(function, index, register, bits)| {
                    let word =
                        leaf(*function, *index).and_then(|leaf| leaf.get(*register).copied());
                    let word = word.unwrap_or(0);
                    bits.iter()
                        .map(move |(bit, name)| (*name, word >> bit & 1 != 0))
                });
        Self {
            bits: bits.collect(),
            identity: identity(leaf),
        }
    }

    /// As QEMU tells them: identity and features, one property each.
    pub(super) fn properties(&self) -> Map<String, Value> {
        let mut properties = self.identity.clone();
        for (name, on) in &self.bits {
            properties.insert((*name).to_owned(), (*on).into());
        }
        properties
    }
}

fn identity(leaf: &dyn Fn(u32, u32) -> Option<Leaf>) -> Map<String, Value> {
    let [level, b, c, d] = leaf(0, 0).unwrap_or_default();
    let [signature, ..] = leaf(1, 0).unwrap_or_default();
    let [xlevel, ..] = leaf(0x8000_0000, 0).unwrap_or_default();
    let family = signature >> 8 & 0xf;
    let model = signature >> 4 & 0xf;
    // The extended parts count for these families only.
    let full_family = if family == 0xf {
        family + (signature >> 20 & 0xff)
    } else {
        family
    };
    let full_model = if matches!(family, 6 | 0xf) {
        model | (signature >> 16 & 0xf) << 4
    } else {
        model
    };
    let name: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .flat_map(|function| leaf(function, 0).unwrap_or_default())
        .collect();
    let mut identity = Map::new();
    let mut put = |name: &str, value: Value| identity.insert(name.to_owned(), value);
    put("vendor", text(&[b, d, c]).into());
    put("family", full_family.into());
    put("model", full_model.into());
    put("stepping", (signature & 0xf).into());
    put("model-id", text(&name).into());
    put("level", level.into());
    put("xlevel", xlevel.into());
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_read_from_its_leaves() {
        // A Skylake server: family 6, model 0x55, stepping 4; SSE3 and a hypervisor; AVX2.
        let leaf = |function, index| match (function, index) {
            (0, 0) => Some([0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            (1, 0) => Some([0x0005_0654, 0, 1 << 31 | 1, 1 << 25]),
            (7, 0) => Some([0, 1 << 5, 0, 0]),
            (0x8000_0000, 0) => Some([0x8000_0008, 0, 0, 0]),
            _ => None,
        };
        let properties = Features::read(&leaf).properties();
        let get = |name: &str| properties.get(name).cloned().unwrap_or_default();
        assert_eq!(get("vendor"), "GenuineIntel");
        assert_eq!(
            (get("family"), get("model"), get("stepping")),
            (6.into(), 85.into(), 4.into())
        );
        let on = ["pni", "hypervisor", "sse", "avx2"];
        for name in config::cpu_features::names() {
            assert_eq!(get(name), on.contains(&name), "{name}");
        }
    }

    #[test]
    fn this_processor_has_what_every_x86_64_has() {
        let properties = Features::read(&of_this_processor).properties();
        for name in ["lm", "sse2", "cx8", "syscall"] {
            assert_eq!(properties.get(name), Some(&Value::Bool(true)), "{name}");
        }
    }
}
