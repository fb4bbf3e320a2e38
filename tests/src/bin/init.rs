//! The VM's first process: mounts what the kernel offers, runs the one job that the
//! kernel's command line names, reports how it ended, and powers off.
#![allow(
    clippy::unwrap_used,
    reason = "a panic of init is a kernel panic, which the host sees"
)]

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

fn main() {
    leave_initramfs();
    mount_all();
    // The kernel makes it writable for everybody, which no host's root is.
    fs::set_permissions("/", PermissionsExt::from_mode(0o755)).unwrap();
    enforcer_tests::bring_up_loopback().unwrap();
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let option = |name: &str| {
        let value = |word: &'_ str| {
            word.strip_prefix(name)?
                .strip_prefix('=')
                .map(str::to_owned)
        };
        line.split_whitespace().find_map(value)
    };
    let job = option("enforcer.job").unwrap_or_else(|| "shell".to_owned());
    if job == "hello" {
        // xtask waits for this line: it proves that the guest has come as far as user space.
        println!("@@enforcer user space");
        let _ = reboot(RebootMode::RB_POWER_OFF);
    }
    if let Some(uptime) = fs::read_to_string("/proc/uptime")
        .unwrap()
        .split(' ')
        .next()
    {
        println!("@@booted {uptime}");
    }
    let (word, argument) = job.split_once(':').unwrap_or((&job, ""));
    let mut command = match word {
        "test" => {
            let mut runner = Command::new("/bin/runner");
            let slots = option("enforcer.slots").unwrap_or_else(|| "1".to_owned());
            runner.arg(format!("--slots={slots}"));
            if let Some(share) = option("enforcer.share") {
                runner.arg(format!("--share={share}"));
            }
            runner.args(argument.split(',').filter(|name| !name.is_empty()));
            runner
        }
        "bench" => {
            let mut bench = Command::new("/bin/bench");
            bench.arg(argument);
            bench
        }
        "power" => {
            let mut power = Command::new("/bin/bench");
            power.args(["--power", argument]);
            power
        }
        "demo" => {
            let mut bench = Command::new("/bin/bench");
            bench.arg("--demo");
            bench
        }
        _ => shell(),
    };
    let child = command.env("PATH", "/bin").env("TERM", "linux").spawn();
    let code = match child {
        Ok(child) => wait_for(Pid::from_raw(i32::try_from(child.id()).unwrap())),
        Err(error) => {
            eprintln!("init: failed to run {job}: {error}");
            126
        }
    };
    println!("@@enforcer exit={code}");
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn shell() -> Command {
    let _ = Command::new("/bin/busybox")
        .args(["--install", "-s", "/bin"])
        .status();
    let mut shell = Command::new("/bin/busybox");
    shell.args(["setsid", "-c", "/bin/busybox", "sh"]);
    shell.stdin(Stdio::inherit());
    shell
}

/// Makes a mount of the same files the root. The initial one cannot be left by pivot_root(2), which a
/// workload with a root of its own needs.
fn leave_initramfs() {
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND;
    let moved = mount(Some("/"), "/tmp", none, bind, none)
        .and_then(|()| nix::unistd::chdir("/tmp"))
        .and_then(|()| mount(Some("."), "/", none, MsFlags::MS_MOVE, none))
        .and_then(|()| nix::unistd::chroot("."))
        .and_then(|()| nix::unistd::chdir("/"));
    moved.unwrap_or_else(|error| eprintln!("init: failed to leave the initramfs: {error}"));
}

fn mount_all() {
    let mounts = [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("cgroup2", "/sys/fs/cgroup", ""),
        ("tracefs", "/sys/kernel/tracing", ""),
        ("bpf", "/sys/fs/bpf", ""),
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/run", "mode=755"),
    ];
    for (kind, target, options) in mounts {
        mount(
            Some(kind),
            target,
            Some(kind),
            MsFlags::empty(),
            Some(options),
        )
        .unwrap_or_else(|error| {
            eprintln!("init: failed to mount {target}: {error}");
        });
    }
}

/// Waits for every process that ends, as the first process must, until it is
/// the one that counts.
fn wait_for(job: Pid) -> i32 {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == job => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == job => return 128 + signal as i32,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                eprintln!("init: failed to wait: {error}");
                return 126;
            }
        }
    }
}
