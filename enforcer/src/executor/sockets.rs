//! The sockets of `listen`: made before the first start, kept by the agent and the holder over
//! restarts and the deaths of agents, and closed when the workload comes to rest.

use super::Executor;
use super::start::io_failure;
use crate::holder::SocketName;
use enforcer_core::ReplicaId;
use enforcer_core::event::StartError;
use enforcer_core::spec::{Listen, WorkloadSpec};
use enforcer_kernel::account::{Accounts, Identity};
use enforcer_kernel::listening;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// The beginning of the names of sockets where connections to a port wait. No socket of `listen` is called
/// so.
pub(super) const PORT: &str = "port:";

/// A socket, with the setting that it was made for.
#[derive(Debug)]
struct KeptSocket {
    made_for: String,
    socket: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
pub(super) struct KeptSockets {
    open: BTreeMap<SocketName, KeptSocket>,
    /// The sockets that the holder has not closed yet.
    unclosed: BTreeSet<SocketName>,
    /// The workloads whose sockets are taken from a holder; it closes all others.
    known: BTreeSet<ReplicaId>,
    /// The holder was asked for what it keeps.
    has_asked: bool,
}

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
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        user: &Identity,
    ) -> Result<Vec<Arc<OwnedFd>>, StartError> {
        let is_port = |name: &str| name.starts_with(PORT) && spec.has_gate();
        if spec.listen.is_empty() {
            self.close_sockets_of(workload, is_port);
            return Ok(Vec::new());
        }
        if !self.kept_sockets.lock().has_asked {
            // It may have the socket that is wanted here. If not, it is asked once more below.
            let _ = self.connect_holder();
        }
        self.close_sockets_of(workload, |name| {
            is_port(name) || spec.listen.contains_key(name)
        });
        let mut all = Vec::new();
        for (name, listen) in &spec.listen {
            let made_for = setting(listen, user)?;
            let name = SocketName {
                workload: workload.clone(),
                name: name.clone(),
            };
            let path = listen.unix.as_deref().map(Path::new);
            if let Some(socket) = self.usable_socket(&name, &made_for, path) {
                all.push(socket);
                continue;
            }
            // The older one may have the same address.
            self.close_socket(&name);
            all.push(self.open_socket(name, listen, user, made_for)?);
        }
        Ok(all)
    }

    /// Returns a socket that was made for this setting, if it still listens.
    fn usable_socket(
        &self,
        name: &SocketName,
        made_for: &str,
        path: Option<&Path>,
    ) -> Option<Arc<OwnedFd>> {
        let all = self.kept_sockets.lock();
        let kept = all.open.get(name)?;
        let is_usable = kept.made_for == made_for && listening::is_usable(&kept.socket, path);
        is_usable.then(|| Arc::clone(&kept.socket))
    }

    fn open_socket(
        self: &Arc<Self>,
        name: SocketName,
        listen: &Listen,
        user: &Identity,
        made_for: String,
    ) -> Result<Arc<OwnedFd>, StartError> {
        let (shown, made) = match (&listen.tcp, &listen.unix) {
            (Some(address), _) => {
                let made = match listen.gated() {
                    Some(_) => listening::shared(*address, false, user.uid, listen.backlog),
                    None => listening::tcp(*address, listen.backlog),
                };
                (address.to_string(), made)
            }
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
        self.keep_socket(name, made_for, &socket);
        Ok(socket)
    }

    /// Keeps a socket, in the holder as well.
    pub(super) fn keep_socket(
        self: &Arc<Self>,
        name: SocketName,
        made_for: String,
        socket: &Arc<OwnedFd>,
    ) {
        {
            let mut all = self.kept_sockets.lock();
            all.unclosed.remove(&name);
            let kept = KeptSocket {
                made_for: made_for.clone(),
                socket: Arc::clone(socket),
            };
            all.open.insert(name.clone(), kept);
        }
        let kept = self.ask_holder(|holder| holder.keep_socket(&name, &made_for, socket));
        if let Err(error) = kept {
            // It is lost with the agent then, and not with the instance.
            tracing::warn!(
                "{}: its socket {} is kept by the agent alone: {error}",
                name.workload,
                name.name
            );
        }
    }

    /// Returns the sockets where connections to a workload's ports wait: the name, the setting and
    /// the socket of each.
    pub(super) fn waiting_sockets(
        &self,
        workload: &ReplicaId,
    ) -> Vec<(String, String, Arc<OwnedFd>)> {
        let all = self.kept_sockets.lock();
        let found = all
            .open
            .iter()
            .filter(|(name, _)| name.workload == *workload && name.name.starts_with(PORT));
        let found = found.map(|(name, kept)| {
            (
                name.name.clone(),
                kept.made_for.clone(),
                Arc::clone(&kept.socket),
            )
        });
        found.collect()
    }

    /// Returns the socket that is kept under a name.
    pub(super) fn kept_socket(&self, name: &SocketName) -> Option<Arc<OwnedFd>> {
        let all = self.kept_sockets.lock();
        all.open.get(name).map(|kept| Arc::clone(&kept.socket))
    }

    /// Returns the sockets that are kept under names of a kind.
    pub(super) fn all_kept(&self, which: impl Fn(&SocketName) -> bool) -> Vec<Arc<OwnedFd>> {
        let all = self.kept_sockets.lock();
        let found = all.open.iter().filter(|(name, _)| which(name));
        found.map(|(_, kept)| Arc::clone(&kept.socket)).collect()
    }

    /// Closes the sockets of a workload, so that clients are refused instead of waiting. Those at ports that
    /// others of its replicas still have stay.
    pub(super) fn close_sockets(&self, workload: &ReplicaId) {
        let is_shared = self.has_ports(workload);
        self.close_sockets_of(workload, |name| is_shared && name.starts_with(PORT));
    }

    /// Says whose sockets are wanted of a holder: another agent may have left more.
    pub(crate) fn expect_sockets_of(&self, known: BTreeSet<ReplicaId>) {
        self.kept_sockets.lock().known = known;
    }

    fn close_sockets_of(&self, workload: &ReplicaId, is_wanted: impl Fn(&str) -> bool) {
        let unwanted = self.kept_names(|name| name.workload == *workload && !is_wanted(&name.name));
        unwanted.iter().for_each(|name| self.close_socket(name));
    }

    fn kept_names(&self, which: impl Fn(&SocketName) -> bool) -> Vec<SocketName> {
        let kept = self.kept_sockets.lock();
        let names = kept.open.keys().filter(|name| which(name));
        names.cloned().collect()
    }

    pub(super) fn close_socket(&self, name: &SocketName) {
        let mut all = self.kept_sockets.lock();
        let Some(kept) = all.open.remove(name) else {
            return;
        };
        if let Err(error) = self.holder.close_socket(name) {
            tracing::debug!("{}: its socket {}: {error}", name.workload, name.name);
            all.unclosed.insert(name.clone());
        }
        drop(all);
        let path = path_of(&kept.made_for);
        drop(kept);
        if let Some(path) = path {
            // Another process may listen there by now.
            let _ = listening::remove_dead(Path::new(&path));
        }
    }

    /// Takes the sockets that a holder keeps, and gives it those that it lacks.
    pub(super) fn exchange_sockets(&self) -> io::Result<()> {
        let mut all = self.kept_sockets.lock();
        let KeptSockets {
            open,
            unclosed,
            known,
            has_asked,
        } = &mut *all;
        let mut lacking: BTreeSet<SocketName> = open.keys().cloned().collect();
        for (name, made_for, socket) in self.holder.sockets()? {
            let kept = open.get(&name);
            let is_same = kept.is_some_and(|kept| kept.made_for == made_for);
            let is_wanted = known.contains(&name.workload) && !unclosed.contains(&name);
            if is_same {
                lacking.remove(&name);
            } else if kept.is_none() && is_wanted {
                let socket = Arc::new(socket);
                open.insert(name, KeptSocket { made_for, socket });
            } else {
                drop(socket);
                self.holder.close_socket(&name)?;
                if let Some(path) = path_of(&made_for).filter(|_| kept.is_none()) {
                    let _ = listening::remove_dead(Path::new(&path));
                }
            }
        }
        unclosed.clear();
        for name in lacking {
            if let Some(KeptSocket { made_for, socket }) = open.get(&name) {
                self.holder.keep_socket(&name, made_for, socket)?;
            }
        }
        *has_asked = true;
        Ok(())
    }
}

/// Returns the path of a Unix socket from its setting.
fn path_of(made_for: &str) -> Option<String> {
    let mut values = serde_json::Deserializer::from_str(made_for).into_iter::<Listen>();
    values.next()?.ok()?.unix
}

/// Returns everything that a socket is made of.
fn setting(listen: &Listen, user: &Identity) -> Result<String, StartError> {
    let text = serde_json::to_string(listen);
    let text = text.map_err(|error| io_failure("prepare its sockets", &error.into()))?;
    match &listen.unix {
        Some(_) => Ok(format!("{text} {} {}", user.uid, group_of(listen, user)?)),
        None if listen.is_of_each => Ok(format!("{text} {}", user.uid)),
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
