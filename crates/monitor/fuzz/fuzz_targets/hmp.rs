//! Whatever a person types.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| monitor::fuzz::fuzz_hmp(data));
