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

/// The first and the last real-time signal of a program. The C library keeps the two below the first to
/// itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Returns a signal's name, or `signal NUMBER` for one without a name.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let place = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    if let Some(name) = place.and_then(|place| NAMES.get(place)) {
        return (*name).to_owned();
    }
    match number - REAL_TIME.start() {
        0 => "SIGRTMIN".to_owned(),
        above if REAL_TIME.contains(&number) => format!("SIGRTMIN+{above}"),
        _ => format!("signal {number}"),
    }
}

/// Returns the number of a signal: its number from 1 to 64, its name with or without `SIG`, or
/// `SIGRTMIN+N` and `SIGRTMAX-N` for a real-time signal. `None` if it is none of these.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse().ok()?;
        return (1..=*REAL_TIME.end())
            .contains(&number)
            .then_some(number)
            .filter(|number| *number < 32 || REAL_TIME.contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let distance = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    if let Some(above) = name.strip_prefix("RTMIN") {
        let number = REAL_TIME.start().checked_add(distance(above, '+')?)?;
        return Some(number).filter(|number| REAL_TIME.contains(number));
    }
    if let Some(below) = name.strip_prefix("RTMAX") {
        let number = REAL_TIME.end().checked_sub(distance(below, '-')?)?;
        return Some(number).filter(|number| REAL_TIME.contains(number));
    }
    let place = NAMES.iter().position(|known| &known[3..] == name)?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_a_name_is_shown_as_it_is() {
        let names = [1, 9, 15, 31].map(signal_name);
        assert_eq!(names, ["SIGHUP", "SIGKILL", "SIGTERM", "SIGSYS"]);
        let others = [0, 32, -1, 65, 34, 37].map(signal_name);
        let shown = [
            "signal 0",
            "signal 32",
            "signal -1",
            "signal 65",
            "SIGRTMIN",
            "SIGRTMIN+3",
        ];
        assert_eq!(others, shown);
    }

    #[test]
    fn every_number_has_one_name_and_a_name_has_several_forms() {
        for number in (1..=31).chain(REAL_TIME) {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
            assert_eq!(signal_number(&number.to_string()), Some(number));
        }
        let forms = ["TERM", "sigterm", "Term", "15"].map(signal_number);
        assert_eq!(forms, [Some(15); 4]);
        assert_eq!(signal_number("SIGRTMAX-1"), Some(63));
        assert_eq!(signal_number("RTMAX"), Some(64));
        for wrong in [
            "",
            "0",
            "-1",
            "32",
            "33",
            "65",
            "SIG",
            "SIGSIGTERM",
            "SIGRTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "99999999999",
            "TERM ",
            "RTMIN+",
            "RTMIN+99999999999",
        ] {
            assert_eq!(signal_number(wrong), None, "{wrong:?}");
        }
    }
}
