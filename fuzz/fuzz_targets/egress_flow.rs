#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mstunnel_fuzz::egress_flow(data));
