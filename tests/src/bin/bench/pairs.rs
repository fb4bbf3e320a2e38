//! Compares two builds of the agent in one boot: each figure is measured with one, then with the
//! other, sixty times, and the order changes with each pair.
//!
//! Each build runs in a process of its own, with its own network, mounts and cgroup root, so that
//! both agents are there at the same time and neither sees the other.

use super::{SAMPLES, Samples, firsts, monotonic};
use enforcer_model::WorkloadState;
use enforcer_tests::agent::{self, Agent, pid_of};
use enforcer_tests::{isolation, slot, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The argument of the process that serves one side.
pub(super) const SIDE: &str = "--side";

/// The builds: the one to compare with, and the one of this tree.
const BEFORE: &str = "/bin/enforcer-before";
const AFTER: &str = agent::ENFORCER;

/// The figures, each with a name for the reader.
const FIGURES: [(&str, &str); 4] = [
    ("restart", "SIGKILL → the replacement's first instruction"),
    ("start", "`enforcer start` → first instruction"),
    ("returns", "`enforcer start` → it returns"),
    ("scrape", "a scrape of 21 workloads"),
];

const MANIFEST: &str = "version: 1
workloads:
  web:
    command: [/bin/fixture, stamp, /tmp/stamps]
    user: web
    stop: { signal: SIGKILL }
    cgroup: { memory.max: 16M }
    recovery: { backoff: off, budget: off }
";

/// Workloads that only a scrape reads.
const RESTING: usize = 20;

pub(super) fn pairs(_floor: &Samples) {
    let mut sides = [BEFORE, AFTER].map(Side::start);
    for (figure, what) in FIGURES {
        let mut times = [Vec::new(), Vec::new()];
        for pair in 0..SAMPLES {
            for turn in 0..2 {
                let side = (pair + turn) % 2;
                times[side].push(sides[side].measure(figure));
            }
        }
        let mut changes: Vec<f64> = std::iter::zip(&times[0], &times[1])
            .map(|(before, after)| after.as_secs_f64() / before.as_secs_f64())
            .collect();
        changes.sort_by(f64::total_cmp);
        let [before, after] = times.map(Samples::of);
        println!("{what}\n  before: {before}\n  after:  {after}");
        println!(
            "  after / before: {:.3} of the medians; in pairs {:.3} (10 % to 90 %: {:.3} to {:.3})",
            after.ratio_to(&before),
            changes[changes.len() / 2],
            changes[changes.len() / 10],
            changes[changes.len() * 9 / 10],
        );
    }
}

/// A process that has one build of the agent, and measures on request.
struct Side {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Side {
    fn start(program: &str) -> Self {
        let mut process = Command::new("/bin/bench")
            .args([SIDE, program])
            .env(slot::ROOT, program.trim_start_matches("/bin/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            requests: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    fn measure(&mut self, figure: &str) -> Duration {
        writeln!(self.requests, "{figure}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        Duration::from_nanos(answer.trim().parse().unwrap())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        writeln!(self.requests, "end").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

/// Serves one side: starts the agent, and answers each line with nanoseconds.
pub(super) fn serve(program: &str) {
    let number = usize::from(program == AFTER);
    let accounts = isolation::copy_accounts(number).unwrap();
    isolation::enter(&accounts).unwrap();
    agent::use_program(if program == AFTER { AFTER } else { BEFORE });
    let resting = (0..RESTING).map(|number| {
        format!(
            "  rest-{number}:\n    command: [/bin/fixture, rest]\n    user: web\n    cgroup: {{ memory.max: 16M }}\n"
        )
    });
    let agent = Agent::start_daemon(&(MANIFEST.to_owned() + &resting.collect::<String>()));
    for number in 0..RESTING {
        agent.wait_for_state(&format!("rest-{number}"), WorkloadState::Running);
    }
    agent.wait_for_state("web", WorkloadState::Running);
    for figure in std::io::stdin().lines() {
        let took = match figure.unwrap().as_str() {
            "restart" => restart(&agent),
            "start" => start(&agent).1,
            "returns" => start(&agent).0,
            "scrape" => scrape(&agent),
            _ => break,
        };
        println!("{}", took.as_nanos());
    }
}

/// Waits for the stamp after this many, and returns it.
fn stamp_after(count: usize) -> Duration {
    wait_for("the stamp", || firsts("/tmp/stamps").get(count).copied())
}

fn restart(agent: &Agent) -> Duration {
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let before = firsts("/tmp/stamps").len();
    let begun = monotonic();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    stamp_after(before) - begun
}

/// Returns when the command returned, and when the program began.
fn start(agent: &Agent) -> (Duration, Duration) {
    assert!(agent.cli(&["stop", "web"]).status.success());
    let before = firsts("/tmp/stamps").len();
    let begun = monotonic();
    assert!(agent.cli(&["start", "web"]).status.success());
    let returned = monotonic() - begun;
    (returned, stamp_after(before) - begun)
}

fn scrape(agent: &Agent) -> Duration {
    let begun = monotonic();
    let (status, _) = agent.raw("GET /metrics", "");
    assert_eq!(status, 200);
    monotonic() - begun
}
