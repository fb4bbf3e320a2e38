//! Carries out what the core decided: the only place that changes the host.
//! Actions of one workload run in order, one at a time; nothing here decides
//! what comes next, and every answer goes back as an event.

mod attached;
mod ceiling;
mod commands;
mod directories;
pub(crate) mod drift;
mod end;
mod files;
mod gate;
pub(crate) mod instances;
mod launch;
pub(crate) mod levels;
mod main_process;
pub(crate) mod marks;
mod notices;
mod output;
pub(crate) mod proof;
mod queue;
mod remedy;
mod sandbox;
mod sockets;
mod start;
mod take_over;
mod view;

pub(crate) use commands::ShortCommand;
pub(crate) use gate::OfReplica;

use crate::failpoint::failpoint;
use crate::holder::{End, Holder};
use crate::inbox::Events;
use crate::report::error_chain;
use crate::service;
use crate::store::handover::Handover;
use commands::Places;
use enforcer_core::ReplicaId;
use enforcer_core::event::{
    Action, Aside, Event, HostAction, HostChange, InstanceId, LimitChange, Step, WorkloadAction,
    WorkloadChange,
};
use enforcer_core::limits::Limits;
use enforcer_core::spec::{Alerts, Host, WorkloadSpec};
use enforcer_kernel::bpf::EventRing;
use enforcer_kernel::bpf::suspects::SuspectRing;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::file_watch::FileWatch;
use enforcer_kernel::hierarchy::Tree;
use enforcer_kernel::inotify::TreeWatch;
use enforcer_kernel::limits;
use enforcer_kernel::spawn::ForkServer;
use enforcer_kernel::usage::UsageFiles;
use instances::Instances;
use levels::HostLevels;
use parking_lot::Mutex;
use proof::followed::Followed;
use queue::{Queued, Work};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// The time after which killed processes that stay are reported.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Writes that may stall in reclaim, at a time.
const SLOW_WRITES: usize = 4;

#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) tree: Tree,
    /// The use of all workloads together.
    use_of_all: UsageFiles,
    handover: Arc<Handover>,
    logs: PathBuf,
    runtime_dir: PathBuf,
    ring: Option<Arc<EventRing>>,
    suspects: Option<Arc<SuspectRing>>,
    pub(crate) followed: Followed,
    /// A workload is watched for loops from now on.
    pub(crate) loops_watched: Notify,
    /// A use is to be read before the next tick.
    read_levels: Notify,
    events: Events,
    pub(crate) instances: Instances,
    /// The work that waits behind the work under way, by workload; `None` for the host.
    queues: Mutex<HashMap<Option<ReplicaId>, VecDeque<Work>>>,
    tree_watch: Option<Arc<TreeWatch>>,
    /// The files of `reload_on`; `None` if they cannot be watched.
    files: Option<Arc<FileWatch>>,
    /// Another file is to be watched.
    files_named: Notify,
    /// The workloads whose cgroup was touched, and not checked since.
    unchecked: Mutex<BTreeSet<ReplicaId>>,
    slow: Arc<Semaphore>,
    fork_server: ForkServer,
    holder: Holder,
    kept_sockets: Mutex<sockets::KeptSockets>,
    sought: Mutex<attached::Sought>,
    gates: gate::Gates,
    /// The ends of leased workloads that the holder should know.
    ends: Mutex<Vec<End>>,
    /// The number of connections to the holder. Only the end of the last one means anything.
    holder_connections: Mutex<u64>,
    places: Mutex<Places>,
    command_permits: Arc<Semaphore>,
    host_levels: Mutex<HostLevels>,
    /// The targets and rules of alerts, for the couriers.
    pub(crate) alerts: watch::Sender<Arc<Alerts>>,
    /// The protections without effect that were reported.
    unprotected: Mutex<Vec<String>>,
    /// The starts under way that are no longer wanted.
    aborted: Mutex<BTreeSet<(ReplicaId, InstanceId)>>,
    runtime: tokio::runtime::Handle,
}

impl Executor {
    /// Must be called inside the runtime, whose tasks wait for exits.
    pub(crate) fn new(
        tree: Tree,
        handover: Arc<Handover>,
        (logs, runtime_dir): (PathBuf, PathBuf),
        (ring, suspects): (Option<Arc<EventRing>>, Option<Arc<SuspectRing>>),
        events: Events,
    ) -> Arc<Self> {
        let tree_watch = drift::watch_tree(tree.workloads());
        // A service manager has a holder of its own. If that one has died, its unit starts again
        // once nothing is left in its cgroup, so no other holder may take its place there.
        let place = (!service::is_managed()).then(|| tree.holder());
        let holder = Holder::new(&logs, &runtime_dir, place);
        let fork_server = ForkServer::default();
        if let Err(error) = fork_server.start() {
            // Each start tries again, and reports it.
            tracing::error!("the fork server can't be started: {error}");
        }
        let files = FileWatch::new().inspect_err(|error| {
            tracing::warn!("changes of the files of `reload_on` are not seen: no inotify: {error}");
        });
        Arc::new(Self {
            files: files.ok().map(Arc::new),
            files_named: Notify::new(),
            use_of_all: UsageFiles::new(Arc::clone(tree.workloads())),
            tree,
            tree_watch,
            unchecked: Mutex::default(),
            handover,
            logs,
            runtime_dir: std::path::absolute(&runtime_dir).unwrap_or(runtime_dir),
            ring,
            suspects,
            followed: Followed::default(),
            loops_watched: Notify::new(),
            read_levels: Notify::new(),
            events,
            instances: Instances::default(),
            queues: Mutex::default(),
            slow: Arc::new(Semaphore::new(SLOW_WRITES)),
            fork_server,
            holder,
            kept_sockets: Mutex::default(),
            sought: Mutex::default(),
            gates: gate::Gates::default(),
            ends: Mutex::default(),
            holder_connections: Mutex::default(),
            places: Mutex::default(),
            command_permits: Arc::new(Semaphore::new(commands::MAX_CONCURRENT_COMMANDS)),
            host_levels: Mutex::default(),
            alerts: watch::Sender::default(),
            unprotected: Mutex::default(),
            aborted: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Returns the eBPF programs, and whether each is attached.
    pub(crate) fn attached_programs(&self) -> [(&'static str, bool); 5] {
        let traced = self.ring.is_some();
        [
            ("mark_victim", traced),
            ("sched_process_exit", traced),
            ("sched_process_free", traced),
            ("cgroup_attach_task", traced),
            ("cpu_sample", self.suspects.is_some()),
        ]
    }

    pub(crate) fn log_path(&self, name: &ReplicaId) -> PathBuf {
        self.logs.join(format!("{}.log", name.file_name()))
    }

    /// Begins to carry out an action.
    pub(crate) fn dispatch(self: &Arc<Self>, action: Action) {
        tracing::debug!(cause = %action.reason().cause, seq = action.reason().seq.0, "{}", action.name());
        match action {
            Action::Workload(WorkloadAction {
                workload,
                instance,
                reason,
                change,
            }) => match change {
                WorkloadChange::Step(step) => self.queue(Work::Step(Queued {
                    workload,
                    instance,
                    cause: reason.cause,
                    step,
                })),
                WorkloadChange::Aside(aside) => self.begin_aside(workload, instance, aside),
            },
            Action::Host(HostAction { change, .. }) => match change {
                HostChange::WriteLimits { host } => self.queue(Work::HostLimits(host)),
                HostChange::RunCommand { command } => {
                    self.runtime.spawn(Arc::clone(self).run_on_host(command));
                }
            },
        }
    }

    /// Carries out a change that no step waits for.
    fn begin_aside(self: &Arc<Self>, workload: ReplicaId, instance: InstanceId, aside: Aside) {
        let this = Arc::clone(self);
        match aside {
            Aside::RunHook { spec, hook } => {
                let of = (workload, instance);
                self.runtime.spawn(this.run_hook(of, spec, hook));
            }
            Aside::Remedy { spec, remedy } => {
                let of = (workload, instance);
                self.runtime.spawn(this.run_remedy(of, spec, *remedy));
            }
            Aside::AskOwner { spec } => {
                self.runtime.spawn(this.ask_owner(workload, spec));
            }
            // The start itself is in the queue and may stand still.
            Aside::AbortStart => {
                self.runtime
                    .spawn_blocking(move || this.abort_start(workload, instance));
            }
            Aside::SetDoor { door } => self.set_door(&workload, door),
            Aside::Drain { limit } => {
                self.runtime.spawn(this.drain((workload, instance), limit));
            }
            Aside::Collect => {
                let this = Arc::clone(self);
                let collect = move || this.collect_hang(&workload, instance);
                self.runtime.spawn_blocking(collect);
            }
            Aside::ReportStuck => {
                self.runtime
                    .spawn_blocking(move || this.report_stuck(&workload, instance));
            }
        }
    }

    fn carry_out(self: &Arc<Self>, queued: Queued) {
        let Queued {
            workload,
            instance,
            cause,
            step,
        } = queued;
        // Whatever the core decides, the executor neither signals an attached service nor writes to its cgroup.
        let is_foreign = self.with_cgroup(&workload, Cgroup::is_foreign) == Some(true);
        match step {
            Step::Signal { .. } | Step::KillTree if is_foreign => {
                tracing::error!("{workload}: it is attached, and gets no signal");
            }
            Step::Start { spec, .. } if spec.attach.is_some() => {
                self.look_for(&workload, instance, &spec);
            }
            Step::WriteLimits { spec, limits } if spec.attach.is_some() || is_foreign => {
                self.look_for_as(&workload, &spec);
                if let Some(cgroup) = self.instances.set_spec(&workload, &spec) {
                    self.watch_loops(cgroup, &spec);
                }
                let (changed, error) = outcome(self.limit_service(&workload, &spec, &limits));
                let written = Event::limits_written(Some(workload), changed, error);
                self.events.send(written);
            }
            Step::Start { spec, limits } => {
                self.start(&workload, instance, (&spec, &limits), cause)
            }
            Step::Signal { signal, scope } => self.signal(&workload, &signal, scope),
            Step::KillTree => self.kill_tree(&workload),
            Step::Reap => self.reap(workload, instance),
            Step::RemoveCgroup => self.remove(&workload),
            Step::Investigate { suspect } => self.begin_investigation(workload, suspect),
            Step::WriteLimits { spec, limits } => {
                self.write_limits(workload, instance, (&spec, &limits));
            }
        }
    }

    fn write_limits(
        self: &Arc<Self>,
        workload: ReplicaId,
        instance: InstanceId,
        (spec, wanted): (&Arc<WorkloadSpec>, &Limits),
    ) {
        failpoint!("limits-unwritten");
        self.bound_log(&workload, spec);
        let home = self.bring_home(&workload, instance);
        self.tree.enable(&workload, &wanted.controllers().collect());
        let of_all = self.write_limits_of_all(&workload, spec, false);
        let written = self.with_cgroup(&workload, |cgroup| limits::apply(cgroup, wanted));
        let written = match of_all {
            Ok(()) => written,
            Err(error) => Some(Err(error)),
        };
        failpoint!("limits-written");
        let are_written = matches!(written, Some(Ok(_)));
        self.instances.set_limits(&workload, wanted, are_written);
        if let Some(cgroup) = self.instances.set_spec(&workload, spec) {
            self.watch_loops(cgroup, spec);
            self.name_files(&workload, &view::on_host(spec, &spec.reload_on), false);
        }
        let written = written.unwrap_or(Ok(Vec::new()));
        let (mut changed, error) = outcome(written.map_err(|error| error_chain(&error)));
        changed.extend(home);
        let written = Event::limits_written(Some(workload), changed, error);
        self.events.send(written);
    }

    /// Writes the limits of all replicas of a workload together. A start leaves them as they are if there
    /// are none.
    fn write_limits_of_all(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        is_start: bool,
    ) -> Result<(), limits::LimitError> {
        let Some(group) = self.tree.group(workload)? else {
            return Ok(());
        };
        match &spec.replicas_cgroup {
            None if is_start => Ok(()),
            wanted => limits::apply(&group, &wanted.clone().unwrap_or_default()).map(drop),
        }
    }

    fn write_limits_of_host(&self, host: &Host) {
        let (changed, error) = outcome(self.write_host_limits(host));
        self.report_of_protection(host);
        let written = Event::limits_written(None, changed, error);
        self.events.send(written);
    }

    fn with_cgroup<T>(&self, workload: &ReplicaId, act: impl FnOnce(&Cgroup) -> T) -> Option<T> {
        self.instances.cgroup(workload).map(|cgroup| act(&cgroup))
    }

    pub(crate) fn send(&self, event: Event) {
        self.events.send(event);
    }
}

fn outcome(written: Result<Vec<LimitChange>, String>) -> (Vec<LimitChange>, Option<String>) {
    match written {
        Ok(changed) => (changed, None),
        Err(error) => (Vec::new(), Some(error)),
    }
}
