//! Which of a function's capabilities a guest gets to see.
//!
//! The lists are read from a picture of the function's configuration space and answered as edits: which list entries
//! remain and where each points. Capabilities that cannot work in a guest, or that would let it act beyond its
//! function (SR-IOV, ARI, Resizable BARs, address translation services), are taken out of the chain.

/// Where the first pointer of the conventional list is (PCI Express Base 6.0, 7.5.1.1.11).
pub(crate) const CAPABILITIES_POINTER: usize = 0x34;
/// Where the extended list begins (7.6.1).
pub(crate) const EXTENDED_START: usize = 0x100;

/// Conventional capability ids (PCI Code and ID Assignment 1.15, 2).
pub(crate) mod id {
    /// Power management.
    pub(crate) const POWER: u8 = 0x01;
    /// Vital product data.
    pub(crate) const VPD: u8 = 0x03;
    /// Message-signalled interrupts.
    pub(crate) const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub(crate) const VENDOR: u8 = 0x09;
    /// Subsystem ids of a bridge.
    pub(crate) const SUBSYSTEM: u8 = 0x0d;
    /// PCI Express.
    pub(crate) const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub(crate) const MSIX: u8 = 0x11;
    /// Advanced features: function-level reset of a conventional function.
    pub(crate) const ADVANCED_FEATURES: u8 = 0x13;
}

/// Those a guest sees.
const SHOWN: [u8; 8] = [
    id::POWER,
    id::VPD,
    id::MSI,
    id::VENDOR,
    id::SUBSYSTEM,
    id::EXPRESS,
    id::MSIX,
    id::ADVANCED_FEATURES,
];

/// Extended capability ids that are taken out, and how many bytes each has at most: its registers read as zero.
const HIDDEN_EXTENDED: [(u16, usize); 9] = [
    (0x0e, 0x08), // Alternative Routing-ID
    (0x0f, 0x08), // Address Translation Services
    (0x10, 0x40), // SR-IOV
    (0x11, 0x40), // MR-IOV
    (0x13, 0x10), // Page Request Interface
    (0x15, 0x34), // Resizable BAR
    (0x1b, 0x08), // PASID
    (0x24, 0x34), // VF Resizable BAR
    (0x2e, 0x18), // Data Object Exchange
];

/// An entry of a capability list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: u16,
    /// Where its header is.
    pub(crate) offset: usize,
    /// Up to where its registers may reach: the next capability, or the end of the space.
    pub(crate) end: usize,
    /// The guest sees it.
    pub(crate) shown: bool,
}

/// The conventional list in its order. A pointer into the header, out of the first 256 bytes or in a circle ends it.
pub(crate) fn conventional(space: &[u8]) -> Vec<Entry> {
    let byte = |offset: usize| space.get(offset).copied().unwrap_or(0);
    const STATUS_HAS_LIST: u8 = 1 << 4;
    if byte(6) & STATUS_HAS_LIST == 0 {
        return Vec::new();
    }
    let mut list: Vec<Entry> = Vec::new();
    let mut at = usize::from(byte(CAPABILITIES_POINTER) & 0xfc);
    while at >= 0x40 && list.iter().all(|entry| entry.offset != at) {
        let id = byte(at);
        if id == 0xff {
            break;
        }
        list.push(Entry {
            id: id.into(),
            offset: at,
            end: EXTENDED_START,
            shown: SHOWN.contains(&id),
        });
        at = usize::from(byte(at + 1) & 0xfc);
    }
    bound(&mut list, EXTENDED_START);
    list
}

/// The extended list in its order; empty for a function without extended configuration space.
pub(crate) fn extended(space: &[u8]) -> Vec<Entry> {
    let mut list: Vec<Entry> = Vec::new();
    let mut at = EXTENDED_START;
    while at >= EXTENDED_START && list.iter().all(|entry| entry.offset != at) {
        let Some(header) = dword(space, at) else {
            break;
        };
        if header == 0 || header == u32::MAX {
            break;
        }
        let [low, high, ..] = header.to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        list.push(Entry {
            id,
            offset: at,
            end: space.len(),
            shown: id != 0 && hidden_size(id).is_none(),
        });
        at = (header >> 20) as usize & 0xffc;
    }
    bound(&mut list, space.len());
    list
}

/// How many bytes of a hidden extended capability must not show through.
pub(crate) fn hidden_size(id: u16) -> Option<usize> {
    HIDDEN_EXTENDED
        .iter()
        .find(|(hidden, _)| *hidden == id)
        .map(|(_, size)| *size)
}

/// The double word at `offset`, if it is within the space.
pub(crate) fn dword(space: &[u8], offset: usize) -> Option<u32> {
    let bytes = space.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The word at `offset`, if it is within the space.
pub(crate) fn word(space: &[u8], offset: usize) -> Option<u16> {
    let bytes = space.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

/// Ends each entry where the next one in address order begins.
fn bound(list: &mut [Entry], limit: usize) {
    let mut offsets: Vec<usize> = list.iter().map(|entry| entry.offset).collect();
    offsets.sort_unstable();
    for entry in list {
        entry.end = offsets
            .iter()
            .copied()
            .find(|offset| *offset > entry.offset)
            .unwrap_or(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_is_walked_once_round() {
        let mut space = vec![0; 0x100];
        assert!(conventional(&space).is_empty());
        space[6] = 0x10;
        space[0x34] = 0x40;
        space[0x40..0x42].copy_from_slice(&[id::POWER, 0x70]);
        space[0x70..0x72].copy_from_slice(&[0x08, 0x50]);
        space[0x50..0x52].copy_from_slice(&[id::MSIX, 0x40]);
        let list = conventional(&space);
        let seen: Vec<_> = list.iter().map(|e| (e.offset, e.end, e.shown)).collect();
        assert_eq!(
            seen,
            [(0x40, 0x50, true), (0x70, 0x100, false), (0x50, 0x70, true)]
        );
        assert!(extended(&space).is_empty());
    }

    #[test]
    fn sriov_and_its_like_are_hidden() {
        let mut space = vec![0; 0x1000];
        for (offset, header) in [
            (0x100, 0x1501_0001u32),
            (0x150, 0x1601_000e),
            (0x160, 0x0001_0010),
        ] {
            space[offset..offset + 4].copy_from_slice(&header.to_le_bytes());
        }
        let shown: Vec<_> = extended(&space).iter().map(|e| (e.id, e.shown)).collect();
        assert_eq!(shown, [(0x01, true), (0x0e, false), (0x10, false)]);
    }

    proptest! {
        #[test]
        fn any_space_ends(space in proptest::collection::vec(any::<u8>(), 0x1000)) {
            for entry in conventional(&space).iter().chain(&extended(&space)) {
                prop_assert!(entry.offset + 4 <= entry.end && entry.end <= 0x1000);
            }
        }
    }
}
