//! A symbol map of an interpreter, from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer::fuzzing::perf_map(bytes));
