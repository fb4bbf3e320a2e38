//! The one place that knows kernel paths and system calls. Each file speaks to
//! one facility; none decides anything.
#![allow(clippy::disallowed_methods, reason = "clocks are read here")]

pub(crate) mod account;
pub(crate) mod bpf;
pub(crate) mod capabilities;
pub(crate) mod cgroupfs;
pub(crate) mod clear;
pub(crate) mod clock;
pub(crate) mod counters;
pub(crate) mod cpus;
pub(crate) mod fitness;
pub(crate) mod helper;
pub(crate) mod hierarchy;
pub(crate) mod host_usage;
pub(crate) mod init;
pub(crate) mod inotify;
pub(crate) mod journal;
pub(crate) mod limits;
pub(crate) mod lock_file;
pub(crate) mod log_file;
pub(crate) mod memory_info;
pub(crate) mod memory_state;
pub(crate) mod own_process;
pub(crate) mod perf;
pub(crate) mod pidfd;
pub(crate) mod pipe;
pub(crate) mod pressure;
pub(crate) mod proc_text;
pub(crate) mod process;
pub(crate) mod ptrace;
pub(crate) mod ready;
pub(crate) mod settings_file;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod statistics;
pub(crate) mod system_limits;
pub(crate) mod threads;
pub(crate) mod unprivileged;
pub(crate) mod usage;
