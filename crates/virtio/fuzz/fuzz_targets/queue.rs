//! Whatever a driver writes into its rings.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| virtio::fuzz_queue(data));
