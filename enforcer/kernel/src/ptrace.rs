//! Stops one thread for a moment and reads it: ptrace(2) by `PTRACE_SEIZE` (Linux 3.4), which sends
//! no signal. A traced thread belongs to the thread that seized it. When that one ends, in whatever
//! way, the kernel releases the traced thread and it runs on. So a seized thread is never
//! single-stepped (a step that is left over would kill it), and nothing here waits for a stop just
//! to release it.

use super::clock;
use enforcer_model::units::MonoTime;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

const EVENT_STOP: libc::c_int = 128;
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
/// The set of registers with everything that XSAVE keeps; elsewhere the plain
/// floating point set.
#[cfg(target_arch = "x86_64")]
const FPU_SET: libc::c_int = 0x202;
#[cfg(not(target_arch = "x86_64"))]
const FPU_SET: libc::c_int = 2;
const GENERAL_SET: libc::c_int = 1;
/// AVX-512 and AMX need most: 11 KiB today.
const REGISTER_BYTES: usize = 16 << 10;
/// The time between two checks for a stop. A stop comes with the thread's next interrupt.
const POLL: Duration = Duration::from_micros(50);

/// A seized thread. It is released when this is dropped, if it is stopped then; otherwise with the
/// end of the thread that seized it.
pub struct Tracee {
    tid: libc::pid_t,
    stopped: Option<libc::c_int>,
    stops: u64,
    registers: Vec<u8>,
    /// Only the thread that seized it may make requests.
    _not_send: PhantomData<*const ()>,
}

/// The reason of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Because we asked.
    Asked,
    CallEntry {
        number: u64,
    },
    CallExit {
        result: i64,
    },
    /// This signal is about to be delivered.
    Signal,
    /// A stop signal has stopped the whole process.
    Group,
    Gone,
}

/// `struct ptrace_syscall_info` (Linux 5.3).
#[derive(Default)]
#[repr(C)]
struct CallInfo {
    operation: u8,
    padding: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    /// The number and the arguments of an entry, or the result of an exit.
    words: [u64; 8],
}

impl Tracee {
    /// Seizes a thread. It fails with EPERM if the thread is already traced.
    pub fn seize(tid: u32) -> io::Result<Self> {
        let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
        ptrace::seize(Pid::from_raw(tid), Options::PTRACE_O_TRACESYSGOOD)?;
        Ok(Self {
            tid,
            stopped: None,
            stops: 0,
            registers: vec![0; REGISTER_BYTES],
            _not_send: PhantomData,
        })
    }

    /// Asks it to stop; the stop itself is waited for.
    pub fn interrupt(&mut self) -> io::Result<()> {
        Ok(ptrace::interrupt(Pid::from_raw(self.tid))?)
    }

    /// Waits until the thread stops for any reason; `None` if it does not stop in time. An exit is
    /// left to the process that waits for it, which may be the agent.
    pub fn wait(&mut self, until: MonoTime) -> io::Result<Option<Stop>> {
        loop {
            // A tracer gets stops whatever it asks for. The code says what it is.
            match self.look(libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? {
                Some((libc::CLD_TRAPPED | libc::CLD_STOPPED, _)) => {
                    let taken = self.look(libc::WSTOPPED)?;
                    return Ok(taken.map(|(_, status)| self.stop(status)));
                }
                Some(_) => return Ok(Some(Stop::Gone)),
                None if clock::now() >= until => return Ok(None),
                None => clock::pause(POLL),
            }
        }
    }

    /// Returns the change of this kind, if there is one: its code, and for a stop the signal with
    /// the event above it.
    fn look(&self, kind: libc::c_int) -> io::Result<Option<(libc::c_int, libc::c_int)>> {
        let id = libc::id_t::try_from(self.tid).map_err(io::Error::other)?;
        // SAFETY: an all-zero siginfo is valid; the kernel fills it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = kind | libc::WNOHANG | libc::__WALL;
        // SAFETY: `info` is a local value, and the call reads one thread.
        let result = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // Another thread has waited for it meanwhile.
            let is_gone = error.raw_os_error() == Some(libc::ECHILD);
            return is_gone.then_some(Some((libc::CLD_EXITED, 0))).ok_or(error);
        }
        // SAFETY: filled by waitid, or still zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        Ok((pid != 0).then_some((info.si_code, status)))
    }

    fn stop(&mut self, status: libc::c_int) -> Stop {
        self.stops += 1;
        let signal = status & 0xff;
        let event = status >> 8;
        self.stopped = Some(0);
        if event == EVENT_STOP {
            return if signal == libc::SIGTRAP {
                Stop::Asked
            } else {
                Stop::Group
            };
        }
        if signal == libc::SIGTRAP | 0x80 {
            return self.call();
        }
        if event == 0 {
            // The signal is passed on when the thread goes on.
            self.stopped = Some(signal);
            return Stop::Signal;
        }
        Stop::Asked
    }

    /// Returns the address of the next instruction.
    pub fn instruction(&self) -> u64 {
        self.call_info().instruction
    }

    fn call_info(&self) -> CallInfo {
        let mut info = CallInfo::default();
        // SAFETY: the kernel writes at most as many bytes as the length says.
        unsafe {
            libc::ptrace(
                GET_SYSCALL_INFO,
                self.tid,
                size_of::<CallInfo>(),
                &raw mut info,
            )
        };
        info
    }

    fn call(&self) -> Stop {
        let info = self.call_info();
        match info.operation {
            2 => Stop::CallExit {
                result: info.words[0].cast_signed(),
            },
            _ => Stop::CallEntry {
                number: info.words[0],
            },
        }
    }

    /// Lets it go on, to its next system call at most; a signal that was about to
    /// be delivered is.
    pub fn resume(&mut self) -> io::Result<()> {
        match self.stopped.take() {
            Some(signal) => self.request(libc::PTRACE_SYSCALL, signal),
            None => Ok(()),
        }
    }

    /// Passes its registers, all of them, to `take`. It must stand still.
    pub fn registers(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        for set in [GENERAL_SET, FPU_SET] {
            let mut filled = libc::iovec {
                iov_base: self.registers.as_mut_ptr().cast(),
                iov_len: self.registers.len(),
            };
            // SAFETY: the kernel fills at most `iov_len` bytes and says how many.
            let result =
                unsafe { libc::ptrace(libc::PTRACE_GETREGSET, self.tid, set, &raw mut filled) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            take(&self.registers[..filled.iov_len]);
        }
        Ok(())
    }

    /// Returns the number of stops so far. The kernel counts each of them as a voluntary sleep.
    pub fn stops(&self) -> u64 {
        self.stops
    }

    /// Makes a request that passes a signal on. nix's `Signal` has no real-time signals.
    fn request(&self, request: libc::c_uint, data: libc::c_int) -> io::Result<()> {
        // SAFETY: none of these requests takes memory.
        match unsafe { libc::ptrace(request, self.tid, 0, data) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // A running thread is released when this thread ends.
        if let Some(signal) = self.stopped.take() {
            // The thread may have been killed meanwhile. Then there is nothing to release.
            let _ = self.request(libc::PTRACE_DETACH, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn state(pid: u32, key: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key));
        line.unwrap_or_default().to_owned()
    }

    fn wait_for_stop(tracee: &mut Tracee) -> Stop {
        let until = clock::now().after(Duration::from_secs(10));
        let stop = tracee.wait(until).expect("it is ours");
        stop.expect("it stops in time")
    }

    #[test]
    fn a_thread_is_stopped_looked_at_and_let_go() {
        let child = Killed(
            Command::new("/bin/sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .expect("a shell"),
        );
        let pid = child.0.id();
        let mut sets = Vec::new();
        let look = || {
            let mut tracee = Tracee::seize(pid).expect("our own child");
            tracee.interrupt().expect("it is alive");
            let mut stop = wait_for_stop(&mut tracee);
            // A shell may be just in a call of its own.
            while matches!(stop, Stop::CallEntry { .. } | Stop::CallExit { .. }) {
                tracee.resume().expect("it stands still");
                stop = wait_for_stop(&mut tracee);
            }
            assert_eq!(stop, Stop::Asked);
            tracee
                .registers(|bytes| sets.push(bytes.len()))
                .expect("it stands still");
            assert!(Tracee::seize(pid).is_err(), "it is traced already");
            // It runs, and is asked to stop, when the thread that traces it ends.
            tracee.resume().expect("it stands still");
            tracee.interrupt().expect("it is alive");
        };
        std::thread::scope(|scope| scope.spawn(look).join()).expect("it was looked at");
        assert!(
            sets.len() == 2 && sets.iter().all(|bytes| *bytes > 0),
            "{sets:?}"
        );
        // A thread is joined a moment before its tracees are let go.
        let until = clock::now().after(Duration::from_secs(10));
        let is_free =
            || state(pid, "TracerPid") == "TracerPid:\t0" && state(pid, "State").contains('R');
        while !is_free() {
            assert!(clock::now() < until, "{}", state(pid, "State"));
            clock::pause(POLL);
        }
    }

    #[test]
    fn an_exit_is_left_for_the_parent() {
        let mut child = Killed(
            Command::new("/bin/sh")
                .args(["-c", "read line; exit 7"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("a shell"),
        );
        let pid = child.0.id();
        let stdin = child.0.stdin.take();
        let follow = || {
            let mut tracee = Tracee::seize(pid).expect("our own child");
            drop(stdin);
            while wait_for_stop(&mut tracee) != Stop::Gone {
                tracee.resume().expect("it stands still");
            }
        };
        std::thread::scope(|scope| scope.spawn(follow).join()).expect("it was followed");
        let status = child.0.wait().expect("our own child");
        assert_eq!(status.code(), Some(7));
    }
}
