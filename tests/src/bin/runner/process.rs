//! Runs one test as a process: starts it in its place, watches it and cleans up.

use enforcer_tests::isolation;
use enforcer_tests::slot;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SUITE: &str = "/bin/suite";
/// The longest time of a test on a machine of ordinary speed. After that it is killed.
const LIMIT: Duration = Duration::from_secs(1200);
/// The time between two checks of a running test.
const LOOK: Duration = Duration::from_millis(20);

/// The place of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) slot: usize,
    pub(crate) slowness: f64,
}

impl Place {
    /// Returns the name of the cgroup root of this place. The first place has the default one, so
    /// that agents choose it by themselves there.
    fn root_name(self) -> String {
        match self.slot {
            0 => slot::DEFAULT_ROOT.to_owned(),
            slot => format!("{}-{slot}", slot::DEFAULT_ROOT),
        }
    }
}

/// A test that has ended.
pub(crate) struct Finished {
    pub(crate) test: String,
    pub(crate) passed: bool,
    pub(crate) taken: Duration,
    /// The output of a test that failed.
    pub(crate) output: String,
}

/// Lists the names of all tests of the suite.
pub(crate) fn list() -> Vec<String> {
    let listed = Command::new(SUITE)
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// Runs one test to its end.
pub(crate) fn run(test: &str, place: Place) -> Finished {
    let begun = Instant::now();
    let printed = PathBuf::from(format!("/printed-{}", place.slot));
    let file = File::create(&printed).unwrap();
    let accounts = isolation::copy_accounts(place.slot).unwrap();
    let mut command = Command::new(SUITE);
    command
        .args(["--exact", test])
        .args(["--test-threads=1", "--nocapture", "--color=never"])
        .env(slot::ROOT, place.root_name())
        .env(slot::SLOWNESS, format!("{:.2}", place.slowness))
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .process_group(0);
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(move || isolation::enter(&accounts));
    }
    let mut child = command.spawn().unwrap();
    let ended = wait(&mut child, LIMIT.mul_f64(place.slowness));
    let passed = ended == Some(true);
    let mut output = String::new();
    if !passed {
        output = String::from_utf8_lossy(&fs::read(&printed).unwrap_or_default()).into_owned();
        if ended.is_none() {
            output.push_str("\nit took too long, and was killed");
        }
    }
    clean_up(&child, &place.root_name());
    Finished {
        test: test.to_owned(),
        passed,
        taken: begun.elapsed(),
        output,
    }
}

/// Returns whether the test has passed; `None` if it did not end in time.
fn wait(child: &mut Child, limit: Duration) -> Option<bool> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// Ends what a failed test has left, so that the next test in this place finds nothing.
fn clean_up(child: &Child, root_name: &str) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let root = Path::new(slot::HIERARCHY).join(root_name);
    let begun = Instant::now();
    while root.exists() && begun.elapsed() < Duration::from_secs(20) {
        let _ = fs::write(root.join("cgroup.kill"), "1");
        enforcer_tests::agent::remove_cgroup(&root);
        std::thread::sleep(LOOK);
    }
}
