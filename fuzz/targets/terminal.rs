//! A workload's output on a terminal, from any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| enforcer::fuzzing::terminal(bytes));
