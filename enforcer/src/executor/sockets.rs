//! The sockets of `listen`: made before the first start, kept by the agent and the holder over
//! restarts and the deaths of agents, and closed when the workload comes to rest.

use super::Executor;
use super::start::io_failure;
use crate::holder::SocketName;
use enforcer_core::WorkloadName;
use enforcer_core::event::StartError;
use enforcer_core::spec::{Listen, WorkloadSpec};
use enforcer_kernel::account::{Accounts, Identity};
use enforcer_kernel::listening;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// A socket, with the setting that it was made for.
#[derive(Debug)]
pub(super) struct KeptSocket {
    made_for: String,
    socket: Arc<OwnedFd>,
}

pub(super) type KeptSockets = BTreeMap<SocketName, KeptSocket>;

/// Returns the variables of sd_listen_fds(3), but for `LISTEN_PID`, which the child alone knows.
pub(super) fn environment(spec: &WorkloadSpec) -> Vec<(String, Vec<u8>)> {
    if spec.listen.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = spec.listen.keys().map(String::as_str).collect();
    let variable = |name: &str, value: String| (name.to_owned(), value.into_bytes());
    vec![
        variable("LISTEN_FDS", names.len().to_string()),
        variable("LISTEN_FDNAMES", names.join(":")),
    ]
}

impl Executor {
    /// Returns the sockets of a workload in the order of their names: those that it has, or new ones.
    pub(super) fn sockets_of(
        self: &Arc<Self>,
        workload: &WorkloadName,
        spec: &WorkloadSpec,
        user: &Identity,
    ) -> Result<Vec<Arc<OwnedFd>>, StartError> {
        self.close_sockets_of(workload, |name| spec.listen.contains_key(name));
        let mut all = Vec::new();
        for (name, listen) in &spec.listen {
            let made_for = setting(listen, user)?;
            let name = SocketName {
                workload: workload.clone(),
                name: name.clone(),
            };
            let known = self.kept_sockets.lock();
            if let Some(kept) = known.get(&name)
                && kept.made_for == made_for
            {
                all.push(Arc::clone(&kept.socket));
                continue;
            }
            drop(known);
            // The older one may have the same address.
            self.close_socket(&name);
            all.push(self.open_socket(name, listen, user, made_for)?);
        }
        Ok(all)
    }

    fn open_socket(
        self: &Arc<Self>,
        name: SocketName,
        listen: &Listen,
        user: &Identity,
        made_for: String,
    ) -> Result<Arc<OwnedFd>, StartError> {
        let (shown, made) = match (&listen.tcp, &listen.unix) {
            (Some(address), _) => (
                address.to_string(),
                listening::tcp(*address, listen.backlog),
            ),
            (None, path) => {
                let path = path.as_deref().unwrap_or_default();
                let owner = (user.uid, group_of(listen, user)?);
                let mode = listen.mode.0;
                (
                    path.to_owned(),
                    listening::unix(Path::new(path), mode, owner, listen.backlog),
                )
            }
        };
        let made = made.map_err(|error| io_failure(&format!("listen at {shown}"), &error))?;
        let socket = Arc::new(made);
        let kept = self.ask_holder(|holder| holder.keep_socket(&name, &made_for, &socket));
        if let Err(error) = kept {
            // It is lost with the agent then, and not with the instance.
            tracing::warn!(
                "{}: its socket {} is kept by the agent alone: {error}",
                name.workload,
                name.name
            );
        }
        let kept = KeptSocket {
            made_for,
            socket: Arc::clone(&socket),
        };
        self.kept_sockets.lock().insert(name, kept);
        Ok(socket)
    }

    /// Closes the sockets of a workload, so that clients are refused instead of waiting.
    pub(super) fn close_sockets(&self, workload: &WorkloadName) {
        self.close_sockets_of(workload, |_| false);
    }

    /// Closes the sockets of all workloads but these, which another agent has left.
    pub(crate) fn close_sockets_without(&self, known: &[WorkloadName]) {
        let others = self.kept_names(|name| !known.contains(&name.workload));
        others.iter().for_each(|name| self.close_socket(name));
    }

    fn close_sockets_of(&self, workload: &WorkloadName, is_wanted: impl Fn(&str) -> bool) {
        let unwanted = self.kept_names(|name| name.workload == *workload && !is_wanted(&name.name));
        unwanted.iter().for_each(|name| self.close_socket(name));
    }

    fn kept_names(&self, which: impl Fn(&SocketName) -> bool) -> Vec<SocketName> {
        let kept = self.kept_sockets.lock();
        kept.keys().filter(|name| which(name)).cloned().collect()
    }

    fn close_socket(&self, name: &SocketName) {
        let Some(kept) = self.kept_sockets.lock().remove(name) else {
            return;
        };
        if let Err(error) = self.holder.close_socket(name) {
            tracing::debug!("{}: its socket {}: {error}", name.workload, name.name);
        }
        listening::remove_file_of(&kept.socket);
    }

    /// Takes the sockets that a holder keeps, and gives it those that it lacks.
    pub(super) fn exchange_sockets(&self) -> io::Result<()> {
        let held = self.holder.sockets()?;
        let mut kept = self.kept_sockets.lock();
        let mut lacking = kept
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>();
        for (name, made_for, socket) in held {
            lacking.remove(&name);
            let socket = Arc::new(socket);
            kept.entry(name).or_insert(KeptSocket { made_for, socket });
        }
        for name in lacking {
            if let Some(KeptSocket { made_for, socket }) = kept.get(&name) {
                self.holder.keep_socket(&name, made_for, socket)?;
            }
        }
        Ok(())
    }
}

/// Returns everything that a socket is made of.
fn setting(listen: &Listen, user: &Identity) -> Result<String, StartError> {
    let text = serde_json::to_string(listen);
    let text = text.map_err(|error| io_failure("prepare its sockets", &error.into()))?;
    match listen.unix {
        Some(_) => Ok(format!("{text} {} {}", user.uid, group_of(listen, user)?)),
        None => Ok(text),
    }
}

fn group_of(listen: &Listen, user: &Identity) -> Result<nix::unistd::Gid, StartError> {
    let Some(group) = &listen.group else {
        return Ok(user.gid);
    };
    let found = Accounts::Host.identity(None, Some(group), &[]);
    found.map(|found| found.gid).map_err(|error| StartError {
        stage: "look up the group of its socket".to_owned(),
        errno: None,
        error: crate::report::error_chain(&error),
    })
}
