//! The receiver on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| migration::fuzz::fuzz_stream(data));
