//! A start from the cgroup to the program's first instruction, in the order that
//! leaves nothing unlimited and nothing unrecorded.

use super::instances::{Begun, OpenCgroup};
use super::output::Output;
use super::{Executor, launch, main_process, notices, sandbox, sockets, view};
use crate::failpoint::failpoint;
use crate::report::error_chain;
use crate::store::handover::RunningInstance;
use crate::watch;
use enforcer_core::ReplicaId;
use enforcer_core::event::{
    Cause, CgroupId, Event, InstanceEvent, InstanceId, ProcessId, StartError,
};
use enforcer_core::limits::Limits;
use enforcer_core::oom::Counters;
use enforcer_core::spec::WorkloadSpec;
use enforcer_core::units::MonoTime;
use enforcer_kernel::bpf::network::NetworkFilters;
use enforcer_kernel::cgroupfs::{Cgroup, CgroupError};
use enforcer_kernel::counters::CounterReader;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::spawn::{Launch, Patience};
use enforcer_kernel::usage::{self, Usage};
use enforcer_kernel::{clock, limits, process, spawn};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// A child that waits behind its gate, in its cgroup with its limits.
struct Gated {
    child: spawn::Waiting,
    open: OpenCgroup,
    launch: Arc<Launch>,
    output: Output,
    /// The counters before the child existed.
    counters: Counters,
    /// The CPU time before it ran.
    used: Usage,
}

impl Executor {
    pub(super) fn start(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        wanted: (&Arc<WorkloadSpec>, &Limits),
        cause: Cause,
    ) {
        let started = self.try_start(workload, instance, wanted, cause);
        // A request to give up may come after the end of the start that it names.
        self.aborted.lock().retain(|(name, _)| name != workload);
        if let Err(error) = started {
            // That would cost the workload a start of its budget for nothing.
            self.end_without_tree();
            self.events.send(Event::Instance(
                workload.clone(),
                instance,
                InstanceEvent::StartFailed { error },
            ));
        }
    }

    fn try_start(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        (spec, effective): (&Arc<WorkloadSpec>, &Limits),
        cause: Cause,
    ) -> Result<(), StartError> {
        failpoint!("start-begun");
        let until = clock::now().after(spec.start_timeout);
        let Gated {
            child,
            open,
            launch,
            output,
            counters,
            used,
        } = self.spawn_gated((workload, instance), spec, effective, cause)?;
        failpoint!("start-forked");
        let pid = child.pid;
        let start_ticks = process::start_ticks(pid).unwrap_or(0);
        let main = ProcessId { pid, start_ticks };
        if let Some(ring) = &self.ring {
            ring.watch(main);
        }
        let recorded = self.handover.record(&RunningInstance {
            workload: workload.clone(),
            instance,
            pid,
            start_ticks,
            cgroup: open.id,
            output: output.pipe.as_ref().map(|pipe| pipe.inode),
            has_run: false,
        });
        if let Err(error) = recorded {
            // A process that is not recorded must not run.
            child.abandon();
            return Err(io_failure("record the instance", &error));
        }
        failpoint!("start-recorded");
        // While this descriptor is open, the holder waits for its end.
        drop(output.file);
        // From here on its events can be distinguished, so they may be sent.
        self.register(
            workload,
            Begun {
                id: instance,
                begun: (clock::now(), used),
                open: open.clone(),
                main,
                output: output.pipe,
                spec: Arc::clone(spec),
                launch: Some(launch),
            },
        );
        self.instances.set_limits(workload, effective, true);
        let kills_before = counters.oom_kill;
        let send = |event| {
            let event = Event::Instance(workload.clone(), instance, event);
            self.events.send(event);
        };
        send(InstanceEvent::Prepared {
            cgroup: open.id,
            counters,
        });
        let released = self.release(child, (workload, instance), spec, until, &open.cgroup);
        let pidfd = Arc::new(released.map_err(|error| {
            self.handover.forget(workload);
            self.explain_memory(error, &open.counters, kills_before)
        })?);
        failpoint!("start-released");
        self.instances.set_main(workload, (main, &pidfd), false);
        send(InstanceEvent::Started { pid });
        self.watch_exit(workload.clone(), instance, pidfd, spec);
        Ok(())
    }

    /// Begins to wait for the end of the main process.
    pub(super) fn watch_exit(
        self: &Arc<Self>,
        workload: ReplicaId,
        instance: InstanceId,
        main: Arc<PidFd>,
        spec: &WorkloadSpec,
    ) {
        if main_process::may_change(spec) {
            let this = Arc::clone(self);
            self.runtime
                .spawn(this.follow_main(workload, instance, main));
        } else {
            let exit = watch::exit(main, self.events.clone(), workload, instance);
            self.runtime.spawn(exit);
        }
    }

    /// Makes the cgroup, writes its limits, and creates the child in it, behind its gate.
    fn spawn_gated(
        self: &Arc<Self>,
        (workload, instance): (&ReplicaId, InstanceId),
        spec: &Arc<WorkloadSpec>,
        effective: &Limits,
        cause: Cause,
    ) -> Result<Gated, StartError> {
        let (open, is_new) = self.open_fit_cgroup(workload)?;
        failpoint!("start-fit");
        self.limit((workload, spec), &open, is_new, effective)?;
        sandbox::filter_network(spec, &open.cgroup, &open.network)?;
        failpoint!("start-limited");
        let launch = self.launch(workload, spec, cause)?;
        let identity = &launch.identity;
        self.put_behind_gate(workload, spec, open.id, Some(identity.uid))?;
        self.name_strangers(workload, spec);
        let owner = launch.switch_user.then_some((identity.uid, identity.gid));
        let counters = self.read_counters(&open.counters)?;
        failpoint!("start-counted");
        self.make_directories(workload, spec, owner)?;
        let sockets = self.sockets_of(workload, spec, identity)?;
        self.hold_and_join(workload, spec);
        failpoint!("start-listening");
        let mut output = self.open_output(workload, spec, owner)?;
        failpoint!("start-output");
        self.open_notices((workload, instance), spec, owner, &open.cgroup)?;
        let mut used = Usage::default();
        let read_cpu = || used = usage::read_cpu(&open.cgroup);
        let of = (workload, spec.as_ref());
        let child = self.fork(of, &launch, (&open, &output, &sockets), read_cpu);
        // The holder works meanwhile.
        let other = self.settle_output(workload, spec, &mut output);
        let child = match (child, other) {
            (child, Ok(None)) => child?,
            (child, other) => {
                if let Ok(child) = child {
                    child.abandon();
                }
                output = other?.unwrap_or(output);
                self.fork(of, &launch, (&open, &output, &sockets), || ())?
            }
        };
        Ok(Gated {
            child,
            open,
            launch,
            output,
            counters,
            used,
        })
    }

    /// Creates the child, behind its gate.
    fn fork(
        &self,
        (workload, spec): (&ReplicaId, &WorkloadSpec),
        launch: &Launch,
        (open, output, sockets): (&OpenCgroup, &Output, &[Arc<OwnedFd>]),
        meanwhile: impl FnOnce(),
    ) -> Result<spawn::Waiting, StartError> {
        let view = self.view_of_its_own(workload, spec, &launch.identity)?;
        let place = (&*open.cgroup, &output.file, &view);
        let spawned = self.fork_server.spawn(launch, place, sockets, meanwhile);
        spawned.map_err(|error| StartError {
            stage: "create the process".to_owned(),
            errno: std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .and_then(std::io::Error::raw_os_error),
            error: error_chain(&error),
        })
    }

    /// Writes what the cgroup lacks of its limits.
    fn limit(
        &self,
        (workload, spec): (&ReplicaId, &WorkloadSpec),
        open: &OpenCgroup,
        is_new: bool,
        effective: &Limits,
    ) -> Result<(), StartError> {
        if !is_new && self.has_limits(workload, open.id, effective) {
            return Ok(());
        }
        self.tree
            .enable(workload, &effective.controllers().collect());
        let of_all = self.write_limits_of_all(workload, spec, true);
        let written = match is_new {
            true => limits::apply_to_new(&open.cgroup, effective),
            false => limits::apply(&open.cgroup, effective),
        };
        let written = of_all.and(written.map(drop));
        written.map_err(|error| StartError {
            stage: "apply the limits".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        })
    }

    /// Returns whether the kernel is known to have these limits: they were written to this cgroup, and
    /// the watch of the tree has seen no other process write there since.
    fn has_limits(&self, workload: &ReplicaId, cgroup: CgroupId, limits: &Limits) -> bool {
        self.tree_watch.is_some()
            && !self.unchecked.lock().contains(workload)
            && self.instances.have_limits(workload, cgroup, limits)
    }

    /// Opens the gate, and waits until the child executes its program.
    fn release(
        &self,
        child: spawn::Waiting,
        (workload, instance): (&ReplicaId, InstanceId),
        spec: &WorkloadSpec,
        until: MonoTime,
        cgroup: &Cgroup,
    ) -> Result<PidFd, StartError> {
        let wanted = (workload.clone(), instance);
        let patience = Patience {
            until,
            limit: spec.start_timeout,
            is_aborted: &|| self.aborted.lock().contains(&wanted),
            explain: &|| {
                let frozen = cgroup.is_frozen().unwrap_or(false);
                frozen.then(|| "its cgroup is frozen (cgroup.freeze is 1)".to_owned())
            },
        };
        child.release(&spec.command[0], &patience)
    }

    /// Prepares what the child needs. A restart after a failure uses what the last start used, if
    /// the spec is the same. Every other start reads accounts and files of variables again.
    fn launch(
        &self,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
        cause: Cause,
    ) -> Result<Arc<Launch>, StartError> {
        if cause.is_failure()
            && let Some(before) = self.instances.get(workload)
            && let Some((of, launch)) = before.launch
            && Arc::ptr_eq(&of, spec)
        {
            return Ok(launch);
        }
        self.prepare_launch(workload, spec).map(Arc::new)
    }

    /// Prepares what the program of a workload is started with.
    pub(super) fn prepare_launch(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
    ) -> Result<Launch, StartError> {
        let mut own = notices::environment(&self.runtime_dir, workload, spec);
        own.extend(view::environment(&self.runtime_dir, workload, spec));
        own.extend(sockets::environment(spec));
        launch::prepare(workload, spec, own, None, true)
    }

    /// Aborts a start that is no longer wanted, and kills what it has made.
    pub(super) fn abort_start(&self, workload: ReplicaId, instance: InstanceId) {
        self.aborted.lock().insert((workload.clone(), instance));
        self.end_commands_before_start(&workload);
        if let Some(Err(error)) = self.with_cgroup(&workload, Cgroup::kill) {
            tracing::error!("{workload}: failed to {}", error_chain(&error));
        }
    }

    /// Explains a start that the kernel ended for lack of memory.
    fn explain_memory(
        &self,
        error: StartError,
        reader: &Mutex<CounterReader>,
        kills_before: u64,
    ) -> StartError {
        let now = reader.lock().read();
        if now.is_ok_and(|now| now.oom_kill > kills_before) {
            return StartError {
                error:
                    "the kernel killed it before it ran: memory.max is too small for the program"
                        .to_owned(),
                ..error
            };
        }
        error
    }

    /// Opens the workload's cgroup and makes it fit to take a process: workloads may build cgroups
    /// of their own below it, and people freeze it. If that cannot be undone, the cgroup is made
    /// anew. Returns whether it is new.
    fn open_fit_cgroup(
        self: &Arc<Self>,
        workload: &ReplicaId,
    ) -> Result<(OpenCgroup, bool), StartError> {
        let (open, is_new) = self.open_cgroup(workload)?;
        if is_new {
            return Ok((open, true));
        }
        let fit = open.cgroup.make_fit();
        let fit = fit.and_then(|()| open.cgroup.takes_processes());
        if matches!(fit, Ok(true)) {
            return Ok((open, false));
        }
        let failed = |error: CgroupError| StartError {
            stage: "make the cgroup fit for another start".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        };
        self.remove_from_tree(workload)
            .map_err(|error| failed(fit.err().unwrap_or(error)))?;
        self.open_cgroup(workload)
    }

    /// Returns the workload's cgroup and its readers: the ones it has, or new ones. Returns whether the
    /// cgroup was made just now.
    fn open_cgroup(
        self: &Arc<Self>,
        workload: &ReplicaId,
    ) -> Result<(OpenCgroup, bool), StartError> {
        let known = self.instances.get(workload).map(|known| known.open);
        let removed = match known {
            Some(known) if known.cgroup.is_there() => return Ok((known, false)),
            Some(_) => true,
            None => false,
        };
        let failed = |error: CgroupError| StartError {
            stage: "create the cgroup".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        };
        let (open, is_new) = self.open_workload(workload).map_err(failed)?;
        if removed {
            self.replace_cgroup(workload, open.clone());
        }
        Ok((open, is_new))
    }

    /// Opens the cgroup of a workload, and makes it if it is missing. Returns whether it was made.
    pub(super) fn open_workload(
        &self,
        workload: &ReplicaId,
    ) -> Result<(OpenCgroup, bool), CgroupError> {
        let (cgroup, is_new) = self.tree.make(workload, |group| {
            if let Some(ring) = &self.ring {
                ring.has_replicas(group);
            }
        })?;
        let cgroup = Arc::new(cgroup);
        let id = cgroup.id()?;
        let counters = CounterReader::new(Arc::clone(&cgroup), self.tree.ancestors_of(workload)?);
        let open = OpenCgroup {
            cgroup,
            id,
            counters: Arc::new(Mutex::new(counters)),
            network: Arc::new(match is_new {
                true => NetworkFilters::of_new_cgroup(),
                false => NetworkFilters::of_older_cgroup(),
            }),
        };
        Ok((open, is_new))
    }

    fn read_counters(&self, reader: &Mutex<CounterReader>) -> Result<Counters, StartError> {
        reader.lock().read().map_err(|error| StartError {
            stage: "read the counters".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        })
    }

    /// Enters a new instance into the table, and watches its cgroup.
    pub(super) fn register(self: &Arc<Self>, workload: &ReplicaId, begun: Begun) {
        let (main, spec, id) = (begun.main, Arc::clone(&begun.spec), begun.open.id);
        if !begun.open.cgroup.is_foreign() {
            self.watch_cgroup(workload);
        }
        let watch = |open: &OpenCgroup| self.watch_memory_events(workload, open);
        let before = self.instances.begin(workload, begun, watch);
        if let Some(before) = before.filter(|before| *before != main) {
            self.forget_exit(before);
        }
        self.watch_loops(id, &spec);
        self.name_files(workload, &view::on_host(&spec, &spec.reload_on), true);
    }

    /// Begins to watch the counters of OOM kills.
    pub(super) fn watch_memory_events(
        self: &Arc<Self>,
        workload: &ReplicaId,
        open: &OpenCgroup,
    ) -> AbortHandle {
        let (this, name) = (Arc::clone(self), workload.clone());
        let met_limit = move || this.read_level_of(&name);
        let watch = watch::memory_events(
            Arc::clone(&open.cgroup),
            Arc::clone(&open.counters),
            self.events.clone(),
            workload.clone(),
            met_limit,
        );
        self.runtime.spawn(watch).abort_handle()
    }
}

pub(super) fn io_failure(stage: &str, error: &std::io::Error) -> StartError {
    StartError {
        stage: stage.to_owned(),
        errno: error.raw_os_error(),
        error: spawn::describe(error),
    }
}
