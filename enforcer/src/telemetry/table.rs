//! The metrics, each with what it is in words and where its values come from. Names and
//! labels are a contract: docs/metrics.md has them as a table.

use super::counts::{ANSWERS, ASKED, AUTOMATIC, SCOPES, VERDICTS};
use super::families::{Family, by, counter, each, flag, float, gauge, own, read, seconds, waited};
use enforcer_core::WorkloadState;
use enforcer_core::event::Cause;
use enforcer_core::event::RolloutState;
use enforcer_core::health::Health;
use enforcer_kernel::statistics::MEMORY_EVENTS;
use prometheus::proto::MetricType;

const HEALTHS: [(&str, Health); 4] = [
    ("unknown", Health::Unknown),
    ("healthy", Health::Healthy),
    ("degraded", Health::Degraded),
    ("unhealthy", Health::Unhealthy),
];

/// The metrics by name, in the order in which they are written.
pub(super) const FAMILIES: &[Family] = &[
    counter(
        "actions_total",
        "What was done to the host, or asked of it, by what led to that.",
        |scrape, samples| {
            for ((action, reason), count) in &scrape.counts.actions {
                let labels = [("action", *action), ("reason", &*reason.to_string())];
                samples.add(&labels, float(*count));
            }
        },
    ),
    gauge(
        "build_info",
        "Always 1; the version is in the label.",
        |_, samples| samples.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ),
    counter(
        "cpu_loop_detections_total",
        "Threads found spinning, by what that is.",
        |scrape, samples| {
            by(scrape, samples, "verdict", |one| {
                let counted = one.counts.as_ref().map_or([0; 3], |counts| counts.loops);
                VERDICTS.into_iter().zip(counted.map(float)).collect()
            });
        },
    ),
    counter(
        "ebpf_events_lost_total",
        "Records of eBPF programs that found their ring full.",
        |scrape, samples| samples.add(&[], float(scrape.counts.lost)),
    ),
    gauge(
        "ebpf_program_attached",
        "Whether an eBPF program was attached when the agent began.",
        |scrape, samples| {
            for (program, attached) in scrape.programs {
                samples.add(&[("program", program)], flag(attached));
            }
        },
    ),
    counter(
        "gate_connections_total",
        "Connections to a port behind the gate, by what became of each attempt.",
        |scrape, samples| {
            for one in &scrape.workloads {
                for (port, counts) in &one.gate {
                    let labels = one.labels(&[("port", port), ("result", "given")]);
                    samples.add(&labels, float(counts.given));
                    // Of all replicas together.
                    let workload = ("workload", one.view.name.workload().as_str());
                    let (parked, refused) = counts.others.unzip();
                    for (result, count) in [("parked", parked), ("refused", refused)] {
                        if let Some(count) = count {
                            let labels = [workload, ("port", port), ("result", result)];
                            samples.add(&labels, float(count));
                        }
                    }
                }
            }
        },
    ),
    gauge(
        "host_cpu_used_ratio",
        "Of all CPUs' time between the last two scrapes that were a second apart.",
        |scrape, samples| {
            scrape
                .host
                .cpu
                .into_iter()
                .for_each(|used| samples.add(&[], used))
        },
    ),
    gauge(
        "host_disk_used_ratio",
        "Of the file system that host.watch.disk names, else of the root's.",
        |scrape, samples| {
            scrape
                .host
                .disk
                .into_iter()
                .for_each(|used| samples.add(&[], used))
        },
    ),
    gauge(
        "host_memory_used_ratio",
        "Of the host's memory, what is neither free nor could be freed at once.",
        |scrape, samples| {
            scrape
                .host
                .memory
                .into_iter()
                .for_each(|used| samples.add(&[], used))
        },
    ),
    gauge(
        "probe_consecutive_failures",
        "Failures of a probe since it last passed.",
        |scrape, samples| {
            by(scrape, samples, "probe", |one| {
                let probes = one.view.probes.iter();
                probes
                    .map(|probe| {
                        (
                            probe.probe.to_string(),
                            f64::from(probe.consecutive_failures),
                        )
                    })
                    .collect()
            });
        },
    ),
    Family {
        name: "probe_duration_seconds",
        help: "How long probes took to be answered.",
        kind: MetricType::HISTOGRAM,
        fill: |scrape, samples| {
            for one in &scrape.workloads {
                let probes = one.probes();
                for (probe, counts) in probes {
                    let probe = probe.to_string();
                    let labels = one.labels(&[("probe", &probe)]);
                    samples.add_duration(&labels, counts);
                }
            }
        },
    },
    gauge(
        "probe_last_check_timestamp_seconds",
        "When a probe was last answered, in seconds of the Unix epoch.",
        |scrape, samples| {
            by(scrape, samples, "probe", |one| {
                let answered = one.answered.iter();
                answered
                    .map(|(probe, at)| (probe.to_string(), *at))
                    .collect()
            });
        },
    ),
    counter("probe_total", "Answers of probes.", |scrape, samples| {
        for one in &scrape.workloads {
            let probes = one.probes();
            for (probe, counts) in probes {
                let probe = probe.to_string();
                for (answer, count) in ANSWERS.into_iter().zip(counts.answers) {
                    let labels = one.labels(&[("probe", &probe), ("result", answer.as_str())]);
                    samples.add(&labels, float(count));
                }
            }
        }
    }),
    counter(
        "process_cpu_seconds_total",
        "CPU time of the agent itself.",
        |scrape, samples| own(scrape, samples, |own| Some(own.cpu_seconds)),
    ),
    gauge(
        "process_max_fds",
        "Descriptors that the agent may have open.",
        |scrape, samples| own(scrape, samples, |own| own.most_descriptors.map(float)),
    ),
    gauge(
        "process_open_fds",
        "Descriptors that the agent has open.",
        |scrape, samples| own(scrape, samples, |own| Some(float(own.open_descriptors))),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Memory of the agent itself.",
        |scrape, samples| own(scrape, samples, |own| Some(float(own.resident_bytes))),
    ),
    gauge(
        "process_start_time_seconds",
        "When this agent was started, in seconds of the Unix epoch.",
        |scrape, samples| own(scrape, samples, |own| Some(own.started_seconds)),
    ),
    gauge(
        "process_threads",
        "Threads of the agent.",
        |scrape, samples| own(scrape, samples, |own| Some(float(own.threads))),
    ),
    gauge(
        "process_virtual_memory_bytes",
        "Addresses that the agent has mapped.",
        |scrape, samples| own(scrape, samples, |own| Some(float(own.virtual_bytes))),
    ),
    counter(
        "restarts_rate_limited_total",
        "Restarts that were put off because the budget was spent, by the breaker or without one.",
        |scrape, samples| {
            each(scrape, samples, |one| {
                Some(float(
                    one.counts.as_ref().map_or(0, |counts| counts.rate_limited),
                ))
            });
        },
    ),
    counter(
        "workload_cpu_periods_total",
        "Periods of cpu.max in which the workload ran (nr_periods of cpu.stat).",
        |scrape, samples| read(scrape, samples, |read| Some(float(read.periods))),
    ),
    counter(
        "workload_cpu_throttled_periods_total",
        "Periods in which it had used up cpu.max (nr_throttled of cpu.stat).",
        |scrape, samples| read(scrape, samples, |read| Some(float(read.throttled_periods))),
    ),
    counter(
        "workload_cpu_throttled_seconds_total",
        "Time for which cpu.max held it (throttled_usec of cpu.stat).",
        |scrape, samples| read(scrape, samples, |read| Some(seconds(read.throttled_usec))),
    ),
    counter(
        "workload_cpu_usage_seconds_total",
        "CPU time (usage_usec of cpu.stat).",
        |scrape, samples| read(scrape, samples, |read| Some(seconds(read.cpu_usec))),
    ),
    gauge(
        "workload_differs",
        "1 if what runs differs from the manifest, because its version was rolled back.",
        |scrape, samples| {
            for (name, group) in &scrape.groups {
                let differs = group.differs && group.rollout.is_none();
                samples.add(&[("workload", name.as_str())], flag(differs));
            }
        },
    ),
    gauge(
        "workload_health",
        "1 for the health that it has, 0 for the others.",
        |scrape, samples| {
            by(scrape, samples, "state", |one| {
                let has = |health| flag(one.view.health == health);
                HEALTHS
                    .into_iter()
                    .map(|(word, health)| (word, has(health)))
                    .collect()
            });
        },
    ),
    counter(
        "workload_memory_events_total",
        "The kernel's own counters (memory.events).",
        |scrape, samples| {
            by(scrape, samples, "event", |one| {
                let counted = one.read.as_ref().map(|read| read.memory_events.map(float));
                let named = counted.map(|counted| MEMORY_EVENTS.into_iter().zip(counted));
                named.into_iter().flatten().collect()
            });
        },
    ),
    gauge(
        "workload_memory_max_bytes",
        "Its limit (memory.max); absent where there is none.",
        |scrape, samples| read(scrape, samples, |read| read.memory_max.map(float)),
    ),
    gauge(
        "workload_memory_peak_bytes",
        "The most that was charged to it in its cgroup's life (memory.peak, Linux 5.19).",
        |scrape, samples| read(scrape, samples, |read| read.memory_peak.map(float)),
    ),
    gauge(
        "workload_memory_usage_bytes",
        "What is charged to it, page cache included (memory.current).",
        |scrape, samples| read(scrape, samples, |read| Some(float(read.memory))),
    ),
    gauge(
        "workload_memory_working_set_bytes",
        "The same without page cache that could be dropped at once (inactive_file of memory.stat).",
        |scrape, samples| read(scrape, samples, |read| Some(float(read.working_set))),
    ),
    counter(
        "workload_oom_kills_total",
        "OOM kills, by whose limit was met; a kill of the whole workload is one.",
        |scrape, samples| {
            by(scrape, samples, "scope", |one| {
                let counted = one
                    .counts
                    .as_ref()
                    .map_or([0; 4], |counts| counts.oom_kills);
                SCOPES.into_iter().zip(counted.map(float)).collect()
            });
        },
    ),
    gauge(
        "workload_pids",
        "Processes and threads in its cgroup (pids.current).",
        |scrape, samples| read(scrape, samples, |read| read.pids.map(float)),
    ),
    counter(
        "workload_pressure_stalled_seconds_total",
        "Time in which all of it waited (full of its .pressure files).",
        |scrape, samples| waited(scrape, samples, |(_, all)| all),
    ),
    counter(
        "workload_pressure_waiting_seconds_total",
        "Time in which some of it waited (some of its .pressure files).",
        |scrape, samples| waited(scrape, samples, |(some, _)| some),
    ),
    gauge(
        "workload_ready",
        "Whether it may be used: it runs, and its startup and readiness probes have passed.",
        |scrape, samples| each(scrape, samples, |one| Some(flag(one.view.ready))),
    ),
    gauge(
        "workload_replicas",
        "Replicas of a workload that has some: those that are wanted, ready, and of the version that runs or is rolled out.",
        |scrape, samples| {
            for (name, group) in &scrape.groups {
                let states = [
                    ("wanted", group.wanted),
                    ("ready", group.ready),
                    ("current", group.current),
                ];
                for (state, count) in states {
                    let labels = [("workload", name.as_str()), ("state", state)];
                    samples.add(&labels, f64::from(count));
                }
            }
        },
    ),
    counter(
        "workload_restarts_total",
        "Restarts, by what led to them; manual is also a start by hand.",
        |scrape, samples| {
            by(scrape, samples, "reason", |one| {
                let counted = one.counts.as_ref().map(|counts| &counts.restarts);
                let of = |cause| counted.and_then(|counted| counted.get(&cause)).copied();
                let known = AUTOMATIC.into_iter().chain(ASKED);
                let known: Vec<Cause> = known.collect();
                let others = counted.into_iter().flat_map(|counted| counted.keys());
                let others = others.filter(|cause| !known.contains(cause));
                let all = known.iter().chain(others);
                let all = all.map(|cause| (*cause, of(*cause).unwrap_or(0)));
                all.map(|(cause, count)| (cause.to_string(), float(count)))
                    .collect()
            });
        },
    ),
    gauge(
        "workload_rollout",
        "1 for the present state of a workload's rollout, 0 for the others.",
        |scrape, samples| {
            for (name, group) in &scrape.groups {
                let states = [
                    ("none", None),
                    ("began", Some(RolloutState::Began)),
                    ("paused", Some(RolloutState::Paused)),
                    ("failed", Some(RolloutState::Failed)),
                ];
                for (state, rollout) in states {
                    let labels = [("workload", name.as_str()), ("state", state)];
                    samples.add(&labels, flag(group.rollout == rollout));
                }
            }
        },
    ),
    gauge(
        "workload_state",
        "1 for the state that it is in, 0 for the others.",
        |scrape, samples| {
            by(scrape, samples, "state", |one| {
                let is_in = |state| flag(one.view.state == state);
                WorkloadState::ALL
                    .into_iter()
                    .map(|state| (state.as_str(), is_in(state)))
                    .collect()
            });
        },
    ),
    gauge(
        "workload_swap_max_bytes",
        "Its limit (memory.swap.max); absent where there is none.",
        |scrape, samples| read(scrape, samples, |read| read.swap_max.map(float)),
    ),
    gauge(
        "workload_swap_usage_bytes",
        "What of it is swapped out (memory.swap.current).",
        |scrape, samples| read(scrape, samples, |read| read.swap.map(float)),
    ),
];
