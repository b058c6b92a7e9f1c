//! Whatever a client of QMP sends.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| monitor::fuzz::fuzz_qmp(data));
