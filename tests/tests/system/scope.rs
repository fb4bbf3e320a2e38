//! `enforcer run` in a shell of a host where systemd owns the cgroups.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;

/// The static binary alone, as a user has built it: nothing is installed.
fn run() -> Child {
    let mut run = Command::new("/root/bin/enforcer");
    run.args(["run", "-f", "/root/web.yaml"])
        .env("PATH", "/root/bin:/usr/bin");
    run.stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_run_in_a_shell_gets_a_scope_and_the_next_one_takes_over() {
    sh(
        "mkdir -p /root/bin && dpkg-deb --fsys-tarfile /root/enforcer_1.deb | tar -xO ./usr/libexec/enforcer/enforcer >/root/bin/enforcer \
        && chmod 755 /root/bin/enforcer && ln -sf /root/bin/enforcer /usr/local/bin/enforcer",
    );
    let text = "version: 1\nworkloads:\n  web:\n    command: [/usr/bin/fixture, rest]\n    user: web\n    \
                cgroup: { memory.max: 64M }\n";
    std::fs::write("/root/web.yaml", text).unwrap();
    let mut first = run();
    let pid = running();
    let place = sh(&format!("sed 's/^0:://' /proc/{pid}/cgroup"));
    assert!(place.contains(".scope/workloads/web"), "{place}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(lives(pid));
    let mut second = run();
    assert_eq!(running(), pid);
    // The scope of the one before is kept, though nothing else is in it any more.
    sh(&format!("kill -9 {pid}"));
    wait_for("a restart", || {
        workload().filter(|found| found.restarts == 1)
    });
    let pid = running();
    assert_eq!(sh(&format!("sed 's/^0:://' /proc/{pid}/cgroup")), place);
    kill(
        Pid::from_raw(i32::try_from(second.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert!(second.wait().unwrap().success());
    assert!(!lives(pid));
    let scopes = "systemctl list-units --no-legend --type=scope 'run-*' || true";
    wait_for("the scopes to go", || sh(scopes).is_empty().then_some(()));
    sh("rm -rf /root/bin /usr/local/bin/enforcer /run/enforcer /var/lib/enforcer");
}
