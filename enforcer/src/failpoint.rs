//! Places where a test has the agent die, to prove that it may die anywhere.
//!
//! `ENFORCER_FAILPOINT=NAME` kills the agent where it first passes that place, and `NAME:3` where
//! it passes it for the third time. The places exist only in a build with the Cargo feature
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
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        name: String,
        left: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn armed() -> Option<Armed> {
        let text = std::env::var("ENFORCER_FAILPOINT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU32::new(times.parse().unwrap_or(1)),
        })
    }

    /// Kills this process if a test asked for its death at this place.
    pub(crate) fn pass(name: &str) {
        if let Some(armed) = ARMED.get_or_init(armed)
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
