//! The names of signals, by number, as on x86, Arm and RISC-V (signal(7)).

/// The names from 1 on.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Returns a signal's name, or `signal NUMBER` for one without a name.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let place = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    let name = place.and_then(|place| NAMES.get(place));
    name.map_or_else(|| format!("signal {number}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_a_name_is_shown_as_it_is() {
        let names = [1, 9, 15, 31].map(signal_name);
        assert_eq!(names, ["SIGHUP", "SIGKILL", "SIGTERM", "SIGSYS"]);
        let others = [0, 32, -1].map(signal_name);
        assert_eq!(others, ["signal 0", "signal 32", "signal -1"]);
    }
}
