//! The child's side, between `clone3` and `execve`. Nothing here allocates,
//! locks or panics; every call is async-signal-safe (signal-safety(7)) or a bare
//! system call.

use super::namespace;
use super::orders::Orders;
use super::paths;
use libc::{c_char, c_int};
use std::ffi::CStr;

/// The step of a child that failed. The agent gets it as a byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Stage {
    Session = 1,
    Descriptors,
    Signals,
    OomScore,
    Rlimits,
    Groups,
    Capabilities,
    User,
    Directory,
    Exec,
    Keyring,
    Nice,
    CoreDump,
    Namespace,
    Join,
    Source,
    Root,
    Mount,
    Pivot,
    Hostname,
    Filter,
    Paths,
}

/// The names of what a child works with.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub program: &'a str,
    pub root: &'a str,
    /// The mount that the step was about.
    pub mount: &'a str,
}

impl Stage {
    /// Returns a phrase for "failed to …".
    pub(super) fn describe(stage: u8, names: &Names<'_>) -> String {
        let plain = match stage {
            1 => "begin a session",
            2 => "arrange the descriptors",
            3 => "reset the signals",
            4 => "set oom_score_adj",
            5 => "set the resource limits",
            6 => "take on the groups",
            7 => "set the capabilities",
            8 => "become the user",
            9 => "enter the directory",
            11 => "leave the agent's session keyring",
            12 => "set the nice value",
            13 => "keep its memory out of core dumps",
            14 => "make its own namespaces",
            15 => "enter the namespaces of the running instance",
            16 => return format!("open the source of the mount {}", names.mount),
            17 => return format!("open its root {}", names.root),
            18 => return format!("mount {}", names.mount),
            19 => return format!("make {} its root", names.root),
            20 => "set its host name",
            21 => "filter its system calls",
            22 => "restrict its paths (Landlock)",
            _ => return format!("execute {}", names.program),
        };
        plain.to_owned()
    }
}

/// The argument and environment arrays, as `execve` wants them.
#[derive(Debug)]
pub(super) struct Pointers {
    command: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// The variable that the child completes with its own process id.
    listen_pid: Vec<u8>,
}

/// The variable by which sd_listen_fds(3) knows whom the sockets are for.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// The most digits of a process id.
const MOST_DIGITS: usize = 10;

impl Pointers {
    pub(super) fn of(orders: &Orders) -> Self {
        let array = |strings: &[std::ffi::CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        let mut environment: Vec<*const c_char> = array(&orders.environment);
        let listen_pid = [LISTEN_PID, &[0; MOST_DIGITS + 1]].concat();
        if orders.sockets > 0 {
            environment.insert(0, listen_pid.as_ptr().cast());
        }
        Self {
            command: array(&orders.command),
            environment,
            listen_pid,
        }
    }

    /// Writes the process id of the child, which alone sees it, into its variable.
    fn complete(&self) {
        // SAFETY: no preconditions.
        let mut rest = unsafe { libc::getpid() }.unsigned_abs();
        let mut digits = [0; MOST_DIGITS];
        let mut length = 0;
        while rest > 0 || length == 0 {
            digits[length] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            length += 1;
        }
        let place = self.listen_pid.as_ptr().cast_mut();
        for (index, digit) in digits[..length].iter().rev().enumerate() {
            // SAFETY: the text has room for all digits and a NUL behind them. The child's memory is
            // its own, and nothing else reads or writes it.
            unsafe { place.add(LISTEN_PID.len() + index).write(*digit) };
        }
    }
}

#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub orders: &'a Orders,
    pub pointers: &'a Pointers,
    pub gate: c_int,
    pub null: c_int,
    pub output: c_int,
    /// The descriptors of the view.
    pub view: &'a [c_int],
    /// The sockets that the program gets.
    pub sockets: &'a [c_int],
    /// The signals that the fork server ignores, a bit each: bit 0 is signal 1.
    pub ignored: u64,
}

/// The first descriptor after those of input and output, which sd_listen_fds(3) begins with. The
/// sockets are there after [`descriptors`], and behind them is the gate.
const FIRST: c_int = 3;

/// The most sockets of a child.
pub(super) const MOST_SOCKETS: usize = 64;

/// A step failed with `errno`.
pub(super) struct Failed {
    pub stage: Stage,
    /// The mount that it was about.
    pub index: u8,
}

pub(super) type Step = Result<(), Failed>;

pub(super) fn run(plan: &Plan<'_>) -> ! {
    // Until it is moved, the gate has the agent's number.
    let mut gate = plan.gate;
    if let Err(failed) = prepare(plan, &mut gate).and_then(|()| pass_gate_and_exec(plan, gate)) {
        let errno = nix::Error::last_raw().to_ne_bytes();
        let stage = failed.stage as u8;
        let report = [stage, failed.index, errno[0], errno[1], errno[2], errno[3]];
        // SAFETY: the buffer outlives the call. A failure cannot be reported to anyone.
        unsafe { libc::write(gate, report.as_ptr().cast(), report.len()) };
    }
    // SAFETY: ends this process only, without running the agent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn fail(stage: Stage) -> Step {
    Err(Failed { stage, index: 0 })
}

pub(super) fn system_call(result: libc::c_long) -> c_int {
    if result < 0 { -1 } else { 0 }
}

pub(super) fn check(result: c_int, stage: Stage) -> Step {
    if result < 0 { fail(stage) } else { Ok(()) }
}

fn prepare(plan: &Plan<'_>, gate: &mut c_int) -> Step {
    let orders = plan.orders;
    // SAFETY: no preconditions; a forked child leads no group yet.
    check(unsafe { libc::setsid() }, Stage::Session)?;
    leave_keyring(orders)?;
    // These write to `/proc`, which the view may not have.
    oom_score(orders)?;
    hide_memory(orders)?;
    namespace::enter(&orders.view, plan.view)?;
    descriptors(plan, gate)?;
    signals(plan.ignored)?;
    // SAFETY: no preconditions, and it always succeeds.
    unsafe { libc::umask(orders.umask) };
    nice(orders)?;
    rlimits(orders)?;
    identity(orders)?;
    // SAFETY: the path ends with NUL.
    let entered = unsafe { libc::chdir(orders.directory.as_ptr()) };
    check(entered, Stage::Directory)?;
    paths::restrict(orders.paths.as_ref())
}

/// Joins a session keyring of its own (keyctl(2), session-keyring(7)). Processes that share one
/// have all rights to its keys, whatever their user.
fn leave_keyring(orders: &Orders) -> Step {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: without a name, a new anonymous keyring is made.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<c_char>(),
        )
    };
    // A kernel without keyrings has none to share; an agent that is not root shares its own
    // user's, whose quota may be used up.
    let errno = nix::Error::last_raw();
    if joined >= 0 || errno == libc::ENOSYS || !orders.switch_user {
        Ok(())
    } else {
        fail(Stage::Keyring)
    }
}

/// 0 is `/dev/null`, 1 and 2 the log, 3 and the next ones the sockets, and then the gate until
/// exec; all else is closed.
fn descriptors(plan: &Plan<'_>, gate: &mut c_int) -> Step {
    let stage = Stage::Descriptors;
    // SAFETY: duplicates and closes descriptors of this process alone. Those of
    // the plan are 3 or above, since the agent has its own 0 to 2, so that the
    // first three calls overwrite none of them. The others are first moved behind all their places.
    unsafe {
        check(libc::dup2(plan.null, 0), stage)?;
        check(libc::dup2(plan.output, 1), stage)?;
        check(libc::dup2(plan.output, 2), stage)?;
        let place = plan.sockets.iter().fold(FIRST, |place, _| place + 1);
        let moved = libc::fcntl(plan.gate, libc::F_DUPFD_CLOEXEC, place + 1);
        check(moved, stage)?;
        *gate = moved;
        let mut sockets = [-1; MOST_SOCKETS];
        for (moved, socket) in sockets.iter_mut().zip(plan.sockets) {
            *moved = libc::fcntl(*socket, libc::F_DUPFD_CLOEXEC, place + 1);
            check(*moved, stage)?;
        }
        for (moved, place) in sockets[..plan.sockets.len().min(MOST_SOCKETS)]
            .iter()
            .zip(FIRST..)
        {
            check(libc::dup2(*moved, place), stage)?;
        }
        check(libc::dup3(moved, place, libc::O_CLOEXEC), stage)?;
        *gate = place;
        check(close_from(place.unsigned_abs() + 1), stage)
    }
}

/// close_range(2), since Linux 5.9.
fn close_from(first: u32) -> c_int {
    // SAFETY: closes descriptors of this process alone; see `descriptors`.
    system_call(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// `_NSIG` of the kernel.
const SIGNALS: c_int = 64;

/// Resets all signals: none blocked, none ignored. An ignored signal stays ignored across exec, and
/// Rust ignores SIGPIPE. A handler does not: exec resets it.
fn signals(ignored: u64) -> Step {
    // SAFETY: `set` is initialised before it is read, `action` is at least as large
    // as the kernel's structure, and no handler is used again before exec.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(
            libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()),
            Stage::Signals,
        )?;
        // The C library keeps two numbers to itself; the kernel knows no such
        // thing. SIG_DFL, no flags and an empty mask are all zeros.
        let action = [0u64; 8];
        for signal in 1..=SIGNALS {
            if ignored & (1 << (signal - 1)) != 0 {
                let null = std::ptr::null_mut::<libc::c_void>();
                libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), null, 8);
            }
        }
    }
    Ok(())
}

/// Sets the OOM score. This comes before the change of the user, because a lower score needs
/// CAP_SYS_RESOURCE.
fn oom_score(orders: &Orders) -> Step {
    let written = write_file(c"/proc/self/oom_score_adj", orders.oom_score_adj.as_bytes());
    // A user other than root may only raise it, and otherwise keeps it.
    if written < 0 && orders.switch_user {
        fail(Stage::OomScore)
    } else {
        Ok(())
    }
}

/// Takes all kinds of memory out of core dumps. That stays over fork(2) and execve(2) (core(5)).
fn hide_memory(orders: &Orders) -> Step {
    if !orders.hides_memory {
        return Ok(());
    }
    let written = write_file(c"/proc/self/coredump_filter", b"0");
    // A kernel that writes no core dumps has no such file (CONFIG_ELF_CORE).
    if written < 0 && nix::Error::last_raw() != libc::ENOENT {
        fail(Stage::CoreDump)
    } else {
        Ok(())
    }
}

fn write_file(path: &CStr, value: &[u8]) -> libc::ssize_t {
    // SAFETY: the path ends with NUL, the buffer outlives the call, and the
    // descriptor was opened right here.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return -1;
        }
        let written = libc::write(file, value.as_ptr().cast(), value.len());
        let errno = nix::Error::last();
        libc::close(file);
        errno.set();
        written
    }
}

/// Sets the nice value. This comes before the change of the user, because a lower value needs
/// CAP_SYS_NICE.
fn nice(orders: &Orders) -> Step {
    let Some(nice) = orders.nice else {
        return Ok(());
    };
    // SAFETY: no preconditions; process 0 is the calling one.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    check(result, Stage::Nice)
}

fn rlimits(orders: &Orders) -> Step {
    for (resource, limit) in &orders.rlimits {
        // The usual soft limit of descriptors keeps programs that use select(2) alive. A program
        // may raise it up to the hard limit.
        let soft = if u32::from(*resource) == libc::RLIMIT_NOFILE {
            (*limit).min(soft_nofile(orders, *limit))
        } else {
            *limit
        };
        let value = libc::rlimit {
            rlim_cur: soft,
            rlim_max: *limit,
        };
        // SAFETY: the structure outlives the call.
        let result = unsafe { libc::setrlimit(u32::from(*resource), &raw const value) };
        check(result, Stage::Rlimits)?;
    }
    Ok(())
}

/// Returns the soft limit of open files. A limit that the agent's own unit has raised goes back to
/// the system's default (1024, hard 524288), unless the manifest sets it.
fn soft_nofile(orders: &Orders, limit: u64) -> u64 {
    if orders.default_nofile { 1024 } else { limit }
}

/// Changes the user by system calls. The C library's functions would change every thread of the
/// process: they take a lock, which another thread of the agent may have held at the fork, and wait
/// for threads that do not exist here.
fn identity(orders: &Orders) -> Step {
    // Whatever the agent itself was given by ambience is not the workload's.
    // SAFETY: no pointers are passed.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    if orders.switch_user {
        let gid = orders.gid;
        // SAFETY: the array has the length that is passed.
        unsafe {
            check(
                system_call(libc::syscall(
                    libc::SYS_setgroups,
                    orders.groups.len(),
                    orders.groups.as_ptr(),
                )),
                Stage::Groups,
            )?;
            check(
                system_call(libc::syscall(libc::SYS_setresgid, gid, gid, gid)),
                Stage::Groups,
            )?;
        }
        if orders.uid != 0 {
            bound_capabilities(orders);
            drop_privileges(orders)?;
        } else if orders.bounds_root {
            // Root gets back on exec what the bounding set leaves, and what is inheritable.
            bound_capabilities(orders);
            check(set_capabilities(orders.capabilities), Stage::Capabilities)?;
        }
    }
    if orders.no_new_privs {
        // SAFETY: no pointers are passed.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        check(result, Stage::Capabilities)?;
    }
    Ok(())
}

fn declares(orders: &Orders, capability: u8) -> bool {
    orders.capabilities & (1 << capability) != 0
}

/// Takes everything but the declared capabilities out of the bounding set.
fn bound_capabilities(orders: &Orders) {
    for capability in 0..64u8 {
        let declared = declares(orders, capability);
        // SAFETY: no pointers are passed.
        let dropped = |number: u64| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if !declared && dropped(u64::from(capability)) < 0 {
            // Past the kernel's last one.
            break;
        }
    }
}

/// Becomes the user, with the declared capabilities and no others.
fn drop_privileges(orders: &Orders) -> Step {
    let stage = Stage::Capabilities;
    let uid = orders.uid;
    let mask = orders.capabilities;
    // SAFETY: no pointers are passed to any of these calls.
    unsafe {
        if mask != 0 {
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), stage)?;
        }
        check(
            system_call(libc::syscall(libc::SYS_setresuid, uid, uid, uid)),
            Stage::User,
        )?;
        if mask != 0 {
            check(set_capabilities(mask), stage)?;
            for capability in (0..64).filter(|capability| declares(orders, *capability)) {
                let raise = libc::PR_CAP_AMBIENT_RAISE;
                check(
                    libc::prctl(libc::PR_CAP_AMBIENT, raise, u64::from(capability), 0, 0),
                    stage,
                )?;
            }
        }
    }
    Ok(())
}

/// capset(2), version 3: permitted, effective and inheritable alike.
fn set_capabilities(mask: u64) -> c_int {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let low = u32::try_from(mask & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(mask >> 32).unwrap_or(0);
    let data = [low, low, low, high, high, high];
    // SAFETY: a header of version 3 and its two sets of three words each.
    system_call(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// Installs the filters of system calls (seccomp(2)). They allow write(2), execve(2) and exit_group(2),
/// which are all that follows.
fn filter(orders: &Orders) -> Step {
    for filter in &orders.filters {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or(0),
            filter: filter.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the kernel reads `len` instructions of eight bytes each.
        let installed = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        check(system_call(installed), Stage::Filter)?;
    }
    Ok(())
}

fn pass_gate_and_exec(plan: &Plan<'_>, gate: c_int) -> Step {
    let mut byte = 0u8;
    loop {
        // SAFETY: one byte is read into one byte.
        match unsafe { libc::read(gate, (&raw mut byte).cast(), 1) } {
            1 => break,
            -1 if nix::Error::last_raw() == libc::EINTR => {}
            // The agent is gone: what it did not record may not run.
            // SAFETY: ends this process only.
            _ => unsafe { libc::_exit(127) },
        }
    }
    let pointers = plan.pointers;
    pointers.complete();
    filter(plan.orders)?;
    // SAFETY: both arrays end with a null pointer, and their strings with NUL.
    unsafe {
        libc::execve(
            *pointers.command.as_ptr(),
            pointers.command.as_ptr(),
            pointers.environment.as_ptr(),
        )
    };
    fail(Stage::Exec)
}
