//! `scale` and `rollout`: the replicas of a workload.

use super::escaped;
use super::format::Output;
use super::{client, ps};
use crate::fault::Fault;
use crate::settings::Settings;
use clap::Subcommand;
use enforcer_core::event::RolloutState;
use enforcer_model::requests::{RolloutAction, RolloutRequest, Scale};
use enforcer_model::views::Replicas;

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Wanted {
    /// Show how far the rollout is
    Status {
        workload: String,
        #[command(flatten)]
        output: Output,
    },
    /// Replace no further replicas until `resume`
    Pause { workload: String },
    /// Go on with a rollout that is paused
    Resume { workload: String },
    /// Go back to the version before
    Undo { workload: String },
    /// Roll the manifest's version out once more, after it was rolled back
    Retry { workload: String },
}

pub(super) fn rollout(settings: &Settings, wanted: &Wanted) -> Result<(), Fault> {
    let (workload, action) = match wanted {
        Wanted::Status { workload, output } => {
            let route = format!("/v1/workloads/{}/rollout", escaped(workload));
            let answer = client::get(settings, &route)?;
            if !output.print_answer(&answer, Some(&[workload]))? {
                print(&answer.read()?);
            }
            return Ok(());
        }
        Wanted::Pause { workload } => (workload, RolloutAction::Pause),
        Wanted::Resume { workload } => (workload, RolloutAction::Resume),
        Wanted::Undo { workload } => (workload, RolloutAction::Undo),
        Wanted::Retry { workload } => (workload, RolloutAction::Retry),
    };
    let route = format!("/v1/workloads/{}/rollout", escaped(workload));
    let answer = client::post(settings, &route, &RolloutRequest { action })?;
    println!("{}", summary(&answer.read()?));
    Ok(())
}

pub(super) fn scale(settings: &Settings, workload: &str, replicas: u16) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}/scale", escaped(workload));
    let answer = client::post(settings, &route, &Scale { replicas })?;
    println!("{}", summary(&answer.read()?));
    Ok(())
}

pub(super) fn print(found: &Replicas) {
    println!("{}", summary(found));
    print!("{}", ps::listed(&found.replicas));
}

/// Returns the replicas of a workload in a line.
pub(super) fn summary(found: &Replicas) -> String {
    let Replicas {
        name,
        wanted,
        ready,
        current,
        total,
        ..
    } = found;
    let state = match found.rollout {
        None if found.differs => "what runs differs from the manifest: see `enforcer events`",
        None => "no rollout is under way",
        Some(RolloutState::Paused) => "the rollout is paused",
        Some(RolloutState::Failed) => "the rollout goes back",
        Some(_) => "a rollout is under way",
    };
    let version = match found.rollout {
        Some(_) => format!(", {current} of {total} replaced"),
        None => String::new(),
    };
    format!("{name}: {ready} of {wanted} replicas ready{version}; {state}")
}
