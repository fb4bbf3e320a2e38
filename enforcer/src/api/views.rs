//! Workloads as the API shows them: what the core decided, and what the kernel
//! says about it right now.

use super::Api;
use super::error::Failure;
use super::part::Part;
use crate::executor::Executor;
use crate::kernel::clock;
use crate::kernel::usage::{self, LimitState, Usage};
use crate::runtime::Question;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use enforcer_core::WorkloadName;
use enforcer_core::event::InstanceId;
use enforcer_core::health::Health;
use enforcer_core::spec::{LogTarget, Mode, ProbeName, RestartPolicy};
use enforcer_core::supervisor::{LastExit, ProbeView, View, answer_in_words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `ps --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Workloads {
    schema: u32,
    /// Of the host, where all is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<usize>,
    workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Workload {
    name: WorkloadName,
    state: &'static str,
    health: Health,
    ready: bool,
    throttle: &'static str,
    throttle_cpu_percent: Option<u32>,
    pid: Option<u32>,
    restarts: u64,
    cgroup: String,
    memory_bytes: u64,
    memory_max_bytes: Option<u64>,
    swap_bytes: u64,
    swap_max_bytes: Option<u64>,
    cpu_percent: f64,
    cpu_throttled_percent: f64,
    oom_kills: u64,
    last_exit: Option<LastExit>,
    since: jiff::Timestamp,
    reason: String,
    #[serde(flatten)]
    more: Option<usage::More>,
}

/// One probe, and what it said last.
#[derive(Debug, Serialize)]
struct Probe {
    probe: ProbeName,
    kind: &'static str,
    state: &'static str,
    consecutive_failures: u32,
    failure_threshold: u32,
    at_rest: bool,
    last: Option<LastAnswer>,
}

#[derive(Debug, Serialize)]
struct LastAnswer {
    result: &'static str,
    time: jiff::Timestamp,
    took_seconds: f64,
    text: String,
}

impl Probe {
    fn of(view: &ProbeView) -> Self {
        let last = view.last.as_ref().map(|last| LastAnswer {
            result: last.answer.word(),
            time: clock::wall_time_of(last.at),
            took_seconds: last.took.as_secs_f64(),
            text: answer_in_words(last),
        });
        Self {
            probe: view.probe,
            kind: view.kind,
            state: view.state,
            consecutive_failures: view.consecutive_failures,
            failure_threshold: view.failure_threshold,
            at_rest: view.at_rest,
            last,
        }
    }
}

#[derive(Debug, Serialize)]
struct BudgetOf {
    restarts: u32,
    within_seconds: f64,
}

/// `inspect`: the same, and everything that stands behind it.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    #[serde(flatten)]
    workload: Workload,
    instance: InstanceId,
    managed: bool,
    command: Vec<String>,
    user: Option<String>,
    directory: Option<String>,
    /// Names only: a value may be a secret.
    environment: Vec<String>,
    oom_score_adj: i32,
    probes: Vec<Probe>,
    limits: Vec<LimitState>,
    log: String,
    budget_used: u32,
    /// `None` without one.
    budget: Option<BudgetOf>,
    breaker: bool,
    mode: &'static str,
    restart: &'static str,
    /// It was stopped for the host's sake.
    comes_back: bool,
    next_start_in_seconds: Option<f64>,
}

/// What is asked of [`workloads`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// With what only a screen needs: `top`.
    #[serde(default)]
    all: bool,
}

pub(super) async fn workloads(
    State(api): State<Api>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Workloads>, Failure> {
    let Query(Asked { all }) = asked.map_err(|error| Failure::bad_request(error.body_text()))?;
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    let shown = tokio::task::spawn_blocking(move || {
        views
            .into_iter()
            .map(|view| match all {
                true => describe_all(&api, &view),
                false => describe(&api, &view),
            })
            .collect()
    });
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Json(Workloads {
        schema: 1,
        cpus: all.then_some(cpus),
        workloads: shown.await.map_err(|_| Failure::going_down())?,
    }))
}

pub(super) async fn workload(
    State(api): State<Api>,
    Part(name): Part<String>,
) -> Result<Json<Inspection>, Failure> {
    let parsed = WorkloadName::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
    let view = api
        .events
        .ask(|reply| Question::View(parsed, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    let view = view.ok_or_else(|| Failure::no_such_workload(&name))?;
    let shown = tokio::task::spawn_blocking(move || inspect(&api, &view));
    Ok(Json(shown.await.map_err(|_| Failure::going_down())?))
}

pub(super) fn describe(api: &Api, view: &View) -> Workload {
    let now = clock::now();
    let entry = api
        .executor
        .registry()
        .get(&view.name)
        .map(|entry| (Arc::clone(&entry.cgroup), entry.begun));
    let mut usage = Usage::default();
    let mut rates = (0.0, 0.0);
    if let Some((cgroup, begun)) = entry {
        usage = usage::read(&cgroup).unwrap_or_default();
        rates = api.usage.rates(&view.name, begun, now, &usage);
    }
    let path = api
        .executor
        .tree
        .workloads()
        .path()
        .join(view.name.as_str());
    Workload {
        name: view.name.clone(),
        state: view.state,
        health: view.health,
        ready: view.ready,
        throttle: view.claims.word(),
        throttle_cpu_percent: view.claims.throttled.map(|percent| percent.0),
        pid: view.pid,
        restarts: view.restarts,
        cgroup: path.display().to_string(),
        memory_bytes: usage.working_set,
        memory_max_bytes: usage.memory_max,
        swap_bytes: usage.swap,
        swap_max_bytes: usage.swap_max,
        cpu_percent: rates.0,
        cpu_throttled_percent: rates.1,
        oom_kills: view.oom_kills,
        last_exit: view.last_exit,
        since: clock::wall_time_of(view.since),
        reason: view.reason.clone(),
        more: None,
    }
}

fn describe_all(api: &Api, view: &View) -> Workload {
    let cgroup = cgroup_of(&api.executor, &view.name);
    Workload {
        more: Some(
            cgroup
                .map(|cgroup| usage::read_more(&cgroup))
                .unwrap_or_default(),
        ),
        ..describe(api, view)
    }
}

/// `/health/workloads/{name}`: 200, or 503 where it is unhealthy or doesn't run.
pub(super) async fn health(
    State(api): State<Api>,
    Part(name): Part<String>,
) -> Result<(StatusCode, Json<serde_json::Value>), Failure> {
    let parsed = WorkloadName::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
    let view = api
        .events
        .ask(|reply| Question::View(parsed, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    let view = view.ok_or_else(|| Failure::no_such_workload(&name))?;
    let serves = view.state == "running" && view.health != Health::Unhealthy;
    let status = if serves {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({
        "name": view.name, "state": view.state, "health": view.health, "ready": view.ready,
        "reason": view.reason,
    });
    Ok((status, Json(body)))
}

/// The same for anybody: a probe's own words may be nobody else's business.
pub(super) async fn public_health(
    api: State<Api>,
    name: Part<String>,
) -> Result<(StatusCode, Json<serde_json::Value>), Failure> {
    let (status, Json(mut body)) = health(api, name).await?;
    if let Some(told) = body.as_object_mut() {
        told.remove("reason");
    }
    Ok((status, Json(body)))
}

/// `/v1/ready`: which workloads may be used.
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<serde_json::Value>, Failure> {
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    let workloads: BTreeMap<WorkloadName, bool> = views
        .into_iter()
        .map(|view| (view.name, view.ready))
        .collect();
    Ok(Json(serde_json::json!({ "workloads": workloads })))
}

/// `/v1/agent`: how the agent itself is doing.
pub(super) async fn agent(State(api): State<Api>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "durable_seq": api.history.durable(),
        "probes": api.prober.lateness.summary(),
    }))
}

pub(super) fn inspect(api: &Api, view: &View) -> Inspection {
    let cgroup = cgroup_of(&api.executor, &view.name);
    let spec = &view.spec;
    Inspection {
        workload: describe(api, view),
        instance: view.instance,
        managed: view.managed,
        command: spec.command.clone(),
        user: spec.user.clone(),
        directory: spec.directory.clone(),
        environment: spec.environment.keys().cloned().collect(),
        oom_score_adj: spec.oom_score_adj(),
        probes: view.probes.iter().map(Probe::of).collect(),
        limits: usage::limit_states(cgroup.as_deref(), &spec.limits),
        log: match spec.logs.to {
            LogTarget::File => api.executor.log_path(&view.name).display().to_string(),
            LogTarget::Journal => LogTarget::Journal.as_str().to_owned(),
        },
        budget_used: view.budget_used(clock::now()),
        budget: spec.recovery.budget.as_ref().map(|budget| BudgetOf {
            restarts: budget.restarts,
            within_seconds: budget.within.as_secs_f64(),
        }),
        breaker: spec.recovery.breaker.is_some(),
        mode: match spec.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        },
        restart: match spec.recovery.restart {
            RestartPolicy::Always => "always",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Never => "never",
        },
        comes_back: view.comes_back,
        next_start_in_seconds: view
            .next_start
            .map(|next| next.since(clock::now()).as_secs_f64()),
    }
}

pub(super) fn cgroup_of(
    executor: &Executor,
    name: &WorkloadName,
) -> Option<Arc<crate::kernel::cgroupfs::Cgroup>> {
    executor
        .registry()
        .get(name)
        .map(|entry| Arc::clone(&entry.cgroup))
}
