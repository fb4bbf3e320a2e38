//! The tests that run on a real kernel, one after another, in one boot.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

mod oom;
