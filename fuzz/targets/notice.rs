//! A message of sd_notify(3), from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer::fuzzing::notice(bytes));
