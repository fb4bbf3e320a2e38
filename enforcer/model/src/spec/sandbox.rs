//! What a workload is kept from.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a workload is kept from the rest of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as its user is.
    #[default]
    Off,
    /// It sees no other user's files and processes, and changes nothing of the host's.
    Default,
}

impl Sandbox {
    pub const ALL: [Self; 2] = [Self::Off, Self::Default];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Default => "default",
        }
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The folders that the sandbox makes read-only.
pub const READ_ONLY: [&str; 4] = ["/boot", "/efi", "/etc", "/usr"];
/// The folders of other users, which are empty in the sandbox.
pub const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// The folders in which every user may write, of which the sandbox has its own.
pub const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// The capabilities that root does not have in the sandbox. With them it could reach other processes,
/// and their files by `/proc/PID/root`, or the hardware.
pub const OUT_OF_SANDBOX: [&str; 12] = [
    "CAP_BPF",
    "CAP_DAC_READ_SEARCH",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYSLOG",
];

/// The system calls that the sandbox refuses, whatever their arguments. Some exist on one architecture
/// only.
const REFUSED: [&[&str]; 10] = [
    // The clock.
    &["adjtimex", "clock_adjtime", "clock_settime", "settimeofday"],
    // Mounts.
    &[
        "chroot",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "open_tree_attr",
        "pivot_root",
        "umount2",
    ],
    // Modules of the kernel.
    &["delete_module", "finit_module", "init_module"],
    // The end of the host, and its swap.
    &[
        "kexec_file_load",
        "kexec_load",
        "reboot",
        "swapoff",
        "swapon",
    ],
    // A look into other processes.
    &[
        "kcmp",
        "perf_event_open",
        "pidfd_getfd",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
    ],
    // Keyrings, which processes of one user share.
    &["add_key", "keyctl", "request_key"],
    // The kernel's insides and the hardware.
    &[
        "bpf",
        "ioperm",
        "iopl",
        "modify_ldt",
        "syslog",
        "userfaultfd",
    ],
    // Files and messages past the filters.
    &["io_uring_enter", "io_uring_register", "io_uring_setup"],
    // The host's names, accounting and namespaces.
    &[
        "acct",
        "quotactl",
        "quotactl_fd",
        "setdomainname",
        "sethostname",
        "setns",
    ],
    // Calls without users.
    &["sysfs", "uselib", "ustat", "vhangup"],
];

/// Returns the names of the system calls that the sandbox refuses.
pub fn refused_calls() -> impl Iterator<Item = &'static str> {
    REFUSED.into_iter().flatten().copied()
}
