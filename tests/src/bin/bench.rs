//! Measurements inside the VM, and the demo.
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that can't go on should say where"
)]

use enforcer_tests::agent;
use std::process::Stdio;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--demo") {
        demo();
    }
}

fn demo() {
    let folder = agent::folder();
    let mut child = agent::command(&folder)
        .args(["run", "-f", "/etc/enforcer/demo.yaml", "--color=always"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(8));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    child.wait().unwrap();
}
