//! Places where a test has the agent die, to prove that it may die anywhere, and that a trace of its
//! steps names.
//!
//! `ENFORCER_FAILPOINT=NAME` kills the agent where it first passes that place, and `NAME:3` where
//! it passes it for the third time. `ENFORCER_TRACE=FILE` appends a line to the file each time a place
//! is passed: its name, and the nanoseconds since boot. The places exist only in a build with the Cargo feature
//! `failpoints`; without it the macro expands to nothing. Each name has a hyphen, so that
//! `cargo xtask build` can check that none of them is in the agent that ships.

/// Names a place where a test can make the agent die.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
pub(crate) use armed::pass;

#[cfg(feature = "failpoints")]
mod armed {
    use nix::sys::signal::{Signal, raise};
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        name: String,
        left: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static TRACE: OnceLock<Option<File>> = OnceLock::new();

    fn trace() -> Option<File> {
        let file = std::env::var_os("ENFORCER_TRACE")?;
        File::options().append(true).create(true).open(file).ok()
    }

    fn armed() -> Option<Armed> {
        let text = std::env::var("ENFORCER_FAILPOINT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU32::new(times.parse().unwrap_or(1)),
        })
    }

    /// Records that this place is passed, if a trace is wanted. Kills this process if a test asked for
    /// its death here.
    pub(crate) fn pass(name: &str) {
        if let Some(mut trace) = TRACE.get_or_init(trace).as_ref() {
            // One write for a line, so that lines of several threads do not mix.
            let line = format!("{name} {}\n", enforcer_kernel::clock::now().0);
            let _ = trace.write_all(line.as_bytes());
        }
        if let Some(armed) = ARMED.get_or_init(armed)
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
