//! Tells what xtask does and how long each phase took.
//!
//! Messages go to stderr, each with the seconds since xtask started. A [`Phase`] is
//! measured from its beginning to its drop; phases may overlap, since downloads run
//! beside the compiler and guests run beside each other.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static PHASES: Mutex<Vec<(String, Duration, Duration)>> = Mutex::new(Vec::new());

/// Starts the clock of this run.
pub(crate) fn start() {
    LazyLock::force(&STARTED);
}

/// Prints a message of an area with the elapsed seconds.
pub(crate) fn say(area: &str, text: &str) {
    eprintln!("[{:>4} s] {area}: {text}", STARTED.elapsed().as_secs());
}

/// A part of the run that is measured until it is dropped.
#[derive(Debug)]
pub(crate) struct Phase {
    name: String,
    from: Duration,
}

impl Phase {
    /// Begins a phase and says so.
    pub(crate) fn begin(name: &str) -> Self {
        say(name, "started");
        Self {
            name: name.to_owned(),
            from: STARTED.elapsed(),
        }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        let taken = STARTED.elapsed().saturating_sub(self.from);
        say(&self.name, &format!("took {} s", taken.as_secs()));
        let mut phases = PHASES.lock().unwrap_or_else(PoisonError::into_inner);
        phases.push((std::mem::take(&mut self.name), self.from, taken));
    }
}

/// Returns a table of the phases in the order in which they began.
pub(crate) fn table() -> String {
    let mut phases = PHASES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    phases.sort_by_key(|(_, from, _)| *from);
    let mut text = String::from("phase                            began     took\n");
    for (name, from, taken) in phases {
        text.push_str(&format!(
            "{name:<30} {:>5} s  {:>5} s\n",
            from.as_secs(),
            taken.as_secs()
        ));
    }
    text.push_str(&format!(
        "{:<30} {:>16} s\n",
        "all",
        STARTED.elapsed().as_secs()
    ));
    text
}
