//! Saved states, whoever's: the first byte says whose.

/// From this on it is the chipset's and the vCPUs'; below, a virtio function's.
const CHIPSET: u8 = 0x80;

pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((&first, _)) if first < CHIPSET => virtio::fuzz_function(data),
        Some((_, rest)) => machine::fuzz::fuzz_state(rest),
        None => {}
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let chipset = machine::fuzz::state_seeds().into_iter();
    let chipset = chipset.map(|seed| [vec![CHIPSET], seed].concat());
    virtio::fuzz_function_seeds()
        .into_iter()
        .chain(chipset)
        .collect()
}
