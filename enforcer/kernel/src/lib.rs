//! Every kernel path and system call of enforcer. Each module speaks to one facility of the
//! kernel; none decides anything. This is the only crate of the agent with `unsafe` code.
#![allow(clippy::disallowed_methods, reason = "clocks are read here")]

pub mod account;
pub mod bpf;
pub mod capabilities;
pub mod cgroupfs;
pub mod clear;
pub mod clock;
pub mod counters;
pub mod cpus;
pub mod descriptors;
pub mod fitness;
pub(crate) mod helper;
pub mod hierarchy;
pub mod host_usage;
pub mod init;
pub mod inotify;
pub mod journal;
pub mod limits;
pub mod lock_file;
pub mod log_file;
pub mod memory_info;
pub mod memory_state;
pub mod own_process;
pub mod perf;
pub mod pidfd;
pub mod pipe;
pub mod pressure;
pub(crate) mod proc_text;
pub mod process;
pub mod ptrace;
pub mod ready;
pub mod replacement;
pub mod settings_file;
pub mod signal;
pub mod slot;
pub mod spawn;
pub mod statistics;
pub mod system_limits;
pub mod threads;
pub mod unprivileged;
pub mod usage;
