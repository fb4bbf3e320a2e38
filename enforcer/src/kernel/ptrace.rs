//! One thread, stopped for a moment and looked at: ptrace(2) by `PTRACE_SEIZE`
//! (Linux 3.4), which sends no signal and leaves no trace in the program. A
//! tracee belongs to the thread that seized it: if that thread ends, however it
//! ends, the kernel lets go of the tracee and it runs on.

use super::clock;
use enforcer_core::units::MonoTime;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

const SYSGOOD: libc::c_int = 1;
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
/// How often a stop is looked for. It comes with the thread's next interrupt.
const POLL: Duration = Duration::from_micros(50);
/// How long a running thread may take to stop so that it can be let go.
const LET_GO: Duration = Duration::from_secs(1);

/// A seized thread. It is let go when this is dropped.
pub(crate) struct Tracee {
    tid: libc::pid_t,
    stopped: Option<libc::c_int>,
    stops: u64,
    gone: bool,
    registers: Vec<u8>,
    /// Only the thread that seized it may ask for anything.
    _not_send: PhantomData<*const ()>,
}

/// Why a thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
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
    /// Somebody stopped the whole process.
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
    /// Of an entry the number and its arguments; of an exit the result.
    words: [u64; 8],
}

impl Tracee {
    /// Fails with EPERM for a thread that somebody traces already.
    pub(crate) fn seize(tid: u32) -> io::Result<Self> {
        let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
        // SAFETY: takes no memory.
        let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0, SYSGOOD) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            tid,
            stopped: None,
            stops: 0,
            gone: false,
            registers: vec![0; REGISTER_BYTES],
            _not_send: PhantomData,
        })
    }

    /// Asks it to stop; the stop itself is waited for.
    pub(crate) fn interrupt(&mut self) -> io::Result<()> {
        self.request(libc::PTRACE_INTERRUPT, 0)
    }

    /// Waits for it to stop for any reason; `None` if it doesn't until then.
    pub(crate) fn wait(&mut self, until: MonoTime) -> io::Result<Option<Stop>> {
        loop {
            let mut status = 0;
            // SAFETY: writes the status of this one thread, which we trace.
            let found =
                unsafe { libc::waitpid(self.tid, &raw mut status, libc::WNOHANG | libc::__WALL) };
            match found {
                0 => {}
                tid if tid == self.tid => return Ok(Some(self.stop(status))),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() == Some(libc::ECHILD) {
                        self.gone = true;
                        return Ok(Some(Stop::Gone));
                    }
                    return Err(error);
                }
            }
            if clock::now() >= until {
                return Ok(None);
            }
            clock::pause(POLL);
        }
    }

    fn stop(&mut self, status: libc::c_int) -> Stop {
        if !libc::WIFSTOPPED(status) {
            self.gone = true;
            return Stop::Gone;
        }
        self.stops += 1;
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
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
            // It is passed on when the thread goes on.
            self.stopped = Some(signal);
            return Stop::Signal;
        }
        Stop::Asked
    }

    /// Where it stands still: the address of its next instruction.
    pub(crate) fn instruction(&self) -> u64 {
        self.call_info().instruction
    }

    fn call_info(&self) -> CallInfo {
        let mut info = CallInfo::default();
        // SAFETY: the kernel writes at most as many bytes as it is told there are.
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
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        match self.stopped.take() {
            Some(signal) => self.request(libc::PTRACE_SYSCALL, signal),
            None => Ok(()),
        }
    }

    /// Lets it execute one instruction. Returns how it stopped after that: `Asked`
    /// if that was all, or `CallExit` if the instruction was a system call.
    pub(crate) fn step(&mut self, until: MonoTime) -> io::Result<Option<Stop>> {
        let signal = self.stopped.take().unwrap_or(0);
        self.request(libc::PTRACE_SINGLESTEP, signal)?;
        let stop = self.wait(until)?;
        // The trap of a step is a signal that only we are to see.
        if stop == Some(Stop::Signal) && self.stopped == Some(libc::SIGTRAP) {
            self.stopped = Some(0);
            return Ok(Some(Stop::Asked));
        }
        Ok(stop)
    }

    /// Passes its registers, all of them, to `take`. It must stand still.
    pub(crate) fn registers(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
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

    /// Lets it go for good; returns how often it was stopped in all. The kernel
    /// counts each of these as a sleep of its own will.
    pub(crate) fn let_go(mut self) -> u64 {
        self.release();
        self.stops
    }

    fn release(&mut self) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        if self.stopped.is_none() && self.interrupt().is_ok() {
            // Without a stop the end of this thread lets go of it.
            let _ = self.wait(clock::now().after(LET_GO));
        }
        if let Some(signal) = self.stopped.take() {
            // It may have been killed meanwhile: then there is nothing to let go.
            let _ = self.request(libc::PTRACE_DETACH, signal);
        }
    }

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
        self.release();
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

    #[test]
    fn a_thread_is_stopped_looked_at_and_let_go() {
        let child = Killed(
            Command::new("/bin/sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .expect("a shell"),
        );
        let pid = child.0.id();
        let mut tracee = Tracee::seize(pid).expect("our own child");
        let until = clock::now().after(Duration::from_secs(10));
        tracee.interrupt().expect("it is alive");
        let mut stop = tracee.wait(until).expect("it is ours");
        // A shell may be just in a call of its own.
        while matches!(stop, Some(Stop::CallEntry { .. } | Stop::CallExit { .. })) {
            tracee.resume().expect("it stands still");
            stop = tracee.wait(until).expect("it is ours");
        }
        assert_eq!(stop, Some(Stop::Asked));
        let mut sets = Vec::new();
        tracee
            .registers(|bytes| sets.push(bytes.len()))
            .expect("it stands still");
        assert!(
            sets.len() == 2 && sets.iter().all(|bytes| *bytes > 0),
            "{sets:?}"
        );
        assert!(Tracee::seize(pid).is_err(), "it is traced already");
        drop(tracee);
        assert_eq!(state(pid, "TracerPid"), "TracerPid:\t0");
        assert!(state(pid, "State").contains("R"), "{}", state(pid, "State"));
    }
}
