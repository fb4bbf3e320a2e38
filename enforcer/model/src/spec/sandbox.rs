//! What a workload is kept from.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a workload is kept from the rest of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as its user is.
    #[default]
    Off,
    /// It sees no other user's files and processes, and changes nothing of the host's.
    Default,
    /// It also changes no files but its own, executes no others than installed ones, reaches no network
    /// but what it declares, and makes no system calls but those of a list.
    Strict,
}

impl Sandbox {
    pub const ALL: [Self; 3] = [Self::Off, Self::Default, Self::Strict];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Default => "default",
            Self::Strict => "strict",
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

/// The folders whose programs a workload in `sandbox: strict` may execute.
pub const PROGRAMS: [&str; 9] = [
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/opt",
    "/sbin",
    "/usr",
];

/// The folders with sockets of programs that act for their clients with more rights. They are empty in
/// `sandbox: strict`.
pub const SOCKET_FOLDERS: [&str; 4] = ["/run/containerd", "/run/crio", "/run/dbus", "/run/podman"];
/// Such sockets in other folders.
pub const SOCKETS: [&str; 3] = [
    "/run/docker.sock",
    "/run/snapd.socket",
    "/run/systemd/private",
];

/// The capabilities that root does not have in `sandbox: strict` beside [`OUT_OF_SANDBOX`]: it
/// could lead its messages past the rules for the network.
pub const OUT_OF_STRICT: [&str; 1] = ["CAP_NET_ADMIN"];

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

/// The system calls that `sandbox: strict` allows, as far as [`REFUSED`] and the rules for arguments do.
/// Some exist on one architecture only.
const STRICT: [&[&str]; 11] = [
    // Files.
    &[
        "access",
        "cachestat",
        "chdir",
        "chmod",
        "close",
        "close_range",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fcntl",
        "fdatasync",
        "fgetxattr",
        "file_getattr",
        "file_setattr",
        "flistxattr",
        "flock",
        "fremovexattr",
        "fsetxattr",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futimesat",
        "getcwd",
        "getdents",
        "getdents64",
        "getxattr",
        "getxattrat",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "ioctl",
        "lgetxattr",
        "link",
        "linkat",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "lremovexattr",
        "lseek",
        "lsetxattr",
        "lstat",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "name_to_handle_at",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "removexattr",
        "removexattrat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "setxattr",
        "setxattrat",
        "splice",
        "stat",
        "statfs",
        "statx",
        "symlink",
        "symlinkat",
        "sync",
        "sync_file_range",
        "syncfs",
        "tee",
        "truncate",
        "umask",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimes",
        "vmsplice",
        "write",
        "writev",
    ],
    // Memory.
    &[
        "brk",
        "get_mempolicy",
        "madvise",
        "map_shadow_stack",
        "membarrier",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mprotect",
        "mremap",
        "mseal",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "process_madvise",
        "process_mrelease",
        "remap_file_pages",
    ],
    // Processes and threads.
    &[
        "arch_prctl",
        "clone",
        "clone3",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "futex",
        "futex_requeue",
        "futex_wait",
        "futex_waitv",
        "futex_wake",
        "get_robust_list",
        "get_thread_area",
        "getcpu",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrlimit",
        "getrusage",
        "getsid",
        "gettid",
        "ioprio_get",
        "pidfd_open",
        "prctl",
        "prlimit64",
        "restart_syscall",
        "rseq",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_rr_get_interval",
        // Its own rule refuses it.
        "sched_setattr",
        "sched_yield",
        "set_robust_list",
        "set_thread_area",
        "set_tid_address",
        "setpgid",
        "setsid",
        "unshare",
        // Entered by probes of the kernel's tracing alone.
        "uprobe",
        "uretprobe",
        "vfork",
        "wait4",
        "waitid",
    ],
    // The rights of the process, read alone or given away.
    &[
        "capget",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getresgid",
        "getresuid",
        "getuid",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "lsm_get_self_attr",
        "lsm_list_modules",
        "personality",
        "seccomp",
    ],
    // Signals.
    &[
        "kill",
        "pause",
        "pidfd_send_signal",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_tgsigqueueinfo",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "tgkill",
        "tkill",
    ],
    // Waiting for several things.
    &[
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "poll",
        "ppoll",
        "pselect6",
        "select",
    ],
    // Input and output of libaio.
    &[
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "io_setup",
        "io_submit",
    ],
    // Sockets. socket(2) has a rule for its arguments.
    &[
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "sendfile",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shutdown",
        "socket",
        "socketpair",
    ],
    // Messages between processes.
    &[
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedsend",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "pipe",
        "pipe2",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
    ],
    // Time.
    &[
        "alarm",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "getitimer",
        "gettimeofday",
        "nanosleep",
        "setitimer",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_settime",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "times",
    ],
    // The host, read alone.
    &["getrandom", "sysinfo", "uname"],
];

/// Returns the names of the system calls that `sandbox: strict` allows.
pub fn strict_calls() -> impl Iterator<Item = &'static str> {
    STRICT.into_iter().flatten().copied()
}

/// The system calls that `sandbox: strict` refuses, and `sandbox: default` does not.
const NOT_IN_STRICT: [&str; 34] = [
    "capset",
    "chown",
    "fanotify_init",
    "fanotify_mark",
    "fchown",
    "fchownat",
    "ioprio_set",
    "lchown",
    "listmount",
    "lookup_dcookie",
    "lsm_set_self_attr",
    "mbind",
    "migrate_pages",
    "move_pages",
    "nfsservctl",
    "sched_setaffinity",
    "sched_setparam",
    "sched_setscheduler",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setpriority",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setrlimit",
    "setuid",
    "statmount",
    "_sysctl",
    "vserver",
];

/// The system calls that Landlock refuses in `sandbox: strict`, whatever a filter allows.
pub const REFUSED_BY_LANDLOCK: [&str; 4] = ["mount", "move_mount", "pivot_root", "umount2"];

/// Returns the names of the system calls that `system_calls` may allow at a level.
pub fn openable_calls(level: Sandbox) -> impl Iterator<Item = &'static str> {
    let is_strict = level == Sandbox::Strict;
    let more = NOT_IN_STRICT.into_iter().filter(move |_| is_strict);
    let all = refused_calls().chain(more);
    all.filter(move |call| !is_strict || !REFUSED_BY_LANDLOCK.contains(call))
}
