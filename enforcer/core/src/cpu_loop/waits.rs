//! The waits of sleeping threads, by system call. The numbers are those of x86-64. On other
//! machines every wait is taken for a timed one, so that nothing is proved beside another thread.

use enforcer_model::cpu_loop::Sleep;

/// The event that ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A thread of the same process ends it: a lock, a condition.
    ForOwnProcess,
    /// Something from outside: a request, a signal, another process.
    ForOutside,
    /// Time alone, sooner or later; also what isn't known.
    Timed,
    /// The thread runs.
    Running,
}

/// Returns the event that ends this sleep; a thread without one runs.
#[must_use]
pub fn wait_of(sleep: Option<Sleep>) -> Wait {
    let Some(sleep) = sleep else {
        return Wait::Running;
    };
    if cfg!(not(target_arch = "x86_64")) {
        return Wait::Timed;
    }
    let [_, second, third, fourth, fifth, _] = sleep.arguments;
    let descriptors = |forever: bool| {
        if forever && !sleep.has_timer_descriptor {
            Wait::ForOutside
        } else {
            Wait::Timed
        }
    };
    match sleep.number {
        FUTEX => match futex_command(second) {
            // Shared futexes may be woken by another process.
            Some(FUTEX_WAIT | FUTEX_WAIT_BITSET) if fourth == 0 && is_private(second) => {
                Wait::ForOwnProcess
            }
            Some(FUTEX_WAIT | FUTEX_WAIT_BITSET) if fourth == 0 => Wait::ForOutside,
            _ => Wait::Timed,
        },
        POLL => descriptors(is_forever(third)),
        EPOLL_WAIT | EPOLL_PWAIT => descriptors(is_forever(fourth)),
        EPOLL_PWAIT2 => descriptors(fourth == 0),
        SELECT | PSELECT6 => descriptors(fifth == 0),
        PPOLL => descriptors(third == 0),
        READ | READV | ACCEPT | ACCEPT4 => descriptors(true),
        PAUSE | RT_SIGSUSPEND => Wait::ForOutside,
        RT_SIGTIMEDWAIT if third == 0 => Wait::ForOutside,
        // Children end by themselves, and `recv` may have a time-out of its own.
        _ => Wait::Timed,
    }
}

const READ: u64 = 0;
const POLL: u64 = 7;
const READV: u64 = 19;
const SELECT: u64 = 23;
const PAUSE: u64 = 34;
const ACCEPT: u64 = 43;
const RECVFROM: u64 = 45;
const RECVMSG: u64 = 47;
const RT_SIGTIMEDWAIT: u64 = 128;
const RT_SIGSUSPEND: u64 = 130;
const FUTEX: u64 = 202;
const EPOLL_WAIT: u64 = 232;
const PSELECT6: u64 = 270;
const PPOLL: u64 = 271;
const EPOLL_PWAIT: u64 = 281;
const ACCEPT4: u64 = 288;
const EPOLL_PWAIT2: u64 = 441;

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_PRIVATE: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;

fn futex_command(operation: u64) -> Option<u64> {
    // The upper half of an int's register is not defined.
    let operation = operation & 0xffff_ffff;
    let command = operation & !(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME);
    (command < 16).then_some(command)
}

fn is_private(operation: u64) -> bool {
    operation & FUTEX_PRIVATE != 0
}

/// Returns whether a time-out is negative, which means for ever.
fn is_forever(milliseconds: u64) -> bool {
    milliseconds & 0x8000_0000 != 0
}

const SCHED_YIELD: u64 = 24;
const GETPID: u64 = 39;
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;
const CLOCK_GETTIME: u64 = 228;
const GETTIMEOFDAY: u64 = 96;
const TIME: u64 = 201;
const NANOSLEEP: u64 = 35;
const CLOCK_NANOSLEEP: u64 = 230;

/// The evidence that a system call's result gives about its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No descriptor was ready, and no byte was moved.
    Idle,
    /// The result proves nothing.
    Neutral,
    /// The call did something, or failed at something.
    Done,
}

const EINTR: i64 = -4;
const EAGAIN: i64 = -11;

/// Returns the evidence that this result gives.
#[must_use]
pub fn outcome(number: u64, result: i64) -> Outcome {
    match number {
        GETPID | CLOCK_GETTIME | GETTIMEOFDAY | TIME => Outcome::Neutral,
        SCHED_YIELD => Outcome::Idle,
        POLL | PPOLL | SELECT | PSELECT6 | EPOLL_WAIT | EPOLL_PWAIT | EPOLL_PWAIT2
            if result == 0 =>
        {
            Outcome::Idle
        }
        _ if result == EAGAIN || result == EINTR => Outcome::Idle,
        _ => Outcome::Done,
    }
}

/// Returns whether a call has replaced the program.
#[must_use]
pub fn is_exec(number: u64, result: i64) -> bool {
    [EXECVE, EXECVEAT].contains(&number) && result == 0
}

/// Returns the name of a system call.
#[must_use]
pub fn call_name(number: u64) -> String {
    let name = match number {
        READ => "read",
        1 => "write",
        POLL => "poll",
        SELECT => "select",
        SCHED_YIELD => "sched_yield",
        NANOSLEEP => "nanosleep",
        GETPID => "getpid",
        42 => "connect",
        ACCEPT => "accept",
        44 => "sendto",
        RECVFROM => "recvfrom",
        46 => "sendmsg",
        RECVMSG => "recvmsg",
        GETTIMEOFDAY => "gettimeofday",
        TIME => "time",
        FUTEX => "futex",
        CLOCK_GETTIME => "clock_gettime",
        CLOCK_NANOSLEEP => "clock_nanosleep",
        EPOLL_WAIT => "epoll_wait",
        PSELECT6 => "pselect6",
        PPOLL => "ppoll",
        EPOLL_PWAIT => "epoll_pwait",
        ACCEPT4 => "accept4",
        EPOLL_PWAIT2 => "epoll_pwait2",
        other => return format!("system call {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn waits_are_distinguished_by_what_ends_them() {
        let timer = 0x7ffd_0000_0000;
        let table = [
            // (call, arguments, what ends it)
            (FUTEX, [1, 128, 2, 0, 0, 0], Wait::ForOwnProcess),
            (FUTEX, [1, 137, 2, 0, 0, u64::MAX], Wait::ForOwnProcess),
            (FUTEX, [1, 393, 2, 0, 0, 0], Wait::ForOwnProcess),
            (FUTEX, [1, 0, 2, 0, 0, 0], Wait::ForOutside),
            (FUTEX, [1, 128, 2, timer, 0, 0], Wait::Timed),
            (FUTEX, [1, 137, 2, timer, 0, 0], Wait::Timed),
            (
                EPOLL_WAIT,
                [3, timer, 64, 0xffff_ffff, 0, 0],
                Wait::ForOutside,
            ),
            (EPOLL_WAIT, [3, timer, 64, u64::MAX, 0, 0], Wait::ForOutside),
            (EPOLL_WAIT, [3, timer, 64, 500, 0, 0], Wait::Timed),
            (POLL, [timer, 1, u64::MAX, 0, 0, 0], Wait::ForOutside),
            (POLL, [timer, 1, 500, 0, 0, 0], Wait::Timed),
            (ACCEPT4, [3, 0, 0, 0, 0, 0], Wait::ForOutside),
            (SELECT, [4, timer, 0, 0, 0, 0], Wait::ForOutside),
            (SELECT, [4, timer, 0, 0, timer, 0], Wait::Timed),
            (CLOCK_NANOSLEEP, [0, 0, timer, 0, 0, 0], Wait::Timed),
            (NANOSLEEP, [timer, 0, 0, 0, 0, 0], Wait::Timed),
            (PAUSE, [0; 6], Wait::ForOutside),
            // wait4, recvfrom
            (61, [0; 6], Wait::Timed),
            (RECVFROM, [0; 6], Wait::Timed),
            (999, [0; 6], Wait::Timed),
        ];
        for (number, arguments, expected) in table {
            let wait = |has_timer_descriptor| {
                wait_of(Some(Sleep {
                    number,
                    arguments,
                    has_timer_descriptor,
                }))
            };
            assert_eq!(wait(false), expected, "{number} {arguments:x?}");
            let descriptors = [POLL, SELECT, EPOLL_WAIT, ACCEPT4];
            if descriptors.contains(&number) {
                assert_eq!(wait(true), Wait::Timed, "with a timer: {number}");
            }
        }
    }

    #[test]
    fn only_calls_that_moved_nothing_are_idle() {
        let table = [
            (EPOLL_WAIT, 0, Outcome::Idle),
            (EPOLL_WAIT, EINTR, Outcome::Idle),
            (EPOLL_WAIT, 1, Outcome::Done),
            (READ, EAGAIN, Outcome::Idle),
            (READ, 0, Outcome::Done),
            (SCHED_YIELD, 0, Outcome::Idle),
            (CLOCK_GETTIME, 0, Outcome::Neutral),
            // A search that doesn't find is no polling: ENOENT of stat.
            (4, -2, Outcome::Done),
        ];
        for (number, result, expected) in table {
            assert_eq!(outcome(number, result), expected, "{number} = {result}");
        }
    }
}
