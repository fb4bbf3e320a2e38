//! What a sandbox promises: a row for each promise, with how it is kept, what systemd calls it, and
//! the attempts that prove it. The documents, the equivalent unit and the test are made from these
//! rows.

use super::sandbox::{Sandbox, refused_calls, strict_calls};
use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that a sandbox keeps a workload from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// The level from which on it holds.
    #[serde(serialize_with = "as_word")]
    pub level: Sandbox,
    /// What the workload has.
    pub text: &'static str,
    /// The key that allows more; empty if there is none.
    pub key: &'static str,
    /// How it is kept.
    pub means: &'static str,
    /// systemd's nearest directives. Some of them refuse more.
    pub directives: &'static [(&'static str, &'static str)],
    /// The attempts of `tests/attempts/attempts.c` that fail.
    pub attempts: &'static [&'static str],
    /// The version of Linux that the kernel must have at least for it, if that is later than for
    /// the rest.
    pub since: Option<(u32, u32)>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn as_word<S: serde::Serializer>(level: &Sandbox, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(level.as_str())
}

const PLAIN: Promise = Promise {
    level: Sandbox::Default,
    text: "",
    key: "",
    means: "",
    directives: &[],
    attempts: &[],
    since: None,
};

/// The promises, those of `default` first.
pub const PROMISES: [Promise; 23] = [
    Promise {
        text: "a `/tmp` and a `/var/tmp` of its own, which are empty at each start",
        key: "private_tmp: false",
        means: "tmpfs",
        directives: &[("PrivateTmp", "yes")],
        attempts: &["hosts-tmp", "hosts-var-tmp"],
        ..PLAIN
    },
    Promise {
        text: "`/boot`, `/efi`, `/etc` and `/usr` read-only",
        key: "read_write_paths: [/etc/shop]",
        means: "mount_setattr",
        directives: &[("ProtectSystem", "full")],
        attempts: &["etc", "usr"],
        ..PLAIN
    },
    Promise {
        text: "no `/home`, `/root` and `/run/user` but its own home",
        key: "read_only_paths, read_write_paths",
        means: "tmpfs",
        directives: &[("ProtectHome", "tmpfs")],
        attempts: &["other-home"],
        ..PLAIN
    },
    Promise {
        text: "a `/proc` without other users' processes",
        means: "hidepid=invisible",
        directives: &[("ProtectProc", "invisible")],
        attempts: &["first-process", "files-of-first-process"],
        ..PLAIN
    },
    Promise {
        text: "`/sys`, with its cgroups, and `/proc/{acpi,bus,fs,irq,scsi,sys,sysrq-trigger}` read-only",
        means: "mount_setattr",
        directives: &[
            ("ProtectKernelTunables", "yes"),
            ("ProtectControlGroups", "yes"),
        ],
        attempts: &["kernel-setting", "sysrq", "sys", "cgroups"],
        ..PLAIN
    },
    Promise {
        text: "of the devices `null`, `zero`, `full`, `random`, `urandom`, `tty`, `pts`, `shm`; and `/dev/log`",
        key: "devices: [/dev/dri]",
        means: "tmpfs",
        directives: &[("PrivateDevices", "yes")],
        attempts: &["kernel-log-device", "host-disk-of-memory"],
        ..PLAIN
    },
    Promise {
        text: "no sight of the agent's own files and sockets, `NOTIFY_SOCKET` and credentials excepted",
        means: "tmpfs",
        attempts: &["agents-socket"],
        ..PLAIN
    },
    Promise {
        text: "no new namespaces",
        key: "namespaces: true",
        means: "seccomp: the flags of clone(2) and unshare(2), setns(2)",
        directives: &[("RestrictNamespaces", "yes")],
        attempts: &[
            "unshare-mounts",
            "unshare-users",
            "unshare-network",
            "unshare-processes",
            "unshare-name",
            "unshare-ipc",
            "unshare-cgroup",
            "unshare-time",
            "setns",
            "clone3",
        ],
        ..PLAIN
    },
    Promise {
        text: "no new privileges by executing a file, and no file that gives them (set-id bits, devices)",
        means: "no_new_privs; seccomp: the modes of chmod(2), open(2), mknod(2)",
        directives: &[("NoNewPrivileges", "yes"), ("RestrictSUIDSGID", "yes")],
        attempts: &[
            "set-uid",
            "set-gid",
            "set-uid-at-birth",
            "set-uid-unnamed",
            "device",
            "block-device",
            "openat2",
        ],
        ..PLAIN
    },
    Promise {
        text: "no capabilities that lead out of the sandbox",
        key: "capabilities",
        means: "the bounding set",
        directives: &[("CapabilityBoundingSet", "")],
        ..PLAIN
    },
    Promise {
        text: "no real-time scheduling, no `sched_setattr`, and no other personality(2)",
        means: "seccomp",
        directives: &[("RestrictRealtime", "yes"), ("LockPersonality", "yes")],
        attempts: &["real-time", "deadline", "personality"],
        ..PLAIN
    },
    Promise {
        text: "no system calls of another architecture: they end the process",
        means: "seccomp",
        directives: &[("SystemCallArchitectures", "native")],
        attempts: &["other-architecture"],
        ..PLAIN
    },
    Promise {
        text: "a session keyring of its own, and no calls to keyrings",
        key: "system_calls: [keyctl]",
        means: "keyctl(2) before the program; seccomp",
        directives: &[("KeyringMode", "private")],
        attempts: &["keyctl", "add-key", "request-key"],
        ..PLAIN
    },
    Promise {
        text: "no mounts",
        key: "system_calls: [mount], not in strict",
        means: "a mount namespace; seccomp",
        directives: &[("PrivateMounts", "yes")],
        attempts: &[
            "mount",
            "umount",
            "chroot",
            "pivot-root",
            "fsopen",
            "open-tree",
            "open-by-handle",
            "move-mount",
        ],
        ..PLAIN
    },
    Promise {
        text: "none of the system calls below: they fail with `EPERM`",
        key: "system_calls: [ptrace]",
        means: "seccomp",
        directives: &[
            ("ProtectClock", "yes"),
            ("ProtectKernelModules", "yes"),
            ("ProtectKernelLogs", "yes"),
            ("ProtectHostname", "yes"),
            ("SystemCallFilter", "~"),
        ],
        attempts: &[
            "clock",
            "day",
            "host-name",
            "domain-name",
            "swap",
            "module",
            "module-file",
            "reboot",
            "accounting",
            "ports",
            "all-ports",
            "kernel-log",
            "bpf",
            "perf",
            "ptrace",
            "read-memory",
            "write-memory",
            "compare",
            "take-descriptor",
            "page-faults",
            "io-uring",
            "segments",
        ],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "all files read-only, except its directories, the private `/tmp` and `/var/tmp`, and `/dev/shm`",
        key: "read_write_paths: [/srv/shop]",
        means: "mount_setattr; Landlock",
        directives: &[("ProtectSystem", "strict")],
        attempts: &[
            "make-elsewhere",
            "write-elsewhere",
            "mode-elsewhere",
            "truncate-elsewhere",
        ],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no programs but those in `/usr`, `/opt`, `/nix/store`, its own, and in `read_only_paths`; none in files \
               that it can change",
        key: "read_only_paths: [/srv/shop]",
        means: "Landlock, and mounts with the flag noexec",
        directives: &[
            ("NoExecPaths", "/"),
            (
                "ExecPaths",
                "-/bin -/lib -/lib64 -/nix/store -/opt -/sbin /usr",
            ),
        ],
        attempts: &["execute-elsewhere", "execute-own", "map-own"],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no sockets of systemd, D-Bus and container engines that are in `/run` at its start",
        key: "read_write_paths: [/run/dbus]",
        means: "tmpfs, and /dev/null over a socket",
        directives: &[(
            "InaccessiblePaths",
            "-/run/containerd -/run/crio -/run/dbus -/run/docker.sock -/run/podman -/run/snapd.socket -/run/systemd/private",
        )],
        attempts: &["managers-socket"],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no look into other processes of the same user, nor their files by `/proc/PID/root`",
        means: "Landlock",
        attempts: &["sibling-environment", "sibling-files"],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no signals to processes that it has not started, and no abstract sockets of others",
        means: "Landlock",
        attempts: &["signal-sibling", "abstract-socket"],
        since: Some((6, 12)),
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no sockets but local ones, TCP, UDP, and netlink's for routes",
        means: "seccomp: the arguments of socket(2) and socketpair(2)",
        directives: &[(
            "RestrictAddressFamilies",
            "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        )],
        attempts: &[
            "packet-socket",
            "raw-socket",
            "multipath-socket",
            "other-pair",
            "events-socket",
        ],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no ports, and no peers but loopback and the name servers",
        key: "network: { bind: [tcp/8080], connect: [\"10.0.0.0/8:5432\"] }",
        means: "eBPF at the cgroup",
        directives: &[
            ("SocketBindDeny", "any"),
            ("IPAddressDeny", "any"),
            ("IPAddressAllow", "localhost"),
        ],
        attempts: &[
            "bind",
            "bind6",
            "bind-datagrams",
            "connect",
            "connect6",
            "connect-mapped",
            "connect-fast",
            "send",
            "send6",
            "send-mapped",
        ],
        ..PLAIN
    },
    Promise {
        level: Sandbox::Strict,
        text: "no system calls but those of a list: none that change owners, users, priorities or CPUs",
        key: "system_calls: [chown]",
        means: "seccomp",
        directives: &[("SystemCallFilter", "")],
        attempts: &["owner", "user", "groups", "priority", "cpus", "io-priority"],
        ..PLAIN
    },
];

/// Returns the promises of a level.
pub fn promises(level: Sandbox) -> impl Iterator<Item = &'static Promise> {
    PROMISES
        .iter()
        .filter(move |promise| promise.level <= level)
}

/// Returns the unit of systemd that is nearest to a level.
#[must_use]
pub fn unit(level: Sandbox) -> String {
    let directives = promises(level).flat_map(|promise| promise.directives);
    let mut values: BTreeMap<&str, &str> = BTreeMap::new();
    // The value of a higher level replaces the one of a lower.
    values.extend(
        directives
            .filter(|(key, _)| *key != "SystemCallFilter")
            .copied(),
    );
    let mut text = format!("# As `sandbox: {level}` of enforcer.\n[Service]\n");
    for (key, value) in values {
        text.push_str(&format!("{key}={value}\n"));
    }
    let words = |calls: &mut dyn Iterator<Item = &'static str>| calls.collect::<Vec<_>>().join(" ");
    if level == Sandbox::Strict {
        text.push_str(&format!(
            "SystemCallFilter={}\n",
            words(&mut strict_calls())
        ));
    }
    text.push_str(&format!(
        "SystemCallFilter=~{}\n",
        words(&mut refused_calls())
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_attempt_proves_one_promise() {
        let all: Vec<&str> = PROMISES
            .iter()
            .flat_map(|promise| promise.attempts)
            .copied()
            .collect();
        let once: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), once.len());
        let proved = PROMISES
            .iter()
            .filter(|promise| !promise.attempts.is_empty());
        // The capabilities are seen in /proc/PID/status.
        assert_eq!(proved.count(), PROMISES.len() - 1);
    }

    #[test]
    fn a_unit_has_the_directives_of_its_level() {
        let (default, strict) = (unit(Sandbox::Default), unit(Sandbox::Strict));
        assert!(default.contains("\nProtectSystem=full\n"), "{default}");
        assert!(
            default.contains("\nSystemCallFilter=~adjtimex "),
            "{default}"
        );
        assert!(!default.contains("IPAddressDeny"), "{default}");
        assert!(strict.contains("\nProtectSystem=strict\n"), "{strict}");
        assert!(strict.contains("\nSystemCallFilter=access "), "{strict}");
    }
}
