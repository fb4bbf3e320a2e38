//! The VM's first process: mounts what the kernel offers, runs the one job that
//! the kernel's command line names, tells how it ended, and powers off.
#![allow(
    clippy::unwrap_used,
    reason = "a panic of init is a kernel panic, which the host sees"
)]

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use std::fs;
use std::process::{Command, Stdio};

fn main() {
    mount_all();
    bring_up_loopback();
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let job = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("enforcer.job="))
        .unwrap_or("shell");
    let (word, argument) = job.split_once(':').unwrap_or((job, ""));
    let mut command = match word {
        "test" => {
            let mut suite = Command::new("/bin/suite");
            suite.args(["--test-threads=1", "--color=never"]);
            suite.args(argument.split(',').filter(|name| !name.is_empty()));
            suite
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

fn bring_up_loopback() {
    // SAFETY: the request is zeroed, its name ends with NUL, and the socket is
    // closed with the process at the latest.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap();
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        libc::close(socket);
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
