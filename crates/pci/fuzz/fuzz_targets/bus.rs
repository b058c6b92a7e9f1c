//! Whatever a guest does to configuration space, the hotplug block and the regions.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pci::fuzz_bus(data));
