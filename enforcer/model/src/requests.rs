//! The bodies of requests, the messages to targets, and the answers that are no view of a workload.

use crate::detail::AlertState;
use crate::health::Health;
use crate::ids::Seq;
use crate::name::ReplicaId;
use crate::plan::Plan;
use crate::seconds;
use crate::spec::Severity;
use crate::state::WorkloadState;
use crate::words::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The body of `POST /v1/plan` and of `POST /v1/apply`: a manifest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// `None` for the agent's own manifest, which it reads again.
    pub file: Option<ProposedFile>,
    /// Workloads that the manifest does not name are stopped and removed.
    #[serde(default)]
    pub prune: bool,
    /// A limit below the memory in use is accepted.
    #[serde(default)]
    pub force: bool,
}

/// A manifest's text, and its path on the caller's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProposedFile {
    pub path: PathBuf,
    pub text: String,
}

/// The answer to `POST /v1/plan`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanAnswer {
    pub plan: Plan,
    /// The warnings about the manifest, drawn for a terminal.
    pub warnings: String,
}

/// The answer to `POST /v1/apply`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyAnswer {
    pub plan: Plan,
    /// The warnings about the manifest, drawn for a terminal.
    pub warnings: String,
    /// The limits that the kernel does not have yet; empty if it has all of them.
    #[serde(default)]
    pub unwritten: Vec<UnwrittenLimits>,
}

/// Limits of the manifest that the kernel does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrittenLimits {
    /// `None` for the limits of all workloads together.
    pub workload: Option<ReplicaId>,
    /// The kernel's reason for a refusal; `None` while the limits are still being written.
    pub refused: Option<String>,
}

/// The message that a target of `alerts` gets. docs/manifest.md has its keys as a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertMessage {
    pub schema: u32,
    /// The host and the number of the alert's first event.
    pub id: String,
    pub seq: Seq,
    pub host: String,
    pub time: jiff::Timestamp,
    pub boot_id: Arc<str>,
    pub rule: String,
    pub state: AlertState,
    pub repeated: bool,
    pub severity: Severity,
    pub workload: Option<ReplicaId>,
    pub text: String,
    #[serde(rename = "stood_seconds", with = "seconds")]
    pub stood: Duration,
}

/// The body of `POST /v1/workloads/NAME/throttle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// A share of one CPU, such as `20%`.
    pub cpu: String,
}

words! {
    /// A command about a rollout.
    pub enum RolloutAction {
        Pause = "pause",
        Resume = "resume",
        /// Go back to the version before.
        Undo = "undo",
        /// Try the manifest's version again.
        Retry = "retry",
    }
}

/// The body of `POST /v1/workloads/NAME/rollout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    pub action: RolloutAction,
}

/// The body of `POST /v1/workloads/NAME/scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    pub replicas: u16,
}

/// The body of `POST /v1/workloads/NAME/deadline`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// The time of the boot clock (`CLOCK_BOOTTIME`, clock_gettime(2)) from which on it must not run.
    pub boot_seconds: f64,
}

/// The body of `POST /v1/shutdown`, and the answer to it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// The workloads end with the agent.
    #[serde(default)]
    pub workloads: bool,
}

/// The answer to `GET /health/workloads/NAME`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthAnswer {
    pub name: ReplicaId,
    pub state: WorkloadState,
    pub health: Health,
    pub ready: bool,
    /// `None` on the public address: a probe's text is only for callers on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to `GET /v1/ready`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub workloads: BTreeMap<ReplicaId, bool>,
}

/// The answer to `GET /v1/agent`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The last event that a power cut would not take.
    pub durable_seq: Seq,
    pub probes: ProbeLateness,
}

/// The time between the moment at which a check was due and the moment at which it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeLateness {
    pub asked: u64,
    pub late_p50_seconds: f64,
    pub late_p99_seconds: f64,
    pub late_max_seconds: f64,
}

/// The answer to `GET /health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alive {
    pub status: AliveStatus,
}

words! {
    pub enum AliveStatus {
        Ok = "ok",
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorAnswer {
    pub error: ErrorBody,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: ErrorCode,
    pub message: String,
}

words! {
    /// The kind of an error.
    pub enum ErrorCode {
        BadRequest = "bad_request",
        NotFound = "not_found",
        NoSuchWorkload = "no_such_workload",
        NotPermitted = "not_permitted",
        WrongMethod = "wrong_method",
        /// The request is understood, and the agent will not do it.
        Refused = "refused",
        /// The agent tried, and the workload does not run.
        Failed = "failed",
        TooManyRequests = "too_many_requests",
        /// The caller may try again.
        Busy = "busy",
        GoingDown = "going_down",
    }
}
