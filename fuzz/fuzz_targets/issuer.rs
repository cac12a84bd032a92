#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mstunnel_fuzz::issuer(data));
