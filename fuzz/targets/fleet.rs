//! The files of a fleet, from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer::fuzzing::fleet(bytes));
