//! The threads of a process: how much they ran, what they sleep in, and what may
//! wake them. All of it is read from `/proc`, and may be gone the next moment.

use super::proc_text::{self, field, is_gone};
use enforcer_model::cpu_loop::{Sleep, Thread};
use std::io;
use std::time::Duration;

/// The state of a thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadState {
    pub tid: u32,
    pub command: String,
    /// The number of its context switches, voluntary or not.
    pub switches: u64,
    /// The system call that it sleeps in; `None` while it runs, or if the call is not known.
    pub sleep: Option<Sleep>,
}

/// The counters of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// `voluntary_ctxt_switches`: how often it slept, or was stopped by us.
    pub sleeps: u64,
    /// CPU time in its own code and in the kernel, to 10 ms.
    pub user: Duration,
    pub system: Duration,
    pub major_faults: u64,
    pub start_ticks: u64,
}

/// Returns the counters of a thread; `None` if it is gone, or its number is another's.
pub fn counters(thread: Thread) -> Option<Counters> {
    counters_of(thread.pid, thread.tid).filter(|found| found.start_ticks == thread.start_ticks)
}

/// Returns the counters of whatever thread has this number now.
pub fn counters_of(pid: u32, tid: u32) -> Option<Counters> {
    let read = |file: &str| proc_text::read(&format!("/proc/{pid}/task/{tid}/{file}")).ok();
    let (status, stat) = (read("status")?, read("stat")?);
    // The command may hold anything; what follows its last parenthesis doesn't.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    // proc(5): `state` is field 3.
    Some(Counters {
        sleeps: number_of(&status, "voluntary_ctxt_switches")?,
        major_faults: number(9)?,
        user: ticks(number(11)?),
        system: ticks(number(12)?),
        start_ticks: number(19)?,
    })
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000) / procfs::ticks_per_second())
}

fn number_of(status: &str, key: &str) -> Option<u64> {
    field(status, key)?.parse().ok()
}

/// Returns the name of a thread.
pub fn command(pid: u32, tid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
    Some(super::process::command_of(name.trim_ascii_end()))
}

/// Returns the CPU time of a thread, to the nanosecond (`CONFIG_SCHED_INFO`). For a stopped thread
/// it is exact.
pub fn cpu_time(thread: Thread) -> Option<Duration> {
    let Thread { pid, tid, .. } = thread;
    let text = proc_text::read(&format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split(' ')
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// Returns the threads of a process.
///
/// # Errors
/// If the process is gone, or hidden.
pub fn of(pid: u32) -> io::Result<Vec<u32>> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let tids = listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(tids.collect())
}

/// Returns every thread of the process but this one. A thread that is there and cannot be read
/// counts as one that runs: what is not known breaks a proof.
pub fn others(thread: Thread) -> Vec<ThreadState> {
    let has_timer = has_timer_descriptor(thread.pid);
    let tids = match of(thread.pid) {
        Ok(tids) => tids.into_iter(),
        Err(error) if is_gone(&error) => return Vec::new(),
        Err(_) => return vec![ThreadState::unreadable(0)],
    };
    tids.filter(|tid| *tid != thread.tid)
        .filter_map(|tid| match state(thread.pid, tid, has_timer) {
            Ok(state) => Some(state),
            Err(error) if is_gone(&error) => None,
            Err(_) => Some(ThreadState::unreadable(tid)),
        })
        .collect()
}

/// Where a thread stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub tid: u32,
    pub name: String,
    /// The letter of proc_pid_stat(5).
    pub state: char,
    /// The system call that it is in.
    pub call: Option<String>,
    /// The kernel's functions, the innermost first; empty if the kernel does not show them.
    pub kernel_stack: Vec<String>,
    /// The address of the next instruction in the program.
    pub address: Option<u64>,
}

/// Returns where the threads of a process stand, up to this many. The stack in the kernel needs
/// `CAP_SYS_ADMIN` (`/proc/TID/stack`, `CONFIG_STACKTRACE`).
#[must_use]
pub fn standings(pid: u32, most: usize) -> Vec<Standing> {
    let tids = of(pid).unwrap_or_default().into_iter();
    tids.take(most)
        .filter_map(|tid| standing(pid, tid))
        .collect()
}

fn standing(pid: u32, tid: u32) -> Option<Standing> {
    let read = |file: &str| proc_text::read(&format!("/proc/{pid}/task/{tid}/{file}")).ok();
    let status = read("status")?;
    let state = proc_text::field(&status, "State")?.chars().next()?;
    // The number of the call, its arguments, the stack and the instruction.
    let call = read("syscall").unwrap_or_default();
    let words: Vec<&str> = call.split_whitespace().collect();
    let number = words.first().and_then(|word| word.parse::<u32>().ok());
    let address = words.last().and_then(|word| word.strip_prefix("0x"));
    let frames = read("stack").unwrap_or_default();
    let frames = frames.lines().filter_map(|line| {
        // Such as `[<0>] futex_wait+0x79/0x120`.
        let function = line.split_once(' ')?.1;
        Some(function.split('+').next()?.to_owned())
    });
    Some(Standing {
        tid,
        name: command(pid, tid).unwrap_or_default(),
        state,
        call: number.map(|number| {
            super::seccomp::name_of(number).map_or_else(|| format!("call {number}"), str::to_owned)
        }),
        kernel_stack: frames.collect(),
        address: address.and_then(|text| u64::from_str_radix(text, 16).ok()),
    })
}

impl ThreadState {
    fn unreadable(tid: u32) -> Self {
        Self {
            tid,
            command: "a thread that cannot be read".to_owned(),
            switches: 0,
            sleep: None,
        }
    }
}

fn state(pid: u32, tid: u32, has_timer_descriptor: bool) -> io::Result<ThreadState> {
    let read = |file: &str| proc_text::read(&format!("/proc/{pid}/task/{tid}/{file}"));
    let status = read("status")?;
    let number = |key| number_of(&status, key).ok_or(io::ErrorKind::InvalidData);
    let switches = number("voluntary_ctxt_switches")? + number("nonvoluntary_ctxt_switches")?;
    // "running", or where it sleeps: the call, its arguments, stack, instruction.
    let call = read("syscall").unwrap_or_default();
    let words: Vec<&str> = call.split_whitespace().collect();
    let argument = |index: usize| {
        let text = words.get(index)?.strip_prefix("0x")?;
        u64::from_str_radix(text, 16).ok()
    };
    let number = words.first().and_then(|word| word.parse::<u64>().ok());
    let sleep = number.map(|number| Sleep {
        number,
        arguments: std::array::from_fn(|index| argument(index + 1).unwrap_or(0)),
        has_timer_descriptor,
    });
    Ok(ThreadState {
        tid,
        command: command(pid, tid).unwrap_or_default(),
        switches,
        sleep,
    })
}

fn has_timer_descriptor(pid: u32) -> bool {
    has_descriptor(pid, "anon_inode:[timerfd]") || has_io_uring(pid)
}

/// Returns whether the kernel may write to the process's memory by itself, through completions of
/// an io_uring. Its memory need not show among the mappings.
pub fn has_io_uring(pid: u32) -> bool {
    has_descriptor(pid, "anon_inode:[io_uring]")
}

/// Returns whether the process has a descriptor of this kind. A table of descriptors that cannot be
/// read may hold anything, so it counts as one that has it.
fn has_descriptor(pid: u32, kind: &str) -> bool {
    let Ok(listed) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return true;
    };
    let mut links = listed
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.any(|link| link.to_string_lossy() == kind)
}

/// Returns whether a signal that the process handles may come by itself: from a POSIX timer
/// (`CONFIG_CHECKPOINT_RESTORE` shows them), from setitimer(2), whose timers are shown nowhere,
/// from a child that ends, from a descriptor, or from a limit.
pub fn may_be_signalled(pid: u32) -> bool {
    let timers = proc_text::read(&format!("/proc/{pid}/timers"));
    if timers.map_or(true, |timers| !timers.trim().is_empty()) {
        return true;
    }
    let status = proc_text::read(&format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = field(&status, "SigCgt")
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .unwrap_or(u64::MAX);
    let is_caught = |signal: libc::c_int| caught & (1 << (signal - 1)) != 0;
    let by_themselves = [
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGXCPU,
    ];
    by_themselves.into_iter().any(is_caught) || is_caught(libc::SIGCHLD) && has_children(pid)
}

fn has_children(pid: u32) -> bool {
    let listed = std::fs::read_dir(format!("/proc/{pid}/task"));
    let mut threads = listed.into_iter().flatten().flatten();
    threads.any(|thread| {
        // `CONFIG_PROC_CHILDREN`; what can't be read is taken for a child.
        let file = thread.path().join("children");
        let children = proc_text::read(&file.to_string_lossy());
        children.map_or(true, |children| !children.trim().is_empty())
    })
}

/// Returns the tracer of a thread, if there is one.
pub fn tracer(pid: u32, tid: u32) -> Option<u32> {
    let status = proc_text::read(&format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let tracer = number_of(&status, "TracerPid")?;
    u32::try_from(tracer).ok().filter(|tracer| *tracer != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Runs `look` while another thread of this process has this name.
    fn beside_a_thread_named<T>(name: &[u8], look: impl FnOnce(u32) -> T) -> T {
        let mut name = name.to_vec();
        name.push(0);
        let (reported, tid) = channel();
        let (end, ended) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: the name ends with NUL and outlives the call.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                let _ = reported.send(nix::unistd::gettid());
                let _ = ended.recv();
            });
            let tid = tid.recv().expect("a thread id");
            let seen = look(tid.as_raw().unsigned_abs());
            drop(end);
            seen
        })
    }

    #[test]
    fn a_thread_is_seen_whatever_its_name() {
        let pid = std::process::id();
        let main = Thread {
            pid,
            tid: nix::unistd::gettid().as_raw().unsigned_abs(),
            start_ticks: 0,
        };
        // Half a letter at the end, as the kernel cuts it, and bytes that are none.
        for name in [
            &b"helper"[..],
            b"\xd0\xbe\xd0\xb1\xd1\x80\xd0\xb0\xd0\xb1\xd0\xbe\xd1\x82\xd1",
            b"\xff",
            b"a) R 1 (b",
        ] {
            beside_a_thread_named(name, |tid| {
                assert!(counters_of(pid, tid).is_some(), "{name:?}");
                let seen = others(main);
                let found = seen.iter().find(|state| state.tid == tid);
                let command = found.map(|state| state.command.as_str());
                assert!(
                    command.is_some_and(|command| !command.contains("cannot be read")),
                    "{name:?}: {command:?}"
                );
            });
        }
    }
}
