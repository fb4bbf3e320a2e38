//! The cgroups of short commands: below `probes/`, a branch for each workload, with the limits
//! of all its commands, and in it a cgroup for each command, which runs once at a time.

use crate::executor::Executor;
use crate::report::error_chain;
use crate::service;
use enforcer_core::ReplicaId;
use enforcer_core::limits::Limits;
use enforcer_core::spec::{Commands, ProbeName};
use enforcer_core::units::{Bytes, CpuWeight, Limit};
use enforcer_kernel::bpf::network::NetworkFilters;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::{counters, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The CPU weight of all commands on the host: half of a workload's.
const WEIGHT_OF_ALL: CpuWeight = CpuWeight::Of(50);
/// The longest time in which killed processes may disappear.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The branch of the host's own commands: no workload is called so.
const OF_HOST: &str = "_host";

/// The names of the places where the commands before a start run.
pub(in crate::executor) const RECOVERY: &str = "recovery";
/// The place of the commands by which an owner sets limits.
pub(in crate::executor) const LIMITS: &str = "limits";
pub(in crate::executor) const BEFORE_START: &str = "before_start";

#[derive(Debug, Default)]
pub(crate) struct Places {
    branches: BTreeMap<String, Branch>,
    /// The agent is going: nothing begins any more.
    closed: bool,
}

/// The cgroup of all commands of one workload.
#[derive(Debug)]
struct Branch {
    cgroup: Arc<Cgroup>,
    /// The ceiling that was written; `None` if it is not in effect.
    ceiling: Option<Commands>,
    places: BTreeMap<String, Arc<Place>>,
    /// The places that a command removes at its end: it still ran when they were to go.
    unwanted: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) cgroup: Cgroup,
    branch: Arc<Cgroup>,
    pub(super) network: NetworkFilters,
    /// Held by the command that runs there: the end of one kills all that is in it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// The kernel's counts of OOM kills, of one command's cgroup and of its branch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kills {
    /// The OOM kills of the command's processes, at whichever limit.
    of_command: u64,
    /// The number of times that the branch met its own limit.
    at_ceiling: u64,
}

impl Kills {
    /// Returns whether the kernel has OOM-killed a process of the command since these counts.
    pub(super) fn rose(self, now: Self) -> bool {
        now.of_command > self.of_command
    }

    /// Returns whether that happened at the ceiling of its workload's commands.
    pub(super) fn were_at_ceiling(self, now: Self) -> bool {
        now.at_ceiling > self.at_ceiling
    }
}

impl Place {
    /// 0 where that cannot be read.
    pub(super) fn kills(&self) -> Kills {
        Kills {
            of_command: counters::oom_kills(&self.cgroup),
            at_ceiling: counters::own_ooms(&self.branch),
        }
    }
}

fn owner(workload: Option<&ReplicaId>) -> String {
    workload.map_or_else(|| OF_HOST.to_owned(), ReplicaId::file_name)
}

impl Executor {
    pub(super) fn command_place(
        &self,
        workload: Option<&ReplicaId>,
        ceiling: Commands,
        what: &str,
    ) -> Result<Arc<Place>, String> {
        let is_probe = ProbeName::ALL.iter().any(|name| name.as_str() == what);
        if let Some(workload) = workload.filter(|_| is_probe)
            && !self.instances.has(workload)
        {
            return Err("there is nothing to ask any more".to_owned());
        }
        let mut places = self.places.lock();
        if places.closed {
            return Err("the agent is going".to_owned());
        }
        let made = self.open_place(&mut places, &owner(workload), ceiling, what);
        drop(places);
        if let (Ok(place), Some(workload)) = (&made, workload)
            && let Ok(branch) = place.branch.id()
        {
            self.admit_commands(workload, branch);
        }
        made.map_err(|error| format!("failed to {}", error_chain(&*error)))
    }

    fn open_place(
        &self,
        places: &mut Places,
        owner: &str,
        ceiling: Commands,
        what: &str,
    ) -> Result<Arc<Place>, Box<dyn std::error::Error>> {
        let probes = self.tree.probes();
        if places.branches.is_empty() {
            let weight = Limits {
                cpu_weight: Some(WEIGHT_OF_ALL),
                ..Limits::default()
            };
            limits::apply(probes, &weight)?;
        }
        if !places.branches.contains_key(owner) {
            let branch = Branch {
                cgroup: Arc::new(probes.ensure_child(owner)?),
                ceiling: None,
                places: BTreeMap::new(),
                unwanted: BTreeSet::new(),
            };
            branch.cgroup.hand_down(&["memory", "pids"])?;
            places.branches.insert(owner.to_owned(), branch);
        }
        let Some(branch) = places.branches.get_mut(owner) else {
            return Err("find the branch of its commands".into());
        };
        if branch.ceiling != Some(ceiling) {
            let swap = limits::knows_swap(&branch.cgroup);
            let wanted = Limits {
                memory_max: Some(ceiling.memory_max),
                memory_swap_max: swap.then_some(Limit::At(Bytes(0))),
                pids_max: Some(ceiling.pids_max),
                ..Limits::default()
            };
            limits::apply(&branch.cgroup, &wanted)?;
            branch.ceiling = Some(ceiling);
        }
        if let Some(known) = branch.places.get(what) {
            branch.unwanted.remove(what);
            return Ok(Arc::clone(known));
        }
        let cgroup = branch.cgroup.ensure_child(what)?;
        let whole = Limits {
            memory_oom_group: Some(true),
            ..Limits::default()
        };
        limits::apply(&cgroup, &whole)?;
        let place = Arc::new(Place {
            cgroup,
            branch: Arc::clone(&branch.cgroup),
            network: NetworkFilters::of_older_cgroup(),
            turn: Arc::default(),
        });
        branch.places.insert(what.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    /// Ends what asks an instance that is gone: its answer would count for nothing, and
    /// the next instance's would have to wait.
    pub(in crate::executor) fn end_probes_of(&self, workload: &ReplicaId) {
        self.end_places(workload, &ProbeName::ALL.map(ProbeName::as_str));
    }

    fn end_places(&self, workload: &ReplicaId, words: &[&str]) {
        let places: Vec<Arc<Place>> = {
            let places = self.places.lock();
            let branch = places.branches.get(&workload.file_name());
            let known = branch.map(|branch| &branch.places);
            let words = words.iter();
            words
                .filter_map(|word| known?.get(*word).cloned())
                .collect()
        };
        for place in places {
            if place.cgroup.is_populated().unwrap_or(false)
                && let Err(error) = place.cgroup.kill()
            {
                tracing::warn!("{workload}: failed to {}", error_chain(&error));
            }
        }
    }

    /// Ends the commands of a start that is no longer wanted.
    pub(in crate::executor) fn end_commands_before_start(&self, workload: &ReplicaId) {
        self.end_places(workload, &[RECOVERY, BEFORE_START]);
    }

    /// Ends the commands of a workload that is removed. A hook ends by itself: it may be announcing
    /// the removal.
    pub(in crate::executor) fn forget_commands(&self, workload: &ReplicaId) {
        let probes = ProbeName::ALL.map(ProbeName::as_str);
        let all = [&probes[..], &[RECOVERY, BEFORE_START, LIMITS]].concat();
        for what in &all {
            self.forget_place(workload, what);
        }
        // What has begun since the instance ended.
        self.end_places(workload, &all);
    }

    /// Returns whether a command that has ended is to remove its cgroup.
    pub(super) fn is_unwanted(&self, workload: &ReplicaId, what: &str) -> bool {
        let places = self.places.lock();
        let branch = places.branches.get(&workload.file_name());
        branch.is_some_and(|branch| branch.unwanted.contains(what))
    }

    /// Removes the cgroup of one command, and with the last one the workload's branch. A command that
    /// still runs there does so at its end.
    pub(super) fn forget_place(&self, workload: &ReplicaId, what: &str) {
        let taken = {
            let mut places = self.places.lock();
            let branch = places.branches.get_mut(&workload.file_name());
            branch.and_then(|branch| {
                let place = branch.places.get(what)?;
                let Ok(turn) = Arc::clone(&place.turn).try_lock_owned() else {
                    branch.unwanted.insert(what.to_owned());
                    return None;
                };
                branch.unwanted.remove(what);
                Some((branch.places.remove(what)?, turn))
            })
        };
        let Some((place, _turn)) = taken else {
            return;
        };
        let emptied = place.cgroup.kill_and_wait(PATIENCE);
        let gone = emptied.and_then(|()| place.branch.remove_child(what));
        let mut places = self.places.lock();
        let branch = places.branches.get(&workload.file_name());
        let is_empty = branch.is_some_and(|branch| branch.places.is_empty());
        let gone = gone.and_then(|()| match is_empty {
            true => {
                let removed = self.tree.probes().remove_child(&workload.file_name());
                removed.inspect(|()| drop(places.branches.remove(&workload.file_name())))
            }
            false => Ok(()),
        });
        if let Err(error) = gone {
            tracing::warn!("{workload}: failed to {}", error_chain(&error));
        }
    }

    /// Ends the agent if its cgroups were removed: systemd clears a unit whose own process has
    /// gone. The next agent makes what is missing, and takes over what runs, while this one could
    /// start nothing. Without a service manager that starts another agent, this one goes on.
    pub(in crate::executor) fn end_without_tree(&self) {
        let gone = !self.tree.is_there() && !self.places.lock().closed;
        if gone && service::is_managed() {
            tracing::error!("the agent's cgroups were removed; the next agent makes them again");
            std::process::exit(1);
        }
    }

    pub(in crate::executor) fn close_places(&self) {
        self.places.lock().closed = true;
    }
}
