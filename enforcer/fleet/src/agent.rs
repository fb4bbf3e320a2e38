//! What a node asks of the agent on its host, over the agent's Unix socket. Each of these waits for the answer.

use enforcer_client::Fault;
use enforcer_client::http::{escaped, get, post, stream};
use enforcer_fleet_core::fleet::WorkloadName;
use enforcer_fleet_core::host::{Look, Rejection};
use enforcer_fleet_core::record::Pressure;
use enforcer_model::requests::{AgentStatus, Deadline, Proposal, ProposedFile};
use enforcer_model::views::{Inspection, Replicas, Workloads};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// The name of the fleet's file in the manifest's folder.
const FILE: &str = "enforcer-fleet.yaml";
/// The pause before the agent's events are followed again.
const AGAIN: Duration = Duration::from_secs(1);

/// The agent, and the user that this program is.
#[derive(Clone, Debug)]
pub struct Agent {
    pub socket: PathBuf,
    pub user: String,
}

fn rejection(fault: Fault) -> Rejection {
    match fault {
        Fault::Refused(why) => Rejection::Refused(why),
        Fault::Drawn { drawn, .. } => Rejection::Refused(first_line(&drawn)),
        Fault::NotPermitted(why) => Rejection::Unavailable(format!(
            "the agent does not let this user change its file ({why}); is ENFORCER_DELEGATE set for the agent?"
        )),
        other => Rejection::Unavailable(other.text()),
    }
}

/// Returns the first fault of those that were drawn.
fn first_line(drawn: &str) -> String {
    let line = drawn.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().trim().to_owned()
}

impl Agent {
    /// Returns the fleet's file as the agent has it.
    ///
    /// # Errors
    /// If the agent does not answer, or this user has no file.
    pub fn read(&self) -> Result<String, String> {
        let answer = get(&self.socket, "/v1/file").map_err(|fault| match rejection(fault) {
            Rejection::Unavailable(why) | Rejection::Refused(why) => why,
        })?;
        Ok(String::from_utf8_lossy(answer.bytes()).into_owned())
    }

    fn proposal(text: String) -> Proposal {
        Proposal {
            file: Some(ProposedFile {
                path: PathBuf::from(FILE),
                text,
            }),
            prune: true,
            // What no longer fits is the kernel's to decide, and the host's ceiling.
            force: true,
        }
    }

    /// Has the agent run what this file has.
    ///
    /// # Errors
    /// If the agent does not answer, or refuses it.
    pub fn apply(&self, text: String) -> Result<(), Rejection> {
        let answer = post(&self.socket, "/v1/apply", &Self::proposal(text));
        answer.map(drop).map_err(rejection)
    }

    /// Asks whether the agent would take this file.
    ///
    /// # Errors
    /// If the agent does not answer, or would refuse it.
    pub fn plan(&self, text: String) -> Result<(), Rejection> {
        let answer = post(&self.socket, "/v1/plan", &Self::proposal(text));
        answer.map(drop).map_err(rejection)
    }

    /// Moves the deadline of a singleton.
    ///
    /// # Errors
    /// If the agent does not answer, or refuses it.
    pub fn set_deadline(&self, name: &WorkloadName, boot: Duration) -> Result<(), String> {
        let route = format!("/v1/workloads/{}/deadline", escaped(name.as_str()));
        let body = Deadline {
            boot_seconds: boot.as_secs_f64(),
        };
        let answer = post(&self.socket, &route, &body);
        answer.map(drop).map_err(|fault| fault.text())
    }

    /// Looks at these workloads, of which some are singletons. Also returns the names of others' workloads.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn look(
        &self,
        names: &BTreeMap<WorkloadName, bool>,
    ) -> Result<(BTreeMap<WorkloadName, Look>, BTreeSet<WorkloadName>), String> {
        let text = |fault: Fault| fault.text();
        let answer = get(&self.socket, "/v1/workloads").map_err(text)?;
        let all: Workloads = answer.read().map_err(text)?;
        let of_others = all.workloads.iter();
        let of_others = of_others.filter(|view| view.delegate.as_ref() != Some(&self.user));
        let taken = of_others.map(|view| view.name.workload().clone()).collect();
        let mut looked = BTreeMap::new();
        for (name, singleton) in names {
            let found = match singleton {
                true => self.look_at_one(name),
                false => self.look_at_replicas(name),
            };
            if let Some(look) = found.map_err(text)? {
                looked.insert(name.clone(), look);
            }
        }
        Ok((looked, taken))
    }

    /// Returns the agent's version, and how busy the host is, as far as either can be had.
    #[must_use]
    pub fn describe(&self) -> (Option<String>, Option<Pressure>) {
        let status = get(&self.socket, "/v1/agent").and_then(|answer| answer.read());
        let status: Option<AgentStatus> = status.ok();
        let version = status.map(|status| status.version);
        let shares = enforcer_kernel::pressure::of_host();
        let pressure = shares.map(|[cpu, memory, io]| Pressure {
            cpu_percent: cpu.0,
            memory_percent: memory.0,
            io_percent: io.0,
        });
        (version.filter(|version| !version.is_empty()), pressure)
    }

    fn inspect(&self, route: &str) -> Result<Option<Inspection>, Fault> {
        match get(&self.socket, route) {
            Ok(answer) => answer.read().map(Some),
            Err(Fault::NoSuchWorkload(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn look_at_one(&self, name: &WorkloadName) -> Result<Option<Look>, Fault> {
        let route = format!("/v1/workloads/{}", escaped(name.as_str()));
        let found = self.inspect(&route)?;
        Ok(found.map(|found| Look {
            is_current: true,
            replicas: [(0, (found.workload, found.probes))].into(),
        }))
    }

    fn look_at_replicas(&self, name: &WorkloadName) -> Result<Option<Look>, Fault> {
        let route = format!("/v1/workloads/{}", escaped(name.as_str()));
        let group: Replicas = match get(&self.socket, &format!("{route}/rollout")) {
            Ok(answer) => answer.read()?,
            Err(Fault::NoSuchWorkload(_)) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let is_current = group.rollout.is_none() && !group.differs && group.current == group.total;
        let mut replicas = BTreeMap::new();
        for view in group.replicas {
            let Some(index) = view.name.index() else {
                continue;
            };
            let found = self.inspect(&format!("{route}/replicas/{index}"))?;
            let probes = found.map(|found| found.probes).unwrap_or_default();
            replicas.insert(u32::from(index), (view, probes));
        }
        Ok(Some(Look {
            is_current,
            replicas,
        }))
    }

    /// Follows the agent's events in a thread of its own, for as long as somebody listens.
    pub fn follow(&self, changed: mpsc::Sender<()>) {
        let socket = self.socket.clone();
        std::thread::spawn(move || {
            while !changed.is_closed() {
                // A change before this one that nobody has looked at stands for it as well.
                let _ = stream(&socket, "/v1/events/stream?last=1", |_| {
                    let _ = changed.try_send(());
                    Ok(())
                });
                let _ = changed.try_send(());
                std::thread::park_timeout(AGAIN);
            }
        });
    }
}
