//! A nested lab host with real KVM, IOMMU, VFIO and Linux guests.
