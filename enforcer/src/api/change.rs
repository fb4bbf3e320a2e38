//! Requests that change something. Each first asks who is asking.

use super::Api;
use super::error::Failure;
use super::part::{Body, Part};
use super::peer::Peer;
use super::views;
use crate::inbox::{Question, RequestError};
use crate::manifest_files::{self, LoadError, Source};
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse as _, Json, Response};
use enforcer_core::event::{AgentEvent, Request};
use enforcer_core::plan::shrinks_below_use;
use enforcer_core::spec::Manifest;
use enforcer_core::units::{Bytes as Size, Limit, Percent};
use enforcer_core::{Event, WorkloadName};
use enforcer_kernel::replacement::{Survives, replace};
use enforcer_kernel::usage::memory_current;
use enforcer_kernel::{memory_info, system_limits};
use enforcer_manifest::parse_throttle;
use enforcer_model::requests::{PlanAnswer, Proposal, ProposedFile, Shutdown, Throttle};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

pub(super) async fn request(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Part((name, word)): Part<(String, String)>,
    Body(body): Body,
) -> Result<Response, Failure> {
    peer.may_change()?;
    let request = match word.as_str() {
        "start" => Request::Start,
        "stop" => Request::Stop,
        "restart" => Request::Restart,
        "kill" => Request::Kill,
        "throttle" => Request::Throttle(throttle(&body)?),
        "release" => Request::Release,
        "probe" => Request::Probe,
        _ => return Err(Failure::not_found("there is no such route")),
    };
    let parsed = WorkloadName::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
    let answer = api
        .events
        .ask(|reply| Question::Request(parsed, request, reply))
        .await;
    match answer.ok_or_else(Failure::going_down)? {
        // The caller of `probe` wants the probes' answers.
        Ok(view) if request == Request::Probe => {
            Ok(Json(views::inspect(&api, &view)).into_response())
        }
        Ok(view) => Ok(Json(views::describe(&api, &view)).into_response()),
        Err(RequestError::NoSuchWorkload) => Err(Failure::no_such_workload(&name)),
        Err(RequestError::Failed(reason)) => Err(Failure::failed(reason)),
    }
}

fn throttle(body: &[u8]) -> Result<Percent, Failure> {
    let asked: Throttle = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("expected {{\"cpu\": \"20%\"}}: {error}")))?;
    parse_throttle(&asked.cpu).map_err(|expected| {
        Failure::bad_request(format!("cpu is `{}`: expected {expected}", asked.cpu))
    })
}

/// Returns the contents of a body, or its fault.
fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("failed to parse the body as JSON: {error}")))
}

pub(super) async fn shutdown(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(asked): Body,
) -> Result<Json<Shutdown>, Failure> {
    peer.may_change()?;
    let asked: Shutdown = read_body(&asked)?;
    api.events.send(match asked.workloads {
        true => Event::Agent(AgentEvent::Shutdown),
        false => Event::Agent(AgentEvent::Leave),
    });
    Ok(Json(asked))
}

/// Plans a change. Only a caller with the right to change gets an answer: the answer quotes
/// lines of the manifest, which may be secret, and the lookup of accounts starts processes.
pub(super) async fn plan(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(proposal): Body,
) -> Result<Json<PlanAnswer>, Failure> {
    peer.may_change()?;
    let proposal = read_body::<Proposal>(&proposal)?;
    let (manifest, warnings) = {
        let api = api.clone();
        blocking(move || read(&api, proposal.file.as_ref(), &BTreeSet::new())).await?
    };
    let plan = api
        .events
        .ask(|reply| Question::Plan(Box::new(manifest), reply))
        .await;
    Ok(Json(PlanAnswer {
        plan: plan.ok_or_else(Failure::going_down)?,
        warnings,
    }))
}

pub(super) async fn apply(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(proposal): Body,
) -> Result<Json<PlanAnswer>, Failure> {
    peer.may_change()?;
    let proposal = read_body::<Proposal>(&proposal)?;
    let prune = proposal.prune;
    let (manifest, warnings) = {
        let api = api.clone();
        blocking(move || {
            let prepared = prepare(&api, &proposal, &BTreeSet::new())?;
            api.dormant.wake();
            Ok(prepared)
        })
        .await?
    };
    let manifest = Box::new(manifest);
    let plan = api
        .events
        .ask(|reply| Question::Apply {
            manifest,
            prune,
            reply,
        })
        .await;
    Ok(Json(PlanAnswer {
        plan: plan.ok_or_else(Failure::going_down)?,
        warnings,
    }))
}

/// Reads the agent's own manifest again, without the files that wait for an `apply`, and applies
/// it. The error says what is wrong.
pub(crate) async fn reload(api: &Api) -> Result<(), String> {
    let proposal = Proposal {
        file: None,
        prune: false,
        force: false,
    };
    let told = |failure: Failure| failure.message().to_owned();
    let read = {
        let api = api.clone();
        blocking(move || self::read(&api, None, &api.dormant.names())).await
    };
    let (manifest, _) = read.map_err(told)?;
    let plan = |reply| Question::Plan(Box::new(manifest), reply);
    if api
        .events
        .ask(plan)
        .await
        .is_none_or(|plan| plan.is_empty())
    {
        // The manifest is in force, or the agent is ending.
        api.events.send(Event::Agent(AgentEvent::ManifestUnchanged));
        return Ok(());
    }
    let prepared = {
        let api = api.clone();
        blocking(move || prepare(&api, &proposal, &api.dormant.names())).await
    };
    let (manifest, warnings) = prepared.map_err(told)?;
    if !warnings.is_empty() {
        tracing::warn!("{warnings}");
    }
    let manifest = Box::new(manifest);
    let applied = api.events.ask(|reply| Question::Apply {
        manifest,
        prune: false,
        reply,
    });
    // An agent that is ending does not answer.
    let _ = applied.await;
    Ok(())
}

/// Files and accounts are read, and may take their time: not where probes are timed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::going_down())?
}

/// Reads the manifest that is to be applied, and installs the file that it came with.
fn prepare(
    api: &Api,
    proposal: &Proposal,
    skipped: &BTreeSet<String>,
) -> Result<(Manifest, String), Failure> {
    let (manifest, warnings) = read(api, proposal.file.as_ref(), skipped)?;
    if !proposal.force {
        refuse_shrinks(api, &manifest)?;
        refuse_host_shrink(api, &manifest)?;
    }
    if let Some(file) = &proposal.file {
        if api.manifest.is_dir() && !manifest_files::is_manifest(&file.path) {
            return Err(Failure::bad_request(format!(
                "{} would not be read: files of the manifest's folder end in .yaml or .yml and do not begin with a dot",
                file.path.display()
            )));
        }
        install(api, file).map_err(|error| {
            Failure::refused(format!(
                "failed to install {}: {error}",
                file.path.display()
            ))
        })?;
    }
    Ok((manifest, warnings))
}

/// Reads the manifest with this file in its place, and without those that are skipped.
fn read(
    api: &Api,
    file: Option<&ProposedFile>,
    skipped: &BTreeSet<String>,
) -> Result<(Manifest, String), Failure> {
    let failed = |error: LoadError| match error {
        LoadError::Faults(drawn, _) => Failure::bad_request(drawn),
        other => Failure::bad_request(format!("failed to {other}")),
    };
    let sources = match file {
        None => manifest_files::read_or_nothing(&api.manifest, skipped).map_err(failed)?,
        Some(file) => {
            let mut sources = match manifest_files::read_or_nothing(&api.manifest, skipped) {
                read if api.manifest.is_dir() => read.map_err(failed)?,
                // The one file that there is will be replaced.
                _ => Vec::new(),
            };
            let place = place_of(api, file);
            sources.retain(|source| source.path != place);
            sources.push(Source {
                path: place,
                text: file.text.clone(),
            });
            sources.sort_by(|one, other| one.path.cmp(&other.path));
            sources
        }
    };
    let loaded = manifest_files::parse(&sources, false).map_err(failed)?;
    Ok((loaded.manifest, loaded.warnings))
}

fn place_of(api: &Api, file: &ProposedFile) -> PathBuf {
    match file.path.file_name() {
        Some(name) if api.manifest.is_dir() => api.manifest.join(name),
        _ => api.manifest.clone(),
    }
}

/// Replaces the file in one step, so that a reader sees the old file or the new one. A manifest may
/// hold secrets: the new file has the mode of the old one, and 0600 if there was none.
fn install(api: &Api, file: &ProposedFile) -> std::io::Result<()> {
    let place = place_of(api, file);
    let mode = std::fs::metadata(&place).map_or(0o600, |present| present.mode() & 0o777);
    replace(&place, file.text.as_bytes(), mode, Survives::PowerCut)
}

fn refuse_shrinks(api: &Api, manifest: &Manifest) -> Result<(), Failure> {
    let mut in_use = BTreeMap::new();
    for (name, entry) in api.executor.registry().iter() {
        if let Some(bytes) = memory_current(&entry.cgroup) {
            in_use.insert(name.clone(), Size(bytes));
        }
    }
    let told: Vec<String> = shrinks_below_use(manifest, &in_use)
        .into_iter()
        .map(|shrink| {
            format!(
                "{}: memory.max {} is below the {} in use now; the kernel would reclaim, and kill if that is not enough",
                shrink.workload, shrink.memory_max_bytes, shrink.in_use_bytes
            )
        })
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{}\nnothing was changed; `--force` applies it all the same",
        told.join("\n")
    )))
}

/// Refuses a ceiling of all workloads that is below what they use now.
fn refuse_host_shrink(api: &Api, manifest: &Manifest) -> Result<(), Failure> {
    let Ok((memory, swap)) = memory_info::totals() else {
        return Ok(());
    };
    let ceiling = manifest
        .host
        .ceiling(memory, swap, system_limits::most_threads())
        .memory_max
        .and_then(Limit::at);
    let used = memory_current(api.executor.tree.workloads()).map(Size);
    match (ceiling, used) {
        (Some(ceiling), Some(used)) if used > ceiling => Err(Failure::refused(format!(
            "host: {ceiling} for all workloads together is below the {used} in use now; the kernel would reclaim, and \
             kill if that is not enough\nnothing was changed; `--force` applies it all the same"
        ))),
        (Some(_) | None, _) => Ok(()),
    }
}
