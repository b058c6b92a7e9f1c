//! Frames that are not finished: what one side may leave to the other.

bitflags::bitflags! {
    /// What a reader of frames takes unfinished. The bits are those of `TUNSETOFFLOAD` (`TUN_F_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offload: u32 {
        /// Partial checksums.
        const CSUM = 0x01;
        /// TCP over IPv4 to be segmented.
        const TSO4 = 0x02;
        /// TCP over IPv6 to be segmented.
        const TSO6 = 0x04;
        /// Segmentation with ECN.
        const ECN = 0x08;
        /// UDP to be fragmented.
        const UFO = 0x10;
    }
}

impl Offload {
    /// Without partial checksums nothing may be segmented, and ECN alone means nothing: drops what the
    /// rest does not carry.
    #[must_use]
    pub(crate) fn with_csum(self) -> Self {
        if !self.contains(Self::CSUM) {
            Self::empty()
        } else if !self.intersects(Self::TSO4 | Self::TSO6) {
            self - Self::ECN
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_needs_checksums() {
        assert_eq!((Offload::TSO4 | Offload::ECN).with_csum(), Offload::empty());
        assert_eq!((Offload::CSUM | Offload::ECN).with_csum(), Offload::CSUM);
        assert_eq!(Offload::all().with_csum(), Offload::all());
    }
}
