//! Workloads as the API shows them: what the core decided, and what the kernel
//! says about it right now.

use super::Api;
use super::error::Failure;
use super::part::Target;
use crate::inbox::Question;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use enforcer_core::group::GroupView;
use enforcer_core::health::Health;
use enforcer_core::spec::LogTarget;
use enforcer_core::supervisor::{ProbeView, View, answer_in_words};
use enforcer_core::{ReplicaId, WorkloadState};
use enforcer_kernel::clock;
use enforcer_kernel::usage::{self, Usage};
use enforcer_model::requests::{AgentStatus, HealthAnswer, Readiness};
use enforcer_model::views::{
    BudgetOfRestarts, Inspection, LastAnswer, ProbeStatus, Replicas, WorkloadView, Workloads,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Returns a probe of the core's as the API shows it.
fn probe_status(view: &ProbeView) -> ProbeStatus {
    let last = view.last.as_ref().map(|last| LastAnswer {
        result: last.answer,
        time: clock::wall_time_of(last.at),
        took_seconds: last.took.as_secs_f64(),
        text: answer_in_words(last),
    });
    ProbeStatus {
        probe: view.probe,
        kind: view.kind,
        state: view.state,
        consecutive_failures: view.consecutive_failures,
        failure_threshold: view.failure_threshold,
        at_rest: view.at_rest,
        last,
    }
}

/// The query of [`workloads`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Add the values that only `top` shows.
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

/// Returns one workload or replica, or the replicas of a workload.
pub(super) async fn workload(State(api): State<Api>, target: Target) -> Result<Response, Failure> {
    let id = target.id.clone();
    let view = api
        .events
        .ask(|reply| Question::View(id, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    let Some(view) = view else {
        return Ok(group(State(api), target).await?.into_response());
    };
    let shown = tokio::task::spawn_blocking(move || inspect(&api, &view));
    let shown = shown.await.map_err(|_| Failure::going_down())?;
    Ok(Json(shown).into_response())
}

/// Returns the replicas of a workload.
pub(super) async fn group(
    State(api): State<Api>,
    Target { id, .. }: Target,
) -> Result<Json<Replicas>, Failure> {
    let (group, views) = replicas_of(&api, &id).await?;
    let shown = tokio::task::spawn_blocking(move || Replicas {
        name: id.workload().clone(),
        wanted: group.wanted,
        ready: group.ready,
        current: group.current,
        total: group.total,
        rollout: group.rollout,
        differs: group.differs,
        replicas: views.iter().map(|view| describe(&api, view)).collect(),
    });
    Ok(Json(shown.await.map_err(|_| Failure::going_down())?))
}

async fn replicas_of(api: &Api, id: &ReplicaId) -> Result<(GroupView, Vec<View>), Failure> {
    let unknown = || Failure::no_such_workload(&id.to_string());
    if id.index().is_some() {
        return Err(unknown());
    }
    let name = id.workload().clone();
    let found = api
        .events
        .ask(|reply| Question::Group(name, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    found.ok_or_else(unknown)
}

pub(super) fn describe(api: &Api, view: &View) -> WorkloadView {
    let now = clock::now();
    let mut usage = Usage::default();
    let mut rates = (0.0, 0.0);
    if let Some((instance, read)) = api.executor.usage_of(&view.name) {
        usage = read;
        rates = api.usage.rates(&view.name, instance.begun, now, &usage);
    }
    let path = match &view.spec.attach {
        None => api.executor.tree.path_of(&view.name),
        // It is not known while its owner does not run it.
        Some(_) => {
            let found = api.executor.instances.cgroup(&view.name);
            found.map_or_else(PathBuf::new, |cgroup| cgroup.path().to_owned())
        }
    };
    WorkloadView {
        name: view.name.clone(),
        state: view.state,
        health: view.health,
        ready: view.ready,
        throttle: view.claims.throttling(),
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
        status_text: view.status_text.clone(),
        last_exit: view.last_exit,
        since: clock::wall_time_of(view.since),
        reason: view.reason.clone(),
        delegate: view.spec.delegate.clone(),
        more: None,
    }
}

fn describe_all(api: &Api, view: &View) -> WorkloadView {
    let cgroup = api.executor.instances.cgroup(&view.name);
    WorkloadView {
        more: Some(
            cgroup
                .map(|cgroup| usage::read_more(&cgroup))
                .unwrap_or_default(),
        ),
        ..describe(api, view)
    }
}

/// `/health/workloads/{name}`: 200, or 503 where it is unhealthy or doesn't run. One replica that serves is
/// enough for a workload that has several.
pub(super) async fn health(
    State(api): State<Api>,
    Target { id, .. }: Target,
) -> Result<(StatusCode, Json<HealthAnswer>), Failure> {
    let asked = id.clone();
    let view = api
        .events
        .ask(|reply| Question::View(asked, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    let views = match view {
        Some(view) => vec![view],
        None => replicas_of(&api, &id).await?.1,
    };
    let serves =
        |view: &View| view.state == WorkloadState::Running && view.health != Health::Unhealthy;
    let ready = views.iter().any(|view| view.ready);
    let best = views.iter().find(|view| serves(view) && view.ready);
    let best = best.or_else(|| views.iter().find(|view| serves(view)));
    let view = best.or(views.first());
    let view = view.ok_or_else(|| Failure::no_such_workload(&id.to_string()))?;
    let status = if serves(view) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let answer = HealthAnswer {
        name: id,
        state: view.state,
        health: view.health,
        ready,
        reason: Some(view.reason.clone()),
    };
    Ok((status, Json(answer)))
}

/// Returns the health without its reason: the text of a probe may be secret, and anyone may ask
/// here.
pub(super) async fn public_health(
    api: State<Api>,
    target: Target,
) -> Result<(StatusCode, Json<HealthAnswer>), Failure> {
    let (status, Json(answer)) = health(api, target).await?;
    let reason = None;
    Ok((status, Json(HealthAnswer { reason, ..answer })))
}

/// `/v1/ready`: which workloads may be used.
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Readiness>, Failure> {
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    let mut workloads: BTreeMap<ReplicaId, bool> = BTreeMap::new();
    for view in views {
        // A workload is ready while one of its replicas is.
        let all = ReplicaId::from(view.name.workload().clone());
        *workloads.entry(all).or_default() |= view.ready;
        workloads.insert(view.name, view.ready);
    }
    Ok(Json(Readiness { workloads }))
}

/// `/v1/agent`: how the agent itself is doing.
pub(super) async fn agent(State(api): State<Api>) -> Json<AgentStatus> {
    Json(AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        durable_seq: api.history.durable(),
        probes: api.prober.lateness.summary(),
    })
}

pub(super) fn inspect(api: &Api, view: &View) -> Inspection {
    let cgroup = api.executor.instances.cgroup(&view.name);
    let spec = &view.spec;
    Inspection {
        workload: describe(api, view),
        instance: view.instance,
        managed: view.managed,
        attach: spec.attach.clone(),
        command: spec.command.clone(),
        user: spec.user.clone(),
        directory: spec.directory.clone(),
        environment: spec.environment.keys().cloned().collect(),
        credentials: spec.credentials.keys().cloned().collect(),
        root: spec.root.clone(),
        sandbox: spec.sandbox,
        oom_score_adj: spec.oom_score_adj(),
        probes: view.probes.iter().map(probe_status).collect(),
        limits: usage::limit_states(cgroup.as_deref(), &spec.limits),
        log: match spec.logs.to {
            LogTarget::File => api.executor.log_path(&view.name).display().to_string(),
            LogTarget::Journal => LogTarget::Journal.as_str().to_owned(),
        },
        budget_used: view.budget_used(clock::now()),
        budget: spec
            .recovery
            .budget
            .as_ref()
            .map(|budget| BudgetOfRestarts {
                restarts: budget.restarts,
                within_seconds: budget.within.as_secs_f64(),
            }),
        breaker: spec.recovery.breaker.is_some(),
        mode: spec.mode,
        restart: spec.recovery.restart,
        comes_back: view.comes_back,
        deadline_in_seconds: spec.leased.then(|| {
            let until = view.deadline.unwrap_or_default();
            until.since(clock::now()).as_secs_f64()
        }),
        next_start_in_seconds: view
            .next_start
            .map(|next| next.since(clock::now()).as_secs_f64()),
    }
}
