//! Measurements inside the VM, each beside its floor in the same boot, and the
//! demo. Times are those of CLOCK_MONOTONIC, stamped by the programs themselves
//! at their first instruction.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that can't go on should say where"
)]

mod daemon;
mod fleet;
mod loops;
mod outputs;
mod pairs;
mod power;
mod probes;
mod scrape;
mod side;
mod trace;
use enforcer_model::WorkloadState;
use enforcer_model::views::Workloads;
use enforcer_tests::agent::{self, Agent};
use enforcer_tests::{kernel, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const SAMPLES: usize = 60;

/// A name to ask for it by, and what it does with the floor.
type Measurement = (&'static str, fn(&Samples));

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted == "--power" {
        power::run(&std::env::args().nth(2).unwrap_or_default());
        return;
    }
    if wanted == "--demo-fleet" {
        fleet::demo();
        return;
    }
    if wanted == "--demo" {
        demo();
        return;
    }
    if wanted == "side" {
        side::run(&std::env::args().nth(2).unwrap_or_default());
        return;
    }
    if wanted == pairs::SIDE {
        pairs::serve(&std::env::args().nth(2).unwrap_or_default());
        return;
    }
    let all: [Measurement; 16] = [
        ("restart", restart),
        ("start", start),
        ("memory", memory),
        ("probes", probes::probes),
        ("thousand", daemon::thousand),
        ("kills", daemon::kills),
        ("scrape", scrape::scrape),
        ("outputs", outputs::outputs),
        ("pairs", pairs::pairs),
        ("trace", trace::trace),
        ("verdict", loops::time_to_verdict),
        ("sample", loops::sample_cost),
        ("throughput", loops::throughput),
        ("hundred", loops::hundred_threads),
        ("corpus", loops::corpus),
        ("methods", loops::methods),
    ];
    keep_controllers_in_use();
    let floor = floor();
    println!("bare fork + exec: {floor}");
    // All others take minutes each, so they run only by name or by `loops`.
    let quick = ["restart", "start", "memory"];
    let named = [
        "probes", "thousand", "kills", "scrape", "outputs", "pairs", "trace",
    ];
    for (name, measure) in all {
        let asked = match wanted.as_str() {
            "" => quick.contains(&name),
            "loops" => !quick.contains(&name) && !named.contains(&name),
            wanted => name.contains(wanted),
        };
        if asked {
            measure(&floor);
        }
    }
}

/// A kernel patches its own code when a controller is first and last used, which
/// concurrent emulation does not survive every time. One cgroup that stays makes
/// that happen once, before anything is measured.
fn keep_controllers_in_use() {
    for controller in ["cpu", "memory", "pids", "io", "cpuset"] {
        fs::write(
            "/sys/fs/cgroup/cgroup.subtree_control",
            format!("+{controller}"),
        )
        .unwrap();
    }
    fs::create_dir("/sys/fs/cgroup/kept").unwrap();
    fs::write("/sys/fs/cgroup/kept/cpu.max", "50000 100000").unwrap();
}

/// Workloads that this machine takes: a thousand where there are 3 GB.
fn many() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_whitespace().nth(1).unwrap();
    if total.parse::<u64>().unwrap() > 2 << 20 {
        1000
    } else {
        200
    }
}

/// Some durations, sorted.
struct Samples(Vec<Duration>);

impl Samples {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort();
        Self(samples)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn median(&self) -> Duration {
        self.at(50)
    }

    fn ratio_to(&self, floor: &Self) -> f64 {
        self.median().as_secs_f64() / floor.median().as_secs_f64()
    }
}

impl std::fmt::Display for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |percent| self.at(percent).as_secs_f64() * 1e3;
        write!(
            f,
            "median {:.2} ms (10 % to 90 %: {:.2} to {:.2} ms; {} samples)",
            millis(50),
            millis(10),
            millis(90),
            self.0.len()
        )
    }
}

fn monotonic() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap()
        .into()
}

/// Returns the stamps of a file, in order: whether each is a first instruction, and when.
fn stamps(file: &str) -> Vec<(bool, Duration)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let stamp = |line: &str| {
        let (word, nanos) = line.split_once(' ')?;
        Some((word == "first", Duration::from_nanos(nanos.parse().ok()?)))
    };
    text.lines().filter_map(stamp).collect()
}

fn firsts(file: &str) -> Vec<Duration> {
    stamps(file)
        .into_iter()
        .filter(|(first, _)| *first)
        .map(|(_, time)| time)
        .collect()
}

/// Measures the time from before a fork to the first instruction of the program.
fn floor() -> Samples {
    const FILE: &str = "/tmp/floor";
    let mut samples = Vec::new();
    for number in 0..SAMPLES {
        let begun = monotonic();
        let mut child = Command::new("/bin/fixture")
            .args(["stamp", FILE])
            .spawn()
            .unwrap();
        let first = wait_for("the stamp", || firsts(FILE).get(number).copied());
        samples.push(first - begun);
        kill(
            Pid::from_raw(i32::try_from(child.id()).unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        child.wait().unwrap();
    }
    Samples::of(samples)
}

/// Measures the time from a workload's last sign of life before its OOM kill to the first
/// instruction of its replacement.
fn restart(floor: &Samples) {
    const FILE: &str = "/tmp/restart";
    let agent = Agent::start(
        "version: 1\nworkloads:\n  hog:\n    command: [/bin/fixture, stamp, /tmp/restart, hog]\n    user: web\n    \
         cgroup: { memory.max: 16M }\n    recovery: { backoff: off, budget: off }\n",
    );
    // A cheap look: it must not take the time that is measured.
    wait_for("restarts", || {
        let kills = kernel::field("hog", "memory.events", "oom_group_kill")?;
        (kills > u64::try_from(SAMPLES).unwrap()).then_some(())
    });
    let found = stamps(FILE);
    drop(agent);
    let gaps = found
        .windows(2)
        .filter(|pair| !pair[0].0 && pair[1].0)
        .map(|pair| pair[1].1 - pair[0].1);
    let samples = Samples::of(gaps.collect());
    println!("last sign of life → replacement's first instruction: {samples}");
    println!(
        "    {:.1} × a bare fork + exec (at most 2.5)",
        samples.ratio_to(floor)
    );
}

/// Measures the time from the command line to the workload's first instruction.
fn start(floor: &Samples) {
    const FILE: &str = "/tmp/start";
    let agent = Agent::start(
        "version: 1\nworkloads:\n  web:\n    command: [/bin/fixture, stamp, /tmp/start]\n    user: web\n    \
         stop: { signal: SIGKILL }\n",
    );
    agent.wait_for_state("web", WorkloadState::Running);
    let (mut firsts_after, mut returned) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        assert!(agent.cli(&["stop", "web"]).status.success());
        let before = firsts(FILE).len();
        let begun = monotonic();
        assert!(agent.cli(&["start", "web"]).status.success());
        returned.push(monotonic() - begun);
        let first = wait_for("the start", || firsts(FILE).get(before).copied());
        firsts_after.push(first - begun);
    }
    let (first, returned) = (Samples::of(firsts_after), Samples::of(returned));
    let bare = |arguments: &[&str]| {
        let times = (0..SAMPLES).map(|_| {
            let begun = monotonic();
            let _ = agent.cli(arguments);
            monotonic() - begun
        });
        Samples::of(times.collect())
    };
    println!(
        "`enforcer --version`, the command line alone: {}",
        bare(&["--version"])
    );
    println!(
        "`enforcer inspect --json`, with a question to the agent: {}",
        bare(&["inspect", "web", "--json"])
    );
    println!("`enforcer start` → first instruction: {first}");
    println!(
        "    {:.1} × a bare fork + exec (at most 6)",
        first.ratio_to(floor)
    );
    println!("`enforcer start` → it returns: {returned}");
    println!("    {:.1} × a bare fork + exec", returned.ratio_to(floor));
}

/// Measures the memory of the agent with ten workloads, after each was restarted once.
fn memory(_floor: &Samples) {
    let one = |number: usize| {
        format!(
            "  web-{number}:\n    command: [/bin/fixture, rest]\n    user: web\n    cgroup: {{ memory.max: 16M }}\n"
        )
    };
    let workloads: String = (0..10).map(one).collect();
    let agent = Agent::start(&format!("version: 1\nworkloads:\n{workloads}"));
    for number in 0..10 {
        agent.wait_for_state(&format!("web-{number}"), WorkloadState::Running);
        assert!(
            agent
                .cli(&["restart", &format!("web-{number}")])
                .status
                .success()
        );
    }
    let resident = |key| kernel::status(agent.pid(), key).unwrap();
    println!(
        "agent with 10 workloads: {} resident, at its peak {} (at most 16 MiB)",
        resident("VmRSS"),
        resident("VmHWM")
    );
    println!(
        "    of it anonymous {}, file {}",
        resident("RssAnon"),
        resident("RssFile")
    );
}

/// The main job, live.
fn demo() {
    let folder = agent::folder();
    println!("$ enforcer run -f demo.yaml");
    let mut run = agent::command(&folder)
        .args(["run", "-f", "/etc/enforcer/demo.yaml", "--color=always"])
        .env("ENFORCER_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let restarted = || {
        let shown = agent::command(&folder)
            .args(["ps", "--json"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let shown: Workloads = serde_json::from_slice(&shown.stdout).ok()?;
        let restarts = shown.workloads.iter().map(|workload| workload.restarts);
        (restarts.sum::<u64>() >= 3).then_some(())
    };
    wait_for("the third restart", restarted);
    for arguments in [
        &["ps"][..],
        &["inspect", "calm"],
        &["events", "--kind", "oom_kill"],
    ] {
        println!("\n$ enforcer {}", arguments.join(" "));
        agent::command(&folder).args(arguments).status().unwrap();
    }
    println!("\n^C");
    kill(
        Pid::from_raw(i32::try_from(run.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    run.wait().unwrap();
}
