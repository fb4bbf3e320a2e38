//! Metrics: the kernel's counters as they are, what was decided counted once, and nothing
//! left of what is gone.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{CpuLoopFound, RestartPlan};
use enforcer_model::metrics::Metrics;
use enforcer_model::oom::Incident;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, patience, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;

/// Every sample of a scrape by its name and labels, as they stand there.
fn scrape(agent: &Agent) -> BTreeMap<String, f64> {
    let (status, text) = agent.raw("GET /metrics/prometheus", "");
    assert_eq!(status, 200, "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    samples
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

fn of(samples: &BTreeMap<String, f64>, name: &str, more: &str) -> f64 {
    let key = format!("enforcer_workload_{name}{{workload=\"web\"{more}}}");
    *samples
        .get(&key)
        .unwrap_or_else(|| panic!("no {key} in {samples:#?}"))
}

#[expect(clippy::cast_precision_loss)]
fn counted(file: &str, field: &str) -> f64 {
    kernel::field("web", file, field).unwrap() as f64
}

#[test]
fn counters_are_the_kernels_own() {
    let limits =
        "cgroup: { memory.max: 24M, cpu.max: 20%, pids.max: 40 }\nwatch: { cpu_loop: off }";
    let agent = Agent::start(&manifest(&workload("web", "spin", limits)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    wait_for("some throttling", || {
        (kernel::field("web", "cpu.stat", "nr_throttled")? > 3).then_some(())
    });
    // What stands still has counters that do.
    let held = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(held, Signal::SIGSTOP).unwrap();
    // The last period of a quota ends after the last instruction.
    let (samples, stat) = wait_for("counters that stand still", || {
        // The kernel gives memory back that it has charged in advance, at any time.
        let read = || {
            Some((
                kernel::read("web", "cpu.stat")?,
                kernel::read("web", "memory.current")?,
            ))
        };
        let before = read()?;
        let samples = scrape(&agent);
        (before == read()?).then_some((samples, before.0))
    });
    let stat = |field: &str| -> f64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim().parse().unwrap()
    };
    assert_eq!(
        of(&samples, "cpu_usage_seconds_total", ""),
        stat("usage_usec") / 1e6
    );
    for (name, field) in [
        ("cpu_throttled_periods_total", "nr_throttled"),
        ("cpu_periods_total", "nr_periods"),
    ] {
        assert_eq!(of(&samples, name, ""), stat(field), "{name}");
    }
    assert_eq!(
        of(&samples, "cpu_throttled_seconds_total", ""),
        stat("throttled_usec") / 1e6
    );
    for (name, file) in [
        ("memory_max_bytes", "memory.max"),
        ("memory_usage_bytes", "memory.current"),
        ("memory_peak_bytes", "memory.peak"),
        ("swap_usage_bytes", "memory.swap.current"),
        ("pids", "pids.current"),
    ] {
        let says: f64 = kernel::read("web", file).unwrap().parse().unwrap();
        assert_eq!(of(&samples, name, ""), says, "{name}");
    }
    for event in ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"] {
        let label = format!(",event=\"{event}\"");
        let says = of(&samples, "memory_events_total", &label);
        assert_eq!(says, counted("memory.events", event), "{event}");
    }
    assert_eq!(of(&samples, "state", ",state=\"running\""), 1.0);
    assert_eq!(of(&samples, "state", ",state=\"failed\""), 0.0);
    assert_eq!(of(&samples, "ready", ""), 1.0);
    kill(held, Signal::SIGCONT).unwrap();

    // The same as JSON, wherever it is asked for.
    let Metrics { metrics, .. } = agent.get::<Metrics>("/v1/metrics").unwrap();
    let name = "enforcer_workload_memory_max_bytes";
    let max = metrics.iter().find(|metric| metric.name == name).unwrap();
    let sample = &max.samples[0];
    assert_eq!(
        sample.labels.get("workload").map(String::as_str),
        Some("web")
    );
    assert_eq!(sample.value, Some(25_165_824.0));
}

#[test]
fn what_happened_is_counted_once_by_its_reason() {
    let text = manifest(
        &(workload(
            "hog",
            "hog-times 3 /tmp/starts",
            "cgroup: { memory.max: 8M }\nrecovery: { backoff: off, budget: off }",
        ) + &workload(
            "web",
            "rest",
            "probes: { readiness: { tcp: { port: 1 }, period: 1s } }",
        ) + &workload(
            "ill",
            "rest",
            "probes: { liveness: { tcp: { port: 1 }, period: 1s, failure_threshold: 1 } }\n\
             recovery: { backoff: off, budget: { restarts: 1, within: 1h }, breaker: { cooldown: 1s } }",
        ) + &workload(
            "loops",
            "spin",
            "watch: { cpu_loop: { after: 2s, respond: [tell] } }",
        )),
    );
    std::fs::remove_file("/tmp/starts").ok();
    let agent = Agent::start(&text);
    agent.wait_for_events::<RestartPlan>("hog", 3);
    wait_for("it to stay", || {
        (agent.workload("hog").state == WorkloadState::Running).then_some(())
    });
    let incidents = agent.events::<Incident>("hog").len();
    let samples = wait_for("some answers", || {
        let samples = scrape(&agent);
        let failed = "enforcer_probe_total{workload=\"web\",probe=\"readiness\",result=\"failed\"}";
        // What was counted may be of a moment after what is shown.
        let shown = "enforcer_probe_consecutive_failures{workload=\"web\",probe=\"readiness\"}";
        let enough = *samples.get(failed)? >= 3.0 && *samples.get(shown)? >= 3.0;
        enough.then_some(samples)
    });
    let hog = |name: &str, label: &str| {
        samples[&format!("enforcer_workload_{name}{{workload=\"hog\",{label}}}")]
    };
    assert_eq!(hog("restarts_total", "reason=\"oom_kill\""), 3.0);
    assert_eq!(hog("restarts_total", "reason=\"exit\""), 0.0);
    let own = hog("oom_kills_total", "scope=\"own\"");
    assert_eq!(own, f64::from(u32::try_from(incidents).unwrap()));
    assert_eq!(
        samples["enforcer_actions_total{action=\"start\",reason=\"oom_kill\"}"],
        3.0
    );
    let web = "workload=\"web\",probe=\"readiness\"";
    let took = samples[&format!("enforcer_probe_duration_seconds_count{{{web}}}")];
    let failed = samples[&format!("enforcer_probe_total{{{web},result=\"failed\"}}")];
    assert_eq!(took, failed);
    let last = samples[&format!("enforcer_probe_last_check_timestamp_seconds{{{web}}}")];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.unwrap().as_secs_f64() - last;
    assert!((0.0..patience().as_secs_f64()).contains(&age), "{age}");

    // What fails it is an answer as well, and a trial is a restart.
    wait_for("a trial", || {
        let samples = scrape(&agent);
        let ill = |name: &str| samples.get(&format!("enforcer_{name}")).copied();
        let failed = ill("probe_total{workload=\"ill\",probe=\"liveness\",result=\"failed\"}")?;
        let restarts = ill("workload_restarts_total{workload=\"ill\",reason=\"liveness\"}")?;
        let limited = ill("restarts_rate_limited_total{workload=\"ill\"}")?;
        (failed >= 3.0 && restarts >= 3.0 && limited >= 1.0).then_some(())
    });
    // What a loop is found to be is counted as often as it is reported.
    wait_for("a loop", || {
        let reported = agent.events::<Box<CpuLoopFound>>("loops");
        let samples = scrape(&agent);
        let of = |verdict: &str| {
            let labels = format!("workload=\"loops\",verdict=\"{verdict}\"");
            samples[&format!("enforcer_cpu_loop_detections_total{{{labels}}}")]
        };
        let counted: f64 = ["dead_loop", "syscall_spin", "over_budget"]
            .map(of)
            .iter()
            .sum();
        let same = counted == f64::from(u32::try_from(reported.len()).ok()?);
        (counted >= 1.0 && same).then_some(())
    });
    assert_eq!(scrape(&agent)["enforcer_ebpf_events_lost_total"], 0.0);

    // Nothing is left of what is gone, and nothing is named by a number.
    agent.write_manifest(&manifest(&workload("web", "rest", "")));
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    let samples = wait_for("its series to go", || {
        let samples = scrape(&agent);
        let left = samples.keys().any(|key| key.contains("\"hog\""));
        (!left).then_some(samples)
    });
    let labels = samples.keys().filter_map(|key| key.split_once('{'));
    let known = [
        "workload", "state", "resource", "event", "reason", "scope", "probe", "result", "le",
        "verdict", "action", "program", "version",
    ];
    for (name, labels) in labels {
        for label in labels.trim_end_matches('}').split("\",") {
            let label = label.split('=').next().unwrap();
            assert!(known.contains(&label), "{name}: {label}");
        }
    }
    assert!(!samples.keys().any(|key| key.contains("pid=")));
}
