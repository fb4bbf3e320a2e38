//! Measures the detection of loops: the time to a verdict, the CPU time of everything else, and the
//! verdict on every program of the corpus.

use super::Samples;
use enforcer_model::WorkloadState;
use enforcer_model::detail::{CpuLoopFound, Start};
use enforcer_tests::agent::Agent;
use enforcer_tests::corpus::Expected::Work;
use enforcer_tests::corpus::{HEADER, Outcome, PROGRAMS, Program, run};
use enforcer_tests::wait_for;
use std::fs;
use std::time::{Duration, Instant};

const ROUNDS: usize = 8;

fn one(name: &str, mode: &str, more: &str) -> String {
    let words: Vec<String> = mode.split(' ').map(|word| format!("{word:?}")).collect();
    format!(
        "version: 1\nworkloads:\n  {name}:\n    command: [/bin/fixture, {}]\n    user: web\n    {more}\n",
        words.join(", ")
    )
}

/// Measures the time from the start of a dead loop to its verdict.
pub(super) fn time_to_verdict(_floor: &Samples) {
    let more = "watch: { cpu_loop: { after: 2s, respond: [tell] } }";
    let mut beyond = Vec::new();
    for _ in 0..ROUNDS {
        let agent = Agent::start(&one("web", "burn bare", more));
        let started = agent.wait_for_event::<Start>("web").time;
        let judged = agent.wait_for_event::<Box<CpuLoopFound>>("web").time;
        let took = Duration::try_from(judged - started).unwrap();
        beyond.push(took.saturating_sub(Duration::from_secs(2)));
    }
    let beyond = Samples::of(beyond);
    println!("start of a loop → verdict, beyond `after` (2 s): {beyond}");
    println!(
        "    {:.2} × `after` in all",
        1.0 + beyond.median().as_secs_f64() / 2.0
    );
}

/// Returns the kernel's counts for one program: its runs and their nanoseconds.
fn statistics(agent: &Agent, kind: &str) -> Option<(u64, u64)> {
    let folder = format!("/proc/{}/fdinfo", agent.pid());
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        if text.contains(&format!("prog_type:\t{kind}\n")) {
            return Some((field("run_cnt")?, field("run_time_ns")?));
        }
    }
    None
}

/// Measures the cost of one sample.
pub(super) fn sample_cost(_floor: &Samples) {
    const PERF_EVENT: &str = "7";
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").unwrap();
    for hz in ["49", "997"] {
        let agent = Agent::start_with(
            &one("web", "burn bare", "watch: { cpu_loop: { after: 60s } }"),
            &["--sample-hz", hz],
        );
        agent.wait_for_state("web", WorkloadState::Running);
        let begun = Instant::now();
        let (runs, nanos) = wait_for("five seconds of samples", || {
            let found = statistics(&agent, PERF_EVENT)?;
            (begun.elapsed() > Duration::from_secs(5)).then_some(found)
        });
        let each = nanos / runs.max(1);
        let share = each as f64 * hz.parse::<f64>().unwrap() / 1e9 * 100.0;
        println!("a sample at {hz} Hz: {each} ns ({runs} runs), {share:.3} % of a CPU");
    }
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "0").unwrap();
}

/// Measures the work of programs with the detector on and off, in turns.
pub(super) fn throughput(_floor: &Samples) {
    let ways: [(&str, &[&str]); 3] = [
        ("off", &["--ebpf", "off"]),
        ("on", &[]),
        ("on, tied to the cgroup", &["--sample-scope", "cgroup"]),
    ];
    for program in ["switches", "calls"] {
        let mut done: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for ((_, arguments), done) in ways.iter().zip(&mut done) {
                let agent =
                    Agent::start_with(&one("web", &format!("{program} 2000"), ""), arguments);
                let count = wait_for("its count", || {
                    let said = agent.output("web");
                    said.trim().strip_prefix("done ")?.parse::<f64>().ok()
                });
                done.push(count);
            }
        }
        let [off, rest @ ..] = &mut done;
        println!("{program} with the detector off: {:.0} in 2 s", median(off));
        for (sampled, (name, _)) in rest.iter_mut().zip(&ways[1..]) {
            // Each beside the one that ran just before.
            let mut ratios: Vec<f64> = sampled
                .iter()
                .zip(&*off)
                .map(|(on, off)| on / off)
                .collect();
            let ratio = median(sampled) / median(off);
            ratios.sort_by(f64::total_cmp);
            println!(
                "    {name}: {ratio:.3} of that (single pairs {:.3} to {:.3}; target 0.99)",
                ratios[0],
                ratios[ratios.len() - 1]
            );
        }
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// CPU time of a process so far, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The agent's own CPU time while a hundred threads spin.
pub(super) fn hundred_threads(_floor: &Samples) {
    let more = "watch: { cpu_loop: { after: 1s, respond: [tell] } }";
    for (name, mode) in [
        ("one that rests", "rest"),
        ("100 threads that spin", "burn hundred"),
    ] {
        let agent = Agent::start(&one("web", mode, more));
        agent.wait_for_state("web", WorkloadState::Running);
        // Each thread gets a fiftieth of a CPU: its second takes a minute.
        let hot = || !agent.events::<Box<CpuLoopFound>>("web").is_empty();
        for _ in 0..4 {
            let begun = Instant::now();
            let part = Duration::from_secs(40);
            let until = || (mode == "rest" || hot() || begun.elapsed() > part).then_some(());
            wait_for("a hot thread", until);
        }
        let (begun, before) = (Instant::now(), cpu_ticks(agent.pid()));
        let wait = Duration::from_secs(40);
        wait_for("40 seconds", || (begun.elapsed() > wait).then_some(()));
        let spent = cpu_ticks(agent.pid()) - before;
        let reported = agent.events::<Box<CpuLoopFound>>("web").len();
        println!(
            "agent beside {name}: {:.2} % of a CPU, over 40 s ({reported} threads reported)",
            spent as f64 / 100.0 / begun.elapsed().as_secs_f64() * 100.0
        );
    }
}

/// Prints the verdict on each program of the corpus, four at a time, and then some alone.
pub(super) fn corpus(_floor: &Samples) {
    println!("{HEADER}");
    for programs in PROGRAMS.chunks(4) {
        print(&run(programs));
    }
    println!("\nalone:\n\n{HEADER}");
    let alone = ["bare", "python-pass", "epoll", "dash-loop", "register"];
    for program in PROGRAMS
        .iter()
        .filter(|program| alone.contains(&program.name))
    {
        print(&run(&[*program]));
    }
}

fn print(outcomes: &[Outcome]) {
    for outcome in outcomes {
        println!("{}", outcome.row());
    }
}

/// Every method of stress-ng, four at a time: all of them are work.
pub(super) fn methods(_floor: &Samples) {
    let listed = std::process::Command::new("/usr/bin/stress-ng")
        .args(["--cpu", "1", "--cpu-method", "which"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&listed.stderr).into_owned()
        + &String::from_utf8_lossy(&listed.stdout);
    let names: Vec<&'static str> = text
        .rsplit(':')
        .next()
        .unwrap()
        .split_whitespace()
        .filter(|name| *name != "all")
        .map(|name| &*name.to_owned().leak())
        .collect();
    let programs: Vec<Program> = names
        .iter()
        .map(|name| {
            let command = vec!["/usr/bin/stress-ng", "--cpu", "1", "--cpu-method", name];
            Program {
                name: name.replace('_', "-").leak(),
                command: command.leak(),
                cgroup: "",
                expected: Work,
            }
        })
        .collect();
    println!("{} methods of stress-ng\n{HEADER}", programs.len());
    let outcomes: Vec<Outcome> = programs
        .chunks(4)
        .flat_map(|programs| {
            let outcomes = run(programs);
            print(&outcomes);
            outcomes
        })
        .collect();
    let wrong = outcomes
        .iter()
        .filter(|outcome| !outcome.is_right())
        .count();
    println!("{wrong} of {} called what they are not", outcomes.len());
}
