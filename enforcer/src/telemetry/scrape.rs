//! A scrape: it joins the core's views, the kernel's counters and the agent's own counts. One
//! metric is made, written and dropped after another: with a thousand workloads, all of them at
//! once would be larger than the agent itself.

use super::counts::{self, All, OfProbe, OfWorkload};
use super::table::FAMILIES;
use crate::executor::{Executor, OfReplica};
use enforcer_core::WorkloadName;
use enforcer_core::group::GroupView;
use enforcer_core::spec::ProbeName;
use enforcer_core::supervisor::View;
use enforcer_kernel::clock;
use enforcer_kernel::host_usage::{HostUsage, Used};
use enforcer_kernel::own_process::{self, OwnProcess};
use enforcer_kernel::statistics::Statistics;
use enforcer_model::metrics::{Bucket, Distribution, Metric, MetricKind, Metrics, Sample};
use parking_lot::Mutex;
use prometheus::TextEncoder;
use prometheus::proto::{self, MetricFamily, MetricType};
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;

/// The format in which the metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format, 0.0.4.
    Text,
    Json,
}

/// The state that scrapes share.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) counts: counts::Counts,
    host: Mutex<HostUsage>,
}

/// A workload at this scrape.
pub(super) struct One {
    pub(super) view: View,
    /// `None` where it has no cgroup.
    pub(super) read: Option<Statistics>,
    /// The number of the replica.
    pub(super) replica: Option<String>,
    pub(super) counts: Option<OfWorkload>,
    /// The connections of each of its ports.
    pub(super) gate: Vec<(String, OfReplica)>,
    /// The time of each probe's last answer, in seconds of the Unix epoch.
    pub(super) answered: Vec<(ProbeName, f64)>,
}

/// Returns the time of each probe's last answer, by the wall clock.
fn answered(view: &View) -> Vec<(ProbeName, f64)> {
    let answered = view.probes.iter().filter_map(|probe| {
        let at = clock::wall_time_of(probe.last.as_ref()?.at);
        let since_epoch = at.duration_since(jiff::Timestamp::UNIX_EPOCH);
        Some((probe.probe, since_epoch.as_secs_f64()))
    });
    answered.collect()
}

impl One {
    /// Returns the labels that name the workload and its replica, and these after them.
    pub(super) fn labels<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let workload = ("workload", self.view.name.workload().as_str());
        let replica = self.replica.as_deref().map(|index| ("replica", index));
        let labels = std::iter::once(workload).chain(replica);
        labels.chain(more.iter().copied()).collect()
    }

    /// Returns the counts of each probe that the manifest names, also while nothing runs that could
    /// be probed. A probe that was taken out of the manifest is left out.
    pub(super) fn probes(&self) -> impl Iterator<Item = (&ProbeName, &OfProbe)> {
        let counted = self.counts.iter().flat_map(|counts| &counts.probes);
        counted.filter(|(name, _)| self.view.spec.probes.contains_key(name))
    }
}

/// Shares of the whole; `None` where they can't be read.
pub(super) struct Host {
    pub(super) memory: Option<f64>,
    pub(super) cpu: Option<f64>,
    pub(super) disk: Option<f64>,
}

pub(super) struct Scrape {
    pub(super) workloads: Vec<One>,
    /// The workloads with replicas.
    pub(super) groups: Vec<(WorkloadName, GroupView)>,
    pub(super) counts: All,
    pub(super) host: Host,
    pub(super) own: Option<OwnProcess>,
    pub(super) programs: [(&'static str, bool); 5],
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut host = HostUsage::default();
        // Shares of time count from here.
        host.cpu();
        Self {
            counts: counts::Counts::default(),
            host: Mutex::new(host),
        }
    }
}

impl Telemetry {
    /// Reads the kernel and writes all metrics. With many workloads it takes a while.
    pub(crate) fn scrape(
        &self,
        executor: &Executor,
        (views, groups): (Vec<View>, Vec<(WorkloadName, GroupView)>),
        format: Format,
    ) -> String {
        let present: BTreeSet<_> = views.iter().map(|view| &view.name).collect();
        let mut counts = self.counts.of(&present);
        let workloads = views.into_iter().map(|view| One {
            read: executor.statistics_of(&view.name),
            replica: view.name.index().map(|index| index.to_string()),
            counts: counts.workloads.remove(&view.name),
            gate: executor.gate_counts(&view.name),
            answered: answered(&view),
            view,
        });
        let scrape = Scrape {
            workloads: workloads.collect(),
            groups,
            host: self.host(executor),
            own: own_process::read(),
            programs: executor.attached_programs(),
            counts,
        };
        match format {
            Format::Text => scrape.text(),
            Format::Json => scrape.json(),
        }
    }

    fn host(&self, executor: &Executor) -> Host {
        let mut usage = self.host.lock();
        Host {
            memory: usage.memory().map(Used::ratio),
            cpu: usage.cpu().map(Used::ratio),
            disk: executor.disk_used().map(Used::ratio),
        }
    }
}

impl Scrape {
    fn families(&self) -> impl Iterator<Item = MetricFamily> + '_ {
        FAMILIES.iter().filter_map(|family| family.gather(self))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for family in self.families() {
            // Writing into a string can't fail, and a family always has samples.
            if let Err(error) = TextEncoder::new().encode_utf8(&[family], &mut text) {
                tracing::error!("a metric was left out: {error}");
            }
        }
        text
    }

    fn json(&self) -> String {
        let metrics = Metrics {
            schema: 1,
            metrics: InTurn(self),
        };
        serde_json::to_string(&metrics).unwrap_or_default()
    }
}

/// The metrics of a scrape, of which only one is in memory at a time.
struct InTurn<'s>(&'s Scrape);

impl Serialize for InTurn<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.families().map(|family| metric_of(&family)))
    }
}

fn metric_of(family: &MetricFamily) -> Metric {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => MetricKind::Counter,
        MetricType::HISTOGRAM => MetricKind::Histogram,
        _ => MetricKind::Gauge,
    };
    let samples = family.get_metric().iter();
    Metric {
        name: family.name().to_owned(),
        kind,
        help: family.help().to_owned(),
        samples: samples.map(|metric| sample_of(kind, metric)).collect(),
    }
}

fn sample_of(kind: MetricKind, metric: &proto::Metric) -> Sample {
    let labels = metric.get_label().iter();
    let labels = labels.map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
    let (value, distribution) = match kind {
        MetricKind::Counter => (Some(metric.get_counter().get_value()), None),
        MetricKind::Gauge => (Some(metric.get_gauge().get_value()), None),
        MetricKind::Histogram => (None, Some(distribution_of(metric.get_histogram()))),
    };
    Sample {
        labels: labels.collect(),
        value,
        distribution,
    }
}

fn distribution_of(histogram: &proto::Histogram) -> Distribution {
    let buckets = histogram.get_bucket().iter();
    let buckets = buckets.map(|bucket| Bucket {
        le: bucket.upper_bound(),
        count: bucket.cumulative_count(),
    });
    Distribution {
        buckets: buckets.collect(),
        sum: histogram.get_sample_sum(),
        count: histogram.get_sample_count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counts::OfProbe;
    use enforcer_core::event::{Cause, InstanceId};
    use enforcer_core::health::Health;
    use enforcer_core::spec::{Check, CheckKind, Probe, WorkloadSpec};
    use enforcer_core::supervisor::ProbeView;
    use enforcer_core::units::MonoTime;
    use enforcer_core::{ReplicaId, WorkloadState};
    use enforcer_model::probe::ProbeState;
    use expect_test::expect_file;
    use std::sync::Arc;

    fn tcp_probe() -> Probe {
        let host = "127.0.0.1".to_owned();
        Probe::of(Check::Tcp { host, port: 1 })
    }

    /// A counter that disappears and comes back loses what happened in between.
    #[test]
    fn a_probes_counts_stay_while_nothing_runs() {
        let mut down = web();
        down.view.state = WorkloadState::BreakerOpen;
        down.view.probes.clear();
        assert_eq!(down.probes().count(), 1);
        down.view.spec = Arc::new(WorkloadSpec::default());
        assert_eq!(down.probes().count(), 0, "it was taken out of the manifest");
    }

    fn view(name: &str, state: WorkloadState) -> View {
        View {
            is_attached: false,
            name: ReplicaId::parse(name).expect("a name"),
            spec: Arc::new(WorkloadSpec {
                probes: [(ProbeName::Liveness, tcp_probe())].into(),
                ..WorkloadSpec::default()
            }),
            managed: true,
            state,
            health: Health::Healthy,
            ready: state == WorkloadState::Running,
            probes: vec![ProbeView {
                probe: ProbeName::Liveness,
                kind: CheckKind::Http,
                state: ProbeState::Passing,
                consecutive_failures: 2,
                failure_threshold: 3,
                last: None,
                at_rest: false,
            }],
            instance: InstanceId(1),
            pid: None,
            restarts: 3,
            oom_kills: 1,
            last_exit: None,
            since: MonoTime(0),
            status_text: None,
            reloaded: None,
            next_start: None,
            reason: String::new(),
            spent: Vec::new(),
            comes_back: false,
            deadline: None,
            claims: enforcer_core::claims::Claims::default(),
            writing: false,
            limits_refused: None,
            stuck: false,
        }
    }

    fn web() -> One {
        let mut counts = OfWorkload::default();
        counts.restarts.insert(Cause::OomKill, 3);
        counts.restarts.insert(Cause::Manual, 1);
        counts.oom_kills = [3, 0, 0, 0];
        counts.loops = [1, 0, 2];
        counts.rate_limited = 1;
        let mut probe = OfProbe {
            answers: [40, 2, 0],
            took_seconds: 1.5,
            ..OfProbe::default()
        };
        probe.took[1] = 40;
        probe.took[7] = 1;
        counts.probes.insert(ProbeName::Liveness, probe);
        One {
            view: view("web", WorkloadState::Running),
            read: Some(Statistics {
                memory: 300 << 20,
                working_set: 280 << 20,
                memory_max: Some(320 << 20),
                memory_peak: Some(320 << 20),
                swap: Some(4096),
                swap_max: Some(64 << 20),
                memory_events: [0, 0, 912, 3, 3, 1],
                cpu_usec: 12_345_678,
                throttled_usec: 2_500_000,
                periods: 600,
                throttled_periods: 120,
                pids: Some(9),
                waited_usec: [Some((3_000_000, 0)), Some((1_500_000, 500_000)), None],
            }),
            counts: Some(counts),
            replica: None,
            gate: vec![(
                "http".to_owned(),
                OfReplica {
                    given: 420,
                    others: Some((7, 1)),
                },
            )],
            answered: vec![(ProbeName::Liveness, 1_767_225_600.25)],
        }
    }

    /// What promtool and Prometheus are shown by `cargo xtask test`.
    #[test]
    fn a_scrape_is_what_the_example_says() {
        let down = One {
            view: view("worker", WorkloadState::BreakerOpen),
            read: None,
            counts: None,
            gate: Vec::new(),
            replica: None,
            answered: Vec::new(),
        };
        let mut counts = All {
            lost: 7,
            ..All::default()
        };
        counts.actions.insert(("start", Cause::OomKill), 3);
        let scrape = Scrape {
            groups: vec![(
                WorkloadName::parse("api").expect("a name"),
                GroupView {
                    wanted: 3,
                    ready: 2,
                    current: 3,
                    total: 3,
                    rollout: None,
                    differs: false,
                },
            )],
            workloads: vec![web(), down],
            counts,
            host: Host {
                memory: Some(0.71),
                cpu: Some(0.4),
                disk: Some(0.5),
            },
            own: Some(OwnProcess {
                cpu_seconds: 2.5,
                resident_bytes: 10 << 20,
                virtual_bytes: 90 << 20,
                threads: 6,
                open_descriptors: 40,
                most_descriptors: Some(524_288),
                started_seconds: 1_767_225_000.5,
            }),
            programs: [
                ("mark_victim", true),
                ("sched_process_exit", true),
                ("sched_process_free", true),
                ("cgroup_attach_task", true),
                ("cpu_sample", false),
            ],
        };
        expect_file!["../../../docs/prometheus/example.prom"].assert_eq(&scrape.text());
        let json: Metrics = serde_json::from_str(&scrape.json()).expect("JSON");
        let text = scrape.text();
        for metric in &json.metrics {
            let line = format!("# TYPE {} {}\n", metric.name, metric.kind);
            assert!(text.contains(&line), "{line}");
            assert!(
                metric
                    .samples
                    .iter()
                    .all(|sample| { sample.value.is_some() != sample.distribution.is_some() })
            );
        }
        assert_eq!(text.matches("# TYPE ").count(), json.metrics.len());
    }

    #[test]
    fn names_are_in_order_and_none_comes_twice() {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }
}
