//! QEMU option strings and the declared properties of devices.
