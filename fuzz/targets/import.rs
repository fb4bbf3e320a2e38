//! Files of others that are imported, from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer::fuzzing::import(bytes));
