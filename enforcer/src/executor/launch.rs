//! A workload's spec to what the child needs: names looked up, files read,
//! strings made. Everything that can fail by the manifest's doing fails here,
//! before there is a process.

use crate::kernel::account::{self, Identity};
use crate::kernel::spawn::Launch;
use enforcer_core::WorkloadName;
use enforcer_core::event::StartError;
use enforcer_core::manifest::{capability_number, rlimit_number};
use enforcer_core::spec::WorkloadSpec;
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::ffi::CString;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel's own default, which an agent's unit may have raised.
const DEFAULT_NOFILE: u64 = 524_288;
/// A check is worth less than whatever it checks.
const FIRST_TO_GO: i32 = 500;

pub(super) fn prepare(workload: &WorkloadName, spec: &WorkloadSpec) -> Result<Launch, StartError> {
    let identity = account::identity(spec.user.as_deref(), spec.group.as_deref())
        .map_err(|error| failure("look up the account", super::error_chain(&error)))?;
    let switch_user = geteuid().is_root();
    if !switch_user && identity.uid != geteuid() {
        return Err(failure(
            "become the user",
            format!("the agent is not root and can't become `{}`", identity.name),
        ));
    }
    if !switch_user && (spec.group.is_some() || !spec.capabilities.is_empty()) {
        let why = "the agent is not root and can give neither a group nor capabilities";
        return Err(failure("take on the identity", why.to_owned()));
    }
    let default_nofile = !spec.rlimits.contains_key("nofile");
    let mut rlimits: Vec<(u8, u64)> = spec
        .rlimits
        .iter()
        .filter_map(|(name, limit)| {
            Some((
                rlimit_number(name)?,
                limit.at().unwrap_or(libc::RLIM_INFINITY),
            ))
        })
        .collect();
    if default_nofile && switch_user {
        rlimits.push((rlimit_number("nofile").unwrap_or_default(), DEFAULT_NOFILE));
    }
    Ok(Launch {
        command: strings(spec.command.iter().cloned())?,
        environment: strings(
            environment(workload, spec, &identity)?
                .into_iter()
                .map(|(name, value)| format!("{name}={value}")),
        )?,
        directory: string(spec.directory.clone().unwrap_or_else(|| "/".to_owned()))?,
        switch_user,
        capabilities: spec
            .capabilities
            .iter()
            .filter_map(|name| capability_number(name))
            .collect(),
        rlimits,
        default_nofile,
        no_new_privs: !identity.uid.is_root(),
        oom_score_adj: string(spec.oom_score_adj().to_string())?,
        identity,
    })
}

/// The same for a short command beside a workload: its user and its environment,
/// and none of its capabilities.
pub(super) fn errand(errand: &super::Errand) -> Result<Launch, StartError> {
    let spec = WorkloadSpec {
        command: errand.command.clone(),
        ..(*errand.spec).clone()
    };
    let host = WorkloadName::parse("host");
    let name = errand.workload.as_ref().or(host.as_ref());
    let Some(name) = name else {
        return Err(failure("prepare the command", "it has no name".to_owned()));
    };
    let mut launch = prepare(name, &spec)?;
    // Of root, the list is what bounds it.
    if !launch.identity.uid.is_root() {
        launch.capabilities.clear();
    }
    let told = errand.environment.iter();
    launch.environment.extend(strings(
        told.map(|(name, value)| format!("{name}={}", value.replace('\0', " "))),
    )?);
    launch.oom_score_adj = string(FIRST_TO_GO.to_string())?;
    Ok(launch)
}

/// Nothing of the agent's own: what the manifest names, and what a program
/// expects to find.
fn environment(
    workload: &WorkloadName,
    spec: &WorkloadSpec,
    identity: &Identity,
) -> Result<BTreeMap<String, String>, StartError> {
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), identity.home.clone()),
        ("USER".to_owned(), identity.name.clone()),
    ]);
    for file in &spec.environment_files {
        let text = std::fs::read_to_string(file).map_err(|error| StartError {
            errno: error.raw_os_error(),
            ..failure(
                &format!("read {file}"),
                crate::kernel::spawn::describe(&error),
            )
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty())
            else {
                return Err(failure(
                    &format!("read {file}"),
                    format!("line {} is not NAME=value", number + 1),
                ));
            };
            variables.insert(name.trim().to_owned(), unquoted(value.trim()).to_owned());
        }
    }
    variables.extend(spec.environment.clone());
    variables.insert("ENFORCER_WORKLOAD".to_owned(), workload.to_string());
    Ok(variables)
}

/// One pair of quotes around a whole value is not part of it.
fn unquoted(value: &str) -> &str {
    let inner = |quote: char| {
        value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
    };
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, StartError> {
    texts.map(string).collect()
}

fn string(text: String) -> Result<CString, StartError> {
    CString::new(text).map_err(|error| {
        failure(
            "prepare the command",
            format!(
                "a NUL byte in `{}`",
                String::from_utf8_lossy(&error.into_vec()).escape_debug()
            ),
        )
    })
}

fn failure(stage: &str, error: String) -> StartError {
    StartError {
        stage: stage.to_owned(),
        errno: None,
        error,
    }
}
