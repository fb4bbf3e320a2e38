//! The API's answers about workloads. The agent writes them, and the command line and the tests
//! read them back by the same types.

use crate::claims::Throttling;
use crate::cpu_loop::{Evidence, Verdict};
use crate::detail::RolloutState;
use crate::health::Health;
use crate::ids::{InstanceId, LastExit};
use crate::name::{ReplicaId, WorkloadName};
use crate::probe::{Answer, ProbeState};
use crate::spec::{Attach, CheckKind, Mode, ProbeName, RestartPolicy, Sandbox};
use crate::state::WorkloadState;
use crate::words::words;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/workloads`, which is `ps --json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Workloads {
    pub schema: u32,
    /// The number of the host's CPUs, if the request has `all=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<usize>,
    pub workloads: Vec<WorkloadView>,
}

/// A workload as `ps` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadView {
    pub name: ReplicaId,
    pub state: WorkloadState,
    pub health: Health,
    pub ready: bool,
    pub throttle: Throttling,
    /// The share of one CPU that a throttle leaves.
    pub throttle_cpu_percent: Option<u32>,
    /// The main process.
    pub pid: Option<u32>,
    pub restarts: u64,
    pub cgroup: String,
    /// The working set.
    pub memory_bytes: u64,
    /// `None` without a limit, as for swap.
    pub memory_max_bytes: Option<u64>,
    pub swap_bytes: u64,
    pub swap_max_bytes: Option<u64>,
    /// The CPU time used, as a share of one CPU.
    pub cpu_percent: f64,
    /// The share of the scheduler's periods in which the quota was used up.
    pub cpu_throttled_percent: f64,
    pub oom_kills: u64,
    pub last_exit: Option<LastExit>,
    /// The time at which the state was entered.
    pub since: Timestamp,
    /// Why it is in this state, in one line.
    pub reason: String,
    /// The text by which the program describes its state, with `STATUS=` of sd_notify(3).
    #[serde(default)]
    pub status_text: Option<String>,
    /// The user whose file names it, and who may change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate: Option<String>,
    /// `None` unless the request has `all=true`.
    #[serde(flatten)]
    pub more: Option<Details>,
}

/// The values that only `top` shows. One is `None` if the kernel has no such file, or no limit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Details {
    pub pids: Option<u64>,
    /// The quota, as a share of one CPU.
    pub cpu_max_percent: Option<f64>,
    pub waiting_percent: Waiting,
}

/// The shares of the last ten seconds in which a process of the workload waited.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Waiting {
    pub cpu: Option<f64>,
    pub memory: Option<f64>,
    pub io: Option<f64>,
}

/// The answer to `GET /v1/workloads/NAME`, which is `inspect --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    #[serde(flatten)]
    pub workload: WorkloadView,
    pub instance: InstanceId,
    pub managed: bool,
    /// The attached service, which takes the place of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
    pub command: Vec<String>,
    pub user: Option<String>,
    pub directory: Option<String>,
    /// The names of the variables. A value may be a secret.
    pub environment: Vec<String>,
    /// The names of the credentials.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// The folder that is the root of its files; `None` for the host's.
    #[serde(default)]
    pub root: Option<String>,
    #[serde(default)]
    pub sandbox: Sandbox,
    pub oom_score_adj: i32,
    pub probes: Vec<ProbeStatus>,
    pub limits: Vec<LimitState>,
    /// The log's path, or `journal`.
    pub log: String,
    pub budget_used: u32,
    pub budget: Option<BudgetOfRestarts>,
    /// The breaker is switched on.
    pub breaker: bool,
    #[serde(with = "by_name")]
    pub mode: Mode,
    #[serde(with = "by_name")]
    pub restart: RestartPolicy,
    /// It was stopped because the host ran short, and is started again when the host recovers.
    pub comes_back: bool,
    /// The time until the deadline of a leased workload; 0 if it has passed, or none was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_in_seconds: Option<f64>,
    pub next_start_in_seconds: Option<f64>,
}

/// The replicas of a workload: the answer to `GET /v1/workloads/NAME` where it has some, and to
/// `GET /v1/workloads/NAME/rollout`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replicas {
    pub name: WorkloadName,
    pub wanted: u16,
    /// The replicas that are ready.
    pub ready: u16,
    /// The replicas of the version that runs, or is rolled out.
    pub current: u16,
    pub total: u16,
    /// `began`, `paused` or `failed` (it goes back), while a rollout is under way.
    pub rollout: Option<RolloutState>,
    /// The running version differs from the manifest.
    pub differs: bool,
    pub replicas: Vec<WorkloadView>,
}

/// One probe and its last answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeStatus {
    pub probe: ProbeName,
    pub kind: CheckKind,
    pub state: ProbeState,
    pub consecutive_failures: u32,
    pub failure_threshold: u32,
    /// It waits for the startup probe, or is the startup probe and has passed.
    pub at_rest: bool,
    pub last: Option<LastAnswer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastAnswer {
    pub result: Answer,
    pub time: Timestamp,
    pub took_seconds: f64,
    pub text: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BudgetOfRestarts {
    pub restarts: u32,
    pub within_seconds: f64,
}

/// One limit: the manifest's value, and the value that the kernel reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitState {
    /// The name of the cgroup's file.
    pub file: String,
    /// `None` if the manifest does not set it.
    pub requested: Option<String>,
    /// `None` if the cgroup has no such file.
    pub effective: Option<String>,
}

/// The answer of `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Diagnosis {
    pub schema: u32,
    /// Nothing that the agent cannot do without is missing.
    pub fit: bool,
    pub checks: Vec<HostCheck>,
}

/// One check of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCheck {
    pub what: String,
    pub grade: Grade,
    pub found: String,
    /// What to do; `None` if nothing is missing.
    pub cure: Option<String>,
}

words! {
    /// The result of a [`HostCheck`].
    pub enum Grade {
        Good = "good",
        /// The agent works, and can do less than it could.
        Less = "less",
        Missing = "missing",
    }
}

/// The answer of `examine`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Examination {
    pub verdict: Verdict,
    pub command: String,
    pub tid: u32,
    pub evidence: Evidence,
}

/// Serializes a value of a closed set by its name. A checkpoint has the same type by its
/// variant's name, which may not change.
mod by_name {
    use crate::spec::{Mode, RestartPolicy};
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) trait Named: Copy + 'static {
        const ALL: &'static [Self];
        fn name(self) -> &'static str;
    }

    impl Named for Mode {
        const ALL: &'static [Self] = &[Self::Enforce, Self::Observe];
        fn name(self) -> &'static str {
            self.as_str()
        }
    }

    impl Named for RestartPolicy {
        const ALL: &'static [Self] = &[Self::Always, Self::OnFailure, Self::Never];
        fn name(self) -> &'static str {
            self.as_str()
        }
    }

    pub(super) fn serialize<T: Named, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.name())
    }

    pub(super) fn deserialize<'de, T: Named, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = T::ALL.iter().find(|value| value.name() == text);
        found
            .copied()
            .ok_or_else(|| D::Error::custom(format!("unknown value `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspection_is_read_back_as_it_was_written() {
        let text = r#"{"name":"web","state":"backing_off","health":"unhealthy","ready":false,"throttle":"none","throttle_cpu_percent":null,"pid":null,"restarts":3,"cgroup":"/sys/fs/cgroup/web","memory_bytes":1,"memory_max_bytes":2,"swap_bytes":0,"swap_max_bytes":null,"cpu_percent":0.5,"cpu_throttled_percent":0.0,"oom_kills":1,"last_exit":{"code":null,"signal":9,"oom_killed":true},"since":"2026-01-31T10:00:00Z","reason":"it waits","status_text":null,"instance":4,"managed":true,"command":["/bin/true"],"user":null,"directory":null,"environment":[],"credentials":["db"],"root":null,"sandbox":"off","oom_score_adj":0,"probes":[{"probe":"liveness","kind":"http","state":"unknown","consecutive_failures":0,"failure_threshold":3,"at_rest":true,"last":{"result":"passed","time":"2026-01-31T10:00:00Z","took_seconds":0.25,"text":"passed in 250ms"}}],"limits":[{"file":"memory.max","requested":"2","effective":null}],"log":"journal","budget_used":1,"budget":{"restarts":5,"within_seconds":300.0},"breaker":true,"mode":"observe","restart":"on-failure","comes_back":false,"next_start_in_seconds":1.5}"#;
        let found: Inspection = serde_json::from_str(text).expect("an inspection");
        assert!(found.workload.more.is_none());
        assert_eq!(serde_json::to_string(&found).expect("JSON"), text);
    }

    #[test]
    fn the_details_are_found_among_the_other_keys() {
        let text = r#"{"name":"web","state":"running","health":"healthy","ready":true,"throttle":"demoted","throttle_cpu_percent":null,"pid":7,"restarts":0,"cgroup":"/","memory_bytes":1,"memory_max_bytes":null,"swap_bytes":0,"swap_max_bytes":null,"cpu_percent":0.5,"cpu_throttled_percent":0.0,"oom_kills":0,"last_exit":null,"since":"2026-01-31T10:00:00Z","reason":"running","status_text":null,"pids":4,"cpu_max_percent":null,"waiting_percent":{"cpu":0.5,"memory":null,"io":null}}"#;
        let found: WorkloadView = serde_json::from_str(text).expect("a workload");
        assert_eq!(found.more.and_then(|more| more.pids), Some(4));
        assert_eq!(serde_json::to_string(&found).expect("JSON"), text);
    }
}
