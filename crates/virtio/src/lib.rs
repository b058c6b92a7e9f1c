//! virtio-pci transport and the virtio devices.
