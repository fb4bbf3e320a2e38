//! The first process of a PID namespace, such as a container's entry point. The kernel makes it the
//! parent of every orphan, and it has to wait for them: otherwise they count as processes of their
//! workloads for ever. So the agent runs in a child, and the first process does the work of an
//! init.

use super::pidfd::PidFd;
use super::process;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// The inode of the host's own namespace: include/linux/proc_ns.h, PROC_PID_INIT_INO.
const OF_HOST: u64 = 0xEFFF_FFFC;

/// Returns whether this process runs in a PID namespace of its own. There, eBPF programs see the
/// host's process ids, and not this namespace's.
pub(crate) fn is_in_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|found| found.ino() != OF_HOST)
}

/// Returns in the process that is to be the agent: this one, or a child if this one is the
/// first of its namespace. Called before there is a second thread.
///
/// # Errors
/// If there can be no child.
pub fn leave_first_process() -> io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let mut signals = SigSet::all();
    for synchronous in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
    ] {
        signals.remove(synchronous);
    }
    let before = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(before.thread_set_mask()?),
        ForkResult::Parent { child } => {
            let code = serve(child, &signals).unwrap_or(1);
            std::process::exit(code)
        }
    }
}

/// Collects whatever ends and passes signals on, until the agent has ended; its exit code.
fn serve(agent: Pid, signals: &SigSet) -> io::Result<i32> {
    let received = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC)?;
    let number = u32::try_from(agent.as_raw()).map_err(io::Error::other)?;
    let handle = match process::identify(number) {
        Some(process) => PidFd::of(process)?,
        None => None,
    };
    loop {
        if let Some(code) = collect(agent) {
            return Ok(code);
        }
        let Some(signal) = received.read_signal()? else {
            continue;
        };
        let named = i32::try_from(signal.ssi_signo).ok();
        let named = named.and_then(|number| Signal::try_from(number).ok());
        // A terminal sends its signals to the agent as well.
        let is_terminals = signal.ssi_code == libc::SI_KERNEL;
        if let (Some(named), Some(handle)) = (named, &handle)
            && named != Signal::SIGCHLD
            && !is_terminals
        {
            let _ = handle.signal(named);
        }
    }
}

/// Collects all that have ended; the agent's exit code if it was among them.
fn collect(agent: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => return Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                return Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
