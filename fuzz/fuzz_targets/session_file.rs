#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mstunnel_fuzz::session_file(data));
